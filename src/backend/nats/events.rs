//! [`EventLog`] on a stream: one message per append, compare-and-set by the sequence of the subject's newest message.
//!
//! The end of a log is remembered after every append and read, so a coordinator's next append needs no look before it; a
//! memory that is out of date only leads to a refusal by the server and then to a look. The caller learns the actual
//! sequence from every conflict. An append whose outcome is unknown must be settled by reading, never by repeating blindly.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;

use super::artifacts::ObjectStore;
use super::carry;
use super::entry::{Place, Tip, decode, encode, post};
use super::link::{Link, Posted, set};
use super::names::{MESSAGE_ID, StreamKind};
use super::stored::{Reader, Stored};
use super::tails::Tails;
use crate::backend::{BackendError, EventLog, JobEntry};
use crate::clock::{Clock, random_token};
use crate::protocol::{Event, JobId, RecordedEvent};

/// Messages read one by one before a reading of many pays.
const SINGLES: usize = 6;

/// Messages read at once.
const BATCH: usize = 128;

/// Places remembered of one log, and logs of which any are.
const PLACES: usize = 64;
const LOGS: usize = 1_024;

/// Ends of logs asked for at once.
const ASKED_AT_ONCE: usize = 32;

/// Longest wait for events; a longer one is cut to it.
const MAX_WAIT: Duration = Duration::from_secs(3_600);

/// When a wait looks for itself, in case no notice comes: soon after it began, then regularly.
const LOOKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// What this process remembers of a log.
#[derive(Debug, Default)]
struct Memory {
    tip: Option<Tip>,
    /// Event sequences, and the stream sequence at or after which the message begins that holds each.
    places: BTreeMap<u64, u64>,
}

/// The logs of a namespace.
pub(super) struct Log {
    link: Link,
    reader: Reader,
    objects: ObjectStore,
    clock: Clock,
    tails: Tails,
    memory: Mutex<HashMap<JobId, Memory>>,
}

impl Log {
    pub(super) async fn new(
        link: &Link,
        objects: &ObjectStore,
        clock: Clock,
        stop: CancellationToken,
    ) -> Result<Self, BackendError> {
        let reader = Reader::new(link, StreamKind::Events).await?;
        let (tails, objects) = (Tails::new(link, &reader, stop), objects.clone());
        Ok(Self { link: link.clone(), reader, objects, clock, tails, memory: Mutex::default() })
    }

    fn remember<T>(&self, job: &JobId, note: impl FnOnce(&mut Memory) -> T) -> T {
        let mut all = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= LOGS && !all.contains_key(job) {
            // Only a memory: what is needed again is looked up again.
            all.clear();
        }
        note(all.entry(job.clone()).or_default())
    }

    fn remember_place(&self, job: &JobId, event: u64, message: u64) {
        self.remember(job, |memory| {
            memory.places.insert(event, message);
            if memory.places.len() > PLACES {
                memory.places.pop_first();
            }
        });
    }

    fn remember_tip(&self, job: &JobId, tip: Tip) {
        self.remember(job, |memory| memory.tip = Some(tip));
        self.remember_place(job, tip.last + 1, tip.message + 1);
    }

    /// The end of a log as the server knows it; all zero for an unknown job.
    async fn tip(&self, job: &JobId) -> Result<Tip, BackendError> {
        let Some(newest) = self.reader.last(&self.link.names.event(job)).await? else { return Ok(Tip::default()) };
        match Tip::read(&newest) {
            Some(tip) => {
                self.remember_tip(job, tip);
                Ok(tip)
            }
            None => self.tip_before(job, newest.sequence).await,
        }
    }

    /// The end of a log whose newest message is somebody else's. Read one by one, for such a message may be of the kind that
    /// must not be delivered.
    async fn tip_before(&self, job: &JobId, newest: u64) -> Result<Tip, BackendError> {
        let subject = self.link.names.event(job);
        let mut tip = self.remember(job, |memory| memory.tip).unwrap_or_default();
        while tip.message < newest {
            let Some(stored) = self.reader.next(&subject, tip.message + 1).await? else { break };
            let follows = |place: Place| place.first == tip.last + 1;
            tip = match Tip::read(&stored).filter(|_| Place::read(Some(&stored.headers)).is_some_and(follows)) {
                Some(next) => next,
                None => Tip { message: stored.sequence, ..tip },
            };
        }
        self.remember_tip(job, tip);
        Ok(tip)
    }

    fn conflict(job: &JobId, expected: u64, actual: u64) -> BackendError {
        BackendError::Conflict { what: format!("the log of job {job}"), expected, actual }
    }

    /// Collects events into `page`; false when it has all it wants.
    async fn collect(&self, page: &mut Page<'_>, stored: Stored) -> Result<bool, BackendError> {
        page.message = stored.sequence + 1;
        let Some(place) = Place::read(Some(&stored.headers)).filter(|place| place.first == page.next) else {
            return Ok(true);
        };
        page.next = place.last + 1;
        if place.last > page.after {
            let events = decode(&self.objects, page.job, place, &stored).await?;
            let wanted = events.into_iter().filter(|event| event.seq > page.after);
            page.events.extend(wanted.take(page.limit - page.events.len()));
        }
        if page.events.len() == page.limit && page.events.last().is_some_and(|event| event.seq < place.last) {
            self.remember_place(page.job, place.first, stored.sequence);
        } else {
            self.remember_place(page.job, page.next, page.message);
        }
        Ok(page.events.len() < page.limit && page.next <= page.last)
    }

    /// Reads at most `most` messages one by one; true when the page is complete.
    async fn read_singly(&self, page: &mut Page<'_>, most: usize) -> Result<bool, BackendError> {
        let subject = self.link.names.event(page.job);
        for _ in 0..most {
            let Some(stored) = self.reader.next(&subject, page.message).await? else { return Ok(true) };
            if !self.collect(page, stored).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads the rest of the page in batches; false when that did not work, as with a message that must not be delivered.
    async fn read_many(&self, page: &mut Page<'_>) -> bool {
        let reading = async {
            let mut scan = self.reader.scan(&self.link.names.event(page.job), page.message).await?;
            loop {
                let found = scan.read(BATCH.min(page.limit)).await?;
                let is_over = found.is_empty();
                for stored in found {
                    if !self.collect(page, stored).await? {
                        return Ok::<_, BackendError>(());
                    }
                }
                if is_over {
                    return Ok(());
                }
            }
        };
        match reading.await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "a log is read message by message");
                false
            }
        }
    }
}

/// A reading in progress.
struct Page<'a> {
    job: &'a JobId,
    after: u64,
    limit: usize,
    /// Sequence of the log's newest event.
    last: u64,
    /// Sequence of the next event to come.
    next: u64,
    /// Stream sequence at or after which it is.
    message: u64,
    events: Vec<RecordedEvent>,
}

#[async_trait]
impl EventLog for Log {
    async fn append(&self, job: &JobId, expected: u64, events: Vec<Event>) -> Result<u64, BackendError> {
        let body = encode(&events)?;
        let remembered = self.remember(job, |memory| memory.tip);
        let mut tip = match remembered.filter(|tip| tip.last == expected) {
            Some(tip) if !events.is_empty() => tip,
            _ => self.tip(job).await?,
        };
        loop {
            if tip.last != expected {
                return Err(Self::conflict(job, expected, tip.last));
            }
            if events.is_empty() {
                return Ok(expected);
            }
            let (place, mut headers) = tip.next(events.len(), self.clock.now());
            // So that it may be sent again when the connection breaks before the server has answered.
            set(&mut headers, MESSAGE_ID, format!("{job}/{}/{}", place.first, random_token(16)));
            let payload = carry::wrap(&self.link, &self.objects, &mut headers, body.clone()).await?;
            let posted = self.link.publish(vec![post(self.link.names.event(job), headers, payload)]).await?;
            if let Some(Posted::Stored(message)) = posted.first() {
                self.remember_tip(job, tip.after(place, *message));
                self.tails.appended(job, place.last);
                return Ok(place.last);
            }
            let actual = self.tip(job).await?;
            if actual == tip {
                return Err(self.link.unavailable("the log's newest message is not what the server says it is"));
            }
            tip = actual;
        }
    }

    async fn read(&self, job: &JobId, after: u64, limit: usize) -> Result<Vec<RecordedEvent>, BackendError> {
        let subject = self.link.names.event(job);
        let Some(newest) = self.reader.last(&subject).await? else { return Ok(Vec::new()) };
        let tip = match Tip::read(&newest) {
            Some(tip) => tip,
            None => self.tip_before(job, newest.sequence).await?,
        };
        if limit == 0 || after >= tip.last {
            return Ok(Vec::new());
        }
        let start = self.remember(job, |memory| {
            memory.places.range(..=after + 1).next_back().map(|(event, message)| (*event, *message))
        });
        let (next, message) = start.unwrap_or((1, 1));
        let mut page = Page { job, after, limit, last: tip.last, next, message, events: Vec::new() };
        if let Some(place) = Place::read(Some(&newest.headers)).filter(|place| place.first <= after + 1) {
            page.next = place.first;
            self.collect(&mut page, newest).await?;
            return Ok(page.events);
        }
        if !self.read_singly(&mut page, SINGLES).await? && !self.read_many(&mut page).await {
            self.read_singly(&mut page, usize::MAX).await?;
        }
        Ok(page.events)
    }

    async fn wait(&self, job: &JobId, after: u64, wait: Duration) -> Result<bool, BackendError> {
        let until = Instant::now() + wait.min(MAX_WAIT);
        let mut tail = if wait.is_zero() { None } else { Some(self.tails.follow(job).await?) };
        let mut look = LOOKS.0;
        loop {
            let looked = self.tip(job).await.map(|tip| tip.last > after);
            let left = until.saturating_duration_since(Instant::now());
            let Some(tail) = tail.as_mut().filter(|_| !left.is_zero() && !matches!(looked, Ok(true))) else {
                return looked;
            };
            if let Ok(Ok(_)) = tokio::time::timeout(look.min(left), tail.wait_for(|last| *last > after)).await {
                return Ok(true);
            }
            look = LOOKS.1;
        }
    }

    async fn jobs(&self) -> Result<Vec<JobEntry>, BackendError> {
        let everything = self.link.names.subjects(StreamKind::Events).remove(0);
        let subjects = self.reader.subjects(&everything).await?;
        let jobs = subjects.into_iter().filter_map(|(subject, _)| self.link.names.job_of(&subject));
        let tips = futures_util::stream::iter(jobs.map(async |job| Ok((self.tip(&job).await?, job))));
        let mut known: Vec<(Tip, JobId)> = tips.buffer_unordered(ASKED_AT_ONCE).try_collect().await?;
        known.retain(|(tip, _)| tip.last > 0);
        known.sort_unstable_by_key(|(tip, _)| tip.origin.0);
        let entry = |(tip, job): (Tip, JobId)| JobEntry {
            job,
            last_seq: tip.last,
            created_at: tip.origin.1,
            updated_at: tip.at,
        };
        Ok(known.into_iter().map(entry).collect())
    }
}
