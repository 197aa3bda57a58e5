//! The task message a worker receives and the result it reports.
//!
//! A task message holds ids and *references*: the proposal, the strategic plan with its contract and the files a task may
//! read travel as artifact digests, so a message stays small whatever the job's size. A result holds a receipt, because "done" without
//! hash, checks and cost proves nothing.

use serde::{Deserialize, Serialize};

use super::{AgentType, FeatureId, InstanceId, JobId, MicroUsd, Priority, TaskId, validate};
use crate::clock::Timestamp;

/// Immutable bytes in the artifact store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ArtifactRef {
    /// SHA-256 of the bytes, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// What a task asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum TaskKind {
    /// The strategic plan of the job.
    Plan {
        /// Fewest and most features it may have.
        features: (u32, u32),
        /// Fewest and most tasks, and so files, each feature may have.
        tasks: (u32, u32),
    },
    /// The plan of one feature.
    FeaturePlan {
        /// Which feature.
        feature: FeatureId,
        /// Fewest and most tasks it may have.
        tasks: (u32, u32),
    },
    /// One file.
    File {
        /// The feature it belongs to.
        feature: FeatureId,
        /// The file's path, relative to the output root.
        path: String,
    },
}

impl TaskKind {
    /// The feature it belongs to; none for the strategic plan.
    #[must_use]
    pub const fn feature(&self) -> Option<&FeatureId> {
        match self {
            Self::Plan { .. } => None,
            Self::FeaturePlan { feature, .. } | Self::File { feature, .. } => Some(feature),
        }
    }
}

/// A finished file that a task may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextFile {
    /// The file's path, relative to the output root.
    pub path: String,
    /// Its contents.
    pub artifact: ArtifactRef,
}

/// One attempt at one task, as published to the queue of its agent type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskMessage {
    /// The job it belongs to.
    pub job: JobId,
    /// The task.
    pub task: TaskId,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The queue it was published to.
    pub agent: AgentType,
    /// Urgency.
    pub priority: Priority,
    /// What is asked for.
    #[serde(flatten)]
    pub kind: TaskKind,
    /// The proposal's text.
    pub proposal: ArtifactRef,
    /// The validated strategic plan (JSON); absent only while it is being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<ArtifactRef>,
    /// For a file task: title of the task.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// For a file task: what to write.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instructions: String,
    /// Files this task directly depends on: given in full.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<ContextFile>,
    /// Finished files it depends on indirectly: given as signatures, as far as there is room.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<ContextFile>,
    /// Why the previous attempt was refused, in words the model can act on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<String>,
    /// Expected size of the answer in tokens, 0 when unknown.
    pub estimated_tokens: u32,
    /// The model to call instead of the role's own, when money runs low.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Calls of earlier attempts that failed at the provider and may have been billed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_calls: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Tokens of one call by kind, as the provider reported them. The three input counters are disjoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Input tokens at the base price.
    pub input: u64,
    /// Input tokens written to the 5-minute cache.
    pub cache_write_5m: u64,
    /// Input tokens written to the 1-hour cache.
    pub cache_write_1h: u64,
    /// Input tokens read from the cache.
    pub cache_read: u64,
    /// Output tokens, thinking included.
    pub output: u64,
}

impl Usage {
    /// No tokens at all.
    pub const ZERO: Self = Self { input: 0, cache_write_5m: 0, cache_write_1h: 0, cache_read: 0, output: 0 };

    /// All tokens, of whatever kind.
    #[must_use]
    pub const fn total(self) -> u64 {
        let cached = self.cache_write_5m.saturating_add(self.cache_write_1h).saturating_add(self.cache_read);
        self.input.saturating_add(cached).saturating_add(self.output)
    }

    /// Sum of two usages.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            input: self.input + other.input,
            cache_write_5m: self.cache_write_5m + other.cache_write_5m,
            cache_write_1h: self.cache_write_1h + other.cache_write_1h,
            cache_read: self.cache_read + other.cache_read,
            output: self.output + other.output,
        }
    }
}

/// Proof that a task was really done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// What was produced.
    pub artifact: ArtifactRef,
    /// The model that produced it.
    pub model: String,
    /// Names of the checks that ran and passed.
    pub checks: Vec<String>,
}

/// Why an attempt failed, as far as it matters for what happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The reply was malformed, truncated, refused or broke the plan's rules: try again with the reason.
    Rejected,
    /// The provider or a store failed after its own retries: try again later.
    Transient,
    /// The provider asked for a pause: try again after it, without burning an attempt.
    Parked,
    /// The reservation did not fit into the budget: no attempt is burnt, no retry before money is free.
    Budget,
    /// The process that ran the attempt died too often: a poisonous task.
    Lost,
    /// What may be asked of the provider by itself is used up: calls that may be billed, or time. No attempt follows.
    Exhausted,
    /// Configuration or account fault (wrong key, unknown model): the whole job has to stop.
    Fatal,
    /// The job was cancelled while the attempt ran.
    Cancelled,
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFailure {
    /// What happens next.
    pub kind: FailureKind,
    /// Stable code of the error.
    pub code: String,
    /// One sentence for people; of a refused reply, what the model is told about it follows on further lines.
    pub message: String,
    /// For `parked` and `transient`: how long the provider asked to wait, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// For `budget`: what the call would have needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<MicroUsd>,
    /// Calls of this attempt that failed at the provider and may have been billed, trials of its breaker left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_calls: u32,
}

impl TaskFailure {
    /// A failure with a message of whatever origin: what no message may hold is replaced or cut off here, because a result
    /// that is refused at the other end would leave its task without an answer for ever.
    #[must_use]
    pub fn new(kind: FailureKind, code: &str, message: &str) -> Self {
        let is_allowed = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
        let cleaned = message.chars().map(|c| if is_allowed(c) { c } else { char::REPLACEMENT_CHARACTER });
        let message: String = cleaned.take(validate::MAX_REASON).collect();
        let message = if message.trim().is_empty() { "no reason was given".to_owned() } else { message };
        Self { kind, code: code.to_owned(), message, retry_after_ms: None, needed: None, failed_calls: 0 }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum TaskOutcome {
    /// The artifact is stored.
    Succeeded {
        /// The proof.
        receipt: Receipt,
    },
    /// It is not.
    Failed {
        /// Why.
        failure: TaskFailure,
    },
}

/// A call that cost more than its proven worst case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrun {
    /// The worst case that was set aside.
    pub reserved: MicroUsd,
    /// What it cost.
    pub charged: MicroUsd,
}

/// What a worker reports about one attempt, exactly once per attempt as far as effects go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The job.
    pub job: JobId,
    /// The task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: u32,
    /// The instance that ran it.
    pub worker: InstanceId,
    /// When the attempt was claimed.
    pub started_at: Timestamp,
    /// When its outcome was stored.
    pub finished_at: Timestamp,
    /// Tokens used by all its calls.
    pub usage: Usage,
    /// Money charged for all its calls, including ambiguous ones.
    pub cost: MicroUsd,
    /// Set when one of its calls cost more than its worst case: spending was frozen in the same step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrun: Option<Overrun>,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: TaskOutcome,
}
