//! Committing finished features to the output, outside the leader's loop because disks are slow.
//!
//! A job without an output directory (any machine may lead it) has its features committed in the log alone: the files are
//! in the artifact store, and whoever wants them fetches them. One commit per job at a time, each in a task of its own; its outcome comes back through a channel and only the leader's
//! loop records it. A feature is written whole or not at all, and writing it again after a crash changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::running::Running;
use super::{Coordinator, CoordinatorError};
use crate::backend::{Artifacts, Backend, BackendError};
use crate::clock::Timestamp;
use crate::error::report;
use crate::job::{Decision, JobStatus, Task};
use crate::protocol::{ArtifactRef, FeatureId, JobId, JobOutcome, TaskId};
use crate::workspace::{CommitReport, FeatureCommit, OutputMode, Workspace, WorkspaceError};

/// A commit that has ended, well or not.
pub(super) struct CommitDone {
    job: JobId,
    feature: FeatureId,
    complete: bool,
    outcome: Result<(Option<Arc<Workspace>>, CommitReport), CommitError>,
}

/// Why a feature could not be committed.
#[derive(Debug, thiserror::Error)]
enum CommitError {
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("the commit task died: {0}")]
    Died(String),
}

impl CommitError {
    fn report(&self) -> String {
        match self {
            Self::Workspace(error) => report(error),
            Self::Backend(error) => report(error),
            Self::Died(_) => self.to_string(),
        }
    }
}

/// What a commit needs, taken out of the job so that the loop can go on.
struct CommitOrder {
    job: JobId,
    /// Where to; nowhere when the files stay in the artifact store.
    output: Option<PathBuf>,
    mode: OutputMode,
    workspace: Option<Arc<Workspace>>,
    feature: FeatureId,
    title: String,
    files: Vec<(String, ArtifactRef, TaskId)>,
    complete: bool,
}

impl Coordinator {
    /// Starts the next commit of a job, if there is one and none is under way: finished features first, and, when the job
    /// is coming to an end, what there is of the unfinished ones.
    pub(super) fn start_commit(&mut self, id: &JobId) -> Result<(), CoordinatorError> {
        let Some(running) = self.jobs.get_mut(id) else { return Ok(()) };
        if running.committing || running.commit_failed {
            return Ok(());
        }
        let Some(order) = next_order(running, self.backend.clock.now()) else { return Ok(()) };
        running.committing = true;
        let artifacts = Arc::clone(&self.backend.artifacts);
        let sender = self.commits.0.clone();
        tokio::spawn(async move {
            let (job, feature, complete) = (order.job.clone(), order.feature.clone(), order.complete);
            let work = tokio::spawn(carry_out(artifacts, order));
            let outcome = work.await.unwrap_or_else(|panic| Err(CommitError::Died(panic.to_string())));
            // The receiver is gone only when the coordinator has stopped; the next leader commits again.
            let _ = sender.send(CommitDone { job, feature, complete, outcome }).await;
        });
        Ok(())
    }

    /// Records a commit. One that failed ends the job: its files are safe in the store, and resuming commits again.
    pub(super) fn committed(&mut self, done: CommitDone) -> Result<(), CoordinatorError> {
        let now = self.backend.clock.now();
        let Some(running) = self.jobs.get_mut(&done.job) else { return Ok(()) };
        running.committing = false;
        match done.outcome {
            Ok((workspace, report)) => {
                running.workspace = workspace;
                let commit = report.commit;
                running.stage(
                    Decision::FeatureCommitted {
                        feature: done.feature,
                        files: report.files,
                        complete: done.complete,
                        commit,
                    },
                    now,
                )
            }
            Err(error) => fail(running, &done.feature, &error, now),
        }
    }
}

fn fail(
    running: &mut Running,
    feature: &FeatureId,
    error: &CommitError,
    now: Timestamp,
) -> Result<(), CoordinatorError> {
    let reason = format!("feature {feature} could not be written: {}", error.report());
    tracing::error!(job = %running.id, %reason);
    running.commit_failed = true;
    if matches!(running.job.status(), JobStatus::Ended(_)) {
        return Ok(());
    }
    running.stage(Decision::End { outcome: JobOutcome::Failed, reason }, now)
}

fn next_order(running: &Running, now: Timestamp) -> Option<CommitOrder> {
    let calls_are_in = running.gives_up_at.is_some_and(|at| running.job.in_flight().len() == 0 || now >= at);
    let (feature, complete) = match running.job.commit_ready().into_iter().next() {
        Some(feature) => (feature, true),
        None if calls_are_in => (running.job.uncommitted().into_iter().next()?, false),
        None => return None,
    };
    order(running, feature, complete)
}

fn order(running: &Running, feature: FeatureId, complete: bool) -> Option<CommitOrder> {
    let settings = &running.job.submission()?.settings;
    let title = running.job.feature(&feature).map(|feature| feature.spec.name.clone()).unwrap_or_default();
    Some(CommitOrder {
        job: running.id.clone(),
        output: settings.output().map(Path::to_owned),
        mode: if settings.git { OutputMode::Git } else { OutputMode::Directory },
        workspace: running.workspace.clone(),
        files: finished_files(running, &feature),
        feature,
        title,
        complete,
    })
}

/// Writes what there is of every feature of a job that has ended and that nobody works on. A failure is only logged: the
/// files are safe in the store, and resuming the job writes them.
pub(super) async fn write_rest(backend: &Backend, running: &mut Running) -> Result<(), CoordinatorError> {
    let whole = running.job.commit_ready();
    for feature in running.job.uncommitted() {
        let complete = whole.contains(&feature);
        let Some(order) = order(running, feature.clone(), complete) else { return Ok(()) };
        match carry_out(Arc::clone(&backend.artifacts), order).await {
            Ok((workspace, report)) => {
                running.workspace = workspace;
                let CommitReport { files, commit, .. } = report;
                let decision = Decision::FeatureCommitted { feature, files, complete, commit };
                running.stage(decision, backend.clock.now())?;
                running.flush(backend).await?;
            }
            Err(error) => {
                tracing::error!(job = %running.id, %feature, "cannot be written: {}", error.report());
                return Ok(());
            }
        }
    }
    Ok(())
}

/// What there is of a feature's files.
fn finished_files(running: &Running, feature: &FeatureId) -> Vec<(String, ArtifactRef, TaskId)> {
    let file = |task: &Task| Some((task.path()?.to_owned(), task.receipt.as_ref()?.artifact.clone(), task.id.clone()));
    running.job.feature_tasks(feature).filter_map(file).collect()
}

async fn carry_out(
    artifacts: Arc<dyn Artifacts>,
    order: CommitOrder,
) -> Result<(Option<Arc<Workspace>>, CommitReport), CommitError> {
    let Some(output) = order.output else {
        let files = u32::try_from(order.files.len()).unwrap_or(u32::MAX);
        return Ok((None, CommitReport { files, commit: None }));
    };
    let mut files: Vec<(String, Bytes, TaskId)> = Vec::with_capacity(order.files.len());
    for (path, artifact, task) in order.files {
        files.push((path, artifacts.get(&artifact).await?, task));
    }
    let workspace = match order.workspace {
        Some(workspace) => workspace,
        None => Arc::new(Workspace::open(&output, order.mode, &order.job).await?),
    };
    let commit = FeatureCommit { feature: order.feature, title: order.title, files, complete: order.complete };
    let report = workspace.commit_feature(commit).await?;
    Ok((Some(workspace), report))
}
