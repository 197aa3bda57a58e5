//! Taking over: fold the logs, suspend what is not led, and publish again whatever may have been lost on the way.
//!
//! A new leader cannot know which messages its predecessor still published, so it publishes all unanswered ones again
//! and leaves sorting out the doubles to the claims. It must never decide from memory: what is not in the log did not happen.

use bytes::Bytes;

use super::dispatch;
use super::running::Running;
use super::{Coordinator, CoordinatorError, Lead};
use crate::backend::{Backend, Expected, Write};
use crate::clock::Timestamp;
use crate::job::{Decision, JobStatus, Refusal, TaskStatus};
use crate::protocol::{InstanceId, JobId, TaskId};
use crate::worker;

impl Coordinator {
    /// Loads the jobs to lead and brings them to where they were.
    pub(super) async fn recover(&mut self) -> Result<(), CoordinatorError> {
        for entry in self.backend.events.jobs().await? {
            match &self.options.lead {
                Lead::Only(job) if *job != entry.job => self.suspend(&entry.job).await?,
                _ => self.take(&entry.job).await?,
            }
        }
        if let Lead::Only(job) = &self.options.lead
            && !self.jobs.contains_key(job)
        {
            return Err(CoordinatorError::UnknownJob { job: job.clone() });
        }
        Ok(())
    }

    /// Leads `id` from now on, unless it has ended.
    pub(super) async fn take(&mut self, id: &JobId) -> Result<(), CoordinatorError> {
        if self.jobs.contains_key(id) {
            return Ok(());
        }
        let Some(mut running) = Running::load(&self.backend, id).await? else {
            return Err(CoordinatorError::UnknownJob { job: id.clone() });
        };
        let asked_for = self.options.lead == Lead::Only(id.clone());
        match running.job.status() {
            // To be led by name is to be resumed; one that is under way has tasks that wait for their provider tried at once.
            _ if asked_for => resume(&mut running, self.backend.clock.now())?,
            JobStatus::Ended(_) => return Ok(()),
            _ => {}
        }
        set_stop(&self.backend, &self.options.instance, id, None).await?;
        self.publish_again(&running).await?;
        self.jobs.insert(id.clone(), running);
        Ok(())
    }

    /// Publishes what was dispatched and not answered. Messages still in their queues make duplicates; claims sort
    /// them out. The leader's term is part of the id, or the broker would take the copy for one it has already seen.
    pub(super) async fn publish_again(&self, running: &Running) -> Result<(), CoordinatorError> {
        let tasks: Vec<TaskId> = running.job.in_flight().map(|task| task.id.clone()).collect();
        let mut messages = Vec::with_capacity(tasks.len());
        for task in &tasks {
            let mut message = dispatch::message(&self.backend, &self.options, self.leadership.term(), running, task)?;
            // One leader may publish an attempt again more than once: a job can be stopped and resumed under it.
            message.dedupe.push_str(&format!(":{}", running.newest()));
            messages.push(message);
        }
        if !messages.is_empty() {
            tracing::info!(job = %running.id, tasks = messages.len(), "publishing unanswered tasks again");
            self.backend.broker.publish(messages).await?;
        }
        Ok(())
    }

    /// Goes on with a led job that was resumed while it was being wound down: it is no longer let go of, its attempts may be
    /// claimed, and those that were turned away meanwhile go out again.
    pub(super) async fn go_on(&mut self, id: &JobId) -> Result<(), CoordinatorError> {
        let Some(running) = self.jobs.get_mut(id) else { return Ok(()) };
        (running.gives_up_at, running.commit_failed) = (None, false);
        running.flush(&self.backend).await?;
        set_stop(&self.backend, &self.options.instance, id, None).await?;
        match self.jobs.get(id) {
            Some(running) => self.publish_again(running).await,
            None => Ok(()),
        }
    }

    /// Keeps the attempts of a job that nobody leads from being claimed.
    async fn suspend(&self, id: &JobId) -> Result<(), CoordinatorError> {
        set_stop(&self.backend, &self.options.instance, id, Some("suspended")).await
    }
}

/// Lets a job go on. One that is over because tasks ran out of attempts gives those tasks new ones: whoever resumes it
/// believes that what stood in the way (a provider that was down, say) is gone.
pub(super) fn resume(running: &mut Running, now: Timestamp) -> Result<(), CoordinatorError> {
    if running.job.decide(Decision::Resume, now) == Err(Refusal::NothingToResume) {
        let dead = running.job.tasks().iter().filter(|task| task.status == TaskStatus::Dead);
        let dead: Vec<TaskId> = dead.map(|task| task.id.clone()).collect();
        for task in dead {
            running.stage(Decision::Retry { task }, now)?;
        }
    }
    running.stage(Decision::Resume, now)
}

/// Sets or removes the record that keeps a job's attempts from being claimed.
pub(super) async fn set_stop(
    backend: &Backend,
    writer: &InstanceId,
    id: &JobId,
    why: Option<&'static str>,
) -> Result<(), CoordinatorError> {
    if worker::is_stopped(backend.state.as_ref(), id).await? == why.is_some() {
        return Ok(());
    }
    let key = worker::stop_key(id);
    let write = Write { key, expected: Expected::Any, value: why.map(|text| Bytes::from_static(text.as_bytes())) };
    backend.state.commit(writer, vec![write]).await?;
    Ok(())
}
