//! Why an event, a wish or a plan is not possible.
//!
//! An [`IllegalTransition`] is a fault of the program or of a log; a [`Refusal`] is an answer to a person or to the
//! coordinator's wish, and nothing is wrong; a [`PlanFault`] goes back to the planner as feedback. They must stay
//! three types, because they have three readers.

use crate::clock::Timestamp;
use crate::error::{Coded, Retry};
use crate::graph::GraphError;
use crate::protocol::{Event, JobOutcome, ProtocolError, TaskId};

/// An event that cannot follow the events before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event} is not possible here: {why}")]
pub struct IllegalTransition {
    /// Name of the event.
    pub event: &'static str,
    /// Why it cannot follow.
    pub why: String,
}

impl IllegalTransition {
    pub(super) fn new(event: &Event, why: impl Into<String>) -> Self {
        Self { event: name(event), why: why.into() }
    }
}

impl Coded for IllegalTransition {
    fn code(&self) -> &'static str {
        "CS-JOB-001"
    }

    fn remedy(&self) -> String {
        "the job's log was written by another version or damaged; read it with the version that wrote it".into()
    }
}

/// Why a plan cannot become part of the job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    /// A field breaks its bounds or contradicts the strategic plan.
    #[error(transparent)]
    Field(#[from] ProtocolError),
    /// Its dependencies do not fit the job's graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl Coded for PlanFault {
    fn code(&self) -> &'static str {
        match self {
            Self::Field(error) => error.code(),
            Self::Graph(error) => error.code(),
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::Field(error) => error.remedy(),
            Self::Graph(error) => error.remedy(),
        }
    }
}

/// Why a wish is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing has been submitted under this id.
    #[error("the job has not been submitted")]
    NotSubmitted,
    /// The job has been submitted before.
    #[error("the job has been submitted before")]
    AlreadySubmitted,
    /// What was chosen at submission contradicts itself.
    #[error("{0}")]
    Settings(String),
    /// The job is over.
    #[error("the job has ended ({0})")]
    Ended(&'static str),
    /// The job is paused.
    #[error("the job is paused")]
    Paused,
    /// There is no such task.
    #[error("there is no task {0}")]
    UnknownTask(TaskId),
    /// The task is not in the state that the wish needs.
    #[error("task {task} is {status}, not {wanted}")]
    TaskState {
        /// The task.
        task: TaskId,
        /// Its status.
        status: &'static str,
        /// The status it would have to have.
        wanted: &'static str,
    },
    /// The next attempt may not start yet.
    #[error("task {task} may be tried again at {at}")]
    NotDue {
        /// The task.
        task: TaskId,
        /// When.
        at: Timestamp,
    },
    /// A person has to accept the plan first.
    #[error("the plan has not been approved")]
    NotApproved,
    /// No plan is waiting for approval.
    #[error("no plan is waiting for approval")]
    NothingToApprove,
    /// No task could run.
    #[error("nothing is left to do: every task is done, dead or skipped")]
    NothingToResume,
    /// A planning task came without the plan it produced, or a file task with one.
    #[error("the result of {0} came without the matching plan")]
    ProductMismatch(TaskId),
    /// The feature cannot be committed so.
    #[error("feature {feature} cannot be committed: {why}")]
    Commit {
        /// The feature.
        feature: String,
        /// Why.
        why: &'static str,
    },
    /// The job cannot end so.
    #[error("the job cannot end as {outcome}: {why}")]
    End {
        /// How it should have ended.
        outcome: &'static str,
        /// Why it cannot.
        why: &'static str,
    },
}

impl Coded for Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::NotSubmitted => "CS-JOB-010",
            Self::AlreadySubmitted => "CS-JOB-011",
            Self::Settings(_) => "CS-JOB-012",
            Self::Ended(_) => "CS-JOB-013",
            Self::Paused => "CS-JOB-014",
            Self::UnknownTask(_) => "CS-JOB-015",
            Self::TaskState { .. } => "CS-JOB-016",
            Self::NotDue { .. } => "CS-JOB-017",
            Self::NotApproved => "CS-JOB-018",
            Self::NothingToApprove => "CS-JOB-019",
            Self::NothingToResume => "CS-JOB-020",
            Self::ProductMismatch(_) => "CS-JOB-021",
            Self::Commit { .. } => "CS-JOB-022",
            Self::End { .. } => "CS-JOB-023",
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::NotSubmitted => "submit a proposal first, or check the job's id with `codeswarm list`".into(),
            Self::AlreadySubmitted => "follow it with `codeswarm status`".into(),
            Self::Settings(_) => "correct the setting and submit again".into(),
            Self::Ended("completed") => "submit a new job".into(),
            Self::Ended(_) => "resume it first with `codeswarm resume`".into(),
            Self::Paused => "resume it with `codeswarm resume`".into(),
            Self::UnknownTask(_) => "list the job's tasks with `codeswarm status`".into(),
            Self::TaskState { .. } => "look at the task with `codeswarm status`; retry only dead tasks".into(),
            Self::NotDue { .. } => "wait until then".into(),
            Self::NotApproved => "accept the plan with `codeswarm approve`".into(),
            Self::NothingToApprove => "look at the job with `codeswarm status`".into(),
            Self::NothingToResume => "give dead tasks new attempts with `codeswarm retry`".into(),
            Self::ProductMismatch(_) => "read the plan from the result's artifact and pass it on".into(),
            Self::Commit { .. } | Self::End { .. } => "wait for the tasks that are missing".into(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::NotDue { .. } => Retry::Now,
            _ => Retry::Never,
        }
    }
}

/// The name of an outcome, as it stands in the log.
pub(super) const fn outcome(outcome: JobOutcome) -> &'static str {
    match outcome {
        JobOutcome::Completed => "completed",
        JobOutcome::CompletedWithWarnings => "completed-with-warnings",
        JobOutcome::BudgetExhausted => "budget-exhausted",
        JobOutcome::Failed => "failed",
        JobOutcome::Cancelled => "cancelled",
    }
}

const fn name(event: &Event) -> &'static str {
    match event {
        Event::JobSubmitted { .. } => "job-submitted",
        Event::TaskDispatched { .. } => "task-dispatched",
        Event::TaskSucceeded { .. } => "task-succeeded",
        Event::TaskFailed { .. } => "task-failed",
        Event::TaskDead { .. } => "task-dead",
        Event::TaskSkipped { .. } => "task-skipped",
        Event::TaskRevived { .. } => "task-revived",
        Event::PlanAccepted { .. } => "plan-accepted",
        Event::FeaturePlanned { .. } => "feature-planned",
        Event::ApprovalRequested { .. } => "approval-requested",
        Event::PlanApproved => "plan-approved",
        Event::FeatureCommitted { .. } => "feature-committed",
        Event::BudgetWarning { .. } => "budget-warning",
        Event::BudgetOverrun { .. } => "budget-overrun",
        Event::BudgetChanged { .. } => "budget-changed",
        Event::JobPaused { .. } => "job-paused",
        Event::JobResumed => "job-resumed",
        Event::JobEnded { .. } => "job-ended",
    }
}
