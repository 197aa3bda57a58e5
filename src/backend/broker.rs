//! `Broker`: durable queues by agent type and priority, results, commands, and signals that are only hints.
//!
//! The trait is shaped after what JetStream can promise, so that the embedded backend promises no more.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::BackendError;
use crate::clock::Timestamp;
use crate::protocol::{AgentType, InstanceId, JobId, Priority};

/// Name of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Queue {
    /// Work for one agent type at one priority.
    Task {
        /// The type that serves it.
        agent: AgentType,
        /// The priority it holds.
        priority: Priority,
    },
    /// Results on their way to the coordinator that leads a shard.
    Result {
        /// The shard.
        shard: u16,
    },
    /// Commands on their way to the coordinator that leads a shard.
    Command {
        /// The shard.
        shard: u16,
    },
}

impl fmt::Display for Queue {
    /// The queue's subject below the namespace: `task.backend.normal`, `result.0`, `command.0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task { agent, priority } => write!(f, "task.{agent}.{}", priority.as_str()),
            Self::Result { shard } => write!(f, "result.{shard}"),
            Self::Command { shard } => write!(f, "command.{shard}"),
        }
    }
}

/// A message to publish.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Where to.
    pub queue: Queue,
    /// Publishing the same id to the same queue again, within two minutes at least, changes nothing.
    pub dedupe: String,
    /// The bytes; at most [`MAX_MESSAGE_BYTES`].
    pub body: Bytes,
}

pub use crate::protocol::validate::MAX_MESSAGE_BYTES;

/// Names one delivery of one message; valid until it is disposed of or its lease ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeliveryTag(pub String);

/// A message in hand.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Needed to dispose of it.
    pub tag: DeliveryTag,
    /// Where it came from.
    pub queue: Queue,
    /// The bytes that were published.
    pub body: Bytes,
    /// 1 for the first delivery.
    pub deliveries: u32,
}

/// What happens to a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// Still at work: the lease starts anew.
    Progress,
    /// Done: never delivered again.
    Ack,
    /// Deliver again after the delay, to anyone; sooner if a process is found dead meanwhile, whose work it may be.
    RetryLater(Duration),
    /// Move to the dead letters with this reason.
    DeadLetter(String),
}

/// How full a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Waiting to be pulled, delayed ones included.
    pub waiting: u64,
    /// Pulled and not yet disposed of.
    pub in_flight: u64,
}

/// A message that nobody could process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Place in the dead-letter store, ascending.
    pub id: u64,
    /// The queue it came from.
    pub queue: String,
    /// Its dedupe id.
    pub dedupe: String,
    /// The bytes.
    pub body: Bytes,
    /// Why it was given up.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// A hint that something changed. Losing one never loses work: receivers poll as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "signal")]
pub enum Signal {
    /// Abort the job's running calls (they still settle).
    CancelJob {
        /// Which job.
        job: JobId,
    },
    /// Spending is frozen: abort running calls of every job.
    Freeze,
    /// New events in this job's log.
    JobChanged {
        /// Which job.
        job: JobId,
    },
}

/// Durable queues with at-least-once delivery.
///
/// Promises:
/// - A published message is durable before `publish` answers, and is delivered until somebody acks or dead-letters it.
/// - Messages of one call are published all or none visible earlier than the others only on a crash; repeating the call
///   with the same dedupe ids completes it.
/// - One message is with at most one live lease at a time; a lease ends after
///   [`Backend::delivery_lease`](super::Backend::delivery_lease) without `Progress`.
/// - `Ack` after the lease has ended and someone else holds the message is [`BackendError::LeaseLost`] or a no-op, never
///   somebody else's ack being undone. Acks are not fencing: callers check their claim in the state store first.
/// - Within one queue, messages come out in publishing order unless retried.
/// - `pull` over several queues serves the earlier queues of the slice first.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Publishes messages in order.
    async fn publish(&self, messages: Vec<Outgoing>) -> Result<(), BackendError>;

    /// Waits up to `wait` for messages and answers at most `max` of them; an empty answer means none came. Dropping the
    /// future before it answers loses nothing.
    async fn pull(
        &self,
        consumer: &InstanceId,
        queues: &[Queue],
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>, BackendError>;

    /// Disposes of deliveries. One that is no longer held is skipped for `Ack` and reported as
    /// [`BackendError::LeaseLost`] for the others, after all were processed.
    async fn dispose(&self, deliveries: Vec<(DeliveryTag, Disposition)>) -> Result<(), BackendError>;

    /// How full a queue is.
    async fn depth(&self, queue: &Queue) -> Result<Depth, BackendError>;

    /// How full each of `queues` is, in their order. Cheap however many there are, as long as most are empty.
    async fn depths(&self, queues: &[Queue]) -> Result<Vec<Depth>, BackendError> {
        let mut depths = Vec::with_capacity(queues.len());
        for queue in queues {
            depths.push(self.depth(queue).await?);
        }
        Ok(depths)
    }

    /// Dead letters after `after` (0 for all), oldest first, at most `limit`.
    async fn dead_letters(&self, after: u64, limit: usize) -> Result<Vec<DeadLetter>, BackendError>;

    /// Puts messages that were never in a queue, or are no longer, among the dead letters, once per queue and dedupe id.
    async fn dead_letter(&self, letters: Vec<(Outgoing, String)>) -> Result<(), BackendError>;

    /// Removes dead letters for good; ids that are gone already are skipped. Answers how many were removed.
    async fn purge_dead_letters(&self, ids: &[u64]) -> Result<u64, BackendError>;

    /// Sends a hint to every process.
    async fn signal(&self, signal: Signal) -> Result<(), BackendError>;

    /// Hints from every process, this one's own included.
    fn signals(&self) -> broadcast::Receiver<Signal>;
}

/// How long a delivery of the embedded backend stays with its consumer without `Progress`. Whether a process lives is known
/// there at once, by its file lock, so this only has to catch a process that hangs. A distributed backend has its own
/// (`nats.ack_wait_ms`); what holds is in [`Backend::delivery_lease`](super::Backend::delivery_lease).
pub const LEASE: Duration = Duration::from_secs(30);
