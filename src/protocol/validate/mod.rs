//! Validation at the edge (REQUIREMENTS B2): nothing enters the program that is not within bounds.
//!
//! Types already refuse what cannot be parsed; this room refuses what parses but is too large, too old, of another
//! version or in contradiction to itself. Every refusal names the field, the value and what would be right, because
//! the reader is often a model that gets the sentence back as feedback. It must never repair a value silently.

mod cycle;
mod message;
mod plan;

pub(crate) use cycle::find_cycle;
pub(crate) use message::MAX_REASON;
pub use message::{MAX_MESSAGE_BYTES, command, decode_envelope, task_message, task_result};
pub use plan::{Need, feature_plan, needs, strategic_plan, tasks_fit};

use crate::error::Coded;

/// Why a message or a plan was refused at the edge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The message is larger than any message may be.
    #[error("the message has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The message was written by a version of the program that this one cannot read.
    #[error("schema version {found} is not known, this program speaks version {known}")]
    UnknownVersion {
        /// The version in the message.
        found: u64,
        /// The version of this program.
        known: u16,
    },
    /// The message arrived after its sender stopped waiting for it.
    #[error("the message expired {late_ms} ms ago")]
    Expired {
        /// By how much, in milliseconds.
        late_ms: u64,
    },
    /// The bytes are not JSON of the expected shape.
    #[error("the message cannot be read: {why}")]
    Malformed {
        /// What the parser said.
        why: String,
    },
    /// One field breaks its bounds or contradicts another.
    #[error("{field}: {why}")]
    Field {
        /// Which field, as a path such as `features[3].files[0].path`.
        field: String,
        /// What is wrong with which value, and what would be right.
        why: String,
    },
}

impl ProtocolError {
    /// A fault of one field.
    pub fn field(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Field { field: field.into(), why: why.into() }
    }

    /// The same fault seen from outside: its field gets `prefix` in front (`prefix.field`).
    #[must_use]
    pub fn within(self, prefix: &str) -> Self {
        match self {
            Self::Field { field, why } => Self::Field { field: format!("{prefix}.{field}"), why },
            other => other,
        }
    }
}

impl Coded for ProtocolError {
    fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "CS-PROTOCOL-001",
            Self::UnknownVersion { .. } => "CS-PROTOCOL-002",
            Self::Expired { .. } => "CS-PROTOCOL-003",
            Self::Malformed { .. } => "CS-PROTOCOL-004",
            Self::Field { .. } => "CS-PROTOCOL-005",
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::TooLarge { .. } => "store the payload as an artifact and send its reference".into(),
            Self::UnknownVersion { .. } => "run the same version of CodeSwarm everywhere".into(),
            Self::Expired { .. } => {
                "send the request again; if it keeps happening, compare the machines' clocks".into()
            }
            Self::Malformed { .. } => "send JSON as the protocol's schema describes it".into(),
            Self::Field { field, .. } => format!("correct {field} and send it again"),
        }
    }
}

/// Checks a text of one line: not blank, at most `limit` characters, no control characters (they would reach
/// terminals).
fn line(field: &str, text: &str, limit: usize) -> Result<(), ProtocolError> {
    prose(field, text, limit)?;
    match text.chars().find(|c| matches!(c, '\n' | '\r' | '\t')) {
        Some(found) => Err(ProtocolError::field(field, format!("contains {found:?}; write it on one line"))),
        None => Ok(()),
    }
}

/// Checks a text of any number of lines: not blank, at most `limit` characters, no control characters but line ends
/// and tabs.
fn prose(field: &str, text: &str, limit: usize) -> Result<(), ProtocolError> {
    if text.trim().is_empty() {
        return Err(ProtocolError::field(field, format!("is empty; write 1 to {limit} characters")));
    }
    bounded(field, text, limit)
}

/// As [`prose`], but may be blank.
fn bounded(field: &str, text: &str, limit: usize) -> Result<(), ProtocolError> {
    // Characters are at most as many as bytes, so counting is only needed for long texts.
    let length = if text.len() <= limit { text.len() } else { text.chars().count() };
    if length > limit {
        let start: String = text.chars().take(40).collect();
        let why = format!("{start:?}… has {length} characters; the limit is {limit}");
        return Err(ProtocolError::field(field, why));
    }
    match text.chars().find(|&c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        Some(found) => Err(ProtocolError::field(field, format!("contains the control character {found:?}; remove it"))),
        None => Ok(()),
    }
}

/// Checks that `count` things called `what` are within `range`.
fn count(field: &str, what: &str, count: usize, range: (u32, u32)) -> Result<(), ProtocolError> {
    let allowed = range.0 as usize..=range.1 as usize;
    if allowed.contains(&count) {
        Ok(())
    } else {
        Err(ProtocolError::field(field, format!("has {count} {what}; give {} to {}", range.0, range.1)))
    }
}
