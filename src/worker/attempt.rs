//! One delivery from claim to report.
//!
//! The order is fixed: claim, run, store the outcome in the claim, report, acknowledge. A crash between any two of them
//! repeats only what may be repeated; above all, an outcome that is stored is never paid for a second time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tracing::Instrument as _;

use super::Shared;
use super::claim::{self, Claim, ClaimAnswer, MAX_CLAIMS, attempt_key};
use super::heartbeat::Heartbeat;
use super::report::Report;
use crate::backend::{Backend, BackendError, Delivery, Disposition, Outgoing, Signal};
use crate::clock::Timestamp;
use crate::error::Coded;
use crate::metric;
use crate::protocol::{
    FailureKind, MicroUsd, Overrun, TaskFailure, TaskMessage, TaskOutcome, TaskResult, Usage, validate,
};
use crate::resilience::RetryPolicy;

/// When a message whose attempt somebody else holds is looked at again, the first few times. A dead process is noticed
/// within four seconds, and its work has to go on within five: this is what may be lost of the one between them.
const HELD_DELAY: Duration = Duration::from_millis(500);

/// Looks of which each comes after [`HELD_DELAY`]; later ones wait twice and four times as long, so that a call of ten minutes
/// whose message was published again does not cost a thousand looks.
const QUICK_LOOKS: u32 = 3;

/// How long to leave a message alone that has been delivered `deliveries` times in vain.
fn held_delay(deliveries: u32) -> Duration {
    HELD_DELAY * (1 << deliveries.saturating_sub(QUICK_LOOKS).min(2))
}

/// Attempts to store an outcome before the claim is left to expire.
const STORE_ATTEMPTS: u32 = 8;

/// What running an attempt brought, before it is stored.
pub(super) struct Ran {
    pub(super) outcome: TaskOutcome,
    pub(super) cost: MicroUsd,
    pub(super) usage: Usage,
    /// A call that cost more than its worst case, if one did.
    pub(super) overrun: Option<Overrun>,
}

impl Ran {
    /// A failure that cost nothing.
    pub(super) fn failed(kind: FailureKind, code: &str, message: &str) -> Self {
        let failure = TaskFailure::new(kind, code, message);
        Self { outcome: TaskOutcome::Failed { failure }, cost: MicroUsd::ZERO, usage: Usage::default(), overrun: None }
    }
}

/// Processes one delivery. Errors end in a redelivery or a dead letter, never in a lost message.
pub(super) async fn process(shared: &Shared, delivery: Delivery) {
    let backend = &shared.backend;
    let decoded = validate::decode_envelope::<TaskMessage>(&delivery.body, backend.clock.now()).and_then(|envelope| {
        validate::task_message(&envelope.payload).map(|()| (envelope.payload, envelope.created_at))
    });
    let (message, published_at) = match decoded {
        Ok(decoded) => decoded,
        Err(error) => {
            tracing::error!(%error, queue = %delivery.queue, "a message that is not a task goes to the dead letters");
            return dispose(shared, delivery, Disposition::DeadLetter(error.to_string())).await;
        }
    };
    let span = tracing::info_span!("attempt", job = %message.job, task = %message.task, attempt = message.attempt);
    handle(shared, delivery, message, published_at).instrument(span).await;
}

async fn handle(shared: &Shared, delivery: Delivery, message: TaskMessage, published_at: Timestamp) {
    let backend = &shared.backend;
    let later = Disposition::RetryLater(held_delay(delivery.deliveries));
    let Some(_entered) = shared.underway.enter(attempt_key(&message.job, &message.task, message.attempt)) else {
        tracing::debug!("attempt is held by another slot of this worker");
        return dispose(shared, delivery, later).await;
    };
    match claim::claim(backend.state.as_ref(), &backend.clock, &shared.options.instance, &message).await {
        Ok(ClaimAnswer::Granted(claim)) => {
            if delivery.deliveries == 1 {
                metric::picked_up(message.agent.as_str(), backend.clock.now().since(published_at));
            }
            run(shared, delivery, message, *claim).await;
        }
        Ok(ClaimAnswer::Done(result)) => shared.reporter.report(Report { result: *result, tag: delivery.tag }).await,
        Ok(ClaimAnswer::HeldBy(holder)) => {
            tracing::debug!(%holder, "attempt is held by another worker");
            dispose(shared, delivery, later).await;
        }
        Ok(ClaimAnswer::JobStopped) => dispose(shared, delivery, Disposition::Ack).await,
        Err(error) => {
            metric::store_failed(error.store());
            tracing::warn!(%error, "cannot claim; the message comes back");
            dispose(shared, delivery, later).await;
        }
    }
}

async fn run(shared: &Shared, delivery: Delivery, message: TaskMessage, claim: Claim) {
    let backend = &shared.backend;
    let started_at = backend.clock.now();
    let claims = claim.claims();
    let claim = Arc::new(Mutex::new(claim));
    let counted = metric::RunningTask::start(message.agent.as_str());
    let ran = if claims > MAX_CLAIMS {
        let text = format!("{} processes died while working on this task", claims - 1);
        bury(shared, &delivery, &message, &text).await;
        Ran::failed(FailureKind::Lost, "CS-WORKER-003", &text)
    } else {
        tracing::debug!(agent = %message.agent, claims, "claimed");
        let running = shared.stops.enter(&message.job);
        let cancel = running.token.clone();
        let heartbeat = Heartbeat::start(backend.clone(), Arc::clone(&claim), delivery.tag.clone(), cancel.clone());
        let ran = shared.executor.execute(&message, &shared.options.instance, claims, &cancel).await;
        drop((heartbeat, running));
        ran
    };
    drop(counted);
    if ran.overrun.is_some() {
        stop_the_others(backend).await;
    }
    let result = TaskResult {
        job: message.job,
        task: message.task,
        attempt: message.attempt,
        worker: shared.options.instance.clone(),
        started_at,
        finished_at: Timestamp::max(backend.clock.now(), started_at),
        usage: ran.usage,
        cost: ran.cost,
        overrun: ran.overrun,
        outcome: reportable(ran.outcome),
    };
    metric::task_ended(message.agent.as_str(), outcome_name(&result.outcome), result.finished_at.since(started_at));
    if store(shared, &mut *claim.lock().await, &result).await {
        shared.reporter.report(Report { result, tag: delivery.tag }).await;
    }
}

/// Cuts running calls off, as `budget freeze` does: a call has cost more than was possible, so nothing is known about theirs.
async fn stop_the_others(backend: &Backend) {
    if let Err(error) = backend.broker.signal(Signal::Freeze).await {
        // Every worker looks at what is frozen by itself.
        tracing::warn!(%error, "the others were not told that spending is frozen");
    }
}

/// Puts a message that kills its workers among the dead letters, where a person can look at it. The message itself is
/// acknowledged once the failure is reported; doing this twice, or after a crash again, leaves one letter.
async fn bury(shared: &Shared, delivery: &Delivery, message: &TaskMessage, reason: &str) {
    let letter = Outgoing {
        queue: delivery.queue.clone(),
        dedupe: format!("{}:{}:{}", message.job, message.task, message.attempt),
        body: delivery.body.clone(),
    };
    if let Err(error) = shared.backend.broker.dead_letter(vec![(letter, reason.to_owned())]).await {
        // The failure is in the job's log all the same; the letter is only for looking at.
        tracing::warn!(%error, "a poisonous message could not be put among the dead letters");
    }
}

/// The outcome as a label.
const fn outcome_name(outcome: &TaskOutcome) -> &'static str {
    match outcome {
        TaskOutcome::Succeeded { .. } => "succeeded",
        TaskOutcome::Failed { failure } => match failure.kind {
            FailureKind::Rejected => "rejected",
            FailureKind::Transient => "transient",
            FailureKind::Parked => "parked",
            FailureKind::Budget => "budget",
            FailureKind::Lost => "lost",
            FailureKind::Exhausted => "exhausted",
            FailureKind::Fatal => "fatal",
            FailureKind::Cancelled => "cancelled",
        },
    }
}

/// Longest failure message reported, in characters; what the protocol accepts is twice as much.
const MAX_FAILURE_CHARACTERS: usize = 4_000;

/// The outcome with a failure's words within the bounds of the protocol: they come from providers and models.
fn reportable(mut outcome: TaskOutcome) -> TaskOutcome {
    if let TaskOutcome::Failed { failure } = &mut outcome {
        let is_plain = |c: &char| matches!(c, '\n' | '\t') || !c.is_control();
        let text: String = failure.message.chars().filter(is_plain).take(MAX_FAILURE_CHARACTERS).collect();
        failure.message = if text.trim().is_empty() { "no reason was given".into() } else { text };
    }
    outcome
}

/// Stores the outcome in the claim. False when the attempt belongs to somebody else by now, or the store stays away:
/// then there is nothing to report, and redelivery decides.
async fn store(shared: &Shared, claim: &mut Claim, result: &TaskResult) -> bool {
    for attempt in 1..=STORE_ATTEMPTS {
        match claim.complete(shared.backend.state.as_ref(), result).await {
            Ok(()) => return true,
            Err(BackendError::Conflict { .. }) => {
                tracing::warn!(task = %result.task, "another worker has taken this attempt over; its outcome counts");
                return false;
            }
            Err(error) if error.retry().is_retryable() => {
                metric::store_failed(error.store());
                tracing::warn!(%error, attempt, "outcome not stored yet");
                tokio::time::sleep(RetryPolicy::store().delay(attempt)).await;
            }
            Err(error) => {
                tracing::error!(%error, task = %result.task, "outcome cannot be stored");
                return false;
            }
        }
    }
    false
}

async fn dispose(shared: &Shared, delivery: Delivery, disposition: Disposition) {
    if let Err(error) = shared.backend.broker.dispose(vec![(delivery.tag, disposition)]).await {
        // The lease ends by itself, and the message is delivered again.
        tracing::warn!(%error, "a delivery could not be disposed of");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_message_is_looked_at_often_at_first_and_never_less_than_every_two_seconds() {
        let delays: Vec<u64> =
            [1, 2, 3, 4, 5, 6, u32::MAX].map(|n| held_delay(n).as_millis().try_into().unwrap()).into();
        assert_eq!(delays, [500, 500, 500, 1_000, 2_000, 2_000, 2_000]);
    }
}
