//! A task of a job and its life: waiting → ready → dispatched → succeeded, or failed and tried again, or dead, or
//! skipped.
//!
//! Two counters must never be confused: [`Task::attempt`] grows with every dispatch, so that every dispatch has its
//! own id on the wire; [`Task::failures`] grows only with failures that are the attempt's own fault, and only it is
//! compared with the limit. A parked, refused-for-budget or cancelled dispatch thus burns nothing.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::protocol::{
    AgentType, FailureKind, FeatureId, MicroUsd, Priority, Receipt, TaskFailure, TaskId, TaskKind, Usage,
};

/// Weight of a planning task on the critical path, in tokens: a guess at the length of a plan.
pub(super) const PLANNING_WEIGHT: u64 = 2_000;

/// A node of a job's dependency graph.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// A task.
    Task(TaskId),
    /// A feature with all its tasks; virtual.
    FeatureDone(FeatureId),
    /// A planned file; virtual.
    File(Arc<str>),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(task) => task.fmt(f),
            Self::FeatureDone(feature) => write!(f, "feature {feature}"),
            Self::File(path) => path.fmt(f),
        }
    }
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "status")]
pub enum TaskStatus {
    /// Something it needs is not complete.
    Waiting,
    /// It may be dispatched.
    Ready,
    /// An attempt is on its way, or being worked on.
    Dispatched {
        /// Which one.
        attempt: u32,
    },
    /// The last attempt failed; the next one may start later.
    RetryAt {
        /// Number of the next attempt.
        next_attempt: u32,
        /// When it may start.
        at: Timestamp,
    },
    /// The last attempt allowed has failed; its death is the next event of the same append.
    Exhausted,
    /// Its artifact is stored.
    Succeeded,
    /// It ran out of attempts.
    Dead,
    /// Something it needs is dead.
    Skipped,
}

impl TaskStatus {
    /// True when nothing more will happen by itself.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Dead | Self::Skipped)
    }

    /// The status as one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Ready => "ready",
            Self::Dispatched { .. } => "dispatched",
            Self::RetryAt { .. } => "retry",
            Self::Exhausted => "exhausted",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Skipped => "skipped",
        }
    }
}

/// One task of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its name.
    pub id: TaskId,
    /// What it asks for.
    pub kind: TaskKind,
    /// The agent type the plan chose.
    pub agent: AgentType,
    /// Urgency, from its feature.
    pub priority: Priority,
    /// For people.
    pub title: String,
    /// What to write; empty for planning tasks.
    pub instructions: String,
    /// Expected size of the answer in tokens; 0 when unknown.
    pub estimated_tokens: u32,
    /// Where it stands.
    pub status: TaskStatus,
    /// Number of dispatches so far, and of the last attempt.
    pub attempt: u32,
    /// Failures that count against the limit of attempts.
    pub failures: u32,
    /// Calls that failed at the provider and may have been billed, over all attempts since it was last revived.
    pub failed_calls: u32,
    /// Since when the provider has kept it waiting without answering it once.
    pub parked_since: Option<Timestamp>,
    /// When it was last dispatched.
    pub dispatched_at: Option<Timestamp>,
    /// Why the last failed attempt failed.
    pub last_failure: Option<TaskFailure>,
    /// The dead task because of which it is skipped.
    pub blocked_by: Option<TaskId>,
    /// The proof, once it succeeded.
    pub receipt: Option<Receipt>,
    /// Money charged for all attempts.
    pub cost: MicroUsd,
    /// Tokens used by all attempts.
    pub usage: Usage,
    /// From claim to stored outcome of the attempt that succeeded, in milliseconds.
    pub duration_ms: u64,
}

impl Task {
    /// A task that nobody has worked on.
    pub(super) const fn new(id: TaskId, kind: TaskKind, agent: AgentType, priority: Priority) -> Self {
        Self {
            id,
            kind,
            agent,
            priority,
            title: String::new(),
            instructions: String::new(),
            estimated_tokens: 0,
            status: TaskStatus::Waiting,
            attempt: 0,
            failures: 0,
            failed_calls: 0,
            parked_since: None,
            dispatched_at: None,
            last_failure: None,
            blocked_by: None,
            receipt: None,
            cost: MicroUsd::ZERO,
            usage: Usage { input: 0, cache_write_5m: 0, cache_write_1h: 0, cache_read: 0, output: 0 },
            duration_ms: 0,
        }
    }

    /// The feature it belongs to; none for the strategic plan.
    #[must_use]
    pub const fn feature(&self) -> Option<&FeatureId> {
        match &self.kind {
            TaskKind::Plan { .. } => None,
            TaskKind::FeaturePlan { feature, .. } | TaskKind::File { feature, .. } => Some(feature),
        }
    }

    /// The file it writes; none for planning tasks.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match &self.kind {
            TaskKind::File { path, .. } => Some(path),
            TaskKind::Plan { .. } | TaskKind::FeaturePlan { .. } => None,
        }
    }

    /// True for a task that writes a file.
    #[must_use]
    pub const fn is_file(&self) -> bool {
        matches!(self.kind, TaskKind::File { .. })
    }

    /// Weight on the critical path, in expected tokens, at least 1.
    #[must_use]
    pub fn weight(&self) -> u64 {
        if self.is_file() { u64::from(self.estimated_tokens.max(1)) } else { PLANNING_WEIGHT }
    }
}

/// True for failures that count against the limit of attempts.
pub(super) const fn burns_attempt(kind: FailureKind) -> bool {
    match kind {
        FailureKind::Rejected | FailureKind::Transient | FailureKind::Lost | FailureKind::Exhausted => true,
        FailureKind::Parked | FailureKind::Budget | FailureKind::Fatal | FailureKind::Cancelled => false,
    }
}

/// True for failures after which no attempt follows by itself, however many are left.
pub(super) const fn ends_attempts(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Exhausted)
}

/// How many tasks stand where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// All, including those that are known only as planned files so far.
    pub total: u32,
    /// Done.
    pub succeeded: u32,
    /// Out of attempts.
    pub dead: u32,
    /// Not possible because of a dead one.
    pub skipped: u32,
    /// Dispatched.
    pub running: u32,
}

impl Counts {
    /// The counter in which a task of `status` is counted, if any.
    pub(super) const fn slot(&mut self, status: TaskStatus) -> Option<&mut u32> {
        match status {
            TaskStatus::Succeeded => Some(&mut self.succeeded),
            TaskStatus::Dead => Some(&mut self.dead),
            TaskStatus::Skipped => Some(&mut self.skipped),
            TaskStatus::Dispatched { .. } => Some(&mut self.running),
            TaskStatus::Waiting | TaskStatus::Ready | TaskStatus::RetryAt { .. } | TaskStatus::Exhausted => None,
        }
    }
}
