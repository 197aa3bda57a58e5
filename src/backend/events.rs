//! `EventLog`: the history of every job, appended with compare-and-set.
//!
//! A job's log is the only truth about it; status, resume and replay are folds of it. Compare-and-set makes a second
//! writer harmless without a lock. An event is never changed or removed, so nothing that grows without bound belongs in one.

use std::time::Duration;

use async_trait::async_trait;

use super::BackendError;
use crate::clock::Timestamp;
use crate::protocol::{Event, JobId, RecordedEvent};

/// A job as the log knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEntry {
    /// Which job.
    pub job: JobId,
    /// Sequence of its newest event.
    pub last_seq: u64,
    /// Time of its first event.
    pub created_at: Timestamp,
    /// Time of its newest event.
    pub updated_at: Timestamp,
}

/// Append-only log per job.
///
/// Promises: sequences of a job are 1, 2, 3 … without gaps; of two appends expecting the same sequence exactly one
/// succeeds and the other is [`BackendError::Conflict`] naming the actual one; the events of one append become visible
/// together; what was read once is read the same for ever.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Appends `events` if the newest sequence of `job` is `expected` (0 for a new job); answers the new newest sequence.
    async fn append(&self, job: &JobId, expected: u64, events: Vec<Event>) -> Result<u64, BackendError>;

    /// Events of `job` after sequence `after`, oldest first, at most `limit`. An unknown job has none.
    async fn read(&self, job: &JobId, after: u64, limit: usize) -> Result<Vec<RecordedEvent>, BackendError>;

    /// Waits until `job` has events after `after`, or `wait` is over. True when it has. May use polling across processes,
    /// at most 100 ms late.
    async fn wait(&self, job: &JobId, after: u64, wait: Duration) -> Result<bool, BackendError>;

    /// All jobs, oldest first.
    async fn jobs(&self) -> Result<Vec<JobEntry>, BackendError>;
}
