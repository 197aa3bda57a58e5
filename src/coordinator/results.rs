//! What results and commands mean for a job.
//!
//! Nothing is believed because a worker says so: plans are read back from the artifact store, parsed and validated again
//! before they become part of a job, for a worker may be of another version, or not ours at all.

use std::time::Duration;

use super::running::Running;
use super::{Coordinator, CoordinatorError, deliver, measure, recover};
use crate::backend::{Backend, BackendError, Scope, Signal};
use crate::clock::Timestamp;
use crate::job::{Decision, JobStatus, Product};
use crate::protocol::{
    ArtifactRef, Command, CommandMessage, FailureKind, JobId, MicroUsd, ProtocolError, TaskFailure, TaskKind,
    TaskOutcome, TaskResult,
};
use crate::resilience::RetryPolicy;

/// Outer error: the coordinator cannot go on. Inner error: the message is not worth anything.
pub(super) type Outcome = Result<Result<(), ProtocolError>, CoordinatorError>;

impl Coordinator {
    /// Stages what follows from a result. Results of jobs not led here are skipped: their claims keep them.
    pub(super) async fn handle_result(&mut self, result: TaskResult) -> Outcome {
        let Some(running) = self.jobs.get_mut(&result.job) else { return Ok(Ok(())) };
        let now = self.backend.clock.now();
        let Some(task) = running.job.task(&result.task) else {
            let why = format!("job {} has no task {}", result.job, result.task);
            return Ok(Err(ProtocolError::field("task", why)));
        };
        let (kind, failures, parked_since) = (task.kind.clone(), task.failures, task.parked_since);
        let result = bounded_parking(result, parked_since, self.options.longest_parking, now);
        let (result, product) = match &result.outcome {
            TaskOutcome::Succeeded { receipt } => {
                let artifact = receipt.artifact.clone();
                match read_product(&self.backend, &kind, &artifact).await? {
                    Ok(product) => (result, product),
                    Err(why) => (rejected(result, &why), None),
                }
            }
            TaskOutcome::Failed { .. } => (result, None),
        };
        let retry_at = retry_at(&result, failures, parked_since, &self.options.retry, now);
        note_money(&self.backend, running, &result).await?;
        running.note_pressure(&result);
        if running.doubtful.remove(&result.task) {
            running.money_seen_at = None;
        }
        let (job, task) = (result.job.clone(), result.task.clone());
        running.stage(Decision::Accept { result, product, retry_at }, now)?;
        if let Some(running) = self.jobs.get(&job)
            && let Some(letter) = measure::letter(self, running, &task)?
        {
            self.letters.push(letter);
        }
        Ok(Ok(()))
    }

    /// Stages what follows from a person's command. What the job's state does not allow is logged and dropped: the
    /// command line checks before it sends, so this is a race that the state has already answered.
    pub(super) async fn handle_command(&mut self, message: CommandMessage) -> Outcome {
        let id = message.job;
        let resumes = matches!(message.command, Command::Start | Command::Resume | Command::RetryTask { .. });
        if !self.jobs.contains_key(&id) && resumes && self.leads(&id) {
            return self.wake(&id, message.command).await.map(Ok);
        }
        if !self.jobs.contains_key(&id) {
            return self.record_elsewhere(&id, message.command).await.map(Ok);
        }
        let now = self.backend.clock.now();
        if matches!(message.command, Command::Cancel { .. }) {
            // First the durable record, so that nothing new is claimed; then the hint, so that what runs stops at once.
            recover::set_stop(&self.backend, &self.options.instance, &id, Some("cancelled")).await?;
            self.backend.broker.signal(Signal::CancelJob { job: id.clone() }).await?;
        }
        let Some(running) = self.jobs.get_mut(&id) else { return Ok(Ok(())) };
        let is_over = |running: &Running| matches!(running.job.status(), JobStatus::Ended(_));
        let was_over = is_over(running);
        apply_command(running, message.command, now)?;
        if was_over && !is_over(running) {
            self.go_on(&id).await?;
        }
        Ok(Ok(()))
    }

    /// Records a command to a job that this leader does not work on: it is the only one who may.
    async fn record_elsewhere(&self, id: &JobId, command: Command) -> Result<(), CoordinatorError> {
        match deliver::record(&self.backend, &self.options.instance, id, command).await {
            Err(error @ (CoordinatorError::Refused { .. } | CoordinatorError::UnknownJob { .. })) => {
                tracing::warn!(%error, "command refused");
                Ok(())
            }
            other => other,
        }
    }

    fn leads(&self, id: &JobId) -> bool {
        match &self.options.lead {
            super::Lead::All => true,
            super::Lead::Only(only) => only == id,
        }
    }

    /// Leads a job that was submitted or resumed after this coordinator started.
    async fn wake(&mut self, id: &JobId, command: Command) -> Result<(), CoordinatorError> {
        let Some(mut running) = Running::load(&self.backend, id).await? else {
            tracing::warn!(job = %id, "a command names a job that does not exist");
            return Ok(());
        };
        let now = self.backend.clock.now();
        apply_command(&mut running, command, now)?;
        recover::set_stop(&self.backend, &self.options.instance, id, None).await?;
        running.flush(&self.backend).await?;
        self.publish_again(&running).await?;
        self.jobs.insert(id.clone(), running);
        Ok(())
    }
}

/// Stages what a command asks of the job's state. Whoever resumes a job that is over because tasks ran out of attempts
/// gives those tasks new ones, whichever process leads it.
///
/// # Errors
/// [`CoordinatorError::Refused`] when the job's state does not allow it.
pub(super) fn obey(running: &mut Running, command: Command, now: Timestamp) -> Result<(), CoordinatorError> {
    match decision(command) {
        None => Ok(()),
        Some(Decision::Resume) => recover::resume(running, now),
        Some(decision) => running.stage(decision, now),
    }
}

/// What a command asks of the job's state; nothing for one that only says where to look.
fn decision(command: Command) -> Option<Decision> {
    Some(match command {
        Command::Start => return None,
        Command::Cancel { reason } => Decision::Cancel { reason },
        Command::Approve => Decision::Approve,
        Command::Pause => Decision::Pause { reason: None },
        Command::Resume => Decision::Resume,
        Command::RetryTask { task } => Decision::Retry { task },
        Command::BudgetChanged { limit } => Decision::BudgetChanged { limit },
    })
}

fn apply_command(running: &mut Running, command: Command, now: Timestamp) -> Result<(), CoordinatorError> {
    running.try_money_again();
    match obey(running, command, now) {
        Err(CoordinatorError::Refused { job, refusal }) => {
            tracing::warn!(%job, %refusal, "command refused");
            Ok(())
        }
        other => other,
    }
}

/// Reads a planning task's product back; the job itself judges whether the plan is acceptable. The inner error says
/// what is wrong with it, for the planner to mend.
async fn read_product(
    backend: &Backend,
    kind: &TaskKind,
    artifact: &ArtifactRef,
) -> Result<Result<Option<Product>, String>, CoordinatorError> {
    if matches!(kind, TaskKind::File { .. }) {
        return Ok(Ok(None));
    }
    let bytes = match backend.artifacts.get(artifact).await {
        Ok(bytes) => bytes,
        Err(error @ (BackendError::NotFound { .. } | BackendError::Corrupt { .. })) => {
            return Ok(Err(error.to_string()));
        }
        Err(error) => return Err(error.into()),
    };
    let parsed = match kind {
        TaskKind::Plan { .. } => serde_json::from_slice(&bytes).map(|plan| Product::Plan(plan, artifact.clone())),
        _ => serde_json::from_slice(&bytes).map(Product::Feature),
    };
    Ok(parsed.map(Some).map_err(|error| error.to_string()))
}

/// The same result as a refused attempt: what it cost stays.
pub(super) fn rejected(mut result: TaskResult, why: &str) -> TaskResult {
    let failure = TaskFailure::new(FailureKind::Rejected, "CS-COORD-007", why);
    result.outcome = TaskOutcome::Failed { failure };
    result
}

/// The same result as a failed attempt when the provider has kept the task waiting for too long: attempts are bounded, and so
/// the waiting is. Where all calls of the attempt were refused it is the last one, or the two loops would multiply.
fn bounded_parking(mut result: TaskResult, since: Option<Timestamp>, longest: Duration, now: Timestamp) -> TaskResult {
    let TaskOutcome::Failed { failure } = &mut result.outcome else { return result };
    let asked = Duration::from_millis(failure.retry_after_ms.unwrap_or_default());
    if asked > longest {
        failure.retry_after_ms = Some(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX));
        let (asked, longest) = (asked.as_secs(), longest.as_secs());
        let message = format!(
            "the provider asks to be left alone for {asked} s and is asked again after job.longest_parking_seconds = {longest}: {}",
            failure.message
        );
        failure.message = TaskFailure::new(failure.kind, &failure.code, &message).message;
    }
    let waited = since.map_or(Duration::ZERO, |since| now.since(since));
    if failure.kind == FailureKind::Parked && waited >= longest {
        let was_told_when = failure.retry_after_ms.take().is_some();
        failure.kind = if was_told_when { FailureKind::Transient } else { FailureKind::Exhausted };
        let (waited, longest) = (waited.as_secs(), longest.as_secs());
        failure.message = format!(
            "the provider has kept this task waiting for {waited} s, more than job.longest_parking_seconds = {longest}: {}",
            failure.message
        );
    }
    result
}

/// The longest pause between two rounds of calls to a provider that does not say when to come back.
const LONGEST_PAUSE: Duration = Duration::from_secs(240);

/// When the task may go out again; `None` when it may not, or may at once.
fn retry_at(
    result: &TaskResult,
    failures: u32,
    parked_since: Option<Timestamp>,
    retry: &RetryPolicy,
    now: Timestamp,
) -> Option<Timestamp> {
    let TaskOutcome::Failed { failure } = &result.outcome else { return None };
    let named = failure.retry_after_ms.map(Duration::from_millis);
    match failure.kind {
        FailureKind::Rejected | FailureKind::Transient | FailureKind::Lost => {
            Some(now.after(retry.delay(failures + 1).max(named.unwrap_or_default())))
        }
        FailureKind::Parked => {
            Some(now.after(named.unwrap_or_else(|| pause(parked_since.map(|since| now.since(since)), retry))))
        }
        FailureKind::Budget | FailureKind::Cancelled | FailureKind::Fatal | FailureKind::Exhausted => None,
    }
}

/// How long a task stays away from a provider that has refused all calls of a round for nothing: as long again as it has
/// waited already, with jitter, so that pauses double.
fn pause(waited: Option<Duration>, retry: &RetryPolicy) -> Duration {
    let longest = LONGEST_PAUSE.max(retry.max_delay);
    let first_delay = waited.unwrap_or_default().clamp(retry.max_delay, longest);
    RetryPolicy { first_delay, max_delay: longest, ..*retry }.delay(1)
}

/// Keeps track of which tasks money keeps from running.
async fn note_money(backend: &Backend, running: &mut Running, result: &TaskResult) -> Result<(), CoordinatorError> {
    running.asked_again.remove(&result.task);
    running.short.remove(&result.task);
    let refused = match &result.outcome {
        TaskOutcome::Failed { failure } if failure.kind == FailureKind::Budget => Some(failure.needed),
        _ => None,
    };
    let Some(needed) = refused else {
        // A settled call has given back the rest of its reservation.
        running.release_most_urgent();
        return Ok(());
    };
    if let Some(needed) = needed.filter(|needed| *needed > MicroUsd::ZERO) {
        let available = backend.ledger.balance(&Scope::Job(running.id.clone())).await?.available();
        if available.is_some_and(|available| available < needed) {
            running.short.insert(result.task.clone());
        }
    }
    if running.job.in_flight().any(|task| task.id != result.task) {
        running.waiting_for_money.insert(result.task.clone());
    } else {
        running.unaffordable.insert(result.task.clone());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_provider_keeps_a_task_away_for_longer_than_the_longest_parking() {
        let mut failure = TaskFailure::new(FailureKind::Parked, "CS-LLM-003", "the provider answered 429");
        failure.retry_after_ms = Some(86_400_000);
        let result = TaskResult {
            job: JobId::new("j").unwrap(),
            task: crate::protocol::TaskId::plan(),
            attempt: 1,
            worker: crate::protocol::InstanceId::new("w").unwrap(),
            started_at: Timestamp(1),
            finished_at: Timestamp(2),
            usage: crate::protocol::Usage::default(),
            cost: MicroUsd::ZERO,
            overrun: None,
            outcome: TaskOutcome::Failed { failure },
        };
        let bounded = bounded_parking(result, None, Duration::from_secs(3_600), Timestamp(2));
        let TaskOutcome::Failed { failure } = &bounded.outcome else { unreachable!() };
        assert_eq!((failure.kind, failure.retry_after_ms), (FailureKind::Parked, Some(3_600_000)));
        assert!(failure.message.contains("86400 s") && failure.message.contains("= 3600"), "{}", failure.message);
        let due = retry_at(&bounded, 0, None, &RetryPolicy::default(), Timestamp(2));
        assert_eq!(due, Some(Timestamp(2).after(Duration::from_secs(3_600))));
    }

    #[test]
    fn pauses_grow_with_what_was_waited_and_stay_within_bounds() {
        let retry = RetryPolicy { max_delay: Duration::from_secs(30), jitter: 0.0, ..RetryPolicy::default() };
        let pauses = [None, Some(0), Some(31), Some(62), Some(3_000)];
        let pauses = pauses.map(|waited| pause(waited.map(Duration::from_secs), &retry).as_secs());
        assert_eq!(pauses, [30, 30, 31, 62, 240]);
        let quick = RetryPolicy { max_delay: Duration::from_millis(5), ..retry };
        assert_eq!(pause(None, &quick), Duration::from_millis(5));
    }
}
