//! One job in the hands of its leader: the folded log, what is staged to be appended, and what only this leader knows.
//!
//! Everything that must survive is in the log. The rest (tasks waiting for money, patience with running calls after an end)
//! is rebuilt by simply running into the same walls again.

use std::collections::HashSet;
use std::sync::Arc;

use super::CoordinatorError;
use super::slices::Funding;
use crate::backend::{Backend, BackendError};
use crate::clock::Timestamp;
use crate::job::{Decision, Job, Task};
use crate::protocol::{Event, JobId, MicroUsd, Priority, TaskId};
use crate::workspace::Workspace;

/// Events read from the log at once.
const PAGE: usize = 1_000;

/// A led job.
pub(super) struct Running {
    pub(super) id: JobId,
    pub(super) job: Job,
    /// Newest sequence in the log.
    seq: u64,
    /// Applied to `job` and not yet appended.
    staged: Vec<Event>,
    /// The output, opened when the first feature is committed.
    pub(super) workspace: Option<Arc<Workspace>>,
    /// A commit is under way.
    pub(super) committing: bool,
    /// Refused for lack of money while other calls held reservations; tried again when one of those is settled.
    pub(super) waiting_for_money: HashSet<TaskId>,
    /// Let go of after such a wait, and not answered yet.
    pub(super) asked_again: HashSet<TaskId>,
    /// Of all those, the ones for which the job's own money was too little, not that of a slice or an agent type.
    pub(super) short: HashSet<TaskId>,
    /// Refused although nothing else was reserved: not affordable until the budget is changed.
    pub(super) unaffordable: HashSet<TaskId>,
    /// Set once the job has ended: running calls that report later than this are not waited for.
    pub(super) gives_up_at: Option<Timestamp>,
    /// Files could not be written; trying again is up to whoever resumes the job.
    pub(super) commit_failed: bool,
    /// The limit for which the spending warning was raised.
    pub(super) warned_at: Option<MicroUsd>,
    /// The limit for which the job was paused because of what is spent.
    pub(super) paused_at: Option<MicroUsd>,
    /// Cost and budget at which the ledger was looked at last; `None` when it has to be looked at in any case.
    pub(super) money_seen_at: Option<(MicroUsd, MicroUsd)>,
    /// What the ledger knew of then that the log did not: calls that were charged without a result.
    pub(super) unlogged: MicroUsd,
    /// Attempts whose worker may have died: by the time they are answered, its calls are charged.
    pub(super) doubtful: HashSet<TaskId>,
    /// What the ledger said then, in percent of the limit.
    pub(super) spent_percent: u64,
    /// Which features may spend.
    pub(super) funding: Funding,
}

impl Running {
    /// Folds the log of `id`; `None` when there is no such job.
    pub(super) async fn load(backend: &Backend, id: &JobId) -> Result<Option<Self>, CoordinatorError> {
        let mut job = Job::new(id.clone());
        let (mut seq, mut warned_at, mut paused_at) = (0, None, None);
        loop {
            let page = backend.events.read(id, seq, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for recorded in page {
                match recorded.event {
                    Event::BudgetWarning { limit, .. } => warned_at = Some(limit),
                    // Somebody has been asked: going on is their answer, for this limit.
                    Event::JobPaused { reason: Some(_) } => paused_at = Some(job.budget()),
                    _ => {}
                }
                job.apply(&recorded.event, recorded.at).map_err(|source| CoordinatorError::Log {
                    job: id.clone(),
                    seq: recorded.seq,
                    source: Box::new(source),
                })?;
                seq = recorded.seq;
            }
        }
        let doubtful = job.in_flight().map(|task| task.id.clone()).collect();
        let running = Self {
            id: id.clone(),
            job,
            seq,
            staged: Vec::new(),
            workspace: None,
            committing: false,
            waiting_for_money: HashSet::new(),
            asked_again: HashSet::new(),
            short: HashSet::new(),
            unaffordable: HashSet::new(),
            gives_up_at: None,
            commit_failed: false,
            warned_at,
            paused_at,
            money_seen_at: None,
            unlogged: MicroUsd::ZERO,
            doubtful,
            spent_percent: 0,
            funding: Funding::default(),
        };
        Ok((seq > 0).then_some(running))
    }

    /// Decides, applies and stages; the events are appended by the next [`Running::flush`].
    pub(super) fn stage(&mut self, decision: Decision, now: Timestamp) -> Result<(), CoordinatorError> {
        let events = self
            .job
            .decide(decision, now)
            .map_err(|refusal| CoordinatorError::Refused { job: self.id.clone(), refusal: Box::new(refusal) })?;
        for event in events {
            self.job.apply(&event, now).map_err(|source| CoordinatorError::Log {
                job: self.id.clone(),
                seq: self.seq + self.staged.len() as u64 + 1,
                source: Box::new(source),
            })?;
            self.staged.push(event);
        }
        Ok(())
    }

    /// Sequence of the newest event in the log.
    pub(super) const fn newest(&self) -> u64 {
        self.seq
    }

    /// Whether there is anything to append.
    pub(super) const fn is_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Appends what is staged, all or nothing.
    pub(super) async fn flush(&mut self, backend: &Backend) -> Result<(), CoordinatorError> {
        if self.staged.is_empty() {
            return Ok(());
        }
        match backend.events.append(&self.id, self.seq, std::mem::take(&mut self.staged)).await {
            Ok(seq) => {
                self.seq = seq;
                Ok(())
            }
            Err(BackendError::Conflict { .. }) => Err(CoordinatorError::Deposed),
            Err(error) => Err(error.into()),
        }
    }

    /// Tasks that lack of money keeps from going out.
    pub(super) fn lacks_money(&self, task: &TaskId) -> bool {
        self.waiting_for_money.contains(task) || self.unaffordable.contains(task)
    }

    /// A worker was lost: what its calls are charged with is in no log.
    pub(super) fn doubt_costs(&mut self) {
        self.money_seen_at = None;
        self.doubtful.extend(self.job.in_flight().map(|task| task.id.clone()));
    }

    /// Lets all tasks that lack money ask for it again: there may be more of it.
    pub(super) fn try_money_again(&mut self) {
        for tasks in [&mut self.waiting_for_money, &mut self.asked_again, &mut self.short, &mut self.unaffordable] {
            tasks.clear();
        }
    }

    /// Lets the most urgent of the tasks that wait for money ask for it again; the others go on waiting for those.
    pub(super) fn release_most_urgent(&mut self) {
        self.job.rank();
        let Some(first) = self.waiting_for_money.iter().map(|id| self.job.urgency(id)).min() else { return };
        let released = self.waiting_for_money.extract_if(|id| self.job.urgency(id) == first);
        self.asked_again.extend(released);
    }

    /// The least urgency that may be paid for at present; `None` when money keeps nothing back. What is less urgent waits while
    /// a more urgent task lacks the job's money, and, once the job has too little for everything, until nothing more urgent is
    /// left to do. What a limit of its own keeps from running holds nobody up. [`Job::rank`] has to be called before.
    pub(super) fn paid_first(&self) -> Option<Priority> {
        let is_open = |id: &&TaskId| self.job.task(id).is_some_and(|task| !task.status.is_over());
        let short = self.short.iter().filter(is_open).map(|id| self.job.urgency(id)).min();
        let is_stuck = |task: &Task| {
            let is_refused = self.unaffordable.contains(&task.id) && !self.short.contains(&task.id);
            is_refused && !task.feature().is_some_and(|feature| self.may_be_opened(feature))
        };
        let front = self.funding.is_tight.then(|| self.job.front(is_stuck)).flatten();
        short.into_iter().chain(front).min()
    }

    /// True when the job has ended and nothing of it is under way any more.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        let Some(gives_up_at) = self.gives_up_at else { return false };
        let is_written = !self.committing && (self.commit_failed || self.job.uncommitted().is_empty());
        is_written && (self.job.in_flight().len() == 0 || now >= gives_up_at)
    }
}
