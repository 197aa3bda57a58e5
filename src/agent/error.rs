//! Why no request could be built: faults of the configuration or of the message, never of the model.
//!
//! These end the attempt before any money is reserved. What is wrong with a *reply* is a [`super::Rejection`].

use crate::error::{Coded, Retry};

/// A task message cannot be turned into a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// No role is configured under this name.
    #[error("there is no agent type {agent:?}")]
    UnknownAgent {
        /// The name.
        agent: String,
    },
    /// A custom agent type came without a prompt.
    #[error("the custom agent type {agent:?} has no prompt")]
    MissingPrompt {
        /// The name.
        agent: String,
    },
    /// A feature plan or a file was asked for, but the strategic plan was not loaded.
    #[error("the task needs the strategic plan, but the message carries none")]
    MissingPlan,
    /// The message names a feature that the strategic plan does not have.
    #[error("feature {feature:?} is not in the strategic plan")]
    UnknownFeature {
        /// The name.
        feature: String,
    },
    /// What may not be cut is larger than the context limit.
    #[error("{what} needs {bytes} bytes, the context holds {limit}")]
    TooLarge {
        /// What does not fit.
        what: &'static str,
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The call id is not a short token of letters and digits.
    #[error("the call id is not 6 to 40 letters and digits")]
    BadCallId,
    /// The call id occurs in the context, so fences made of it would not hold.
    #[error("the call id occurs in the text it has to fence")]
    CallIdInContent,
}

impl Coded for AgentError {
    fn code(&self) -> &'static str {
        match self {
            Self::UnknownAgent { .. } => "CS-AGENT-001",
            Self::MissingPrompt { .. } => "CS-AGENT-002",
            Self::MissingPlan => "CS-AGENT-003",
            Self::UnknownFeature { .. } => "CS-AGENT-004",
            Self::TooLarge { .. } => "CS-AGENT-005",
            Self::BadCallId => "CS-AGENT-006",
            Self::CallIdInContent => "CS-AGENT-007",
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::UnknownAgent { .. } => "name one of the types that `codeswarm agents` lists, or configure it".into(),
            Self::MissingPrompt { agent } => format!("give agents.{agent} a prompt file in the configuration"),
            Self::MissingPlan | Self::UnknownFeature { .. } => {
                "resume the job; if it happens again, its log is damaged: submit the proposal anew".into()
            }
            Self::TooLarge { .. } => {
                "shorten the proposal, split it into several jobs, or raise the context limit in the configuration"
                    .into()
            }
            Self::BadCallId | Self::CallIdInContent => "repeat the step with a fresh random call id".into(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::CallIdInContent => Retry::Now,
            _ => Retry::Never,
        }
    }
}
