//! A person's command to a job, whether or not a process works on it.
//!
//! While somebody leads, the command goes to that leader. While nobody does, the lead is taken for the moment it takes
//! to record the command's facts, and given back: there is never a second writer, and a command is never left lying in
//! a queue for the day on which the job is resumed.

use super::lead::Leadership;
use super::running::Running;
use super::{CoordinatorError, commit, recover, results, submit};
use crate::backend::{Backend, BackendError};
use crate::job::JobStatus;
use crate::protocol::{Command, CommandMessage, InstanceId, JobId, validate};

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// Nobody leads: its facts are in the job's log.
    Recorded,
    /// It is on its way to the coordinator that leads.
    Sent,
}

/// Sends `command` to the leader, or records what follows from it if there is none. Nothing is started either way that
/// a leader would not start.
///
/// # Errors
/// [`CoordinatorError::Refused`] when the job's state does not allow it, [`CoordinatorError::UnknownJob`], a command
/// over its bounds, store errors.
pub async fn deliver(
    backend: &Backend,
    instance: &InstanceId,
    job: &JobId,
    command: Command,
) -> Result<Delivered, CoordinatorError> {
    let message = CommandMessage { request: crate::clock::unique_id(), job: job.clone(), command };
    validate::command(&message).map_err(|error| BackendError::Invalid { field: "command", why: error.to_string() })?;
    let leadership = match Leadership::acquire(backend, instance).await {
        Ok(leadership) => leadership,
        Err(CoordinatorError::NotLeader { .. }) => {
            submit::command(backend, instance, job, message.command).await?;
            return Ok(Delivered::Sent);
        }
        Err(error) => return Err(error),
    };
    let recorded = record(backend, instance, job, message.command).await;
    leadership.resign(backend).await;
    recorded.map(|()| Delivered::Recorded)
}

/// Who leads these stores at the moment, if anybody does.
///
/// # Errors
/// Store errors.
pub async fn leader(backend: &Backend) -> Result<Option<String>, CoordinatorError> {
    Ok(Leadership::holder(backend).await?)
}

/// Records what follows from `command` for a job that the caller, as leader, does not work on.
pub(super) async fn record(
    backend: &Backend,
    instance: &InstanceId,
    job: &JobId,
    command: Command,
) -> Result<(), CoordinatorError> {
    let Some(mut running) = Running::load(backend, job).await? else {
        return Err(CoordinatorError::UnknownJob { job: job.clone() });
    };
    let cancels = matches!(command, Command::Cancel { .. });
    results::obey(&mut running, command, backend.clock.now())?;
    if cancels {
        // Messages of the job may still lie in queues; no worker may claim them.
        recover::set_stop(backend, instance, job, Some("cancelled")).await?;
    }
    running.flush(backend).await?;
    if cancels && matches!(running.job.status(), JobStatus::Ended(_)) {
        commit::write_rest(backend, &mut running).await?;
    }
    Ok(())
}
