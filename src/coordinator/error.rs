//! What can end a coordinator.
//!
//! The same type answers whoever submits or commands a job. A bad message, a command the job refuses or a failed commit
//! must never come this far inside the loop: it has an event or a log line of its own, and the other jobs go on.

use crate::backend::BackendError;
use crate::error::{Coded, Retry};
use crate::job::{IllegalTransition, Refusal};
use crate::protocol::JobId;

/// The coordinator cannot lead, or cannot go on leading.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// Somebody else leads.
    #[error("another coordinator leads these stores: {holder}")]
    NotLeader {
        /// Who.
        holder: String,
    },
    /// The lease was lost; whoever holds it now goes on.
    #[error("the lead was lost to another coordinator")]
    Deposed,
    /// The stores failed.
    #[error("the coordinator cannot go on without its stores")]
    Backend(#[from] BackendError),
    /// A job's log does not fold: it was damaged or written by a newer program.
    #[error("the log of job {job} does not fit together at event {seq}")]
    Log {
        /// Which job.
        job: JobId,
        /// Which event.
        seq: u64,
        /// Why it does not fit.
        #[source]
        source: Box<IllegalTransition>,
    },
    /// A request that the job's state does not allow.
    #[error("job {job}: {refusal}")]
    Refused {
        /// Which job.
        job: JobId,
        /// Why.
        refusal: Box<Refusal>,
    },
    /// There is no such job.
    #[error("there is no job {job} in these stores")]
    UnknownJob {
        /// Which job.
        job: JobId,
    },
    /// A background loop died: a bug.
    #[error("the coordinator's {0} loop ended unexpectedly")]
    LoopEnded(&'static str),
}

impl Coded for CoordinatorError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "CS-COORD-001",
            Self::Deposed => "CS-COORD-002",
            Self::Backend(error) => error.code(),
            Self::Log { .. } => "CS-COORD-003",
            Self::Refused { .. } => "CS-COORD-004",
            Self::UnknownJob { .. } => "CS-COORD-005",
            Self::LoopEnded(_) => "CS-COORD-006",
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::NotLeader { .. } => {
                "wait for the other run to finish, stop it, hand the job to it with `codeswarm submit`, or use another --data \
                 directory or namespace".into()
            }
            Self::Deposed => "nothing to do: the other coordinator goes on with the jobs".into(),
            Self::Backend(error) => error.remedy(),
            Self::Log { .. } => {
                "use the program version that wrote the log, or start the job anew with a fresh --data directory or namespace".into()
            }
            Self::Refused { .. } => "`codeswarm status` shows what the job is doing".into(),
            Self::UnknownJob { .. } => "`codeswarm list` shows the jobs there are".into(),
            Self::LoopEnded(_) => "run `codeswarm resume`; nothing is lost. Please report this as a bug".into(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::NotLeader { .. } => Retry::Now,
            Self::Backend(error) => error.retry(),
            _ => Retry::Never,
        }
    }
}
