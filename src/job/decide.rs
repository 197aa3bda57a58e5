//! Deciding: a wish in, the events out that grant it, or a refusal.
//!
//! Wishes come from people (approve, cancel, …) and from the coordinator's loop (dispatch, accept, …). Repeating a
//! wish that has been granted yields no events, because commands and results are delivered at least once. Every event
//! decided here can be applied; whoever appends them must apply exactly these, or decide anew after a conflict.

use std::collections::HashSet;
use std::time::Duration;

use super::error::{self, PlanFault, Refusal};
use super::growth::Growth;
use super::task::{Task, TaskStatus, burns_attempt, ends_attempts};
use super::{Approval, Feature, Job, Submission};
use crate::clock::Timestamp;
use crate::error::Coded;
use crate::protocol::{
    ArtifactRef, Event, FailureKind, FeatureId, FeaturePlan, JobOutcome, MicroUsd, Overrun, StrategicPlan, TaskFailure,
    TaskId, TaskKind, TaskOutcome, TaskResult, validate,
};

/// What somebody wants to happen to a job.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a decision is made, taken and gone; none is ever stored in bulk")]
pub enum Decision {
    /// Submit the job.
    Submit(Submission),
    /// Start the next attempt of each of these tasks; all or none.
    Dispatch {
        /// Which.
        tasks: Vec<TaskId>,
    },
    /// Take note of an attempt's result.
    Accept {
        /// What the worker reported.
        result: TaskResult,
        /// What a planning task produced, read from its artifact; none for file tasks and failures.
        product: Option<Product>,
        /// When the next attempt may start, if there has to be one; at once when absent (a parked attempt then waits
        /// as long as the provider asked).
        retry_at: Option<Timestamp>,
    },
    /// Accept the plan.
    Approve,
    /// Start nothing new.
    Pause {
        /// Why a person is asked, if nobody has asked for it.
        reason: Option<String>,
    },
    /// Go on.
    Resume,
    /// Stop for good.
    Cancel {
        /// Why.
        reason: String,
    },
    /// Give a dead task new attempts, and with it all tasks skipped because of it.
    Retry {
        /// Which.
        task: TaskId,
    },
    /// The limit was changed in the ledger.
    BudgetChanged {
        /// The new limit.
        limit: MicroUsd,
    },
    /// Spending passed the warning threshold; recorded once per limit.
    BudgetWarning {
        /// Spent so far.
        spent: MicroUsd,
        /// The limit.
        limit: MicroUsd,
    },
    /// Ask a person to accept the plan.
    RequestApproval {
        /// Expected cost of the remaining work.
        estimate: MicroUsd,
    },
    /// A feature's files were written to the output.
    FeatureCommitted {
        /// Which feature.
        feature: FeatureId,
        /// Number of its files that the output now holds.
        files: u32,
        /// All of them.
        complete: bool,
        /// Git commit id, when the output is a repository.
        commit: Option<String>,
    },
    /// End the job.
    End {
        /// How.
        outcome: JobOutcome,
        /// One sentence.
        reason: String,
    },
}

/// What a planning task produced.
#[derive(Debug, Clone, PartialEq)]
pub enum Product {
    /// The strategic plan and its stored bytes.
    Plan(StrategicPlan, ArtifactRef),
    /// The plan of one feature.
    Feature(FeaturePlan),
}

type Events = Result<Vec<Event>, Refusal>;

impl Job {
    /// The events that grant `decision` at `now`; none when it has been granted already.
    ///
    /// # Errors
    /// [`Refusal`]: why it cannot be granted.
    pub fn decide(&self, decision: Decision, now: Timestamp) -> Events {
        let decision = match decision {
            Decision::Submit(submission) => return self.submit(submission),
            other => other,
        };
        if self.submission.is_none() {
            return Err(Refusal::NotSubmitted);
        }
        match decision {
            Decision::Submit(_) => Err(Refusal::AlreadySubmitted),
            Decision::Dispatch { tasks } => self.dispatch(tasks, now),
            Decision::Accept { result, product, retry_at } => self.accept(result, product, retry_at, now),
            Decision::Approve if self.approval == Approval::Given => Ok(Vec::new()),
            Decision::Approve if self.approval == Approval::NotAsked => Err(Refusal::NothingToApprove),
            Decision::Approve => self.while_open(Event::PlanApproved),
            Decision::Pause { .. } if self.paused => Ok(Vec::new()),
            Decision::Pause { reason } => self.while_open(Event::JobPaused { reason }),
            Decision::Resume => self.resume(),
            Decision::Cancel { reason } => self.finish(JobOutcome::Cancelled, reason),
            Decision::Retry { task } => self.revive(&task),
            Decision::BudgetChanged { limit } if limit == self.budget => Ok(Vec::new()),
            Decision::BudgetChanged { limit } => self.unless_completed(Event::BudgetChanged { limit }),
            Decision::BudgetWarning { limit, .. } if self.budget_warning.is_some_and(|(warned, _)| warned == limit) => {
                Ok(Vec::new())
            }
            Decision::BudgetWarning { spent, limit } => self.unless_completed(Event::BudgetWarning { spent, limit }),
            Decision::RequestApproval { .. } if self.approval != Approval::NotAsked => Ok(Vec::new()),
            Decision::RequestApproval { .. } if !self.approval_due() => Err(Refusal::NothingToApprove),
            Decision::RequestApproval { estimate } => self.while_open(Event::ApprovalRequested { estimate }),
            Decision::FeatureCommitted { feature, files, complete, commit } => {
                self.commit(feature, files, complete, commit)
            }
            Decision::End { outcome, reason } => self.finish(outcome, reason),
        }
    }

    /// Whether `plan` may become the job's strategic plan.
    ///
    /// # Errors
    /// [`PlanFault`], written for the planner.
    pub fn check_strategic_plan(&self, plan: &StrategicPlan) -> Result<(), PlanFault> {
        if let Some(submission) = &self.submission {
            validate::strategic_plan(plan, submission.settings.features)?;
            validate::tasks_fit(plan, submission.settings.tasks_per_feature)?;
        }
        Ok(())
    }

    /// Whether `plan` may become the plan of `feature`: sound in itself, and without a cycle across features.
    ///
    /// # Errors
    /// [`PlanFault`], written for the planner; a cycle is named.
    pub fn check_feature_plan(&self, feature: &FeatureId, plan: &FeaturePlan) -> Result<(), PlanFault> {
        self.sound_growth(feature, plan).map(|_| ())
    }

    fn sound_growth(&self, feature: &FeatureId, plan: &FeaturePlan) -> Result<Growth, PlanFault> {
        if let (Some(submission), Some((whole, _)), Some(&index)) =
            (&self.submission, &self.plan, self.feature_index.get(feature))
        {
            validate::feature_plan(plan, &whole.features[index], whole, submission.settings.tasks_per_feature)?;
        }
        let growth = self.growth_of(feature, plan)?;
        self.graph.check(&growth.nodes, &growth.edges)?;
        Ok(growth)
    }

    fn submit(&self, submission: Submission) -> Events {
        if self.submission.is_some() {
            return Err(Refusal::AlreadySubmitted);
        }
        let Submission { name, proposal, budget, origin, settings } = submission;
        let within = |(fewest, most): (u32, u32)| 1 <= fewest && fewest <= most;
        if settings.max_attempts == 0 {
            return Err(Refusal::Settings("max_attempts is 0; allow at least 1".into()));
        }
        if !within(settings.features) || !within(settings.tasks_per_feature) {
            let why = "the fewest features or tasks must be at least 1 and no more than the most";
            return Err(Refusal::Settings(why.into()));
        }
        Ok(vec![Event::JobSubmitted { name, proposal, budget, origin, settings }])
    }

    fn while_open(&self, event: Event) -> Events {
        match &self.end {
            Some(end) => Err(Refusal::Ended(error::outcome(end.outcome))),
            None => Ok(vec![event]),
        }
    }

    fn unless_completed(&self, event: Event) -> Events {
        match &self.end {
            Some(end) if end.outcome == JobOutcome::Completed => Err(Refusal::Ended(error::outcome(end.outcome))),
            _ => Ok(vec![event]),
        }
    }

    fn dispatch(&self, tasks: Vec<TaskId>, now: Timestamp) -> Events {
        if let Some(end) = &self.end {
            return Err(Refusal::Ended(error::outcome(end.outcome)));
        }
        if self.paused {
            return Err(Refusal::Paused);
        }
        let mut named = HashSet::with_capacity(tasks.len());
        let mut events = Vec::with_capacity(tasks.len());
        for id in tasks {
            let task = self.task(&id).ok_or_else(|| Refusal::UnknownTask(id.clone()))?;
            match task.status {
                TaskStatus::RetryAt { at, .. } if at > now => return Err(Refusal::NotDue { task: id, at }),
                TaskStatus::Ready | TaskStatus::RetryAt { .. } if named.insert(id.clone()) => {}
                status => return Err(Refusal::TaskState { task: id, status: status.as_str(), wanted: "ready" }),
            }
            if task.is_file() && !self.files_allowed() {
                return Err(Refusal::NotApproved);
            }
            events.push(Event::TaskDispatched { task: id, attempt: task.attempt + 1 });
        }
        Ok(events)
    }

    fn accept(
        &self,
        result: TaskResult,
        product: Option<Product>,
        retry_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Events {
        let task = self.task(&result.task).ok_or_else(|| Refusal::UnknownTask(result.task.clone()))?;
        if task.status != (TaskStatus::Dispatched { attempt: result.attempt }) {
            return Ok(Vec::new());
        }
        let mut events: Vec<Event> = result.overrun.map(|overrun| alarm(&result, overrun)).into_iter().collect();
        let receipt = match result.outcome {
            TaskOutcome::Succeeded { ref receipt } => receipt.clone(),
            TaskOutcome::Failed { ref failure } => {
                let failure = failure.clone();
                events.extend(self.failure(task, &result, failure, retry_at, now));
                return Ok(events);
            }
        };
        match self.product_events(task, product)? {
            Err(failure) => {
                events.extend(self.failure(task, &result, failure, retry_at, now));
                Ok(events)
            }
            Ok(mut more) => {
                let duration = result.finished_at.since(result.started_at).as_millis();
                events.push(Event::TaskSucceeded {
                    task: result.task,
                    attempt: result.attempt,
                    receipt,
                    cost: result.cost,
                    usage: result.usage,
                    duration_ms: u64::try_from(duration).unwrap_or(u64::MAX),
                });
                events.append(&mut more);
                Ok(events)
            }
        }
    }

    /// What follows from a plan, or the failure that a bad one amounts to.
    fn product_events(
        &self,
        task: &Task,
        product: Option<Product>,
    ) -> Result<Result<Vec<Event>, TaskFailure>, Refusal> {
        let judged = match (&task.kind, product) {
            (TaskKind::File { .. }, None) => return Ok(Ok(Vec::new())),
            (TaskKind::Plan { .. }, Some(Product::Plan(plan, artifact))) => {
                self.check_strategic_plan(&plan).map(|()| vec![Event::PlanAccepted { plan, artifact }])
            }
            (TaskKind::FeaturePlan { feature, .. }, Some(Product::Feature(plan))) => {
                self.sound_growth(feature, &plan).map(|growth| {
                    let mut events = vec![Event::FeaturePlanned { feature: feature.clone(), plan }];
                    events.extend(self.blocked_in(feature, &growth));
                    events
                })
            }
            _ => return Err(Refusal::ProductMismatch(task.id.clone())),
        };
        Ok(judged.map_err(|fault| TaskFailure::new(FailureKind::Rejected, fault.code(), &fault.to_string())))
    }

    fn failure(
        &self,
        task: &Task,
        result: &TaskResult,
        failure: TaskFailure,
        retry_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Vec<Event> {
        let exhausted =
            ends_attempts(failure.kind) || burns_attempt(failure.kind) && task.failures + 1 >= self.max_attempts();
        let retry_at = match failure.kind {
            FailureKind::Fatal => None,
            _ if exhausted => None,
            FailureKind::Parked => {
                retry_at.or_else(|| failure.retry_after_ms.map(|wait| now.after(Duration::from_millis(wait))))
            }
            _ => retry_at,
        };
        let (kind, reason) = (failure.kind, failure.message.clone());
        let mut events = vec![Event::TaskFailed {
            task: task.id.clone(),
            attempt: result.attempt,
            failure,
            cost: result.cost,
            usage: result.usage,
            retry_at,
        }];
        if exhausted {
            events.push(Event::TaskDead { task: task.id.clone(), reason });
            events.extend(self.skips_below(&task.id));
        } else if kind == FailureKind::Fatal && self.end.is_none() {
            events.push(Event::JobEnded { outcome: JobOutcome::Failed, reason });
        }
        events
    }

    fn resume(&self) -> Events {
        match &self.end {
            Some(end) if end.outcome == JobOutcome::Completed => Err(Refusal::Ended(error::outcome(end.outcome))),
            Some(_) if self.open == 0 && self.commit_ready.is_empty() => Err(Refusal::NothingToResume),
            None if !self.paused && !self.is_put_off() => Ok(Vec::new()),
            _ => Ok(vec![Event::JobResumed]),
        }
    }

    fn commit(&self, feature: FeatureId, files: u32, complete: bool, commit: Option<String>) -> Events {
        let refused = |why| Refusal::Commit { feature: feature.to_string(), why };
        let index = *self.feature_index.get(&feature).ok_or_else(|| refused("there is no such feature"))?;
        let same = self.features[index].commit.as_ref();
        if same.is_some_and(|last| last.files == files && last.complete == complete && last.commit == commit) {
            return Ok(Vec::new());
        }
        self.may_commit(index, files, complete).map_err(refused)?;
        self.unless_completed(Event::FeatureCommitted { feature, files, complete, commit })
    }

    fn finish(&self, outcome: JobOutcome, reason: String) -> Events {
        match &self.end {
            Some(end) if end.outcome == outcome => Ok(Vec::new()),
            Some(end) => Err(Refusal::Ended(error::outcome(end.outcome))),
            None => {
                let refused = |why| Refusal::End { outcome: error::outcome(outcome), why };
                self.may_end(outcome).map_err(refused)?;
                Ok(vec![Event::JobEnded { outcome, reason }])
            }
        }
    }

    pub(super) fn may_commit(&self, index: usize, files: u32, complete: bool) -> Result<(), &'static str> {
        let feature = &self.features[index];
        if feature.commit.as_ref().is_some_and(|commit| commit.complete) {
            Err("all its files are committed")
        } else if files == 0 || files > feature.counts.succeeded {
            Err("the number of files is not between 1 and the number of finished ones")
        } else if complete && files < feature.counts.total {
            Err("some of its files are missing")
        } else {
            Ok(())
        }
    }

    pub(super) fn may_end(&self, outcome: JobOutcome) -> Result<(), &'static str> {
        match outcome {
            JobOutcome::Completed | JobOutcome::CompletedWithWarnings if self.open > 0 => Err("tasks are left"),
            JobOutcome::Completed if self.plan.is_none() || self.totals.all.succeeded < self.totals.all.total => {
                Err("files are missing")
            }
            JobOutcome::Completed if self.features.iter().any(Feature::is_whole) => Err("features are not committed"),
            _ => Ok(()),
        }
    }
}

/// The event that tells people of a call that cost more than it could.
fn alarm(result: &TaskResult, overrun: Overrun) -> Event {
    let Overrun { reserved, charged } = overrun;
    Event::BudgetOverrun { task: result.task.clone(), attempt: result.attempt, reserved, charged }
}
