//! A pull on its way through the [room](super::room): what it wants, how far it has come, and how it gets its messages.
//!
//! Messages travel in a [`Handover`] that returns them when nobody takes it, so a pull may be dropped at any point. It must
//! never be copied: a message is in one place at a time.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::caught::Caught;
use super::link::Link;
use super::sources::Source;
use crate::backend::BackendError;

/// What the puller is told.
pub(super) enum Command {
    /// Somebody wants messages.
    Pull(Pull),
    /// Messages that never reached their pull.
    Return(Vec<Caught>),
    /// The consumer of this line is there again.
    Ready(usize),
    /// The new connection can be used.
    Connected,
}

/// A pull as it comes in.
pub(super) struct Pull {
    pub(super) sources: Vec<Arc<Source>>,
    pub(super) max: usize,
    pub(super) wait: Duration,
    pub(super) answer: oneshot::Sender<Result<Handover, Refusal>>,
}

/// Why a pull got nothing.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) String);

/// Messages on their way to a pull. If it is dropped on the way, they go to the next pull or back to the server.
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) caught: Vec<Caught>,
    pub(super) back: mpsc::UnboundedSender<Command>,
}

impl Handover {
    /// The messages; they stay in the handover until [`Handover::keep`].
    pub(super) fn peek(&self) -> &[Caught] {
        &self.caught
    }

    /// The messages, now in the puller's hand.
    pub(super) fn keep(mut self) -> Vec<Caught> {
        mem::take(&mut self.caught)
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        let caught = mem::take(&mut self.caught);
        if !caught.is_empty() {
            // Without a puller the process is ending, and the server redelivers.
            let _ = self.back.send(Command::Return(caught));
        }
    }
}

/// How far a pull has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// About to look at its queues.
    Walking,
    /// Waits for the answer to a probe; one with another id says nothing about now.
    Asking { line: usize, probe: u64 },
    /// Has seen all its queues empty.
    Parked,
    /// Has messages, and more of the same answer are on their way.
    Gathering { line: usize },
    /// Has all it wants.
    Served,
}

/// A pull that waits.
pub(super) struct Waiter {
    pub(super) lines: Vec<usize>,
    /// Queues it has seen empty on this walk.
    pub(super) empty: Vec<bool>,
    pub(super) max: usize,
    /// It came for what is there now.
    pub(super) at_once: bool,
    pub(super) deadline: Instant,
    /// When to give up on answers to its questions.
    pub(super) patience: Instant,
    pub(super) got: Vec<Caught>,
    pub(super) stage: Stage,
    pub(super) answer: oneshot::Sender<Result<Handover, Refusal>>,
}

impl Waiter {
    /// A pull that came `now` and trusts the server to answer within `patience`.
    pub(super) fn new(
        lines: Vec<usize>,
        max: usize,
        wait: Duration,
        answer: oneshot::Sender<Result<Handover, Refusal>>,
        now: Instant,
        patience: Duration,
    ) -> Self {
        Self {
            empty: vec![false; lines.len()],
            lines,
            max,
            at_once: wait.is_zero(),
            deadline: now + wait,
            patience: now + patience,
            got: Vec::new(),
            stage: Stage::Walking,
            answer,
        }
    }

    /// Whether a line is among its queues.
    pub(super) fn is_interested(&self, line: usize) -> bool {
        self.lines.contains(&line)
    }

    /// Whether it has all it wants.
    pub(super) fn is_full(&self) -> bool {
        self.got.len() >= self.max
    }
}

impl Refusal {
    /// The error of a refused pull.
    pub(super) fn error(self, link: &Link) -> BackendError {
        link.unavailable(self.0)
    }
}
