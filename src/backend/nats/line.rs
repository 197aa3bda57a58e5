//! What a process knows about one queue: what it has asked for, and what has come that nobody holds yet.
//!
//! A *probe* is answered at once, with messages or with their absence; an *alert* is answered when a message comes. While an
//! alert is silent its queue is empty, which is how later pulls know where not to look. There is at most one of each, and
//! an alert asks for a single message where several would compete for it, so that no message comes for nobody.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::caught::Caught;
use super::sources::Source;

/// How long an alert stays with the server. One that is not even answered by its end tells that the consumer is gone.
pub(super) const ALERT: Duration = Duration::from_secs(10);

/// How long a message waits here for a pull before it is given back to the other processes.
pub(super) const GRACE: Duration = Duration::from_millis(5);

/// The two ways to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Answered when a message comes.
    Alert,
    /// Answered at once.
    Probe,
}

/// An open question to the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) id: u64,
    /// Messages it may still bring.
    pub(super) left: usize,
    /// Whether it has brought any.
    pub(super) fruitful: bool,
    pub(super) sent: Instant,
}

/// One queue.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) source: Arc<Source>,
    pub(super) alert: Option<Ask>,
    pub(super) probe: Option<Ask>,
    /// A probe about to be sent: its id, and for how many messages.
    pub(super) planned: Option<(u64, usize)>,
    /// Messages that were behind the newest delivery.
    pub(super) pending: u64,
    /// Messages nobody holds, oldest first, and since when.
    pub(super) stash: VecDeque<(Instant, Caught)>,
    /// Why the queue cannot be asked at the moment.
    pub(super) trouble: Option<String>,
    /// Not asked again before then.
    pub(super) rest_until: Option<Instant>,
}

impl Line {
    pub(super) fn new(source: Arc<Source>) -> Self {
        Self {
            source,
            alert: None,
            probe: None,
            planned: None,
            pending: 0,
            stash: VecDeque::new(),
            trouble: None,
            rest_until: None,
        }
    }

    pub(super) fn ask(&mut self, kind: Kind) -> &mut Option<Ask> {
        match kind {
            Kind::Alert => &mut self.alert,
            Kind::Probe => &mut self.probe,
        }
    }

    /// Counts a message that came for an ask of this kind; the ask's id if that was its last.
    pub(super) fn count(&mut self, kind: Kind, pending: u64) -> Option<u64> {
        self.pending = pending;
        let open = self.ask(kind);
        let ask = open.as_mut()?;
        ask.left = ask.left.saturating_sub(1);
        ask.fruitful = true;
        let (id, is_last) = (ask.id, ask.left == 0);
        if is_last {
            *open = None;
        }
        is_last.then_some(id)
    }

    /// Takes an ask back that the server has ended.
    pub(super) fn end(&mut self, kind: Kind, id: u64) -> Option<Ask> {
        self.ask(kind).take_if(|ask| ask.id == id)
    }

    /// Whether a question is open or about to be.
    pub(super) fn is_asked(&self) -> bool {
        self.alert.is_some() || self.probe.is_some() || self.planned.is_some()
    }
}

/// Deliveries that reached nobody, by line and sequence, so that they do not count. Only this process's own: what others
/// gave back unseen counts.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    counts: HashMap<(usize, u64), u32>,
    order: VecDeque<(usize, u64)>,
}

impl Unseen {
    /// Most messages remembered.
    const LIMIT: usize = 4_096;

    /// One more delivery of this message reached nobody.
    pub(super) fn add(&mut self, line: usize, sequence: u64) {
        let key = (line, sequence);
        let count = self.counts.entry(key).or_insert(0);
        *count += 1;
        if *count == 1 {
            self.order.push_back(key);
        }
        if self.order.len() > Self::LIMIT
            && let Some(oldest) = self.order.pop_front()
        {
            self.counts.remove(&oldest);
        }
    }

    /// How often this message reached nobody.
    pub(super) fn of(&self, line: usize, sequence: u64) -> u32 {
        if self.counts.is_empty() { 0 } else { self.counts.get(&(line, sequence)).copied().unwrap_or(0) }
    }
}
