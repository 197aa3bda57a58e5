//! Dead letters: a stream that people can browse, one subject per letter.
//!
//! A letter's subject holds its queue and what its dedupe id hashes to, and takes one message only, so putting the same letter
//! in twice changes nothing, however long ago the first time was. Letters leave only when somebody purges them.

use futures_util::future::try_join_all;

use super::artifacts::ObjectStore;
use super::carry;
use super::held::Held;
use super::link::{Link, Post, header, headers, number, set};
use super::names::{AT, BODY, DEDUPE, EXPECTED_LAST, QUEUE, REASON, StreamKind};
use super::stored::{Reader, Stored};
use crate::backend::bound::bounded;
use crate::backend::{BackendError, DeadLetter, Outgoing, Queue};
use crate::clock::{Clock, Timestamp};

/// Writes dead letters of messages as they are.
#[derive(Debug, Clone)]
pub(super) struct LetterWriter {
    link: Link,
    clock: Clock,
}

/// The dead letters of a namespace.
pub(super) struct Letters {
    link: Link,
    reader: Reader,
    objects: ObjectStore,
    writer: LetterWriter,
}

impl LetterWriter {
    pub(super) fn new(link: &Link, clock: Clock) -> Self {
        Self { link: link.clone(), clock }
    }

    fn post(&self, queue: &str, dedupe: &str, place: &str, reason: &str) -> Post {
        // As JSON, since a reason may have several lines and a header may not.
        let reason = serde_json::Value::String(bounded(reason)).to_string();
        let headers = headers([
            (EXPECTED_LAST, "0".into()),
            (QUEUE, queue.to_owned()),
            (DEDUPE, dedupe.to_owned()),
            (REASON, reason),
            (AT, self.clock.now().0.to_string()),
        ]);
        Post { subject: self.link.names.letter(queue, dedupe, place), headers, payload: bytes::Bytes::new() }
    }

    /// Stores the body of a message whose headers nobody can read.
    pub(super) async fn bury_unreadable(&self, queue: &Queue, found: &Stored) -> Result<(), BackendError> {
        let place = found.sequence.to_string();
        let mut post = self.post(&queue.to_string(), &format!("message {place}"), &place, "its headers cannot be read");
        post.payload = found.payload.clone();
        self.link.publish(vec![post]).await.map(drop)
    }
}

impl Letters {
    pub(super) async fn new(link: &Link, objects: &ObjectStore, writer: LetterWriter) -> Result<Self, BackendError> {
        let reader = Reader::new(link, StreamKind::Letters).await?;
        Ok(Self { link: link.clone(), reader, objects: objects.clone(), writer })
    }

    /// Stores deliveries that are given up. A delivery that comes again and is given up again is the same letter.
    pub(super) async fn bury(&self, given_up: &[(&Held, &str)]) -> Result<(), BackendError> {
        let posts = given_up.iter().map(|(held, reason)| {
            let mut post = self.writer.post(&held.queue, &held.dedupe(), &held.sequence.to_string(), reason);
            if let Some(body) = header(held.headers.as_ref(), BODY) {
                set(&mut post.headers, BODY, body.to_owned());
            }
            post.payload = held.payload.clone();
            post
        });
        // One that was there already is as good as stored.
        self.link.publish(posts.collect()).await.map(drop)
    }

    /// Stores messages that are in no queue, once per queue and dedupe id.
    pub(super) async fn add(&self, letters: Vec<(Outgoing, String)>) -> Result<(), BackendError> {
        let missing = try_join_all(letters.into_iter().map(async |(message, reason)| {
            let queue = message.queue.to_string();
            let all = self.link.names.letter(&queue, &message.dedupe, "*");
            if self.reader.last(&all).await?.is_some() {
                return Ok(None);
            }
            let mut post = self.writer.post(&queue, &message.dedupe, "0", &reason);
            post.payload = carry::wrap(&self.link, &self.objects, &mut post.headers, message.body).await?;
            Ok::<_, BackendError>(Some(post))
        }));
        let posts: Vec<Post> = missing.await?.into_iter().flatten().collect();
        self.link.publish(posts).await.map(drop)
    }

    /// Letters after `after`, oldest first.
    pub(super) async fn list(&self, after: u64, limit: usize) -> Result<Vec<DeadLetter>, BackendError> {
        let mut letters = Vec::new();
        if limit == 0 || after == u64::MAX {
            return Ok(letters);
        }
        let everything = self.link.names.subjects(StreamKind::Letters).remove(0);
        let mut scan = self.reader.scan(&everything, after + 1).await?;
        while letters.len() < limit {
            let found = scan.read(limit - letters.len()).await?;
            if found.is_empty() {
                break;
            }
            for stored in found {
                letters.extend(self.letter(stored).await?);
            }
        }
        Ok(letters)
    }

    /// Reads a letter; what somebody else has put among them is none.
    async fn letter(&self, stored: Stored) -> Result<Option<DeadLetter>, BackendError> {
        let headers = Some(&stored.headers);
        let (Some(queue), Some(dedupe)) = (header(headers, QUEUE), header(headers, DEDUPE)) else { return Ok(None) };
        let mut reason: String =
            header(headers, REASON).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let body = match carry::unwrap(&self.objects, headers, &stored.payload).await {
            Err(error @ BackendError::Unavailable { .. }) => return Err(error),
            Err(error) => {
                reason = format!("{reason} (its body is lost: {error})");
                bytes::Bytes::new()
            }
            Ok(body) => body,
        };
        Ok(Some(DeadLetter {
            id: stored.sequence,
            queue: queue.to_owned(),
            dedupe: dedupe.to_owned(),
            body,
            reason,
            at: Timestamp(number(headers, AT).unwrap_or(0)),
        }))
    }

    /// Removes letters; answers how many there were.
    pub(super) async fn purge(&self, ids: &[u64]) -> Result<u64, BackendError> {
        let removed = try_join_all(ids.iter().map(|id| self.reader.delete(*id))).await?;
        Ok(removed.into_iter().filter(|removed| *removed).count() as u64)
    }
}
