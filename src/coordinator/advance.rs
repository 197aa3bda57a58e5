//! What a job needs next when no message says so: commits, approval, warnings, its end.
//!
//! Asked after every round and every tick, from the folded job alone, so that it does not matter which message was the
//! last, or whether a leader has just taken over. It stages decisions and must never append or publish by itself.

use std::time::Duration;

use super::running::Running;
use super::{Coordinator, CoordinatorError, CoordinatorOptions, Thrift, recover, slices};
use crate::backend::Backend;
use crate::clock::Timestamp;
use crate::job::{Decision, JobStatus, Task};
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
            self.watch_money(&id, now).await?;
            self.fund_features(&id).await?;
            self.request_approval(&id, now)?;
            if let Some(running) = self.jobs.get_mut(&id) {
                stage_end(&self.backend, &self.options, running, now).await?;
            }
            self.wind_down(&id, now).await?;
            self.start_commit(&id)?;
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
async fn stage_end(
    backend: &Backend,
    options: &CoordinatorOptions,
    running: &mut Running,
    now: Timestamp,
) -> Result<(), CoordinatorError> {
    if matches!(running.job.status(), JobStatus::Ended(_) | JobStatus::Paused | JobStatus::AwaitingApproval)
        || running.committing
    {
        return Ok(());
    }
    if let Some((outcome, reason)) = running.job.natural_end() {
        return running.stage(Decision::End { outcome, reason }, now);
    }
    match out_of_money(running, &options.thrift, now) {
        // Money that was kept for features nobody works on is tried before giving up.
        Some(_) if slices::open_all(backend, &options.instance, &options.estimator, running).await? => Ok(()),
        Some(reason) => running.stage(Decision::End { outcome: JobOutcome::BudgetExhausted, reason }, now),
        None => Ok(()),
    }
}

/// Why money stops the job: nothing runs, nothing waits for a retry, and every ready task was refused or left out.
fn out_of_money(running: &mut Running, thrift: &Thrift, now: Timestamp) -> Option<String> {
    if running.job.in_flight().len() > 0 {
        return None;
    }
    // Refused only because others held reservations at that time: worth another try now that nobody does.
    running.waiting_for_money.clear();
    running.asked_again.clear();
    running.short.retain(|task| running.unaffordable.contains(task));
    if running.job.next_retry_at().is_some() {
        return None;
    }
    running.job.rank();
    let is_left_out = |running: &Running, task: &Task| running.is_left_out(task, thrift);
    if running.unaffordable.is_empty() && !running.job.dispatchable(now).any(|task| is_left_out(running, task)) {
        return None;
    }
    let first = running.paid_first();
    let is_paid_later = |task: &Task| first.is_some_and(|first| running.job.urgency(&task.id) > first);
    let mut ready = running.job.dispatchable(now).peekable();
    ready.peek()?;
    if !ready.all(|task| running.unaffordable.contains(&task.id) || is_left_out(running, task) || is_paid_later(task)) {
        return None;
    }
    let refused = running.unaffordable.iter().filter_map(|id| running.job.task(id)?.last_failure.as_ref());
    let cheapest = refused.filter(|failure| failure.kind == FailureKind::Budget).min_by_key(|failure| failure.needed);
    let left_out = || format!("optional tasks are left out after {} % of the budget", running.spent_percent);
    Some(cheapest.map_or_else(left_out, |failure| failure.message.clone()))
}
