//! Handing a job in, and sending commands to it.
//!
//! The proposal is stored and the limit set before the first event, so that no crash leaves a job without a budget. The
//! job is in the log before anybody is told of it: a lost command only delays it until the next leader looks.

use bytes::Bytes;

use super::CoordinatorError;
use super::lead::Leadership;
use crate::backend::{Adjustment, Backend, BackendError, Outgoing, Queue, Scope};
use crate::clock;
use crate::job::{self, Decision, Job};
use crate::protocol::{
    Command, CommandMessage, Envelope, InstanceId, JobId, JobSettings, MessageKind, MicroUsd, Origin, Recipient,
};

/// A proposal with everything that was chosen for it.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The job's id, chosen beforehand so that its output could be checked.
    pub job: JobId,
    /// Name shown to people.
    pub name: String,
    /// The proposal's text.
    pub proposal: String,
    /// The job's limit.
    pub budget: MicroUsd,
    /// The job's ceiling for tokens of models that cost nothing; `None` for no ceiling.
    pub free_tokens: Option<u64>,
    /// Where replies come from.
    pub origin: Origin,
    /// Output and plan limits.
    pub settings: JobSettings,
}

/// Records a job and tells the coordinators. The limit is set before the job exists, so it can never run without one.
///
/// # Errors
/// Store errors; the job then does not exist, or exists and waits for a coordinator.
pub async fn submit(
    backend: &Backend,
    instance: &InstanceId,
    submission: Submission,
) -> Result<JobId, CoordinatorError> {
    let id = submission.job;
    let proposal = backend.artifacts.put(Bytes::from(submission.proposal)).await?;
    let scope = Scope::Job(id.clone());
    let limit = Adjustment::SetLimit(Some(submission.budget));
    backend.ledger.adjust(&format!("{id}:submit:limit"), &scope, limit).await?;
    let hold_back = submission.budget.percent(submission.settings.hold_back_percent);
    if hold_back > MicroUsd::ZERO {
        let hold_back = Adjustment::HoldBack(hold_back);
        backend.ledger.adjust(&format!("{id}:submit:hold-back"), &scope, hold_back).await?;
    }
    if let Some(tokens) = submission.free_tokens {
        let ceiling = Adjustment::SetLimit(Some(MicroUsd(tokens)));
        backend.ledger.adjust(&format!("{id}:submit:tokens"), &Scope::JobTokens(id.clone()), ceiling).await?;
    }
    let decision = Decision::Submit(job::Submission {
        name: submission.name,
        proposal,
        budget: submission.budget,
        origin: submission.origin,
        settings: submission.settings,
    });
    let events = Job::new(id.clone())
        .decide(decision, backend.clock.now())
        .map_err(|refusal| CoordinatorError::Refused { job: id.clone(), refusal: Box::new(refusal) })?;
    backend.events.append(&id, 0, events).await?;
    command(backend, instance, &id, Command::Start).await?;
    Ok(id)
}

/// Sends a command to whoever leads the job.
///
/// # Errors
/// Store errors.
pub async fn command(
    backend: &Backend,
    instance: &InstanceId,
    job: &JobId,
    command: Command,
) -> Result<(), CoordinatorError> {
    let request = clock::unique_id();
    let payload = CommandMessage { request: request.clone(), job: job.clone(), command };
    let envelope = Envelope::new(
        MessageKind::Command,
        instance.clone(),
        Recipient::Broadcast,
        job.to_string(),
        backend.clock.now(),
        payload,
    );
    let body = serde_json::to_vec(&envelope)
        .map_err(|error| BackendError::Invalid { field: "command", why: error.to_string() })?;
    let queue = Queue::Command { shard: 0 };
    backend.broker.publish(vec![Outgoing { queue, dedupe: request, body: Bytes::from(body) }]).await?;
    Ok(())
}

/// Fails while another coordinator leads these stores, so that a job is not even recorded in that case.
///
/// # Errors
/// [`CoordinatorError::NotLeader`]; store errors.
pub async fn refuse_if_led(backend: &Backend, instance: &InstanceId) -> Result<(), CoordinatorError> {
    let leadership = Leadership::acquire(backend, instance).await?;
    leadership.resign(backend).await;
    Ok(())
}
