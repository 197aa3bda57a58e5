//! What can go wrong before the server answers anything; faults of single calls are answered on the wire instead.
//!
//! A script is refused whole, with its wrong lines listed, before the server starts: a recording that is wrong in the
//! middle would otherwise look like a bug of the fleet an hour later.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::budget::price::PriceError;
use crate::error::Coded;

/// Something wrong with one line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineFault {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

fn listed(faults: &[LineFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Why replies cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A file could not be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The script is longer than [`super::MAX_SCRIPT_BYTES`].
    #[error("the script is {bytes} bytes long, more than {}", super::MAX_SCRIPT_BYTES)]
    TooLong {
        /// Its length.
        bytes: u64,
    },
    /// Lines of the script are wrong; the first few are listed.
    #[error("the script is not valid: {}", listed(.0))]
    Script(Vec<LineFault>),
    /// Replies are to be recorded in a file that holds something else.
    #[error("{} is not a recording, so nothing is recorded there", path.display())]
    NotARecording {
        /// Which file.
        path: PathBuf,
    },
    /// Replies are to be recorded in the file that they are read from.
    #[error("the replies of {} cannot be recorded in the same file", path.display())]
    RecordsItself {
        /// Which file.
        path: PathBuf,
    },
    /// A line of a bill's log is wrong.
    #[error("the bill {} is not valid: {fault}", path.display())]
    Bill {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        fault: LineFault,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// There is no price to bill by.
    #[error("the server cannot bill its replies")]
    Price(#[from] PriceError),
}

impl Coded for ReplayError {
    fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "CS-REPLAY-001",
            Self::TooLong { .. } => "CS-REPLAY-002",
            Self::Script(_) => "CS-REPLAY-003",
            Self::Bill { .. } => "CS-REPLAY-004",
            Self::Listen { .. } => "CS-REPLAY-005",
            Self::Price(_) => "CS-REPLAY-006",
            Self::NotARecording { .. } => "CS-REPLAY-007",
            Self::RecordsItself { .. } => "CS-REPLAY-008",
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::File { .. } => "check that the path exists and may be read and written".into(),
            Self::TooLong { .. } => "split the script, or shorten its replies".into(),
            Self::Script(_) => {
                "correct these lines; the script is JSON Lines, one header and then one reply a line".into()
            }
            Self::NotARecording { .. } => {
                "let --record (llm.record) name a file that does not exist yet, or a recording to go on with".into()
            }
            Self::RecordsItself { .. } => "let --record (llm.record) name another file, or leave it away".into(),
            Self::Bill { .. } => "move the file away to start a new bill".into(),
            Self::Listen { .. } => "choose another address; port 0 takes any free one".into(),
            Self::Price(inner) => inner.remedy(),
        }
    }
}
