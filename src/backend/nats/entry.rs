//! What one message of a job's log says: its events, their place, and where the log began.
//!
//! One message per append, so that the events of one append become visible together, in a stream whose subjects are jobs. The
//! place stands in headers, so that the end of a log is known without its events being read. A message without them is
//! somebody else's and must be stepped over.

use async_nats::HeaderMap;
use bytes::Bytes;

use super::artifacts::ObjectStore;
use super::carry;
use super::link::{Post, header, headers, number, set};
use super::names::{AT, COUNT, EXPECTED_LAST, FIRST, ORIGIN};
use super::stored::Stored;
use crate::backend::BackendError;
use crate::clock::Timestamp;
use crate::protocol::{Event, JobId, RecordedEvent};

/// Place of a message's events in their log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Sequence of its first event.
    pub(super) first: u64,
    /// Sequence of its last event.
    pub(super) last: u64,
    /// When they were recorded.
    pub(super) at: Timestamp,
}

impl Place {
    /// Reads the headers of a message; `None` when it is none of ours.
    pub(super) fn read(headers: Option<&HeaderMap>) -> Option<Self> {
        let (first, count): (u64, u64) = (number(headers, FIRST)?, number(headers, COUNT)?);
        let last = first.checked_add(count)?.checked_sub(1)?;
        (first > 0 && count > 0).then_some(Self { first, last, at: Timestamp(number(headers, AT)?) })
    }
}

/// The end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tip {
    /// Sequence of the newest event.
    pub(super) last: u64,
    /// When it was recorded.
    pub(super) at: Timestamp,
    /// Stream sequence of the newest message, whoever wrote it.
    pub(super) message: u64,
    /// Stream sequence and time of the first message.
    pub(super) origin: (u64, Timestamp),
}

impl Tip {
    /// The end of a log whose newest message is this one; `None` when it is somebody else's.
    pub(super) fn read(stored: &Stored) -> Option<Self> {
        let headers = Some(&stored.headers);
        let place = Place::read(headers)?;
        let origin = match header(headers, ORIGIN) {
            Some(text) => {
                let (sequence, at) = text.split_once(':')?;
                (sequence.parse().ok()?, Timestamp(at.parse().ok()?))
            }
            None => (stored.sequence, place.at),
        };
        Some(Self { last: place.last, at: place.at, message: stored.sequence, origin })
    }

    /// The end of the log after a message of ours.
    pub(super) fn after(self, place: Place, message: u64) -> Self {
        let origin = if self.last == 0 { (message, place.at) } else { self.origin };
        Self { last: place.last, at: place.at, message, origin }
    }

    /// The headers of the next message.
    pub(super) fn next(self, count: usize, at: Timestamp) -> (Place, HeaderMap) {
        let place = Place { first: self.last + 1, last: self.last + count as u64, at };
        let mut headers = headers([
            (EXPECTED_LAST, self.message.to_string()),
            (FIRST, place.first.to_string()),
            (COUNT, count.to_string()),
            (AT, at.0.to_string()),
        ]);
        if self.last > 0 {
            set(&mut headers, ORIGIN, format!("{}:{}", self.origin.0, self.origin.1.0));
        }
        (place, headers)
    }
}

/// The events of a message at `place`.
pub(super) async fn decode(
    objects: &ObjectStore,
    job: &JobId,
    place: Place,
    stored: &Stored,
) -> Result<Vec<RecordedEvent>, BackendError> {
    let damaged = |why: String| BackendError::Corrupt { what: format!("the log of job {job}"), why };
    let body = carry::unwrap(objects, Some(&stored.headers), &stored.payload).await?;
    let events: Vec<Event> = serde_json::from_slice(&body)
        .map_err(|error| damaged(format!("message {} cannot be read: {error}", stored.sequence)))?;
    if place.first + events.len() as u64 != place.last + 1 {
        return Err(damaged(format!("message {} has {} events, not what it says", stored.sequence, events.len())));
    }
    let recorded = |(seq, event)| RecordedEvent { seq, at: place.at, event };
    Ok((place.first..).zip(events).map(recorded).collect())
}

/// The body of a message with these events.
pub(super) fn encode(events: &[Event]) -> Result<Bytes, BackendError> {
    let encoded = serde_json::to_vec(events);
    encoded.map(Bytes::from).map_err(|error| BackendError::Invalid { field: "event", why: error.to_string() })
}

/// A message of a log.
pub(super) fn post(subject: String, headers: HeaderMap, payload: Bytes) -> Post {
    Post { subject, headers, payload }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(sequence: u64, headers: HeaderMap) -> Stored {
        Stored { sequence, headers, payload: Bytes::new(), is_sound: true }
    }

    #[test]
    fn each_message_tells_where_the_log_ends_and_where_it_began() {
        let (place, headers) = Tip::default().next(2, Timestamp(10));
        assert_eq!((place.first, place.last), (1, 2));
        assert_eq!(header(Some(&headers), EXPECTED_LAST), Some("0"));
        let first = Tip::read(&stored(7, headers)).unwrap();
        assert_eq!(first, Tip { last: 2, at: Timestamp(10), message: 7, origin: (7, Timestamp(10)) });
        assert_eq!(first, Tip::default().after(place, 7));
        let (place, headers) = first.next(1, Timestamp(30));
        assert_eq!(header(Some(&headers), EXPECTED_LAST), Some("7"));
        let second = Tip::read(&stored(9, headers)).unwrap();
        assert_eq!(second, Tip { last: 3, at: Timestamp(30), message: 9, origin: (7, Timestamp(10)) });
        assert_eq!(second, first.after(place, 9));
    }

    #[test]
    fn garbage_is_nobodys_place() {
        for (first, count) in [("0", "1"), ("1", "0"), ("x", "1"), ("18446744073709551615", "2")] {
            let headers = headers([(FIRST, first.into()), (COUNT, count.into()), (AT, "1".into())]);
            assert_eq!(Place::read(Some(&headers)), None, "{first} {count}");
        }
        assert_eq!(Place::read(None), None);
    }
}
