//! The one error of all stores: what went wrong, and whether repeating the step can help.
//!
//! Foreign errors (SQLite, NATS, Redis) are classified here, once, where they enter. Callers never look at their text.

use crate::error::{Coded, Retry};

/// A store refused, failed or cannot tell.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackendError {
    /// The store could not be reached or did not answer in time; a write may or may not have happened.
    #[error("{store} is not available: {reason}")]
    Unavailable {
        /// Which store.
        store: &'static str,
        /// What it said.
        reason: String,
    },
    /// Another writer was faster: the expected version or sequence is no longer current.
    #[error("{what} has changed: expected version {expected}, found {actual}")]
    Conflict {
        /// The key, log or delivery.
        what: String,
        /// What the caller expected.
        expected: u64,
        /// What the store holds.
        actual: u64,
    },
    /// There is nothing under that name.
    #[error("{what} does not exist")]
    NotFound {
        /// The name.
        what: String,
    },
    /// The caller no longer holds the lease or delivery it acts on.
    #[error("{what} is no longer held by this process")]
    LeaseLost {
        /// The lease or delivery.
        what: String,
    },
    /// The request breaks a bound of the store.
    #[error("invalid {field}: {why}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Stored data does not match its digest or its schema.
    #[error("{what} is damaged: {why}")]
    Corrupt {
        /// What is damaged.
        what: String,
        /// How that shows.
        why: String,
    },
    /// The store was written by a newer program.
    #[error("{what} has schema version {found}; this program knows up to {known}")]
    NewerVersion {
        /// Which store.
        what: String,
        /// Version found.
        found: u32,
        /// Newest version known.
        known: u32,
    },
    /// The disk is full or the directory cannot be written.
    #[error("cannot write {what}: {reason}")]
    Storage {
        /// Where.
        what: String,
        /// What the system said.
        reason: String,
    },
    /// Another process holds what only one may hold.
    #[error("{what} is in use by {holder}")]
    InUse {
        /// What is held.
        what: String,
        /// By whom.
        holder: String,
    },
    /// The store has forgotten what it had acknowledged: another disk, an old backup, a flush.
    #[error("{store} has lost its data: {why}")]
    DataLost {
        /// Which store.
        store: &'static str,
        /// How that shows.
        why: String,
    },
    /// What was asked for is older than what is kept.
    #[error("{what} after {asked} are no longer kept; the oldest is {oldest}")]
    Compacted {
        /// What is kept for a while only.
        what: String,
        /// After which revision.
        asked: u64,
        /// The oldest revision that is kept.
        oldest: u64,
    },
    /// The same was begun again elsewhere, and only the last to begin it brings it to its end.
    #[error("another {what} was begun after this one and takes its place")]
    Overtaken {
        /// What was begun.
        what: &'static str,
    },
    /// A server was reached and cannot be used as it is: it refuses us, is too old, or holds something incompatible.
    #[error("{server} cannot be used: {why}")]
    Refused {
        /// Which server, as host and port; never with credentials.
        server: String,
        /// What it said, or what is wrong with it.
        why: String,
        /// What to do about it.
        remedy: String,
    },
}

impl BackendError {
    /// The store that failed, as far as the error says; for counting.
    #[must_use]
    pub const fn store(&self) -> &'static str {
        match self {
            Self::Unavailable { store, .. } => store,
            _ => "any",
        }
    }
}

impl Coded for BackendError {
    fn code(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "CS-STORE-001",
            Self::Conflict { .. } => "CS-STORE-002",
            Self::NotFound { .. } => "CS-STORE-003",
            Self::LeaseLost { .. } => "CS-STORE-004",
            Self::Invalid { .. } => "CS-STORE-005",
            Self::Corrupt { .. } => "CS-STORE-006",
            Self::NewerVersion { .. } => "CS-STORE-007",
            Self::Storage { .. } => "CS-STORE-008",
            Self::InUse { .. } => "CS-STORE-009",
            Self::DataLost { .. } => "CS-STORE-010",
            Self::Compacted { .. } => "CS-STORE-011",
            Self::Refused { .. } => "CS-STORE-012",
            Self::Overtaken { .. } => "CS-STORE-013",
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::Unavailable { store, .. } => {
                format!("check that {store} runs and can be reached, then repeat the command; nothing is lost")
            }
            Self::Conflict { .. } => "read the current value and try again".into(),
            Self::NotFound { .. } => "check the name; `codeswarm list` shows the jobs there are".into(),
            Self::LeaseLost { .. } => "nothing to do: another process has taken the work over".into(),
            Self::Invalid { .. } => "correct the named field".into(),
            Self::Corrupt { what, .. } => {
                format!("restore {what} from a backup, or start with a fresh --data directory or namespace")
            }
            Self::NewerVersion { .. } => "upgrade this program, or use another --data directory or namespace".into(),
            Self::Storage { what, .. } => {
                format!("free space or fix the permissions of {what}, then `codeswarm resume` the job")
            }
            Self::InUse { .. } => "wait for it to finish, stop it, or use another --data directory or namespace".into(),
            Self::DataLost { store, .. } => format!(
                "restore {store} from a backup, or run `codeswarm budget rebuild` so that nothing is spent twice; then start \
                 the processes anew"
            ),
            Self::Compacted { .. } => "read the present state once, then go on from its revision".into(),
            Self::Refused { remedy, .. } => remedy.clone(),
            Self::Overtaken { .. } => "wait for the other one to end; should it fail, begin once more".into(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            // Books that are being made anew are back soon; nothing is spent before.
            Self::Unavailable { .. } | Self::DataLost { .. } => Retry::Now,
            _ => Retry::Never,
        }
    }
}
