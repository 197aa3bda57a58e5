//! What planners return: the strategic plan with its contract, and the plan of one feature.
//!
//! These are the shapes of the JSON schemas in `prompts/*.schema.json`, which the provider enforces and
//! [`super::validate`] checks again, because a schema cannot say "acyclic" or "owned once". All keys are required and
//! unknown ones refused: structured output has no optional fields worth having.

use serde::{Deserialize, Serialize};

use super::{FeatureId, Priority};

/// The coordinator's one strategic answer: the whole job at the level of features.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StrategicPlan {
    /// Short kebab-case name of the program.
    pub name: String,
    /// Two to four sentences that every agent reads.
    pub summary: String,
    /// The identifiers and rules that files share.
    pub contract: Contract,
    /// The features, 5 to 15 unless configured otherwise.
    pub features: Vec<FeatureSpec>,
}

/// Exact shared identifiers, written once and repeated byte-identically at the head of every prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// Language, version and allowed dependencies.
    pub language: String,
    /// Every identifier that two files share.
    pub identifiers: Vec<Identifier>,
    /// Rules every file follows.
    pub rules: Vec<String>,
}

/// One identifier of the contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identifier {
    /// `module`, `symbol`, `route`, `port`, `field`, `storage-key`, `package` or `command`.
    pub kind: String,
    /// The identifier itself.
    pub name: String,
    /// Its exact signature or shape.
    pub definition: String,
    /// The file that owns it, or empty.
    pub path: String,
}

/// One feature of the strategic plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureSpec {
    /// Unique within the job.
    pub id: FeatureId,
    /// For people.
    pub name: String,
    /// What the feature does.
    pub description: String,
    /// Urgency of its tasks.
    pub priority: Priority,
    /// The files this feature owns; nobody else may write them.
    pub files: Vec<FilePlan>,
    /// Features that must be complete before any task of this one starts.
    pub depends_on: Vec<FeatureId>,
    /// Anything else the planner wants to record.
    pub metadata: Vec<Metadata>,
}

/// A file a feature will own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilePlan {
    /// Relative path with forward slashes.
    pub path: String,
    /// What the file is for.
    pub purpose: String,
}

/// A free-form note of the planner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Name of the note.
    pub key: String,
    /// The note.
    pub value: String,
}

/// A feature coordinator's answer: the one-file tasks of its feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeaturePlan {
    /// 2 to 8 tasks unless configured otherwise.
    pub tasks: Vec<TaskSpec>,
}

/// One task: exactly one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// Unique within the feature.
    pub id: String,
    /// The file to write.
    pub path: String,
    /// Name of the agent type that should write it.
    pub agent: String,
    /// For people.
    pub title: String,
    /// What to write, exactly.
    pub instructions: String,
    /// Local task ids, or paths of files that other features own.
    pub depends_on: Vec<String>,
    /// Expected size of the file in tokens; sizes the reply limit and the critical path.
    pub estimated_tokens: u32,
}
