//! What keeps a process from starting or from going on.
//!
//! Rooms' errors are passed on with their own codes and remedies; codes of this room are only for what goes wrong between
//! them. It must never wrap a room's error in words of its own: the remedy would be lost.

use std::path::PathBuf;

use crate::agent::AgentError;
use crate::backend::BackendError;
use crate::budget::PriceError;
use crate::config::ConfigError;
use crate::coordinator::CoordinatorError;
use crate::error::{Coded, Retry};
use crate::llm::LlmError;
use crate::llm::replay::ReplayError;
use crate::worker::WorkerError;

/// A process could not be put together, or one of its parts ended.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// No way to reach a model.
    #[error("there is no key for the provider {endpoint}")]
    NoKey {
        /// Which endpoint.
        endpoint: String,
        /// The variable it should stand in.
        variable: String,
    },
    /// The file of prices cannot be used.
    #[error("the prices in {} cannot be used: {why}", path.display())]
    PricesFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A role's prompt file cannot be used.
    #[error("the prompt file {} of role {role} cannot be used: {why}", path.display())]
    PromptFile {
        /// Which role.
        role: String,
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A role's model is not in the price table.
    #[error("role {role} uses model {model:?}, which has no price")]
    UnpricedModel {
        /// Which role.
        role: String,
        /// Which model.
        model: String,
    },
    /// The model for when money runs low is not in the price table.
    #[error("budget.cheaper_model is {model:?}, which has no price")]
    UnpricedCheaperModel {
        /// Which model.
        model: String,
    },
    /// A role may not think, and its model cannot help it.
    #[error("role {role} is not to think, but {model} always does")]
    AlwaysThinks {
        /// Which role.
        role: String,
        /// Which model.
        model: String,
    },
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The price table is wrong.
    #[error(transparent)]
    Price(#[from] PriceError),
    /// A role is wrong.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The reply script is wrong.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The provider's client cannot be built.
    #[error(transparent)]
    Llm(#[from] LlmError),
    /// The stores failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The coordinator ended.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    /// The worker ended.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// A part panicked: a bug.
    #[error("the {part} died: {why}")]
    Died {
        /// Which part.
        part: &'static str,
        /// The panic's message.
        why: String,
    },
}

impl FleetError {
    /// The room's own error, if this one only passes it on.
    fn inner(&self) -> Option<&dyn Coded> {
        match self {
            Self::Config(error) => Some(error),
            Self::Price(error) => Some(error),
            Self::Agent(error) => Some(error),
            Self::Replay(error) => Some(error),
            Self::Llm(error) => Some(error),
            Self::Backend(error) => Some(error),
            Self::Coordinator(error) => Some(error),
            Self::Worker(error) => Some(error),
            Self::NoKey { .. }
            | Self::PricesFile { .. }
            | Self::AlwaysThinks { .. }
            | Self::PromptFile { .. }
            | Self::UnpricedModel { .. }
            | Self::UnpricedCheaperModel { .. }
            | Self::Died { .. } => None,
        }
    }
}

impl Coded for FleetError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoKey { .. } => "CS-FLEET-001",
            Self::PromptFile { .. } => "CS-FLEET-002",
            Self::UnpricedModel { .. } => "CS-FLEET-003",
            Self::Died { .. } => "CS-FLEET-004",
            Self::PricesFile { .. } => "CS-FLEET-005",
            Self::AlwaysThinks { .. } => "CS-FLEET-006",
            Self::UnpricedCheaperModel { .. } => "CS-FLEET-007",
            other => other.inner().map_or("CS-FLEET-000", Coded::code),
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::NoKey { variable, .. } => format!(
                "set {variable}, or {variable}_FILE to a file that holds it; to try the program without a key, replay \
                 recorded replies with --replay"
            ),
            Self::AlwaysThinks { .. } => {
                "leave its thinking at \"default\", or choose a model whose thinking `codeswarm models` shows as optional".into()
            }
            Self::PricesFile { .. } => "correct llm.prices_file; config/prices.json shows the format".into(),
            Self::PromptFile { .. } => "name a readable text file of at most 64 KiB; the path is relative to the configuration file".into(),
            Self::UnpricedModel { .. } | Self::UnpricedCheaperModel { .. } => "use a model that `codeswarm models` lists, or add its price to llm.prices_file (local models: price = 0 of their \
                 endpoint); a call without a known price is never made"
                .into(),
            Self::Died { .. } => "run `codeswarm resume`; nothing is lost. Please report the message above as a bug".into(),
            other => other.inner().map_or_else(String::new, Coded::remedy),
        }
    }

    fn retry(&self) -> Retry {
        self.inner().map_or(Retry::Never, Coded::retry)
    }
}
