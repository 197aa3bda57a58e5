//! One operation inside a group commit, and what it leaves for after the commit.
//!
//! Operations run one after the other in a shared transaction, so each must check before it writes: a refusal keeps
//! what was written. Their bodies may run twice (a fault of a neighbour rolls the whole group back, after which each
//! runs alone), so they must not consume what they captured and must have no effect outside the [`Step`].

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::fault::{Halt, closed};
use super::ledger::scopes::ScopeCache;
use crate::backend::{BackendError, Signal};
use crate::clock::Timestamp;
use crate::protocol::{InstanceId, JobId};

/// What an operation works with.
pub(super) struct Step<'a> {
    /// The writing connection, inside a transaction.
    pub(super) db: &'a Connection,
    /// The store's clock, read once per transaction.
    pub(super) now: Timestamp,
    /// The process this store was opened for.
    pub(super) process: &'a InstanceId,
    /// Next lease token of a delivery; never used twice.
    pub(super) next_lease: &'a mut i64,
    /// Who has to be told once the transaction is durable.
    pub(super) effects: Effects,
    /// Budget scopes touched by this transaction, written back once.
    pub(super) scopes: ScopeCache,
    /// Ids of the reservations this transaction has expired; `None` until it has looked.
    pub(super) expired: Option<Vec<String>>,
    /// Whether the operation at work has to survive loss of power before its caller is answered.
    pub(super) must_flush: bool,
    /// Whether this transaction has removed ended leases and abandoned waiters.
    pub(super) locks_purged: bool,
}

impl Step<'_> {
    /// This step must not be undone by loss of power once its caller has been answered.
    pub(super) const fn must_not_be_undone(&mut self) {
        self.must_flush = true;
    }
}

/// News of a transaction, told after its commit.
#[derive(Default)]
pub(super) struct Effects {
    /// Queues in which a message became available.
    pub(super) ready: Vec<String>,
    /// Jobs with new events, and their newest sequence.
    pub(super) appended: Vec<(JobId, u64)>,
    /// State keys that were written.
    pub(super) written: Vec<String>,
    /// Hints to send.
    pub(super) signals: Vec<Signal>,
}

impl Effects {
    /// Notes that `queue` has something to pull.
    pub(super) fn is_ready(&mut self, queue: &str) {
        if !self.ready.iter().any(|known| known == queue) {
            self.ready.push(queue.to_owned());
        }
    }
}

/// A queued operation.
pub(super) trait Operation: Send {
    /// Runs inside a transaction; an error rolls it back.
    fn run(&mut self, step: &mut Step<'_>) -> rusqlite::Result<()>;

    /// Whether the answer has to wait for a flush.
    fn must_flush(&self) -> bool;

    /// Answers the caller after the commit, or with the `failure` that prevented it.
    fn answer(self: Box<Self>, failure: Option<BackendError>);
}

/// A closure with somebody waiting for its value.
pub(super) struct Call<T, F> {
    body: F,
    outcome: Option<Result<T, BackendError>>,
    must_flush: bool,
    answer: oneshot::Sender<Result<T, BackendError>>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl<T, F> Call<T, F>
where
    T: Send,
    F: FnMut(&mut Step<'_>) -> Result<T, Halt> + Send,
{
    /// The operation `body` and where its outcome arrives. `slot` is held until it has been answered.
    pub(super) fn new(
        body: F,
        slot: Option<OwnedSemaphorePermit>,
    ) -> (Self, oneshot::Receiver<Result<T, BackendError>>) {
        let (answer, outcome) = oneshot::channel();
        (Self { body, outcome: None, must_flush: false, answer, _slot: slot }, outcome)
    }
}

impl<T, F> Operation for Call<T, F>
where
    T: Send,
    F: FnMut(&mut Step<'_>) -> Result<T, Halt> + Send,
{
    fn run(&mut self, step: &mut Step<'_>) -> rusqlite::Result<()> {
        step.must_flush = false;
        self.outcome = match (self.body)(step) {
            Ok(value) => Some(Ok(value)),
            Err(Halt::Refused(error)) => Some(Err(error)),
            Err(Halt::Sql(error)) => return Err(error),
        };
        self.must_flush = step.must_flush;
        Ok(())
    }

    fn must_flush(&self) -> bool {
        self.must_flush
    }

    fn answer(self: Box<Self>, failure: Option<BackendError>) {
        let Self { outcome, answer, .. } = *self;
        let outcome = failure.map_or_else(|| outcome.unwrap_or_else(|| Err(closed())), Err);
        // A caller that is gone does not want the answer; the operation happened all the same.
        let _ = answer.send(outcome);
    }
}
