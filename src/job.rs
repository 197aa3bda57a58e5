//! The job: a state machine that is nothing but the fold of its events (DESIGN §5).
//!
//! [`Job::apply`] folds one recorded fact, [`Job::decide`] answers a wish with the facts to record, and the read side
//! ([`Job::dispatchable`], [`Job::leading`], [`Job::totals`], …) answers questions. Status is derived from facts instead of being stored,
//! so it cannot contradict them. Each event costs O(what it touches): ready, running and retrying tasks are kept in
//! sets, rollups in counters.
//!
//! Besides tasks, the dependency graph holds two kinds of virtual nodes, completed by the fold as soon as nothing is
//! missing: a feature as a whole and each planned file. They exist from the strategic plan on, so that a plan may
//! depend on files whose tasks are not known yet.
//!
//! This room must never read a clock, a store or a random number: replaying a log must always give an equal job.

mod apply;
mod decide;
mod error;
mod fallout;
mod growth;
mod rank;
mod task;
mod view;

use std::collections::{BTreeSet, HashMap};

pub use decide::{Decision, Product};
pub use error::{IllegalTransition, PlanFault, Refusal};
pub use task::{Counts, Node, Task, TaskStatus};
pub use view::{Commit, ContextFiles, FeatureRollup, JobStatus, Totals};

use self::rank::Ranks;
use crate::clock::Timestamp;
use crate::graph::Graph;
use crate::protocol::{
    ArtifactRef, FeatureId, JobId, JobOutcome, JobSettings, MicroUsd, Origin, Overrun, RecordedEvent, StrategicPlan,
    TaskId, Usage,
};

/// What was handed over at submission; never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// Name shown to people.
    pub name: String,
    /// The proposal's text.
    pub proposal: ArtifactRef,
    /// The budget at submission; [`Job::budget`] is the current one.
    pub budget: MicroUsd,
    /// Where replies come from.
    pub origin: Origin,
    /// Everything else that was chosen.
    pub settings: JobSettings,
}

/// One job, as far as its events have been applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    id: JobId,
    submission: Option<Submission>,
    submitted_at: Timestamp,
    budget: MicroUsd,
    plan: Option<(StrategicPlan, ArtifactRef)>,
    features: Vec<Feature>,
    feature_index: HashMap<FeatureId, usize>,
    /// Tasks in the order they came into being; other fields name them by position.
    tasks: Vec<Task>,
    task_index: HashMap<TaskId, usize>,
    graph: Graph<Node>,
    ready: BTreeSet<usize>,
    /// The same in the order in which they should go out.
    ranks: Ranks,
    in_flight: BTreeSet<usize>,
    retrying: BTreeSet<(Timestamp, usize)>,
    commit_ready: BTreeSet<usize>,
    totals: Totals,
    cost: MicroUsd,
    usage: Usage,
    worked_ms: u64,
    /// Tasks that are neither succeeded nor dead nor skipped, and how many of them plan.
    open: usize,
    planning: usize,
    file_work_began: bool,
    approval: Approval,
    /// The limit for which a budget warning was recorded, and what was spent then.
    budget_warning: Option<(MicroUsd, MicroUsd)>,
    /// Calls that cost more than their worst case, and the tasks that made them.
    overruns: Vec<(TaskId, Overrun)>,
    paused: bool,
    /// Why a person is asked, while it is paused for that.
    pause_reason: Option<String>,
    end: Option<End>,
}

/// A feature of the accepted plan; same position as in [`StrategicPlan::features`].
#[derive(Debug, Clone, PartialEq)]
struct Feature {
    /// Its file tasks; empty until it is planned.
    tasks: Vec<usize>,
    counts: Counts,
    planned: bool,
    commit: Option<Commit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Approval {
    NotAsked,
    Asked,
    Given,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    outcome: JobOutcome,
    reason: String,
    at: Timestamp,
}

impl Job {
    /// A job of which nothing is known yet; its first event must be its submission.
    #[must_use]
    pub fn new(id: JobId) -> Self {
        Self {
            id,
            submission: None,
            submitted_at: Timestamp::default(),
            budget: MicroUsd::ZERO,
            plan: None,
            features: Vec::new(),
            feature_index: HashMap::new(),
            tasks: Vec::new(),
            task_index: HashMap::new(),
            graph: Graph::default(),
            ready: BTreeSet::new(),
            ranks: Ranks::default(),
            in_flight: BTreeSet::new(),
            retrying: BTreeSet::new(),
            commit_ready: BTreeSet::new(),
            totals: Totals::default(),
            cost: MicroUsd::ZERO,
            usage: Usage::default(),
            worked_ms: 0,
            open: 0,
            planning: 0,
            file_work_began: false,
            approval: Approval::NotAsked,
            budget_warning: None,
            overruns: Vec::new(),
            paused: false,
            pause_reason: None,
            end: None,
        }
    }

    /// The job that a whole log describes.
    ///
    /// # Errors
    /// The first event that is not legal where it stands.
    pub fn replay<'a>(id: JobId, log: impl IntoIterator<Item = &'a RecordedEvent>) -> Result<Self, IllegalTransition> {
        let mut job = Self::new(id);
        for recorded in log {
            job.apply(&recorded.event, recorded.at)?;
        }
        Ok(job)
    }
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod tests;
