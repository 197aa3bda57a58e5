//! The names of things: jobs, features, tasks, agent types, running instances.
//!
//! Every id is a checked newtype, because ids become NATS subject tokens, Redis keys, file names and HTML ids: only
//! lower-case letters, digits, `-` (and `/` inside task ids) are ever allowed. Construction is the only way in, and
//! deserialising goes through it, so that a hostile id cannot arrive over the wire either.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock;

/// Longest single id token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 40;

/// Why a text cannot be an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?} is not valid: use 1 to {MAX_TOKEN_BYTES} lower-case letters, digits and '-'")]
pub struct InvalidId {
    /// What the id would have named.
    pub kind: &'static str,
    /// The offending text, cut to 60 characters.
    pub text: String,
}

fn is_token(text: &str) -> bool {
    (1..=MAX_TOKEN_BYTES).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
}

/// Task ids are `plan`, `feature/<feature>` or `file/<feature>/<task>`.
fn is_task_id(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    parts.len() <= 3 && parts.iter().all(|part| is_token(part))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Checks and wraps `text`.
            ///
            /// # Errors
            /// [`InvalidId`] when a character or the length is not allowed.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidId> {
                let text = text.as_ref();
                if $check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidId { kind: $kind, text: text.chars().take(60).collect() })
                }
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(
    /// One submitted proposal and everything that follows from it.
    JobId, "job id", is_token
);
id!(
    /// A feature of a job's strategic plan; unique within the job.
    FeatureId, "feature id", is_token
);
id!(
    /// A task of a job: `plan`, `feature/<feature>` or `file/<feature>/<task>`.
    TaskId, "task id", is_task_id
);
id!(
    /// One start of one process; never reused, so that a restarted process cannot be mistaken for its past self.
    InstanceId, "instance id", is_token
);
id!(
    /// A kind of agent, which is also the name of its queue and of its worker program.
    AgentType, "agent type", is_token
);

impl JobId {
    /// A fresh job id, sortable by creation time: `0198c2f1a7b3-9d3c41e6`. People type a unique beginning of it; the rest keeps
    /// apart what many processes submit in the same millisecond.
    #[must_use]
    pub fn fresh() -> Self {
        let time = clock::unique_id().replace('-', "");
        Self(format!("{}-{}", &time[..12], clock::random_token(8)).into())
    }
}

impl InstanceId {
    /// A fresh instance id for a process that plays `role`.
    #[must_use]
    pub fn fresh(role: &str) -> Self {
        let role: String = role.chars().filter(|c| c.is_ascii_lowercase() || *c == '-').take(20).collect();
        Self(
            format!("{}-{}", if role.is_empty() { "process" } else { role.trim_matches('-') }, clock::random_token(12))
                .into(),
        )
    }
}

impl TaskId {
    /// The one strategic planning task of a job.
    #[must_use]
    pub fn plan() -> Self {
        Self("plan".into())
    }

    /// The planning task of one feature.
    #[must_use]
    pub fn feature_plan(feature: &FeatureId) -> Self {
        Self(format!("feature/{feature}").into())
    }

    /// A file task named `task` in the plan of `feature`.
    ///
    /// # Errors
    /// [`InvalidId`] when `task` is not a valid token.
    pub fn file(feature: &FeatureId, task: &str) -> Result<Self, InvalidId> {
        if is_token(task) {
            Ok(Self(format!("file/{feature}/{task}").into()))
        } else {
            Err(InvalidId { kind: "task id", text: task.chars().take(60).collect() })
        }
    }
}

/// The agent types that ship with the program (REQUIREMENTS A4), each with a prompt and a worker binary.
pub const BUILTIN_AGENT_TYPES: [&str; 14] = [
    "coordinator-planner",
    "feature-coordinator",
    "architect",
    "backend",
    "frontend",
    "database",
    "devops",
    "docs",
    "testing",
    "researcher",
    "coder",
    "reviewer",
    "security",
    "integrator",
];

impl AgentType {
    /// The type that answers the one strategic plan of a job.
    #[must_use]
    pub fn planner() -> Self {
        Self("coordinator-planner".into())
    }

    /// The type that plans one feature.
    #[must_use]
    pub fn feature_coordinator() -> Self {
        Self("feature-coordinator".into())
    }

    /// Every type that ships with the program.
    #[must_use]
    pub fn builtin() -> Vec<Self> {
        BUILTIN_AGENT_TYPES.iter().map(|name| Self((*name).into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_refuse_what_subjects_and_paths_cannot_hold() {
        for text in ["", "-a", "A", "a.b", "a*", "a>b", "a b", "../x", "a/b", "ü", &"x".repeat(41)] {
            assert!(FeatureId::new(text).is_err(), "{text:?}");
        }
        assert!(serde_json::from_str::<JobId>("\"a.b\"").is_err());
        for text in ["/", "a//b", "a/b/c/d", "file/../x"] {
            assert!(TaskId::new(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn fresh_ids_are_valid_and_differ() {
        let (a, b) = (JobId::fresh(), JobId::fresh());
        assert_ne!(a, b);
        assert_eq!(JobId::new(a.as_str()), Ok(a));
        assert!(InstanceId::new(InstanceId::fresh("worker-backend").as_str()).is_ok());
        assert!(InstanceId::new(InstanceId::fresh("Ü!").as_str()).is_ok());
    }
}
