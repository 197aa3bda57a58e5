//! Claims: who works on an attempt, and what came of it.
//!
//! Acknowledging a message is not fencing (a broker lets a slow worker ack a message that was redelivered to another), so
//! the right to report lives here: one state record per attempt, changed only by compare-and-set. The record's version
//! is the fencing token; whoever takes an attempt over moves it on, and the former holder's next write fails.
//! Claims are counted, because a message that keeps killing its workers must stop somewhere.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::backend::{BackendError, Expected, StateStore, Write, presence};
use crate::clock::{Clock, Timestamp};
use crate::protocol::{InstanceId, JobId, TaskId, TaskMessage, TaskResult};

/// How long a claim lasts without renewal; the same as the delivery's lease, for they are renewed together.
pub const CLAIM_LEASE: Duration = crate::backend::broker::LEASE;

/// Claims of one attempt after which it is given up: the third worker to die with it was one too many.
pub const MAX_CLAIMS: u32 = 3;

/// What the state store holds about an attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct AttemptRecord {
    /// Who holds or held it.
    worker: InstanceId,
    /// How often it was claimed.
    claims: u32,
    /// Until when, unless renewed.
    lease_until: Timestamp,
    /// The outcome, once there is one. From then on the record never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<TaskResult>,
}

/// Answer to [`claim`].
#[derive(Debug)]
pub(super) enum ClaimAnswer {
    /// The attempt is ours to run.
    Granted(Box<Claim>),
    /// It was run before; here is what came of it.
    Done(Box<TaskResult>),
    /// Somebody else is running it.
    HeldBy(InstanceId),
    /// The job was stopped: the attempt must not be run, and needs no report.
    JobStopped,
}

/// The right to run one attempt and to report its outcome.
#[derive(Debug)]
pub(super) struct Claim {
    key: String,
    version: u64,
    record: AttemptRecord,
}

/// Key of the record that stops a job's attempts from being claimed.
#[must_use]
pub fn stop_key(job: &JobId) -> String {
    format!("job-stop/{job}")
}

/// Key of an attempt's record.
fn attempt_key(job: &JobId, task: &TaskId, attempt: u32) -> String {
    format!("attempt/{job}/{task}/{attempt}")
}

/// Whether a result of one of `attempts` is still to come: somebody claimed it and is at work, or has stored the outcome
/// and is about to report it. What nobody ever claimed lies in a queue and, once the job is stopped, stays unanswered.
///
/// # Errors
/// Whatever the state store answers.
pub async fn is_any_claimed(
    state: &dyn StateStore,
    clock: &Clock,
    job: &JobId,
    attempts: &[(TaskId, u32)],
) -> Result<bool, BackendError> {
    let keys: Vec<String> = attempts.iter().map(|(task, attempt)| attempt_key(job, task, *attempt)).collect();
    for entry in state.get(&keys).await?.into_iter().flatten() {
        if let Some(value) = &entry.value {
            let record = decode(&entry.key, value)?;
            if record.outcome.is_some() || record.lease_until > clock.now() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// True while the attempts of `job` must not be claimed.
///
/// # Errors
/// Whatever the state store answers.
pub async fn is_stopped(state: &dyn StateStore, job: &JobId) -> Result<bool, BackendError> {
    let found = state.get(&[stop_key(job)]).await?;
    Ok(found.into_iter().flatten().any(|entry| entry.value.is_some()))
}

/// Claims the attempt of `message` for `worker`.
///
/// # Errors
/// Whatever the state store answers. Losing a race is not an error but [`ClaimAnswer::HeldBy`].
pub(super) async fn claim(
    state: &dyn StateStore,
    clock: &Clock,
    worker: &InstanceId,
    message: &TaskMessage,
) -> Result<ClaimAnswer, BackendError> {
    let key = attempt_key(&message.job, &message.task, message.attempt);
    let mut found = state.get(&[key.clone(), stop_key(&message.job)]).await?;
    let is_stopped = found.pop().flatten().is_some_and(|stop| stop.value.is_some());
    let (expected, claims) =
        match found.pop().flatten().and_then(|entry| entry.value.map(|value| (entry.version, value))) {
            None => (Expected::Absent, 0),
            Some((version, value)) => {
                let record = decode(&key, &value)?;
                if let Some(result) = record.outcome {
                    return Ok(ClaimAnswer::Done(Box::new(result)));
                }
                if record.lease_until > clock.now() && !is_dead(state, &record.worker).await? {
                    return Ok(ClaimAnswer::HeldBy(record.worker));
                }
                (Expected::Version(version), record.claims)
            }
        };
    // Only now: what was paid for is reported even if the job was stopped meanwhile.
    if is_stopped {
        return Ok(ClaimAnswer::JobStopped);
    }
    let record = AttemptRecord {
        worker: worker.clone(),
        claims: claims + 1,
        lease_until: clock.now().after(CLAIM_LEASE),
        outcome: None,
    };
    let write = Write { key: key.clone(), expected, value: Some(encode(&record)?) };
    match state.commit(worker, vec![write]).await {
        Ok(versions) => {
            let version = versions.first().copied().unwrap_or(1);
            Ok(ClaimAnswer::Granted(Box::new(Claim { key, version, record })))
        }
        Err(BackendError::Conflict { .. }) => Ok(ClaimAnswer::HeldBy(worker.clone())),
        Err(error) => Err(error),
    }
}

/// True when some process has found out that `instance` no longer lives.
async fn is_dead(state: &dyn StateStore, instance: &InstanceId) -> Result<bool, BackendError> {
    let found = state.get(&[presence::key(instance)]).await?;
    Ok(found.into_iter().flatten().filter_map(|entry| entry.value).any(|value| presence::is_dead(&value)))
}

impl Claim {
    /// How often the attempt has been claimed, this claim included.
    #[must_use]
    pub(super) const fn claims(&self) -> u32 {
        self.record.claims
    }

    /// Extends the lease.
    ///
    /// # Errors
    /// [`BackendError::Conflict`] when somebody took the attempt over: stop working on it.
    pub(super) async fn renew(&mut self, state: &dyn StateStore, clock: &Clock) -> Result<(), BackendError> {
        self.record.lease_until = clock.now().after(CLAIM_LEASE);
        self.write(state).await
    }

    /// Stores the outcome, once and for all.
    ///
    /// # Errors
    /// [`BackendError::Conflict`] when somebody took the attempt over: their outcome counts, not this one.
    pub(super) async fn complete(&mut self, state: &dyn StateStore, result: &TaskResult) -> Result<(), BackendError> {
        self.record.outcome = Some(result.clone());
        self.write(state).await
    }

    async fn write(&mut self, state: &dyn StateStore) -> Result<(), BackendError> {
        let value = Some(encode(&self.record)?);
        let write = Write { key: self.key.clone(), expected: Expected::Version(self.version), value };
        let versions = state.commit(&self.record.worker, vec![write]).await?;
        self.version = versions.first().copied().unwrap_or(self.version + 1);
        Ok(())
    }
}

fn encode(record: &AttemptRecord) -> Result<Bytes, BackendError> {
    let why = |error: serde_json::Error| BackendError::Invalid { field: "attempt record", why: error.to_string() };
    serde_json::to_vec(record).map(Bytes::from).map_err(why)
}

fn decode(key: &str, value: &[u8]) -> Result<AttemptRecord, BackendError> {
    serde_json::from_slice(value)
        .map_err(|error| BackendError::Corrupt { what: key.to_owned(), why: error.to_string() })
}
