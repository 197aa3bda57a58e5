//! Messages that wait for their time outside the broker.
//!
//! JetStream's own delayed redelivery keeps a slot of `max_ack_pending` occupied and forgets the delay when the server
//! restarts (research: engines §3a, 7), so a retry is put away here first and acknowledged then. Taking what is due is a
//! lease, not a removal: whoever took it and died before publishing it loses nothing. Nothing here may decide what a message means.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::BackendError;

/// A message that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delayed {
    /// Names it; putting the same id away again changes nothing.
    pub(super) id: String,
    /// The queue it goes back to, as [`Queue`](super::Queue) prints.
    pub(super) queue: String,
    /// Its bytes.
    pub(super) body: Bytes,
    /// How often it was delivered so far.
    pub(super) deliveries: u32,
}

/// Keeps messages until they are due, by the stores' clock. When a process is found dead, what is due within seconds is due
/// at once, for it may wait for that process.
#[async_trait]
pub(super) trait DelayStore: Send + Sync {
    /// Puts messages away for their delays, durably before it answers.
    async fn put(&self, messages: Vec<(Delayed, Duration)>) -> Result<(), BackendError>;

    /// Takes at most `limit` messages that are due; what is not [removed](DelayStore::remove) within a few seconds is due
    /// again. Answers nothing while another process is the one that moves messages.
    async fn take_due(&self, limit: usize) -> Result<Vec<Delayed>, BackendError>;

    /// Forgets messages that are back in their queues.
    async fn remove(&self, ids: Vec<String>) -> Result<(), BackendError>;

    /// How many messages wait for `queue`.
    async fn waiting(&self, queue: &str) -> Result<u64, BackendError>;

    /// How many messages wait, by queue; those for which none wait are left out.
    async fn all_waiting(&self) -> Result<HashMap<String, u64>, BackendError>;
}
