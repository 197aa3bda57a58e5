//! Folding: one event in, the job one step further.
//!
//! Every event first passes the table of what may happen when (DESIGN §5), then its own conditions, and only then
//! changes anything: a refused event leaves the job as it was. No condition compares times, because clocks differ
//! between the processes that wrote the log, and a log that was accepted once must be accepted for ever.

use super::error::{self, IllegalTransition, PlanFault};
use super::growth::{self, Growth};
use super::task::{Node, Task, TaskStatus, burns_attempt, ends_attempts};
use super::{Approval, Commit, Counts, End, Feature, Job, Submission};
use crate::clock::Timestamp;
use crate::graph::GraphError;
use crate::protocol::{
    ArtifactRef, Event, FailureKind, FeatureId, FeaturePlan, JobOutcome, MicroUsd, Overrun, StrategicPlan, TaskFailure,
    TaskId, TaskKind, Usage,
};

/// Why an event cannot be applied.
type Why = String;

impl Job {
    /// Applies one recorded event.
    ///
    /// # Errors
    /// [`IllegalTransition`] when the event cannot follow those before it; the job is then unchanged.
    pub fn apply(&mut self, event: &Event, at: Timestamp) -> Result<(), IllegalTransition> {
        self.permits(event).and_then(|()| self.fold(event, at)).map_err(|why| IllegalTransition::new(event, why))
    }

    /// The table of what may happen when, as far as the whole job is concerned.
    fn permits(&self, event: &Event) -> Result<(), Why> {
        if self.submission.is_some() == matches!(event, Event::JobSubmitted { .. }) {
            return Err("submission is the first event, and only the first".into());
        }
        let Some(end) = &self.end else { return Ok(()) };
        let forbidden = match event {
            // In-flight results still arrive and were paid; people may prepare a resumption.
            Event::TaskSucceeded { .. }
            | Event::TaskFailed { .. }
            | Event::TaskDead { .. }
            | Event::TaskSkipped { .. }
            | Event::TaskRevived { .. }
            | Event::PlanAccepted { .. }
            | Event::FeaturePlanned { .. }
            | Event::FeatureCommitted { .. }
            | Event::BudgetWarning { .. }
            | Event::BudgetOverrun { .. }
            | Event::BudgetChanged { .. }
            | Event::JobResumed => end.outcome == JobOutcome::Completed,
            Event::JobSubmitted { .. }
            | Event::TaskDispatched { .. }
            | Event::ApprovalRequested { .. }
            | Event::PlanApproved
            | Event::JobPaused { .. }
            | Event::JobEnded { .. } => true,
        };
        if forbidden { Err(format!("the job has ended ({})", error::outcome(end.outcome))) } else { Ok(()) }
    }

    fn fold(&mut self, event: &Event, at: Timestamp) -> Result<(), Why> {
        match event {
            Event::JobSubmitted { name, proposal, budget, origin, settings } => {
                let (name, proposal, budget) = (name.clone(), proposal.clone(), *budget);
                let (origin, settings) = (origin.clone(), settings.clone());
                self.submitted(Submission { name, proposal, budget, origin, settings }, at)
            }
            Event::TaskDispatched { task, attempt } => self.dispatched(task, *attempt, at),
            Event::TaskSucceeded { task, attempt, receipt, cost, usage, duration_ms } => {
                let at = self.in_flight_as(task, *attempt)?;
                self.charge(at, *cost, *usage);
                self.tasks[at].receipt = Some(receipt.clone());
                self.tasks[at].duration_ms = *duration_ms;
                self.worked_ms = self.worked_ms.saturating_add(*duration_ms);
                self.succeed(at);
                Ok(())
            }
            Event::TaskFailed { task, attempt, failure, cost, usage, retry_at } => {
                self.failed(task, *attempt, failure, (*cost, *usage), *retry_at)?;
                self.note_parking(task, failure.kind, at);
                Ok(())
            }
            Event::TaskDead { task, .. } => {
                let at = self.expect(task, TaskStatus::Exhausted)?;
                self.set_status(at, TaskStatus::Dead);
                Ok(())
            }
            Event::TaskSkipped { task, because } => self.skipped(task, because),
            Event::TaskRevived { task } => self.revived(task),
            Event::PlanAccepted { plan, artifact } => self.plan_accepted(plan, artifact),
            Event::FeaturePlanned { feature, plan } => self.feature_planned(feature, plan),
            Event::ApprovalRequested { .. } => {
                self.step_approval(self.approval_due(), Approval::Asked, "approval is not due")
            }
            Event::PlanApproved => {
                self.step_approval(self.approval == Approval::Asked, Approval::Given, "nobody was asked")
            }
            Event::FeatureCommitted { feature, files, complete, commit } => {
                self.committed(feature, Commit { files: *files, complete: *complete, commit: commit.clone() })
            }
            Event::BudgetWarning { spent, limit } => {
                self.budget_warning = Some((*limit, *spent));
                Ok(())
            }
            Event::BudgetOverrun { task, reserved, charged, .. } => {
                self.find(task)?;
                self.overruns.push((task.clone(), Overrun { reserved: *reserved, charged: *charged }));
                Ok(())
            }
            Event::BudgetChanged { limit } => {
                self.budget = *limit;
                Ok(())
            }
            Event::JobPaused { .. } if self.paused => Err("it is paused already".into()),
            Event::JobPaused { reason } => {
                (self.paused, self.pause_reason) = (true, reason.clone());
                Ok(())
            }
            Event::JobResumed => self.resumed(),
            Event::JobEnded { outcome, reason } => self.ended(*outcome, reason, at),
        }
    }

    fn resumed(&mut self) -> Result<(), Why> {
        if !self.paused && self.end.is_none() && !self.is_put_off() {
            return Err("it is neither paused nor over, and no provider keeps it waiting".into());
        }
        (self.paused, self.pause_reason) = (false, None);
        self.end = None;
        // Nobody asked the provider meanwhile, and whoever resumes wants it asked now.
        self.tasks.iter_mut().for_each(|task| task.parked_since = None);
        for at in self.put_off().collect::<Vec<_>>() {
            self.set_status(at, TaskStatus::Ready);
        }
        Ok(())
    }

    fn submitted(&mut self, submission: Submission, at: Timestamp) -> Result<(), Why> {
        if submission.settings.max_attempts == 0 {
            return Err("max_attempts is 0".into());
        }
        self.grow(growth::of_submission(&submission.settings)).map_err(|error| error.to_string())?;
        self.totals.all.total = 1;
        self.budget = submission.budget;
        self.submitted_at = at;
        self.submission = Some(submission);
        Ok(())
    }

    fn dispatched(&mut self, task: &TaskId, attempt: u32, at: Timestamp) -> Result<(), Why> {
        let index = self.find(task)?;
        let found = &self.tasks[index];
        if !matches!(found.status, TaskStatus::Ready | TaskStatus::RetryAt { .. }) {
            return Err(format!("task {task} is {}, not ready", found.status.as_str()));
        }
        if attempt != found.attempt + 1 {
            return Err(format!("task {task} has had {} attempts, the next is not number {attempt}", found.attempt));
        }
        if self.paused {
            return Err("the job is paused".into());
        }
        if found.is_file() && !self.files_allowed() {
            return Err("the plan has not been approved".into());
        }
        self.file_work_began |= found.is_file();
        self.tasks[index].attempt = attempt;
        self.tasks[index].dispatched_at = Some(at);
        self.set_status(index, TaskStatus::Dispatched { attempt });
        Ok(())
    }

    fn failed(
        &mut self,
        task: &TaskId,
        attempt: u32,
        failure: &TaskFailure,
        (cost, usage): (MicroUsd, Usage),
        retry_at: Option<Timestamp>,
    ) -> Result<(), Why> {
        let at = self.in_flight_as(task, attempt)?;
        let failures = self.tasks[at].failures + u32::from(burns_attempt(failure.kind));
        let exhausted = ends_attempts(failure.kind) || burns_attempt(failure.kind) && failures >= self.max_attempts();
        let status = match retry_at {
            Some(_) if exhausted || failure.kind == FailureKind::Fatal => {
                return Err(format!("task {task} has no attempt left, yet the event names a time for the next one"));
            }
            Some(at) => TaskStatus::RetryAt { next_attempt: attempt + 1, at },
            None if exhausted => TaskStatus::Exhausted,
            None => TaskStatus::Ready,
        };
        self.charge(at, cost, usage);
        self.tasks[at].failures = failures;
        self.tasks[at].failed_calls = self.tasks[at].failed_calls.saturating_add(failure.failed_calls);
        self.tasks[at].last_failure = Some(failure.clone());
        self.set_status(at, status);
        Ok(())
    }

    /// Keeps since when a task waits for its provider. A transient failure ends nothing: the provider still has not
    /// answered; a reply that was refused does, and so does everything that has nothing to do with the provider.
    fn note_parking(&mut self, task: &TaskId, kind: FailureKind, at: Timestamp) {
        let Some(&index) = self.task_index.get(task) else { return };
        let since = &mut self.tasks[index].parked_since;
        match kind {
            FailureKind::Parked => *since = since.or(Some(at)),
            FailureKind::Transient => {}
            _ => *since = None,
        }
    }

    fn skipped(&mut self, task: &TaskId, because: &TaskId) -> Result<(), Why> {
        let at = self.expect(task, TaskStatus::Waiting)?;
        self.expect(because, TaskStatus::Dead)?;
        self.tasks[at].blocked_by = Some(because.clone());
        self.set_status(at, TaskStatus::Skipped);
        Ok(())
    }

    fn revived(&mut self, task: &TaskId) -> Result<(), Why> {
        let at = self.expect(task, TaskStatus::Dead)?;
        self.tasks[at].failures = 0;
        self.tasks[at].failed_calls = 0;
        self.tasks[at].parked_since = None;
        self.set_status(at, TaskStatus::Ready);
        for other in self.skipped_because(task).collect::<Vec<_>>() {
            self.tasks[other].blocked_by = None;
            self.set_status(other, TaskStatus::Waiting);
        }
        Ok(())
    }

    fn plan_accepted(&mut self, plan: &StrategicPlan, artifact: &ArtifactRef) -> Result<(), Why> {
        self.expect(&TaskId::plan(), TaskStatus::Succeeded)?;
        let Some(submission) = self.submission.as_ref().filter(|_| self.plan.is_none()) else {
            return Err("there is a plan already".into());
        };
        self.grow(growth::of_strategy(plan, &submission.settings)).map_err(|error| error.to_string())?;
        for (index, feature) in plan.features.iter().enumerate() {
            let total = u32::try_from(feature.files.len()).unwrap_or(u32::MAX);
            let counts = Counts { total, ..Counts::default() };
            self.totals.all.total += 1 + total;
            self.totals.files.total += total;
            self.feature_index.insert(feature.id.clone(), index);
            self.features.push(Feature { tasks: Vec::new(), counts, planned: false, commit: None });
        }
        self.plan = Some((plan.clone(), artifact.clone()));
        self.complete(Node::Task(TaskId::plan()));
        Ok(())
    }

    fn feature_planned(&mut self, feature: &FeatureId, plan: &FeaturePlan) -> Result<(), Why> {
        self.expect(&TaskId::feature_plan(feature), TaskStatus::Succeeded)?;
        let index = self.find_feature(feature)?;
        if self.features[index].planned {
            return Err(format!("feature {feature} is planned already"));
        }
        let growth = self.growth_of(feature, plan).map_err(|error| error.to_string())?;
        let first = self.tasks.len();
        self.grow(growth).map_err(|error| error.to_string())?;
        self.features[index].planned = true;
        self.features[index].tasks = (first..self.tasks.len()).collect();
        self.complete(Node::Task(TaskId::feature_plan(feature)));
        Ok(())
    }

    fn step_approval(&mut self, legal: bool, next: Approval, why: &str) -> Result<(), Why> {
        if !legal {
            return Err(why.into());
        }
        self.approval = next;
        Ok(())
    }

    fn committed(&mut self, feature: &FeatureId, commit: Commit) -> Result<(), Why> {
        let index = self.find_feature(feature)?;
        self.may_commit(index, commit.files, commit.complete)?;
        if commit.complete {
            self.commit_ready.remove(&index);
            self.totals.features_complete += 1;
        }
        self.features[index].commit = Some(commit);
        Ok(())
    }

    fn ended(&mut self, outcome: JobOutcome, reason: &str, at: Timestamp) -> Result<(), Why> {
        self.may_end(outcome)?;
        (self.paused, self.pause_reason) = (false, None);
        self.end = Some(End { outcome, reason: reason.to_owned(), at });
        Ok(())
    }

    /// What a feature's plan adds, if its shape fits the job.
    pub(super) fn growth_of(&self, feature: &FeatureId, plan: &FeaturePlan) -> Result<Growth, PlanFault> {
        let unknown = || GraphError::Unknown { node: feature.to_string(), need: "a strategic plan with it".into() };
        let (whole, _) = self.plan.as_ref().ok_or_else(unknown)?;
        let index = *self.feature_index.get(feature).ok_or_else(unknown)?;
        growth::of_feature(&whole.features[index], plan, whole)
    }

    fn grow(&mut self, growth: Growth) -> Result<(), GraphError> {
        self.graph.extend(growth.nodes, &growth.edges)?;
        self.ranks.outdate();
        for task in growth.tasks {
            let at = self.tasks.len();
            self.open += 1;
            self.planning += usize::from(!task.is_file());
            self.task_index.insert(task.id.clone(), at);
            let ready = self.graph.is_ready(&Node::Task(task.id.clone()));
            self.tasks.push(task);
            if ready {
                self.set_status(at, TaskStatus::Ready);
            }
        }
        Ok(())
    }

    /// A file is complete once its artifact is stored; a plan only once it has been accepted, see [`Event::PlanAccepted`].
    fn succeed(&mut self, at: usize) {
        self.set_status(at, TaskStatus::Succeeded);
        if self.tasks[at].is_file() {
            self.complete(Node::Task(self.tasks[at].id.clone()));
        }
    }

    /// Completes a node, and every virtual node that lacks nothing any more.
    fn complete(&mut self, node: Node) {
        let mut pending = vec![node];
        while let Some(node) = pending.pop() {
            for freed in self.graph.complete(&node) {
                match &freed {
                    Node::Task(task) => {
                        if let Some(&at) = self.task_index.get(task) {
                            self.set_status(at, TaskStatus::Ready);
                        }
                    }
                    Node::FeatureDone(_) | Node::File(_) => pending.push(freed),
                }
            }
        }
    }

    fn charge(&mut self, at: usize, cost: MicroUsd, usage: Usage) {
        let task = &mut self.tasks[at];
        task.cost = task.cost.saturating_add(cost);
        task.usage = task.usage.plus(usage);
        self.cost = self.cost.saturating_add(cost);
        self.usage = self.usage.plus(usage);
    }

    /// The only place where a status changes: keeps every set and counter in step.
    fn set_status(&mut self, at: usize, new: TaskStatus) {
        let old = std::mem::replace(&mut self.tasks[at].status, new);
        if (old == TaskStatus::Ready) != (new == TaskStatus::Ready) {
            self.note_rank(at, new == TaskStatus::Ready);
        }
        match old {
            TaskStatus::Ready => self.ready.remove(&at),
            TaskStatus::Dispatched { .. } => self.in_flight.remove(&at),
            TaskStatus::RetryAt { at: due, .. } => self.retrying.remove(&(due, at)),
            _ => false,
        };
        match new {
            TaskStatus::Ready => self.ready.insert(at),
            TaskStatus::Dispatched { .. } => self.in_flight.insert(at),
            TaskStatus::RetryAt { at: due, .. } => self.retrying.insert((due, at)),
            _ => false,
        };
        self.tally(at, old, new);
    }

    fn tally(&mut self, at: usize, old: TaskStatus, new: TaskStatus) {
        let task: &Task = &self.tasks[at];
        let is_file = task.is_file();
        let feature = match &task.kind {
            TaskKind::File { feature, .. } => self.feature_index.get(feature).copied(),
            TaskKind::Plan { .. } | TaskKind::FeaturePlan { .. } => None,
        };
        let files = is_file.then_some(&mut self.totals.files);
        let of_feature = feature.map(|index| &mut self.features[index].counts);
        for counts in [Some(&mut self.totals.all), files, of_feature].into_iter().flatten() {
            if let Some(count) = counts.slot(old) {
                *count -= 1;
            }
            if let Some(count) = counts.slot(new) {
                *count += 1;
            }
        }
        let over = |is_over: bool, count: &mut usize| if is_over { *count -= 1 } else { *count += 1 };
        if old.is_over() != new.is_over() {
            over(new.is_over(), &mut self.open);
            if !is_file {
                over(new.is_over(), &mut self.planning);
            }
        }
        if let Some(index) = feature.filter(|&index| self.features[index].is_whole()) {
            self.commit_ready.insert(index);
        }
    }

    fn find(&self, task: &TaskId) -> Result<usize, Why> {
        self.task_index.get(task).copied().ok_or_else(|| format!("there is no task {task}"))
    }

    fn find_feature(&self, feature: &FeatureId) -> Result<usize, Why> {
        self.feature_index.get(feature).copied().ok_or_else(|| format!("there is no feature {feature}"))
    }

    fn expect(&self, task: &TaskId, status: TaskStatus) -> Result<usize, Why> {
        let at = self.find(task)?;
        let found = self.tasks[at].status;
        if found == status {
            Ok(at)
        } else {
            Err(format!("task {task} is {}, not {}", found.as_str(), status.as_str()))
        }
    }

    fn in_flight_as(&self, task: &TaskId, attempt: u32) -> Result<usize, Why> {
        self.expect(task, TaskStatus::Dispatched { attempt }).map_err(|why| format!("{why} as attempt {attempt}"))
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
