//! The read side: what scheduler, coordinator, command line and dashboard ask of a job.
//!
//! Answers that are needed after every event take O(answer); those that only people ask for may look at every task.
//! Nothing here changes a job.

use serde::Serialize;

use super::task::{Counts, Node, Task, TaskStatus};
use super::{Approval, Feature, Job, Submission, error};
use crate::clock::Timestamp;
use crate::protocol::{
    ArtifactRef, ContextFile, FailureKind, FeatureId, FeatureSpec, JobId, JobOutcome, MicroUsd, Overrun, StrategicPlan,
    TaskFailure, TaskId, TaskKind, Usage,
};

/// Most files that a task sees as indirect dependencies; more would not fit into a prompt.
const MAX_INDIRECT_FILES: usize = 64;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobStatus {
    /// Handed over; planning has not begun.
    Submitted,
    /// Plans are being made; no file is.
    Planning,
    /// The plans are in and a person is asked.
    AwaitingApproval,
    /// Files are being written (or may be).
    Running,
    /// Nothing new starts until resumed.
    Paused,
    /// No task is left; commits and final checks are.
    Verifying,
    /// It is over.
    Ended(JobOutcome),
}

impl JobStatus {
    /// The status as one word; an ended job's is its outcome.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Planning => "planning",
            Self::AwaitingApproval => "awaiting-approval",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Verifying => "verifying",
            Self::Ended(outcome) => error::outcome(outcome),
        }
    }
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Totals {
    /// All tasks: plans and files, planned files without a task included.
    pub all: Counts,
    /// Files alone.
    pub files: Counts,
    /// Features committed with all their files.
    pub features_complete: u32,
}

/// What was last written to the output for a feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Commit {
    /// Number of files.
    pub files: u32,
    /// All files of the feature.
    pub complete: bool,
    /// Git commit id, when the output is a repository.
    pub commit: Option<String>,
}

/// How far a feature is (REQUIREMENTS A11).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FeatureRollup<'a> {
    /// The feature as planned.
    pub spec: &'a FeatureSpec,
    /// Where its planning task stands.
    pub planning: TaskStatus,
    /// Its file tasks.
    pub counts: Counts,
    /// Its last commit.
    pub committed: Option<&'a Commit>,
}

/// Finished files that a task may read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContextFiles {
    /// Files its plan names as dependencies.
    pub direct: Vec<ContextFile>,
    /// Files of features it depends on, and what those depend on; nearest first, at most 200.
    pub indirect: Vec<ContextFile>,
}

impl Feature {
    /// True when every file is done and not all of them are committed.
    pub(super) fn is_whole(&self) -> bool {
        self.planned
            && self.counts.succeeded == self.counts.total
            && !self.commit.as_ref().is_some_and(|commit| commit.complete)
    }
}

impl Job {
    /// Which job.
    #[must_use]
    pub const fn id(&self) -> &JobId {
        &self.id
    }

    /// What was submitted; none before the first event.
    #[must_use]
    pub const fn submission(&self) -> Option<&Submission> {
        self.submission.as_ref()
    }

    /// When it was submitted.
    #[must_use]
    pub const fn submitted_at(&self) -> Timestamp {
        self.submitted_at
    }

    /// The current limit.
    #[must_use]
    pub const fn budget(&self) -> MicroUsd {
        self.budget
    }

    /// Spending and limit of the last budget warning.
    #[must_use]
    pub fn budget_warning(&self) -> Option<(MicroUsd, MicroUsd)> {
        self.budget_warning.map(|(limit, spent)| (spent, limit))
    }

    /// Why a person is asked whether to go on, while the job is paused for that.
    #[must_use]
    pub fn pause_reason(&self) -> Option<&str> {
        self.pause_reason.as_deref().filter(|_| self.paused)
    }

    /// How and why it ended, and when.
    #[must_use]
    pub fn end(&self) -> Option<(JobOutcome, &str, Timestamp)> {
        self.end.as_ref().map(|end| (end.outcome, end.reason.as_str(), end.at))
    }

    /// The accepted plan.
    #[must_use]
    pub fn plan(&self) -> Option<&StrategicPlan> {
        self.plan.as_ref().map(|(plan, _)| plan)
    }

    /// The accepted plan as stored bytes.
    #[must_use]
    pub fn plan_artifact(&self) -> Option<&ArtifactRef> {
        self.plan.as_ref().map(|(_, artifact)| artifact)
    }

    /// Where the job stands. A job without events counts as submitted.
    #[must_use]
    pub fn status(&self) -> JobStatus {
        if let Some(end) = &self.end {
            JobStatus::Ended(end.outcome)
        } else if self.paused {
            JobStatus::Paused
        } else if self.tasks.first().is_none_or(|plan| plan.attempt == 0) {
            JobStatus::Submitted
        } else if self.open == 0 {
            JobStatus::Verifying
        } else if self.approval == Approval::Asked {
            JobStatus::AwaitingApproval
        } else if self.file_work_began || (self.planning == 0 && self.files_allowed()) {
            JobStatus::Running
        } else {
            JobStatus::Planning
        }
    }

    pub(super) fn max_attempts(&self) -> u32 {
        self.submission.as_ref().map_or(1, |submission| submission.settings.max_attempts)
    }

    pub(super) fn files_allowed(&self) -> bool {
        self.approval == Approval::Given || !self.submission.as_ref().is_some_and(|it| it.settings.approval)
    }

    /// True when all feature plans are in or dead and a person has to be asked before files are written.
    #[must_use]
    pub fn approval_due(&self) -> bool {
        self.approval == Approval::NotAsked && !self.files_allowed() && self.planning == 0 && self.open > 0
    }

    /// Tasks that may be dispatched at `now`: ready ones in the order they came into being, then those whose retry is
    /// due. Empty while paused or over.
    pub fn dispatchable(&self, now: Timestamp) -> impl Iterator<Item = &Task> {
        let stopped = self.paused || self.end.is_some();
        let files = self.files_allowed();
        let due = self.retrying.range(..=(now, usize::MAX)).map(|&(_, at)| at);
        let candidates = (!stopped).then(|| self.ready.iter().copied().chain(due));
        candidates.into_iter().flatten().map(|at| &self.tasks[at]).filter(move |task| files || !task.is_file())
    }

    /// The earliest instant at which a retry becomes due.
    #[must_use]
    pub fn next_retry_at(&self) -> Option<Timestamp> {
        self.retrying.first().map(|&(at, _)| at)
    }

    /// Tasks that wait because their provider asked for it or answered nothing, not because they failed; by position.
    pub(super) fn put_off(&self) -> impl Iterator<Item = usize> {
        let is_put_off =
            |failure: &TaskFailure| failure.kind == FailureKind::Parked || failure.retry_after_ms.is_some();
        let retrying = self.retrying.iter().map(|&(_, at)| at);
        retrying.filter(move |&at| self.tasks[at].last_failure.as_ref().is_some_and(is_put_off))
    }

    /// True when a provider keeps a task waiting.
    pub(super) fn is_put_off(&self) -> bool {
        self.put_off().next().is_some()
    }

    /// Tasks that are dispatched.
    pub fn in_flight(&self) -> impl ExactSizeIterator<Item = &Task> {
        self.in_flight.iter().map(|&at| &self.tasks[at])
    }

    /// All tasks known so far, in the order they came into being.
    #[must_use]
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// One task.
    #[must_use]
    pub fn task(&self, id: &TaskId) -> Option<&Task> {
        self.task_index.get(id).map(|&at| &self.tasks[at])
    }

    /// The file tasks of a feature; empty until it is planned.
    pub fn feature_tasks(&self, feature: &FeatureId) -> impl Iterator<Item = &Task> {
        let index = self.feature_index.get(feature);
        index.into_iter().flat_map(|&index| &self.features[index].tasks).map(|&at| &self.tasks[at])
    }

    /// One feature of the accepted plan.
    #[must_use]
    pub fn feature(&self, id: &FeatureId) -> Option<FeatureRollup<'_>> {
        self.rollup(*self.feature_index.get(id)?)
    }

    /// All features of the accepted plan, in its order.
    pub fn features(&self) -> impl Iterator<Item = FeatureRollup<'_>> {
        (0..self.features.len()).filter_map(|index| self.rollup(index))
    }

    fn rollup(&self, index: usize) -> Option<FeatureRollup<'_>> {
        let spec = &self.plan.as_ref()?.0.features[index];
        let feature = &self.features[index];
        Some(FeatureRollup {
            spec,
            planning: self.task(&TaskId::feature_plan(&spec.id))?.status,
            counts: feature.counts,
            committed: feature.commit.as_ref(),
        })
    }

    /// How far the job is.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Money charged so far, failed attempts included. The ledger may know of more: attempts that never reported.
    #[must_use]
    pub const fn cost(&self) -> MicroUsd {
        self.cost
    }

    /// Tokens used so far, failed attempts included.
    #[must_use]
    pub const fn usage(&self) -> Usage {
        self.usage
    }

    /// Weight of the heaviest chain of tasks that begins with `task`, in expected tokens: the larger, the more urgent.
    #[must_use]
    pub fn tail(&self, task: &TaskId) -> u64 {
        self.graph.tail(&Node::Task(task.clone()))
    }

    /// The heaviest chain of tasks and its weight in expected tokens.
    #[must_use]
    pub fn critical_path(&self) -> (Vec<TaskId>, u64) {
        let (nodes, weight) = self.graph.critical_path();
        let task = |node| match node {
            Node::Task(task) => Some(task),
            Node::FeatureDone(_) | Node::File(_) => None,
        };
        (nodes.into_iter().filter_map(task).collect(), weight)
    }

    /// How long all succeeded attempts would have taken one after the other, in milliseconds.
    #[must_use]
    pub const fn sequential_duration_ms(&self) -> u64 {
        self.worked_ms
    }

    /// What people should know about a result that is not whole, one sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let name = |task: &Task| task.path().map_or_else(|| task.id.to_string(), str::to_owned);
        let overruns = self.overruns.iter().map(|(task, overrun)| {
            let Overrun { reserved, charged } = overrun;
            format!("a call of {task} cost {charged}, more than its worst case of {reserved}: spending was frozen")
        });
        let tasks = self.tasks.iter().filter_map(|task| match (task.status, &task.last_failure, &task.blocked_by) {
            (TaskStatus::Dead, Some(failure), _) => {
                let why = failure.message.lines().next().unwrap_or_default();
                Some(format!("{} is missing: {why} ({})", name(task), failure.code))
            }
            (TaskStatus::Skipped, _, Some(root)) => Some(format!("{} is missing because {root} failed", name(task))),
            _ => None,
        });
        overruns.chain(tasks).collect()
    }

    /// Features whose files are all done and not all committed.
    #[must_use]
    pub fn commit_ready(&self) -> Vec<FeatureId> {
        self.ids(self.commit_ready.iter().copied())
    }

    /// Features with finished files that no commit holds yet, whole or not: what a job that ends early still has to
    /// deliver.
    #[must_use]
    pub fn uncommitted(&self) -> Vec<FeatureId> {
        let pending = |&index: &usize| {
            let feature = &self.features[index];
            match &feature.commit {
                Some(commit) if commit.complete => false,
                Some(commit) => feature.counts.succeeded > commit.files || feature.is_whole(),
                None => feature.counts.succeeded > 0,
            }
        };
        self.ids((0..self.features.len()).filter(pending))
    }

    fn ids(&self, indices: impl Iterator<Item = usize>) -> Vec<FeatureId> {
        let Some((plan, _)) = &self.plan else { return Vec::new() };
        indices.map(|index| plan.features[index].id.clone()).collect()
    }

    /// How the job ends by itself, once no task is left and every whole feature is committed; none before.
    #[must_use]
    pub fn natural_end(&self) -> Option<(JobOutcome, String)> {
        let Totals { all, files, .. } = self.totals;
        if self.submission.is_none() || self.end.is_some() || self.open > 0 || !self.commit_ready.is_empty() {
            return None;
        }
        if self.plan.is_none() {
            return Some((JobOutcome::Failed, "no strategic plan was accepted".into()));
        }
        if files.succeeded == 0 {
            return Some((JobOutcome::Failed, format!("none of {} files could be written", files.total)));
        }
        if all.succeeded == all.total {
            return Some((JobOutcome::Completed, format!("all {} files are written", files.total)));
        }
        let reason = format!("{} of {} files are missing", files.total - files.succeeded, files.total);
        Some((JobOutcome::CompletedWithWarnings, reason))
    }

    /// The tasks that `task` names as its needs, by id or by path, planning tasks included.
    pub fn direct_needs(&self, task: &TaskId) -> impl Iterator<Item = &Task> {
        self.named_needs(&Node::Task(task.clone())).into_iter().filter_map(|need| match need {
            Node::Task(id) => self.task(id),
            Node::File(_) | Node::FeatureDone(_) => None,
        })
    }

    fn named_needs(&self, node: &Node) -> Vec<&Node> {
        let mut named = Vec::new();
        for need in self.graph.needs(node) {
            match need {
                Node::Task(_) => named.push(need),
                Node::File(_) => named.extend(self.graph.needs(need)),
                Node::FeatureDone(_) => {}
            }
        }
        named
    }

    /// The finished files that `task` may read.
    #[must_use]
    pub fn dependency_files(&self, task: &TaskId) -> ContextFiles {
        let node = Node::Task(task.clone());
        let direct: Vec<ContextFile> =
            self.named_needs(&node).into_iter().filter_map(|need| self.finished(need)).collect();
        let is_direct = |file: &ContextFile| direct.iter().any(|other| other.path == file.path);
        let indirect = self
            .graph
            .ancestors(&node)
            .filter_map(|need| self.finished(&need))
            .filter(|file| !is_direct(file))
            .take(MAX_INDIRECT_FILES)
            .collect();
        ContextFiles { direct, indirect }
    }

    fn finished(&self, node: &Node) -> Option<ContextFile> {
        let Node::Task(id) = node else { return None };
        let task = self.task(id)?;
        match (&task.kind, &task.receipt) {
            (TaskKind::File { path, .. }, Some(receipt)) => {
                Some(ContextFile { path: path.clone(), artifact: receipt.artifact.clone() })
            }
            _ => None,
        }
    }
}
