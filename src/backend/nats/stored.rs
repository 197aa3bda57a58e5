//! Reading what streams hold: the newest message of a subject, the next one, and many in one go.
//!
//! Bytes that never change are asked for directly, which any copy may answer; for everything else the stream's leader is asked.
//! Many messages are read through a consumer that lives as long as the reading does, so that 20,000 events take a handful of
//! requests. Reading must never change what a stream holds.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{DirectGetErrorKind, Stream};
use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};

use super::get::{Query, get};
use super::link::Link;
use super::names::StreamKind;
use super::streams::may_read_any_copy;
use crate::backend::BackendError;

/// How long a consumer for reading outlives its reader, if that dies.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);

/// Most messages asked for at once.
const BATCH: usize = 512;

/// A message as a stream holds it.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) sequence: u64,
    /// Empty if they cannot be read.
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
    /// Whether the headers can be read.
    pub(super) is_sound: bool,
}

impl From<StreamMessage> for Stored {
    fn from(message: StreamMessage) -> Self {
        let StreamMessage { sequence, headers, payload, .. } = message;
        Self { sequence, headers, payload, is_sound: true }
    }
}

/// Reads one stream.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    link: Link,
    stream: Stream<()>,
    name: String,
    direct: bool,
}

impl Reader {
    /// A reader of the stream `kind`.
    pub(super) async fn new(link: &Link, kind: StreamKind) -> Result<Self, BackendError> {
        let name = link.names.stream(kind);
        let stream = link.context.get_stream_no_info(&name).await.map_err(|error| link.unavailable(error))?;
        let direct = may_read_any_copy(kind);
        Ok(Self { link: link.clone(), stream, name, direct })
    }

    /// The newest message of `subject`, which may hold wildcards unless bytes are read.
    pub(super) async fn last(&self, subject: &str) -> Result<Option<Stored>, BackendError> {
        self.link
            .repeating("a read", || async move {
                if self.direct {
                    match self.stream.direct_get_last_for_subject(subject).await {
                        Ok(message) => return Ok(Some(message.into())),
                        Err(error) if !is_missing(&error.kind()) => return Err(self.link.unavailable(error)),
                        // Another copy may have it already.
                        Err(_) if self.link.replicas == 1 => return Ok(None),
                        Err(_) => {}
                    }
                }
                get(&self.link, &self.name, &Query { last_by_subj: Some(subject), ..Query::default() }).await
            })
            .await
    }

    /// The first message of `subject` at or after `sequence`.
    pub(super) async fn next(&self, subject: &str, sequence: u64) -> Result<Option<Stored>, BackendError> {
        let query = Query { next_by_subj: Some(subject), seq: Some(sequence.max(1)), ..Query::default() };
        self.link.repeating("a read", || get(&self.link, &self.name, &query)).await
    }

    /// Reads the messages of `subject`, which may hold wildcards, at or after `sequence`, oldest first.
    pub(super) async fn scan(&self, subject: &str, sequence: u64) -> Result<Scan, BackendError> {
        let config = pull::Config {
            description: Some("CodeSwarm: reading".into()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: sequence.max(1) },
            ack_policy: AckPolicy::None,
            filter_subject: subject.to_owned(),
            inactive_threshold: ABANDONED_AFTER,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let creating = async {
            let created = self.link.context.create_consumer_on_stream(config, &self.name).await;
            created.map_err(|error| self.link.unavailable(format!("reading stream {}: {error}", self.name)))
        };
        let consumer = self.link.within("a read", creating).await?;
        let left = consumer.cached_info().num_pending;
        Ok(Scan { reader: self.clone(), consumer, left })
    }

    /// Removes the message with this sequence; false when there is none.
    pub(super) async fn delete(&self, sequence: u64) -> Result<bool, BackendError> {
        use async_nats::jetstream::ErrorCode;
        use async_nats::jetstream::stream::DeleteMessageErrorKind;
        self.link
            .within("a removal", async {
                match self.stream.delete_message(sequence).await {
                    Ok(deleted) => Ok(deleted),
                    Err(error) => match error.kind() {
                        DeleteMessageErrorKind::JetStream(inner)
                            if inner.code() == 404
                                || inner.error_code() == ErrorCode::SEQUENCE_NOT_FOUND
                                || inner.error_code() == ErrorCode::STREAM_MESSAGE_DELETE_FAILED =>
                        {
                            Ok(false)
                        }
                        _ => Err(self.link.unavailable(error)),
                    },
                }
            })
            .await
    }

    /// Removes all messages of `subject`.
    pub(super) async fn purge(&self, subject: &str) -> Result<(), BackendError> {
        let purging = async { self.stream.purge().filter(subject).await.map_err(|error| self.link.unavailable(error)) };
        self.link.within("a removal", purging).await.map(drop)
    }

    /// How many messages each subject under `filter` has.
    pub(super) async fn subjects(&self, filter: &str) -> Result<Vec<(String, usize)>, BackendError> {
        let listing = async {
            let mut found = Vec::new();
            let info = self.stream.info_builder().subjects(filter).fetch().await;
            let mut info = info.map_err(|error| self.link.unavailable(error))?;
            while let Some(subject) = info.try_next().await.map_err(|error| self.link.unavailable(error))? {
                found.push(subject);
            }
            Ok(found)
        };
        self.link.within("a listing", listing).await
    }
}

fn is_missing(kind: &DirectGetErrorKind) -> bool {
    match kind {
        DirectGetErrorKind::NotFound => true,
        DirectGetErrorKind::ErrorResponse(status, _) => *status == StatusCode::NOT_FOUND,
        _ => false,
    }
}

/// A reading of many messages.
pub(super) struct Scan {
    reader: Reader,
    consumer: PullConsumer,
    left: u64,
}

impl Scan {
    /// The next messages, at most `limit` of them; empty at the end of what was there when the reading began.
    pub(super) async fn read(&mut self, limit: usize) -> Result<Vec<Stored>, BackendError> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(limit).min(BATCH);
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let link = &self.reader.link;
        let pulling = async {
            // No heartbeat: one can swallow the wake-up of a message (research: engines §3a, 1).
            let batch = self.consumer.batch().max_messages(wanted).expires(link.timeout).messages().await;
            let mut batch = batch.map_err(|error| link.unavailable(error))?;
            let mut found = Vec::with_capacity(wanted);
            while let Some(message) = batch.next().await {
                let message = message.map_err(|error| link.unavailable(error))?;
                let sequence = message.info().map_err(|error| link.unavailable(error))?.stream_sequence;
                let (message, _) = message.split();
                let headers = message.headers.unwrap_or_default();
                found.push(Stored { sequence, headers, payload: message.payload, is_sound: true });
            }
            Ok(found)
        };
        let found = link.within("a read", pulling).await?;
        self.left = self.left.saturating_sub(found.len() as u64);
        if found.is_empty() { Err(link.late("a read")) } else { Ok(found) }
    }
}

impl Drop for Scan {
    /// The server forgets an abandoned consumer anyway; this only spares it the wait.
    fn drop(&mut self) {
        let (stream, name) = (self.reader.stream.clone(), self.consumer.cached_info().name.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { stream.delete_consumer(&name).await.map(drop) });
        }
    }
}
