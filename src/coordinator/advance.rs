//! What a job needs next when no message says so: commits, approval, warnings, its end.
//!
//! Asked after every round and every tick, from the folded job alone, so that it does not matter which message was the
//! last, or whether a leader has just taken over. It stages decisions and must never append or publish by itself.

use std::time::Duration;

use super::running::Running;
use super::{Coordinator, CoordinatorError, recover};
use crate::backend::Scope;
use crate::clock::Timestamp;
use crate::job::{Decision, JobStatus};
use crate::protocol::{FailureKind, JobId, JobOutcome, TaskId};
use crate::worker;

/// How long a cancelled job waits for its running calls to report what they cost.
const CANCEL_GRACE: Duration = Duration::from_secs(2);

/// The same for jobs that ended in any other way: their calls run to their own end.
const END_GRACE: Duration = Duration::from_secs(900);

impl Coordinator {
    /// Looks after every led job once.
    pub(super) async fn advance(&mut self) -> Result<(), CoordinatorError> {
        let now = self.backend.clock.now();
        let ids: Vec<JobId> = self.jobs.keys().cloned().collect();
        for id in ids {
            self.warn(&id, now).await?;
            self.request_approval(&id, now)?;
            if let Some(running) = self.jobs.get_mut(&id) {
                stage_end(running, now)?;
            }
            self.wind_down(&id, now).await?;
            self.start_commit(&id)?;
        }
        Ok(())
    }

    /// Raises the spending warning once.
    async fn warn(&mut self, id: &JobId, now: Timestamp) -> Result<(), CoordinatorError> {
        let Some(running) = self.jobs.get_mut(id) else { return Ok(()) };
        let cost = running.job.cost().0;
        // The ledger knows of more than the log (calls that never reported), but hardly of more than a tenth of the budget.
        let near = running.job.budget().percent(self.options.warn_percent.saturating_sub(10)).0;
        if running.warned || cost == running.balance_seen_at || cost < near {
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

    /// Winds an ended job down: partial results are written, running calls report what they cost, and messages that still
    /// lie in queues are not paid for before somebody resumes the job.
    async fn wind_down(&mut self, id: &JobId, now: Timestamp) -> Result<(), CoordinatorError> {
        let Some(running) = self.jobs.get_mut(id) else { return Ok(()) };
        let JobStatus::Ended(outcome) = running.job.status() else { return Ok(()) };
        if running.gives_up_at.is_none() {
            let patience = if outcome == JobOutcome::Cancelled { CANCEL_GRACE } else { END_GRACE };
            running.gives_up_at = Some(now.after(patience));
            if outcome != JobOutcome::Completed {
                recover::set_stop(&self.backend, &self.options.instance, id, Some("ended")).await?;
            }
        } else if running.job.in_flight().len() > 0 && running.gives_up_at > Some(now) {
            let attempts: Vec<(TaskId, u32)> =
                running.job.in_flight().map(|task| (task.id.clone(), task.attempt)).collect();
            if !worker::is_any_claimed(self.backend.state.as_ref(), &self.backend.clock, id, &attempts).await? {
                running.gives_up_at = Some(now);
            }
        }
        Ok(())
    }

    /// Lets go of jobs that have ended and are wound down.
    pub(super) async fn drop_ended(&mut self) {
        let now = self.backend.clock.now();
        for (id, running) in self.jobs.extract_if(.., |_, running| running.is_over(now)) {
            if let Some(workspace) = running.workspace
                && let Err(error) = workspace.finish().await
            {
                // The files are all there; what is left behind is an empty stage.
                tracing::warn!(job = %id, %error, "the output could not be tidied up");
            }
        }
    }
}

/// Ends the job if it is over by itself.
fn stage_end(running: &mut Running, now: Timestamp) -> Result<(), CoordinatorError> {
    if matches!(running.job.status(), JobStatus::Ended(_) | JobStatus::Paused | JobStatus::AwaitingApproval)
        || running.committing
    {
        return Ok(());
    }
    let end = running
        .job
        .natural_end()
        .or_else(|| out_of_money(running, now).map(|reason| (JobOutcome::BudgetExhausted, reason)));
    match end {
        Some((outcome, reason)) => running.stage(Decision::End { outcome, reason }, now),
        None => Ok(()),
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
    let cheapest =
        refused.filter(|failure| failure.kind == FailureKind::Budget).min_by_key(|failure| failure.needed)?;
    Some(cheapest.message.clone())
}
