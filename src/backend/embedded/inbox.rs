//! How callers reach the writer thread: a queue bounded by permits, and deliveries that return by themselves.
//!
//! The bound is a semaphore rather than the channel's capacity, so that a full queue suspends the calling task and
//! never blocks its thread. Waiting pulls and tails hold no permit: they may be many and cost nothing.

use std::mem;
use std::sync::{Arc, Weak, mpsc};
use std::time::Instant;

use tokio::sync::{Semaphore, oneshot};

use super::broker;
use super::fault::{Halt, closed};
use super::step::{Call, Operation, Step};
use crate::backend::{BackendError, Delivery, Queue};
use crate::protocol::{InstanceId, JobId};

/// Operations queued or running at once; further callers wait their turn.
const SLOTS: usize = 4_096;

/// What the writer thread can be asked.
pub(super) enum Request {
    /// Run an operation.
    Run(Box<dyn Operation>),
    /// Wait for messages.
    Pull(Puller),
    /// Wait for events of a job.
    Tail(Tailer),
    /// Wait for changes of the state.
    Follow(Follower),
}

/// A pull that waits for messages.
pub(super) struct Puller {
    /// Who pulls.
    pub(super) consumer: InstanceId,
    /// Queues and their names, most wanted first.
    pub(super) queues: Vec<(Queue, String)>,
    /// Most messages to deliver.
    pub(super) max: usize,
    /// When to answer that none came.
    pub(super) until: Instant,
    /// Whether the writer has not looked for it yet.
    pub(super) fresh: bool,
    /// Where the messages go.
    pub(super) answer: oneshot::Sender<Result<Handover, BackendError>>,
    /// Where undelivered ones return to.
    pub(super) inbox: Weak<Inbox>,
}

/// A wait for events.
pub(super) struct Tailer {
    /// Of which job.
    pub(super) job: JobId,
    /// After which sequence.
    pub(super) after: u64,
    /// When to answer that none came.
    pub(super) until: Instant,
    /// Whether the writer has not looked for it yet.
    pub(super) fresh: bool,
    /// Told true when there are events.
    pub(super) answer: oneshot::Sender<bool>,
}

/// A wait for state changes.
pub(super) struct Follower {
    /// Under which prefix.
    pub(super) prefix: String,
    /// After which revision.
    pub(super) revision: u64,
    /// When to answer that none came.
    pub(super) until: Instant,
    /// Whether the writer has not looked for it yet.
    pub(super) fresh: bool,
    /// Told true when there may be changes.
    pub(super) answer: oneshot::Sender<bool>,
}

/// Messages on their way to a puller. If it is dropped on the way, they go back to their queues at once.
pub(super) struct Handover {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) inbox: Weak<Inbox>,
}

impl Handover {
    /// The messages, now in the puller's hand.
    pub(super) fn take(mut self) -> Vec<Delivery> {
        mem::take(&mut self.deliveries)
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        let tags: Vec<_> = mem::take(&mut self.deliveries).into_iter().map(|delivery| delivery.tag).collect();
        if let (false, Some(inbox)) = (tags.is_empty(), self.inbox.upgrade()) {
            let (call, _) = Call::new(move |step: &mut Step<'_>| broker::put_back(step, &tags), None);
            // Without a writer the process is ending, and whoever reaps it returns the messages.
            let _ = inbox.requests.send(Request::Run(Box::new(call)));
        }
    }
}

/// The callers' end of the queue to the writer thread.
pub(super) struct Inbox {
    requests: mpsc::Sender<Request>,
    slots: Arc<Semaphore>,
}

impl Inbox {
    /// A queue, and the end from which the writer takes.
    pub(super) fn new() -> (Arc<Self>, mpsc::Receiver<Request>) {
        let (requests, queue) = mpsc::channel();
        (Arc::new(Self { requests, slots: Arc::new(Semaphore::new(SLOTS)) }), queue)
    }

    /// Runs `body` in a group commit and answers once that is durable.
    pub(super) async fn write<T, F>(&self, body: F) -> Result<T, BackendError>
    where
        T: Send + 'static,
        F: FnMut(&mut Step<'_>) -> Result<T, Halt> + Send + 'static,
    {
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| closed())?;
        let (call, outcome) = Call::new(body, Some(slot));
        self.send(Request::Run(Box::new(call)))?;
        outcome.await.map_err(|_| closed())?
    }

    /// Hands a request over.
    pub(super) fn send(&self, request: Request) -> Result<(), BackendError> {
        self.requests.send(request).map_err(|_| closed())
    }
}
