//! The ready tasks by what hangs on them, so that a leader finds the next ones without looking at all of them.
//!
//! A job of ten thousand tasks has thousands ready at once, and a leader asks a thousand times a second. So they are kept in
//! order per priority and agent type: a status that changes moves one of them. Only when the graph grows do weights change,
//! and then everything is put in order anew, once, when somebody asks. It is derived from the tasks and must never say
//! anything that a look at all of them would not.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::Job;
use super::task::{Node, Task};
use crate::clock::Timestamp;
use crate::protocol::{AgentType, Priority, TaskId};

/// Ready tasks of one priority and agent type, the heaviest chain first, then in the order they came into being.
type Class = BTreeSet<(Reverse<u64>, usize)>;

/// All ready tasks.
#[derive(Debug, Clone, Default)]
pub(super) struct Ranks {
    classes: BTreeMap<(Priority, AgentType), Class>,
    /// By position: the most urgent priority among a task and all that wait for it.
    urgencies: Vec<Priority>,
    /// The graph has grown since.
    is_stale: bool,
}

/// What is derived from the rest of a job makes no difference between two jobs.
impl PartialEq for Ranks {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Ranks {
    /// Weights may have changed: everything is put in order when it is asked for next.
    pub(super) fn outdate(&mut self) {
        self.is_stale = true;
        self.classes.clear();
    }
}

impl Job {
    /// Notes that a task has become ready, or is no longer.
    pub(super) fn note_rank(&mut self, at: usize, is_ready: bool) {
        if self.ranks.is_stale {
            return;
        }
        let task = &self.tasks[at];
        let (class, rank) = ((task.priority, task.agent.clone()), (Reverse(self.tail(&task.id)), at));
        let class = self.ranks.classes.entry(class).or_default();
        if is_ready {
            class.insert(rank);
        } else {
            class.remove(&rank);
        }
    }

    /// Puts the ready tasks in order if need be, for [`Job::leading`].
    pub fn rank(&mut self) {
        if !std::mem::take(&mut self.ranks.is_stale) {
            return;
        }
        let ready = std::mem::take(&mut self.ready);
        ready.iter().for_each(|&at| self.note_rank(at, true));
        self.ready = ready;
        let own = |node: &Node| match node {
            Node::Task(id) => self.task(id).map_or(Priority::Low, |task| task.priority),
            Node::FeatureDone(_) | Node::File(_) => Priority::Low,
        };
        let least = self.graph.least_behind(own);
        let urgency = |task: &Task| least.get(&Node::Task(task.id.clone())).copied().unwrap_or(task.priority);
        self.ranks.urgencies = self.tasks.iter().map(urgency).collect();
    }

    /// How urgent `task` is: as urgent as the most urgent task that waits for it, directly or not. [`Job::rank`] has to be
    /// called before.
    #[must_use]
    pub fn urgency(&self, task: &TaskId) -> Priority {
        self.task_index.get(task).map_or(Priority::Low, |&at| self.urgency_at(at))
    }

    fn urgency_at(&self, at: usize) -> Priority {
        self.ranks.urgencies.get(at).copied().unwrap_or(self.tasks[at].priority)
    }

    /// The greatest urgency among the tasks that can be worked on: those that are ready, dispatched or tried again later,
    /// except those that `is_stuck`. [`Job::rank`] has to be called before.
    pub fn front(&self, is_stuck: impl Fn(&Task) -> bool) -> Option<Priority> {
        let files = self.files_allowed();
        let ready = self.ready.iter().copied().filter(|&at| files || !self.tasks[at].is_file());
        let live = ready.chain(self.in_flight.iter().copied()).chain(self.retrying.iter().map(|&(_, at)| at));
        live.filter(|&at| !is_stuck(&self.tasks[at])).map(|at| self.urgency_at(at)).min()
    }

    /// Of the tasks that may be dispatched at `now` and that `is_wanted`, the first `most` of every priority and agent type, and
    /// all whose retry is due, each with the weight of what hangs on it. [`Job::rank`] has to be called before. Empty while
    /// paused or over.
    pub fn leading(&self, now: Timestamp, most: usize, is_wanted: impl Fn(&Task) -> bool) -> Vec<(&Task, u64)> {
        debug_assert!(!self.ranks.is_stale, "Job::rank comes first");
        let mut leading = Vec::new();
        if self.paused || self.end.is_some() {
            return leading;
        }
        let files = self.files_allowed();
        let may_go = |task: &Task| (files || !task.is_file()) && is_wanted(task);
        for class in self.ranks.classes.values() {
            let tasks = class.iter().map(|&(Reverse(tail), at)| (&self.tasks[at], tail));
            leading.extend(tasks.filter(|(task, _)| may_go(task)).take(most));
        }
        let due = self.retrying.range(..=(now, usize::MAX)).map(|&(_, at)| &self.tasks[at]);
        leading.extend(due.filter(|task| may_go(task)).map(|task| (task, self.tail(&task.id))));
        leading
    }

    /// True once every feature is planned, or never will be.
    #[must_use]
    pub const fn is_planned(&self) -> bool {
        self.plan.is_some() && self.planning == 0
    }

    /// Features whose files are all done.
    #[must_use]
    pub fn features_done(&self) -> usize {
        self.commit_ready.len() + self.totals.features_complete as usize
    }
}
