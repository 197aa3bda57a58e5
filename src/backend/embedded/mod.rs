//! The six stores on one SQLite file: no servers, same promises.

use std::path::Path;

use super::{Backend, BackendError};
use crate::clock::Clock;
use crate::protocol::InstanceId;

/// How hard a commit is pressed onto the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Survives loss of power (`synchronous = FULL`): every group commit is one disk flush.
    #[default]
    Full,
    /// Survives the death of any process, but not always loss of power (`synchronous = NORMAL`).
    Process,
}

/// Opens (and creates, if need be) the stores in `directory` for the process `instance`.
///
/// # Errors
/// [`BackendError::Storage`], [`BackendError::Corrupt`], [`BackendError::NewerVersion`].
pub async fn open(
    _directory: &Path,
    _instance: &InstanceId,
    _durability: Durability,
    _clock: Clock,
) -> Result<Backend, BackendError> {
    Err(BackendError::NotFound { what: "embedded backend".into() })
}
