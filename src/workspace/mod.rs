//! The output directory and the only writer of its files.
//!
//! Agents produce artifacts; this room puts a feature's files into the output all at once, or not at all, and finishes after
//! a crash what it began. Paths are judged as text, then against the disk, and cap-std keeps every write inside the root
//! whatever links lie there. Nothing outside the root may ever be touched, and nothing in it that is not this job's.

mod error;
mod git;
mod layout;
mod output;
mod transaction;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cap_std::fs::Dir;
use tokio::sync::Mutex;

pub use error::WorkspaceError;
pub use git::Author;

use crate::protocol::{FeatureId, JobId, TaskId};
use git::Git;
use transaction::{Journal, unobserved};

/// How files are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputMode {
    /// Plain files.
    Directory,
    /// Plain files and one Git commit per feature.
    Git,
}

/// The files of one feature, to be written together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureCommit {
    /// Which feature.
    pub feature: FeatureId,
    /// For people; the subject of a Git commit.
    pub title: String,
    /// Path, contents and task of every file.
    pub files: Vec<(String, Bytes, TaskId)>,
    /// False when some of the feature's files are missing.
    pub complete: bool,
}

/// What a commit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitReport {
    /// Number of files of the commit, those included that were there already.
    pub files: u32,
    /// Git commit id, when the output is a repository.
    pub commit: Option<String>,
}

/// An output directory that belongs to one job. Cheap to clone; commits take turns, also between processes.
#[derive(Debug, Clone)]
pub struct Workspace {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    dir: Dir,
    job: JobId,
    git: Option<Git>,
    turn: Mutex<()>,
}

/// Finds out, before any money is spent, whether `job` can write to `output`; makes the directory if it is missing.
///
/// # Errors
/// Everything that would later keep [`Workspace::open`] from working.
pub async fn preflight(output: &Path, mode: OutputMode, job: &JobId) -> Result<(), WorkspaceError> {
    if mode == OutputMode::Git {
        Git::available().await?;
    }
    let (output, job) = (output.to_owned(), job.clone());
    blocking(move || {
        let (dir, _) = output::enter(&output, mode, &job)?;
        output::probe(&dir, &output)
    })
    .await
}

impl Workspace {
    /// Opens or makes the output directory of `job` and finishes whatever a crash interrupted.
    ///
    /// # Errors
    /// When the directory holds anything that is not this job's, or cannot be written.
    pub async fn open(output: &Path, mode: OutputMode, job: &JobId) -> Result<Self, WorkspaceError> {
        Self::open_as(output, mode, job, Author::default()).await
    }

    /// Like [`Workspace::open`], with the author of Git commits.
    ///
    /// # Errors
    /// As [`Workspace::open`].
    pub async fn open_as(output: &Path, mode: OutputMode, job: &JobId, author: Author) -> Result<Self, WorkspaceError> {
        let (root, owner) = (output.to_owned(), job.clone());
        let (dir, root) = blocking(move || {
            let (dir, ours) = output::enter(&root, mode, &owner)?;
            if !ours {
                output::claim(&dir, &owner)?;
            }
            // Git runs in this directory, so a relative path must not depend on where the process is later.
            let root = root.canonicalize().map_err(WorkspaceError::io("."))?;
            Ok((dir, root))
        })
        .await?;
        let git = (mode == OutputMode::Git).then(|| Git::new(&root, author));
        if let Some(git) = &git {
            git.init(&dir).await?;
        }
        let workspace = Self { shared: Arc::new(Shared { root, dir, job: job.clone(), git, turn: Mutex::new(()) }) };
        workspace.recover().await?;
        Ok(workspace)
    }

    /// The output directory, absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    /// Writes all files of a feature, or none. Repeating a commit changes nothing; dropping the future does not
    /// interrupt it.
    ///
    /// # Errors
    /// Before the commit's point of no return nothing has changed; after it, the next commit or start completes it.
    pub async fn commit_feature(&self, commit: FeatureCommit) -> Result<CommitReport, WorkspaceError> {
        let shared = self.shared.clone();
        let work = async move {
            let _turn = shared.turn.lock().await;
            let _lock = shared.lock().await?;
            shared.settle_pending().await?;
            if commit.files.is_empty() {
                return Ok(CommitReport { files: 0, commit: None });
            }
            let staging = shared.clone();
            let journal =
                blocking(move || transaction::prepare(&staging.dir, &staging.job, &commit, &unobserved)).await?;
            shared.settle(journal).await
        };
        tokio::spawn(work).await.unwrap_or(Err(WorkspaceError::Interrupted))
    }

    /// Finishes journalled commits and removes what was staged and never journalled.
    ///
    /// # Errors
    /// When the stage is damaged or cannot be written.
    pub async fn recover(&self) -> Result<(), WorkspaceError> {
        let shared = self.shared.clone();
        let work = async move {
            let _turn = shared.turn.lock().await;
            let _lock = shared.lock().await?;
            shared.settle_pending().await
        };
        tokio::spawn(work).await.unwrap_or(Err(WorkspaceError::Interrupted))
    }

    /// Packs the repository into one file and answers where it lies, inside the repository's own directory.
    ///
    /// # Errors
    /// [`WorkspaceError::Git`] when Git refuses, or nothing was committed.
    pub async fn bundle(&self) -> Result<PathBuf, WorkspaceError> {
        let Some(git) = &self.shared.git else {
            return Err(WorkspaceError::Git {
                command: "bundle".into(),
                message: "the output is no repository".into(),
            });
        };
        let _turn = self.shared.turn.lock().await;
        git.bundle().await
    }

    /// Ends the work on this output: the stage goes, the marker stays, so that the job can be resumed.
    ///
    /// # Errors
    /// When an interrupted commit cannot be finished or the stage cannot be removed.
    pub async fn finish(&self) -> Result<(), WorkspaceError> {
        self.recover().await?;
        let _turn = self.shared.turn.lock().await;
        let shared = self.shared.clone();
        blocking(move || {
            let _lock = output::lock(&shared.dir)?;
            // Another process may have begun a commit since; its journal is its own to finish.
            if transaction::pending(&shared.dir)?.is_empty() { transaction::remove_stage(&shared.dir) } else { Ok(()) }
        })
        .await
    }
}

impl Shared {
    async fn lock(self: &Arc<Self>) -> Result<std::fs::File, WorkspaceError> {
        let shared = self.clone();
        blocking(move || output::lock(&shared.dir)).await
    }

    async fn settle_pending(self: &Arc<Self>) -> Result<(), WorkspaceError> {
        let shared = self.clone();
        for journal in blocking(move || transaction::pending(&shared.dir)).await? {
            self.settle(journal).await?;
        }
        Ok(())
    }

    /// Brings a journalled commit to its end; may be repeated from any point.
    async fn settle(self: &Arc<Self>, journal: Journal) -> Result<CommitReport, WorkspaceError> {
        if journal.job != self.job {
            return Err(WorkspaceError::Damaged { why: format!("a journal of job {} is pending", journal.job) });
        }
        let journal = Arc::new(journal);
        let (shared, placed) = (self.clone(), journal.clone());
        blocking(move || transaction::place(&shared.dir, &placed, &unobserved)).await?;
        let commit = match &self.git {
            Some(git) => Some(git.commit(&self.dir, &journal).await?),
            None => None,
        };
        let (shared, feature) = (self.clone(), journal.feature.clone());
        blocking(move || transaction::clear(&shared.dir, &feature, &unobserved)).await?;
        Ok(CommitReport { files: u32::try_from(journal.files.len()).unwrap_or(u32::MAX), commit })
    }
}

/// Runs file system work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkspaceError> + Send + 'static,
) -> Result<T, WorkspaceError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(WorkspaceError::Interrupted))
}
