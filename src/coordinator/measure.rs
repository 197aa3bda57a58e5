//! What a leader tells about its jobs and its fleet, and what it leaves behind of tasks it gives up.
//!
//! Gauges are set from what the loop knows anyway; nothing is asked of a store for them. They must never steer anything.

use std::collections::BTreeMap;

use super::running::Running;
use super::{Coordinator, CoordinatorError, dispatch};
use crate::backend::Outgoing;
use crate::job::{JobStatus, TaskStatus};
use crate::metric;
use crate::protocol::{AgentType, TaskId};

/// The states of led jobs; a job that has ended is let go of soon after.
const STATES: [&str; 7] = ["submitted", "planning", "awaiting-approval", "running", "paused", "verifying", "ended"];

impl Coordinator {
    /// Sets the gauges of leadership and jobs.
    pub(super) fn measure(&self) {
        metric::leads(true);
        let state = |running: &Running| match running.job.status() {
            JobStatus::Ended(_) => "ended",
            status => status.as_str(),
        };
        for name in STATES {
            metric::jobs(name, self.jobs.values().filter(|running| state(running) == name).count() as u64);
        }
    }

    /// Another process tells these figures from now on.
    pub(super) fn stop_measuring(&mut self) {
        metric::leads(false);
        STATES.iter().for_each(|state| metric::jobs(state, 0));
        self.measure_fleet(BTreeMap::new());
    }

    /// Sets the gauges of living workers; types that nobody serves any more are shown as such.
    pub(super) fn measure_fleet(&mut self, mut workers: BTreeMap<AgentType, u64>) {
        for agent in std::mem::take(&mut self.served) {
            workers.entry(agent).or_default();
        }
        for (agent, count) in &workers {
            metric::active_agents(agent.as_str(), *count);
        }
        self.served = workers.into_keys().collect();
    }
}

/// The last message of `task` with the reason, if the task has just been given up: for a person to look at and to replay.
/// Its id names the attempt, so that however often it is put away there is one letter.
pub(super) fn letter(
    coordinator: &Coordinator,
    running: &Running,
    task: &TaskId,
) -> Result<Option<(Outgoing, String)>, CoordinatorError> {
    let Some(dead) = running.job.task(task).filter(|task| task.status == TaskStatus::Dead) else { return Ok(None) };
    let reason = dead.last_failure.as_ref().map_or("it ran out of attempts", |failure| failure.message.as_str());
    let reason = format!("given up after {} attempts: {reason}", dead.attempt);
    let (backend, options) = (&coordinator.backend, &coordinator.options);
    let mut letter = dispatch::message(backend, options, coordinator.leadership.term(), running, task)?;
    letter.dedupe = format!("{}:{task}:{}", running.id, dead.attempt);
    Ok(Some((letter, reason)))
}
