//! Every fact that may enter a job's log. The job *is* the fold of these events (see [`crate::job`]).
//!
//! Events are facts, past tense, complete in themselves: applying them needs no clock, no store and no randomness. A new
//! variant or a new optional field is compatible; anything else needs a new schema version and golden bytes.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ArtifactRef, FeatureId, FeaturePlan, MicroUsd, Receipt, StrategicPlan, TaskFailure, TaskId, Usage};
use crate::clock::Timestamp;

/// Where a job's files go and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSettings {
    /// Absolute output directory on the machine of whoever leads the job; empty for none: then the files stay in the artifact
    /// store, from which `codeswarm fetch` brings them anywhere.
    pub output: String,
    /// One Git commit per feature instead of plain files.
    pub git: bool,
    /// A person has to accept the plan before file tasks start.
    pub approval: bool,
    /// Fewest and most features a plan may have.
    pub features: (u32, u32),
    /// Fewest and most tasks a feature may have.
    pub tasks_per_feature: (u32, u32),
    /// Attempts per task before it is dead.
    pub max_attempts: u32,
    /// Share of the limit that is held back for verification and repair, in percent.
    #[serde(default, skip_serializing_if = "none_is_held_back")]
    pub hold_back_percent: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
const fn none_is_held_back(percent: &u64) -> bool {
    *percent == 0
}

impl JobSettings {
    /// The output directory, if there is one.
    #[must_use]
    pub fn output(&self) -> Option<&Path> {
        (!self.output.is_empty()).then(|| Path::new(&self.output))
    }
}

/// How the process that runs the job gets its replies, so that `resume` can say what it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "from")]
pub enum Origin {
    /// A live provider.
    Live,
    /// A recorded reply script.
    Replay {
        /// Absolute path of the script.
        path: String,
    },
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobOutcome {
    /// Every file is there.
    Completed,
    /// Some files are missing; the warnings say which.
    CompletedWithWarnings,
    /// The budget did not suffice; partial results are kept and the job can be resumed.
    BudgetExhausted,
    /// The job could not go on.
    Failed,
    /// A person stopped it.
    Cancelled,
}

/// A fact in the life of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// A proposal was handed over. Always the first event, and only the first.
    JobSubmitted {
        /// Name shown to people, from the proposal's title or file name.
        name: String,
        /// The proposal's text.
        proposal: ArtifactRef,
        /// The job's budget.
        budget: MicroUsd,
        /// Where replies come from.
        origin: Origin,
        /// Everything else that was chosen at submission.
        settings: JobSettings,
    },
    /// A task's message is about to be published; publishing it again is harmless.
    TaskDispatched {
        /// Which task.
        task: TaskId,
        /// Which attempt, from 1.
        attempt: u32,
    },
    /// An attempt stored its artifact.
    TaskSucceeded {
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
        /// The proof.
        receipt: Receipt,
        /// Money charged.
        cost: MicroUsd,
        /// Tokens used.
        usage: Usage,
        /// From claim to stored outcome, in milliseconds.
        duration_ms: u64,
    },
    /// An attempt failed.
    TaskFailed {
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
        /// Why.
        failure: TaskFailure,
        /// Money charged all the same.
        cost: MicroUsd,
        /// Tokens used.
        usage: Usage,
        /// When the next attempt may start; absent when the task is not tried again by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp>,
    },
    /// A task ran out of attempts. The job goes on without it.
    TaskDead {
        /// Which task.
        task: TaskId,
        /// Why the last attempt failed.
        reason: String,
    },
    /// A task cannot run because something it needs is dead.
    TaskSkipped {
        /// Which task.
        task: TaskId,
        /// What it needed.
        because: TaskId,
    },
    /// A person gave a dead task new attempts; tasks skipped because of it wait again.
    TaskRevived {
        /// Which task.
        task: TaskId,
    },
    /// The strategic plan passed validation.
    PlanAccepted {
        /// The plan.
        plan: StrategicPlan,
        /// The same plan as stored bytes, as prompts quote it.
        artifact: ArtifactRef,
    },
    /// A feature's plan passed validation; its tasks exist from here on.
    FeaturePlanned {
        /// Which feature.
        feature: FeatureId,
        /// Its tasks.
        plan: FeaturePlan,
    },
    /// All plans are in and a person is asked.
    ApprovalRequested {
        /// Expected cost of the remaining work.
        estimate: MicroUsd,
    },
    /// A person accepted the plan.
    PlanApproved,
    /// Files were written to the output.
    FeatureCommitted {
        /// Which feature.
        feature: FeatureId,
        /// Number of files of this commit.
        files: u32,
        /// False when some of the feature's files are missing.
        complete: bool,
        /// Git commit id, when the output is a repository.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        commit: Option<String>,
    },
    /// Spending passed the warning threshold.
    BudgetWarning {
        /// Spent so far.
        spent: MicroUsd,
        /// The limit.
        limit: MicroUsd,
    },
    /// A call cost more than its worst case, and the ledger has frozen every scope it fell in.
    BudgetOverrun {
        /// The task that made it.
        task: TaskId,
        /// In which attempt.
        attempt: u32,
        /// The worst case that was set aside.
        reserved: MicroUsd,
        /// What it cost.
        charged: MicroUsd,
    },
    /// The limit was changed by a person.
    BudgetChanged {
        /// The new limit.
        limit: MicroUsd,
    },
    /// No new tasks until resumed.
    JobPaused {
        /// Why the coordinator asks a person; absent when a person has paused it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Work goes on, after a pause, an exhausted budget, a failure or a cancelled wait; what a provider keeps waiting is tried
    /// at once.
    JobResumed,
    /// The job reached an end.
    JobEnded {
        /// Which end.
        outcome: JobOutcome,
        /// One sentence; for failures, the cause.
        reason: String,
    },
}

/// An event with its place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedEvent {
    /// 1 for the first event of a job, without gaps.
    pub seq: u64,
    /// When it was recorded.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}
