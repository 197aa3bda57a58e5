//! Exit codes, and failures with the three parts a person needs: what, why, what now.
//!
//! Scripts rely on the codes, so neither an exit code nor an error code may ever change its meaning.

use std::process::ExitCode;

use crate::backend::BackendError;
use crate::config::ConfigError;
use crate::coordinator::CoordinatorError;
use crate::error::{Coded, report};
use crate::fleet::FleetError;
use crate::protocol::JobOutcome;
use crate::telemetry::TelemetryError;
use crate::workspace::WorkspaceError;

/// What the process tells its caller (DESIGN §8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Something failed.
    Error = 1,
    /// The command was not understood; clap uses the same code.
    Usage = 2,
    /// Done, but some files are missing.
    Warnings = 3,
    /// The budget did not suffice; partial results are kept.
    BudgetExhausted = 4,
    /// Cancelled or interrupted by a person.
    Cancelled = 5,
    /// Verification failed.
    VerificationFailed = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<JobOutcome> for Exit {
    fn from(outcome: JobOutcome) -> Self {
        match outcome {
            JobOutcome::Completed => Self::Done,
            JobOutcome::CompletedWithWarnings => Self::Warnings,
            JobOutcome::BudgetExhausted => Self::BudgetExhausted,
            JobOutcome::Failed => Self::Error,
            JobOutcome::Cancelled => Self::Cancelled,
        }
    }
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    /// Exit code of the process.
    pub exit: Exit,
    text: String,
}

impl Failure {
    /// A wrong argument: names it, its value and the remedy.
    pub fn usage(code: &str, what: impl AsRef<str>, remedy: impl AsRef<str>) -> Self {
        Self { exit: Exit::Usage, text: format!("error[{code}]: {}\n  remedy: {}", what.as_ref(), remedy.as_ref()) }
    }

    /// Any other fault of this room.
    pub fn error(code: &str, what: impl AsRef<str>, remedy: impl AsRef<str>) -> Self {
        Self { exit: Exit::Error, ..Self::usage(code, what, remedy) }
    }

    /// A room's error with its code and remedy.
    pub fn of(error: &dyn Coded) -> Self {
        Self { exit: Exit::Error, text: report(error) }
    }

    /// What the person reads.
    #[must_use]
    pub fn report(&self) -> String {
        self.text.clone()
    }
}

macro_rules! from_coded {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::of(&error)
            }
        }
    )*};
}

from_coded!(BackendError, CoordinatorError, FleetError, WorkspaceError);

impl From<TelemetryError> for Failure {
    /// What is wrong with a value of the person's is a fault of usage, the rest one of the machine.
    fn from(error: TelemetryError) -> Self {
        let exit = match error {
            TelemetryError::Filter { .. } | TelemetryError::Url { .. } => Exit::Usage,
            _ => Exit::Error,
        };
        Self { exit, text: report(&error) }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { exit: Exit::Usage, text: report(&error) }
    }
}
