//! Why nothing was written, and what a person can do about it.
//!
//! Nearly all of these need a person: the disk, the directory or Git has to change first. They must name the path.

use std::io;
use std::path::PathBuf;

use crate::error::Coded;
use crate::protocol::ProtocolError;

/// The output could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The output directory holds files of somebody else.
    #[error("{} is not empty", .path.display())]
    NotEmpty {
        /// The output directory.
        path: PathBuf,
    },
    /// The output directory belongs to another job.
    #[error("{} belongs to job {job}", .path.display())]
    OtherJob {
        /// The output directory.
        path: PathBuf,
        /// The job named by its marker.
        job: String,
    },
    /// There is a Git repository that this job did not make.
    #[error("{} holds a Git repository that this job did not make", .path.display())]
    ForeignRepository {
        /// The output directory.
        path: PathBuf,
    },
    /// The output is a file.
    #[error("{} is not a directory", .path.display())]
    NotDirectory {
        /// The output.
        path: PathBuf,
    },
    /// The output directory cannot be made or written.
    #[error("{} cannot be written", .path.display())]
    NotWritable {
        /// The output directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The path is not a plain relative one.
    #[error("the path of an output file is refused")]
    Path(#[from] ProtocolError),
    /// The path leads through a symbolic link.
    #[error("{path} leads through a symbolic link")]
    Symlink {
        /// The path.
        path: String,
    },
    /// The path differs from an existing one in case or spelling only.
    #[error("{path} differs from {existing} in case or spelling only")]
    Clash {
        /// The path.
        path: String,
        /// The name that is there.
        existing: String,
    },
    /// Something that is no file, or the same file, is in the way.
    #[error("{path} cannot be written: {why}")]
    Occupied {
        /// The path.
        path: String,
        /// What is in the way.
        why: &'static str,
    },
    /// The file system failed.
    #[error("cannot write {what} in the output directory")]
    Io {
        /// What was being written.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The stage does not hold what its journal says.
    #[error("the stage of the output directory is damaged: {why}")]
    Damaged {
        /// How that shows.
        why: String,
    },
    /// The `git` program is not installed.
    #[error("the program git was not found")]
    GitMissing,
    /// Git refused.
    #[error("git {command} failed: {message}")]
    Git {
        /// The subcommand.
        command: String,
        /// What it said, bounded.
        message: String,
    },
    /// The program was shutting down.
    #[error("the commit was interrupted")]
    Interrupted,
}

impl WorkspaceError {
    /// Wraps an error of the file system with what was being written.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

impl Coded for WorkspaceError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotEmpty { .. } => "CS-OUTPUT-001",
            Self::OtherJob { .. } => "CS-OUTPUT-002",
            Self::ForeignRepository { .. } => "CS-OUTPUT-003",
            Self::NotDirectory { .. } => "CS-OUTPUT-004",
            Self::NotWritable { .. } => "CS-OUTPUT-005",
            Self::Path(_) => "CS-OUTPUT-006",
            Self::Symlink { .. } => "CS-OUTPUT-007",
            Self::Clash { .. } => "CS-OUTPUT-008",
            Self::Occupied { .. } => "CS-OUTPUT-009",
            Self::Io { .. } => "CS-OUTPUT-010",
            Self::Damaged { .. } => "CS-OUTPUT-011",
            Self::GitMissing => "CS-OUTPUT-012",
            Self::Git { .. } => "CS-OUTPUT-013",
            Self::Interrupted => "CS-OUTPUT-014",
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::NotEmpty { .. } | Self::ForeignRepository { .. } | Self::NotDirectory { .. } => {
                "name a new or empty directory with --out; nothing in it was touched".into()
            }
            Self::OtherJob { job, .. } => {
                format!("name another directory with --out, or go on with that job (`codeswarm resume {job}`)")
            }
            Self::NotWritable { .. } => "correct the permissions, or name another directory with --out".into(),
            Self::Path(_) | Self::Clash { .. } => {
                "resume the job after `codeswarm retry`; the plan that named this path should have been refused".into()
            }
            Self::Symlink { path } | Self::Occupied { path, .. } => {
                format!("move what is at {path} out of the output directory, then resume the job")
            }
            Self::Io { .. } => "free space or correct the permissions, then resume the job; files are written whole or not at all".into(),
            Self::Damaged { .. } => {
                "delete the directory .codeswarm-stage in the output directory and resume the job; no finished file is lost".into()
            }
            Self::GitMissing => "install git, or run without Git output".into(),
            Self::Git { .. } => {
                "correct what git complains about, then resume the job; its files are in place already".into()
            }
            Self::Interrupted => "resume the job; the commit is completed then".into(),
        }
    }
}
