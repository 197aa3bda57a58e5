//! Why a reply was refused, in three voices: for the log, for a person, and for the model that tries again.
//!
//! The feedback names the fault and what to do instead; "content missing, retry" makes models loop, and after truncation
//! the only useful advice is to write less. Quotes from the reply are short and on one line. A refused reply is never
//! written anywhere.

use super::head::one_line;
use crate::error::{Coded, Retry};
use crate::protocol::ProtocolError;

/// A complete reply that must not become a product.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// `max_tokens` was reached.
    #[error("the reply was truncated at the output limit")]
    Truncated,
    /// The context window was full.
    #[error("the reply was truncated because the context window was full")]
    ContextFull,
    /// The model declined.
    #[error("the model refused to answer{}", .category.as_ref().map(|c| format!(" ({c})")).unwrap_or_default())]
    Refused {
        /// The provider's category.
        category: Option<String>,
    },
    /// The model stopped for a reason that does not end a whole answer.
    #[error("the reply stopped with {stop:?}")]
    UnexpectedStop {
        /// The wire name of the reason.
        stop: String,
    },
    /// All output went into thinking.
    #[error("the model spent its whole output on thinking")]
    ThinkingOnly,
    /// The reply has no text.
    #[error("the reply is empty")]
    Empty,
    /// No block that holds the file.
    #[error("the reply holds no block with the file {path}")]
    NoBlock {
        /// The requested path.
        path: String,
        /// The id the block needs.
        id: String,
    },
    /// More than one block.
    #[error("the reply holds more than one block")]
    ManyBlocks {
        /// The requested path.
        path: String,
    },
    /// A block for a path nobody asked for.
    #[error("the reply holds {found:?} instead of {path}")]
    ForeignPath {
        /// What the block was labelled with, cut to 120 characters.
        found: String,
        /// The requested path.
        path: String,
    },
    /// The block carries another id.
    #[error("the block does not carry the id {id}")]
    WrongId {
        /// The id it needs.
        id: String,
    },
    /// The block was opened and never closed.
    #[error("the block is not closed")]
    Unterminated {
        /// The id of the closing tag.
        id: String,
    },
    /// Part of the file is replaced by a remark.
    #[error("line {line} stands for code that is left out: {text:?}")]
    Elided {
        /// Line of the file, from 1.
        line: usize,
        /// The line, cut to 120 characters.
        text: String,
    },
    /// The file holds characters no text file has.
    #[error("line {line} holds the control character U+{code:04X}")]
    NotText {
        /// Line of the file, from 1.
        line: usize,
        /// The character.
        code: u32,
    },
    /// The file or plan is larger than allowed.
    #[error("the answer has {bytes} bytes, {limit} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The file is empty.
    #[error("the file {path} is empty")]
    EmptyFile {
        /// The requested path.
        path: String,
    },
    /// The file does not parse as what its name says.
    #[error("the file is not valid {format}: {why}")]
    Syntax {
        /// `JSON` or `TOML`.
        format: &'static str,
        /// What the parser said.
        why: String,
    },
    /// The plan is not JSON.
    #[error("the plan is not JSON: {why}")]
    NotJson {
        /// What the parser said.
        why: String,
    },
    /// The plan is JSON of another shape.
    #[error("the plan does not follow its schema: {why}")]
    Schema {
        /// What is missing or too much.
        why: String,
    },
    /// The plan breaks a rule that no schema can state.
    #[error("the plan breaks a rule: {0}")]
    Invalid(#[source] ProtocolError),
}

impl Rejection {
    /// What the model is told with the next attempt.
    #[must_use]
    pub fn feedback(&self) -> String {
        match self {
            Self::Truncated | Self::ContextFull => "Your answer was truncated: it was longer than the output limit. Write \
                less: a shorter answer that is complete. Keep to what was asked, shorten comments, texts and repetition, \
                and think less before you write."
                .into(),
            Self::ThinkingOnly => {
                "Your answer was truncated before its first word. Think briefly, then write the answer; write less.".into()
            }
            Self::Refused { .. } | Self::UnexpectedStop { .. } | Self::Empty => {
                "Your last turn held no complete answer. Answer now, in the form asked for below.".into()
            }
            Self::NoBlock { path, id } => format!(
                "Your answer held no file. Put the whole contents of {path} between <file path=\"{path}\" id=\"...\"> and \
                 the matching closing tag, with the id given below (the last one, {id}, is no longer valid)."
            ),
            Self::ManyBlocks { path } => {
                format!("Your answer held more than one block. Write exactly one block, with {path} and nothing else.")
            }
            Self::ForeignPath { found, path } => {
                format!("You wrote {found:?}. Another agent owns that file. Write {path}, and only {path}.")
            }
            Self::WrongId { .. } => "The block carried a wrong id. Copy both tags exactly as given below.".into(),
            Self::Unterminated { .. } => {
                "The block was opened and never closed, so the file may be incomplete. Write the whole file, then the closing \
                 tag exactly as given below."
                    .into()
            }
            Self::Elided { line, text } => format!(
                "Line {line} stands for code that you left out: {text:?}. There is no earlier version of the file to take it \
                 from. Write out every line."
            ),
            Self::TooLarge { bytes, limit } => {
                format!("Your answer has {bytes} bytes; {limit} are allowed. Write less.")
            }
            other => format!("{}.", one_line(&other.to_string())),
        }
    }
}

impl Coded for Rejection {
    fn code(&self) -> &'static str {
        match self {
            Self::Truncated => "CS-REPLY-001",
            Self::ContextFull => "CS-REPLY-002",
            Self::Refused { .. } => "CS-REPLY-003",
            Self::UnexpectedStop { .. } => "CS-REPLY-004",
            Self::ThinkingOnly => "CS-REPLY-005",
            Self::Empty => "CS-REPLY-006",
            Self::NoBlock { .. } => "CS-REPLY-007",
            Self::ManyBlocks { .. } => "CS-REPLY-008",
            Self::ForeignPath { .. } => "CS-REPLY-009",
            Self::WrongId { .. } => "CS-REPLY-010",
            Self::Unterminated { .. } => "CS-REPLY-011",
            Self::Elided { .. } => "CS-REPLY-012",
            Self::NotText { .. } => "CS-REPLY-013",
            Self::TooLarge { .. } => "CS-REPLY-014",
            Self::EmptyFile { .. } => "CS-REPLY-015",
            Self::Syntax { .. } => "CS-REPLY-016",
            Self::NotJson { .. } => "CS-REPLY-017",
            Self::Schema { .. } => "CS-REPLY-018",
            Self::Invalid(_) => "CS-REPLY-019",
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::Refused { .. } => {
                "reword the part of the proposal this task comes from, or give its agent type another model".into()
            }
            Self::Truncated | Self::ThinkingOnly | Self::TooLarge { .. } => {
                "raise max_output_tokens of the agent type, or let the proposal ask for smaller files".into()
            }
            Self::ContextFull => "lower the context limit, or use a model with a larger context window".into(),
            _ => {
                "nothing to do: the attempt is repeated with this reason; `codeswarm retry` revives a dead task".into()
            }
        }
    }

    /// A model that declined will decline again; everything else may come out better when the model knows the reason.
    fn retry(&self) -> Retry {
        match self {
            Self::Refused { .. } => Retry::Never,
            _ => Retry::Now,
        }
    }
}
