//! One delivery from claim to report.
//!
//! The order is fixed: claim, run, store the outcome in the claim, report, acknowledge. A crash between any two of them
//! repeats only what may be repeated; above all, an outcome that is stored is never paid for a second time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::Shared;
use super::claim::{self, Claim, ClaimAnswer, MAX_CLAIMS};
use super::heartbeat::Heartbeat;
use super::report::Report;
use crate::backend::{BackendError, Delivery, Disposition};
use crate::clock::Timestamp;
use crate::error::Coded;
use crate::protocol::{FailureKind, MicroUsd, TaskFailure, TaskMessage, TaskOutcome, TaskResult, Usage, validate};
use crate::resilience::RetryPolicy;

/// When a message whose attempt somebody else holds is looked at again.
const HELD_DELAY: Duration = Duration::from_secs(5);

/// Attempts to store an outcome before the claim is left to expire.
const STORE_ATTEMPTS: u32 = 8;

/// What running an attempt brought, before it is stored.
pub(super) struct Ran {
    pub(super) outcome: TaskOutcome,
    pub(super) cost: MicroUsd,
    pub(super) usage: Usage,
}

impl Ran {
    /// A failure that cost nothing.
    pub(super) fn failed(kind: FailureKind, code: &str, message: &str) -> Self {
        let failure = TaskFailure::new(kind, code, message);
        Self { outcome: TaskOutcome::Failed { failure }, cost: MicroUsd::ZERO, usage: Usage::default() }
    }
}

/// Processes one delivery. Errors end in a redelivery or a dead letter, never in a lost message.
pub(super) async fn process(shared: &Shared, delivery: Delivery) {
    let backend = &shared.backend;
    let decoded = validate::decode_envelope::<TaskMessage>(&delivery.body, backend.clock.now())
        .and_then(|envelope| validate::task_message(&envelope.payload).map(|()| envelope.payload));
    let message = match decoded {
        Ok(message) => message,
        Err(error) => {
            tracing::error!(%error, queue = %delivery.queue, "a message that is not a task goes to the dead letters");
            return dispose(shared, delivery, Disposition::DeadLetter(error.to_string())).await;
        }
    };
    match claim::claim(backend.state.as_ref(), &backend.clock, &shared.options.instance, &message).await {
        Ok(ClaimAnswer::Granted(claim)) => run(shared, delivery, message, *claim).await,
        Ok(ClaimAnswer::Done(result)) => shared.reporter.report(Report { result: *result, tag: delivery.tag }).await,
        Ok(ClaimAnswer::HeldBy(holder)) => {
            tracing::debug!(%holder, task = %message.task, "attempt is held by another worker");
            dispose(shared, delivery, Disposition::RetryLater(HELD_DELAY)).await;
        }
        Ok(ClaimAnswer::JobStopped) => dispose(shared, delivery, Disposition::Ack).await,
        Err(error) => {
            tracing::warn!(%error, task = %message.task, "cannot claim; the message comes back");
            dispose(shared, delivery, Disposition::RetryLater(HELD_DELAY)).await;
        }
    }
}

async fn run(shared: &Shared, delivery: Delivery, message: TaskMessage, claim: Claim) {
    let backend = &shared.backend;
    let started_at = backend.clock.now();
    let claims = claim.claims();
    let claim = Arc::new(Mutex::new(claim));
    let ran = if claims > MAX_CLAIMS {
        let text = format!("{} processes died while working on this task", claims - 1);
        Ran::failed(FailureKind::Lost, "CS-WORKER-003", &text)
    } else {
        let cancel = shared.stops.token(&message.job);
        let heartbeat = Heartbeat::start(backend.clone(), Arc::clone(&claim), delivery.tag.clone(), cancel.clone());
        let ran = shared.executor.execute(&message, &shared.options.instance, claims, &cancel).await;
        drop(heartbeat);
        ran
    };
    let result = TaskResult {
        job: message.job,
        task: message.task,
        attempt: message.attempt,
        worker: shared.options.instance.clone(),
        started_at,
        finished_at: Timestamp::max(backend.clock.now(), started_at),
        usage: ran.usage,
        cost: ran.cost,
        outcome: reportable(ran.outcome),
    };
    if store(shared, &mut *claim.lock().await, &result).await {
        shared.reporter.report(Report { result, tag: delivery.tag }).await;
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
