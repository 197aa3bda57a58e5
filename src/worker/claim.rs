//! Claims: who works on an attempt, and what came of it.
//!
//! Acknowledging a message is not fencing (a broker lets a slow worker ack a message that was redelivered to another), so
//! the right to report lives here: one state record per attempt, changed only by compare-and-set. The record's version
//! is the fencing token; whoever takes an attempt over moves it on, and the former holder's next write fails.
//! Claims are counted, because a message that keeps killing its workers must stop somewhere.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::backend::{BackendError, Condition, Expected, StateStore, Write, presence};
use crate::clock::{Clock, Timestamp};
use crate::protocol::{InstanceId, JobId, TaskId, TaskMessage, TaskResult};

/// How long a claim lasts without renewal. Processes that die are noticed long before by their presence; this only catches
/// one whose process lives and whose heartbeat does not.
pub const CLAIM_LEASE: Duration = Duration::from_secs(30);

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
pub(super) fn attempt_key(job: &JobId, task: &TaskId, attempt: u32) -> String {
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

/// Claims the attempt of `message` for `worker`, which must not be at work on it already (see [`super::underway`]).
///
/// The first claim of an attempt, which is nearly always the only one, takes one step: the write goes through only if
/// nobody has claimed the attempt before and the job is not stopped. Only when that is refused are the records read.
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
    let stop = stop_key(&message.job);
    let not_stopped = Condition { key: stop.clone(), expected: Expected::Absent };
    let first = AttemptRecord::new(worker, 1, clock);
    match write(state, &key, vec![not_stopped], Expected::Absent, first).await {
        Err(BackendError::Conflict { .. }) => {}
        granted => return granted.map(ClaimAnswer::granted),
    }
    let mut found = state.get(&[key.clone(), stop]).await?;
    let is_stopped = found.pop().flatten().is_some_and(|stop| stop.value.is_some());
    let (expected, claims) =
        match found.pop().flatten().and_then(|entry| entry.value.map(|value| (entry.version, value))) {
            None => (Expected::Absent, 0),
            Some((version, value)) => {
                let record = decode(&key, &value)?;
                if let Some(result) = record.outcome {
                    return Ok(ClaimAnswer::Done(Box::new(result)));
                }
                // A claim of our own that nobody here works on is one whose answer was lost on the way.
                let is_orphan = record.worker == *worker;
                if record.lease_until > clock.now() && !is_orphan && !is_dead(state, &record.worker).await? {
                    return Ok(ClaimAnswer::HeldBy(record.worker));
                }
                (Expected::Version(version), record.claims)
            }
        };
    // Only now: what was paid for is reported even if the job was stopped meanwhile.
    if is_stopped {
        return Ok(ClaimAnswer::JobStopped);
    }
    let next = AttemptRecord::new(worker, claims + 1, clock);
    match write(state, &key, Vec::new(), expected, next).await {
        Err(BackendError::Conflict { .. }) => Ok(ClaimAnswer::HeldBy(worker.clone())),
        granted => granted.map(ClaimAnswer::granted),
    }
}

/// Writes a claim's record.
async fn write(
    state: &dyn StateStore,
    key: &str,
    conditions: Vec<Condition>,
    expected: Expected,
    record: AttemptRecord,
) -> Result<Claim, BackendError> {
    let write = Write { key: key.to_owned(), expected, value: Some(encode(&record)?) };
    let versions = state.commit_if(&record.worker, conditions, vec![write]).await?;
    Ok(Claim { key: key.to_owned(), version: versions.first().copied().unwrap_or(1), record })
}

/// True when some process has found out that `instance` no longer lives.
async fn is_dead(state: &dyn StateStore, instance: &InstanceId) -> Result<bool, BackendError> {
    let found = state.get(&[presence::key(instance)]).await?;
    Ok(found.into_iter().flatten().filter_map(|entry| entry.value).any(|value| presence::is_dead(&value)))
}

impl ClaimAnswer {
    fn granted(claim: Claim) -> Self {
        Self::Granted(Box::new(claim))
    }
}

impl AttemptRecord {
    /// The record of a claim made now.
    fn new(worker: &InstanceId, claims: u32, clock: &Clock) -> Self {
        Self { worker: worker.clone(), claims, lease_until: clock.now().after(CLAIM_LEASE), outcome: None }
    }
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

    /// Writes the record over the version it was read or written at.
    async fn write(&mut self, state: &dyn StateStore) -> Result<(), BackendError> {
        match self.put(state).await {
            Err(BackendError::Conflict { .. }) if self.catch_up(state).await? => self.put(state).await,
            other => other,
        }
    }

    async fn put(&mut self, state: &dyn StateStore) -> Result<(), BackendError> {
        let write = Write {
            key: self.key.clone(),
            expected: Expected::Version(self.version),
            value: Some(encode(&self.record)?),
        };
        let versions = state.commit(&self.record.worker, vec![write]).await?;
        self.version = versions.first().copied().unwrap_or(self.version + 1);
        Ok(())
    }

    /// Learns the record's version again; false when the claim is somebody else's by now. A write of ours whose answer was
    /// lost has moved the version on; taking that for a takeover would throw away what is being paid for.
    async fn catch_up(&mut self, state: &dyn StateStore) -> Result<bool, BackendError> {
        let found = state.get(std::slice::from_ref(&self.key)).await?.pop().flatten();
        let Some((version, value)) = found.and_then(|entry| Some((entry.version, entry.value?))) else {
            return Ok(false);
        };
        let record = decode(&self.key, &value)?;
        self.version = version;
        // Every takeover counts the claims up, so these two name one claim.
        Ok(record.worker == self.record.worker && record.claims == self.record.claims)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::embedded::{self, Durability};
    use crate::protocol::{FailureKind, MicroUsd, TaskFailure, TaskOutcome, Usage};

    async fn stores(directory: &std::path::Path, name: &str) -> (crate::backend::Backend, InstanceId) {
        let instance = InstanceId::fresh(name);
        let clock = Clock::manual(Timestamp(1_000_000));
        let backend = embedded::open(directory, &instance, Durability::Process, clock).await.unwrap();
        (backend, instance)
    }

    fn message() -> TaskMessage {
        let text = include_str!("../../tests/it/golden/v1/envelope-file.json");
        serde_json::from_str::<crate::protocol::Envelope<TaskMessage>>(text).unwrap().payload
    }

    fn result(message: &TaskMessage, worker: &InstanceId) -> TaskResult {
        TaskResult {
            job: message.job.clone(),
            task: message.task.clone(),
            attempt: message.attempt,
            worker: worker.clone(),
            started_at: Timestamp(1),
            finished_at: Timestamp(2),
            usage: Usage::default(),
            cost: MicroUsd(7),
            overrun: None,
            outcome: TaskOutcome::Failed { failure: TaskFailure::new(FailureKind::Rejected, "X", "no") },
        }
    }

    async fn granted(backend: &crate::backend::Backend, worker: &InstanceId) -> Claim {
        match claim(backend.state.as_ref(), &backend.clock, worker, &message()).await.unwrap() {
            ClaimAnswer::Granted(claim) => *claim,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_claim_whose_renewal_was_written_and_never_answered_is_still_its_holders() {
        let directory = tempfile::tempdir().unwrap();
        let (backend, worker) = stores(directory.path(), "a").await;
        let (state, clock) = (backend.state.as_ref(), &backend.clock);
        let mut ours = granted(&backend, &worker).await;
        let before = ours.version;
        ours.renew(state, clock).await.unwrap();
        ours.version = before;
        ours.renew(state, clock).await.unwrap();
        ours.version = before;
        ours.complete(state, &result(&message(), &worker)).await.unwrap();
        let answer = claim(state, clock, &worker, &message()).await.unwrap();
        assert!(matches!(answer, ClaimAnswer::Done(done) if done.cost == MicroUsd(7)));
    }

    #[tokio::test]
    async fn a_claim_that_was_taken_over_is_lost_whatever_its_former_holder_writes() {
        let directory = tempfile::tempdir().unwrap();
        let (backend, first) = stores(directory.path(), "a").await;
        let (state, clock) = (backend.state.as_ref(), &backend.clock);
        let second = InstanceId::fresh("b");
        let mut old = granted(&backend, &first).await;
        let held = claim(state, clock, &second, &message()).await.unwrap();
        assert!(matches!(held, ClaimAnswer::HeldBy(holder) if holder == first));
        clock.advance(CLAIM_LEASE);
        let new = granted(&backend, &second).await;
        assert_eq!(new.claims(), 2);
        let refused = old.complete(state, &result(&message(), &first)).await;
        assert!(matches!(refused, Err(BackendError::Conflict { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn a_stopped_job_is_not_claimed_but_what_was_paid_for_is_answered() {
        let directory = tempfile::tempdir().unwrap();
        let (backend, worker) = stores(directory.path(), "a").await;
        let (state, clock) = (backend.state.as_ref(), &backend.clock);
        let stop = |value| Write { key: stop_key(&message().job), expected: Expected::Any, value };
        state.commit(&worker, vec![stop(Some(Bytes::from_static(b"stop")))]).await.unwrap();
        let answer = claim(state, clock, &worker, &message()).await.unwrap();
        assert!(matches!(answer, ClaimAnswer::JobStopped), "{answer:?}");
        state.commit(&worker, vec![stop(None)]).await.unwrap();
        let mut ours = granted(&backend, &worker).await;
        ours.complete(state, &result(&message(), &worker)).await.unwrap();
        state.commit(&worker, vec![stop(Some(Bytes::from_static(b"stop")))]).await.unwrap();
        let answer = claim(state, clock, &worker, &message()).await.unwrap();
        assert!(matches!(answer, ClaimAnswer::Done(_)), "{answer:?}");
    }

    #[tokio::test]
    async fn a_claim_whose_answer_was_lost_is_taken_again_by_the_same_worker_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let (backend, worker) = stores(directory.path(), "a").await;
        drop(granted(&backend, &worker).await);
        assert_eq!(granted(&backend, &worker).await.claims(), 2);
    }
}
