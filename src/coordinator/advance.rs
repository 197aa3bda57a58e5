//! What a job needs next when no message says so: commits, approval, warnings, its end.

use std::time::Duration;

use super::running::{Ending, Running};
use super::{Coordinator, CoordinatorError, recover};
use crate::backend::Scope;
use crate::clock::Timestamp;
use crate::job::{Decision, JobStatus};
use crate::protocol::{FailureKind, JobId, JobOutcome};

/// How long a job that has nothing left to start waits for attempts that never report.
const END_GRACE: Duration = Duration::from_secs(3_600);

impl Coordinator {
    /// Looks after every led job once.
    pub(super) async fn advance(&mut self) -> Result<(), CoordinatorError> {
        let now = self.backend.clock.now();
        let ids: Vec<JobId> = self.jobs.keys().cloned().collect();
        for id in ids {
            self.warn(&id, now).await?;
            self.request_approval(&id, now)?;
            if let Some(running) = self.jobs.get_mut(&id) {
                note_end(running, now);
            }
            self.start_commit(&id)?;
            self.end(&id, now).await?;
        }
        Ok(())
    }

    /// Raises the spending warning once.
    async fn warn(&mut self, id: &JobId, now: Timestamp) -> Result<(), CoordinatorError> {
        let Some(running) = self.jobs.get_mut(id) else { return Ok(()) };
        let cost = running.job.cost().0;
        if running.warned || cost == running.balance_seen_at {
            return Ok(());
        }
        running.balance_seen_at = cost;
        let balance = self.backend.ledger.balance(&Scope::Job(id.clone())).await?;
        let Some(limit) = balance.limit else { return Ok(()) };
        if balance.spent >= limit.percent(self.options.warn_percent) {
            running.warned = true;
            running.stage(Decision::BudgetWarning { spent: balance.spent, limit }, now)?;
        }
        Ok(())
    }

    /// Asks a person once all plans are in.
    fn request_approval(&mut self, id: &JobId, now: Timestamp) -> Result<(), CoordinatorError> {
        let Some(running) = self.jobs.get_mut(id) else { return Ok(()) };
        if running.job.approval_due() {
            let estimate = self.options.estimator.remaining(&running.job);
            running.stage(Decision::RequestApproval { estimate }, now)?;
        }
        Ok(())
    }

    /// Records the end once the last calls are in and partial results are written.
    async fn end(&mut self, id: &JobId, now: Timestamp) -> Result<(), CoordinatorError> {
        let Some(running) = self.jobs.get_mut(id) else { return Ok(()) };
        let Some(ending) = &running.ending else { return Ok(()) };
        let waits_for_calls = running.job.in_flight().len() > 0 && now < ending.deadline;
        if waits_for_calls || running.committing || !running.job.uncommitted().is_empty() {
            return Ok(());
        }
        let (outcome, reason) = (ending.outcome, ending.reason.clone());
        running.stage(Decision::End { outcome, reason }, now)?;
        if outcome != JobOutcome::Completed {
            // Messages of this job may still lie in queues; nobody shall pay for them before it is resumed.
            recover::set_stop(&self.backend, &self.options.instance, id, Some("ended")).await?;
        }
        Ok(())
    }

    /// Lets go of jobs whose end has been logged.
    pub(super) fn drop_ended(&mut self) {
        self.jobs.retain(|_, running| !matches!(running.job.status(), JobStatus::Ended(_)));
    }
}

/// Finds out whether the job is coming to an end by itself.
fn note_end(running: &mut Running, now: Timestamp) {
    if running.ending.is_some() || matches!(running.job.status(), JobStatus::Paused | JobStatus::AwaitingApproval) {
        return;
    }
    let deadline = now.after(END_GRACE);
    if let Some(reason) = running.fatal.clone() {
        running.ending = Some(Ending { outcome: JobOutcome::Failed, reason, deadline });
    } else if let Some((outcome, reason)) = running.job.natural_end() {
        running.ending = Some(Ending { outcome, reason, deadline });
    } else if let Some(reason) = out_of_money(running, now) {
        running.ending = Some(Ending { outcome: JobOutcome::BudgetExhausted, reason, deadline });
    }
}

/// Why money stops the job: nothing runs, nothing waits for a retry, and every ready task was refused.
fn out_of_money(running: &mut Running, now: Timestamp) -> Option<String> {
    if running.unaffordable.is_empty() || running.job.in_flight().len() > 0 || running.job.next_retry_at().is_some() {
        return None;
    }
    // Refused only because others held reservations at that time: worth another try now that nobody does.
    running.waiting_for_money.clear();
    let mut ready = running.job.dispatchable(now).peekable();
    ready.peek()?;
    if !ready.all(|task| running.unaffordable.contains(&task.id)) {
        return None;
    }
    let refused = running.unaffordable.iter().filter_map(|id| running.job.task(id)?.last_failure.as_ref());
    let cheapest = refused.filter(|failure| failure.kind == FailureKind::Budget).min_by_key(|failure| failure.needed)?;
    Some(cheapest.message.clone())
}
