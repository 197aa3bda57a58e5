//! What every room's errors have in common: a stable code, a remedy, and whether trying again can help.
//!
//! Each room keeps its own `thiserror` enum (causes stay typed) and implements [`Coded`] for it, so that
//! the command line, the logs and the event log describe a fault in the same three parts. Whether a fault
//! is worth a retry is decided once, where the foreign error enters, never by reading its text later.
//! This file must never know any particular room.

use std::time::Duration;

/// Whether, and when, repeating the failed step can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Repeating cannot help: the input, the configuration or the budget has to change first.
    Never,
    /// Repeating at once (under the caller's own backoff) may help.
    Now,
    /// The other side named a delay; repeating earlier is useless.
    After(Duration),
    /// An inner loop has already used up its attempts; an outer loop must not multiply them.
    Exhausted,
}

impl Retry {
    /// True for the two variants under which a loop may go round again.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Now | Self::After(_))
    }
}

/// An error a person can act on.
pub trait Coded: std::error::Error {
    /// Stable identifier such as `CS-BUDGET-001`; never reused for another meaning.
    fn code(&self) -> &'static str;

    /// One sentence telling the reader what to do about it.
    fn remedy(&self) -> String;

    /// Whether repeating the step can help; most faults cannot be repeated away.
    fn retry(&self) -> Retry {
        Retry::Never
    }
}

/// Renders an error with its code, its chain of causes and its remedy, one fact per line.
#[must_use]
pub fn report(error: &dyn Coded) -> String {
    let mut text = format!("error[{}]: {error}", error.code());
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!("\n  cause: {inner}"));
        cause = inner.source();
    }
    text.push_str(&format!("\n  remedy: {}", error.remedy()));
    text
}
