//! Handing tasks out: as many as there are slots, the most urgent and most critical first.
//!
//! Tasks that no slot can take yet stay with the leader, where something more urgent can still overtake them; in a queue
//! they could not be called back. A message is published only after its dispatch is in the log.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::running::Running;
use super::{Coordinator, CoordinatorError, CoordinatorOptions, Thrift};
use crate::backend::{Backend, BackendError, Outgoing, Queue, presence};
use crate::clock::Timestamp;
use crate::job::{Decision, Task};
use crate::protocol::{
    AgentType, Envelope, FailureKind, InstanceId, JobId, MessageKind, Priority, Recipient, TaskId, TaskMessage,
};
use crate::schedule::{self, Candidate, Capacity, InFlight};
use crate::worker::{CARD_PREFIX, WorkerCard};

/// A task that may go out, by its rank within its priority and agent type.
type Leading<'a> = (Reverse<u64>, &'a JobId, &'a Task);

impl Coordinator {
    /// Stages the dispatch of what may go out now and answers the messages to publish once that is logged.
    pub(super) fn dispatch(&mut self) -> Result<Vec<Outgoing>, CoordinatorError> {
        let now = self.backend.clock.now();
        let mut out = InFlight::default();
        for running in self.jobs.values_mut() {
            running.job.rank();
            running.job.in_flight().for_each(|task| out.add(&task.agent));
        }
        let room = schedule::room(&self.capacity, &out, self.options.prefetch_percent);
        let candidates = self.candidates(now, usize::try_from(room).unwrap_or(usize::MAX));
        let chosen = schedule::choose(candidates, &self.capacity, out, self.options.prefetch_percent, self.dispatched);
        self.dispatched += chosen.len() as u64;
        let mut messages = Vec::with_capacity(chosen.len());
        for choice in chosen {
            let Some(running) = self.jobs.get_mut(&choice.job) else { continue };
            running.stage(Decision::Dispatch { tasks: vec![choice.task.clone()] }, now)?;
            messages.push(message(&self.backend, &self.options, self.leadership.term(), running, &choice.task)?);
        }
        Ok(messages)
    }

    /// The tasks from which as many as there is `room` for can be chosen: of each priority and agent type no more than that.
    fn candidates(&self, now: Timestamp, room: usize) -> Vec<Candidate<JobId>> {
        if room == 0 {
            return Vec::new();
        }
        let thrift = &self.options.thrift;
        let mut classes: BTreeMap<(Priority, &AgentType), Vec<Leading<'_>>> = BTreeMap::new();
        for running in self.jobs.values() {
            let first = running.paid_first();
            let may_go = |task: &Task| {
                let is_paid_later = first.is_some_and(|first| running.job.urgency(&task.id) > first);
                !is_paid_later && !running.lacks_money(&task.id) && !running.is_left_out(task, thrift)
            };
            for (task, tail) in running.job.leading(now, room, may_go) {
                classes.entry((task.priority, &task.agent)).or_default().push((Reverse(tail), &running.id, task));
            }
        }
        for class in classes.values_mut().filter(|class| class.len() > room) {
            class.select_nth_unstable_by_key(room, |(tail, job, task)| (*tail, *job, &task.id));
            class.truncate(room);
        }
        let candidate = |(Reverse(tail), job, task): Leading<'_>| Candidate {
            job: job.clone(),
            task: task.id.clone(),
            agent: task.agent.clone(),
            priority: task.priority,
            tail,
        };
        classes.into_values().flatten().map(candidate).collect()
    }

    /// Counts the slots of all workers that are not known to be dead.
    pub(super) async fn refresh_capacity(&mut self) -> Result<(), CoordinatorError> {
        let snapshot = self.backend.state.snapshot(FLEET_PREFIX).await?;
        let is_dead = |instance: &InstanceId| {
            let key = presence::key(instance);
            let entry = snapshot.entries.iter().find(|entry| entry.key == key).and_then(|entry| entry.value.as_ref());
            entry.is_some_and(|value| presence::is_dead(value))
        };
        let mut capacity = Capacity::default();
        let mut workers: BTreeMap<AgentType, u64> = BTreeMap::new();
        let mut living = BTreeSet::new();
        for entry in snapshot.entries.iter().filter(|entry| entry.key.starts_with(CARD_PREFIX)) {
            let card = entry.value.as_ref().and_then(|value| serde_json::from_slice::<WorkerCard>(value).ok());
            match card {
                Some(card) if !is_dead(&card.instance) => {
                    capacity.add_worker(&card.agents, u64::from(card.slots));
                    living.insert(card.instance);
                    card.agents.into_iter().for_each(|agent| *workers.entry(agent).or_default() += 1);
                }
                Some(_) => {}
                None => tracing::warn!(key = entry.key, "not a worker's card; ignored"),
            }
        }
        if !self.living.is_subset(&living) {
            self.jobs.values_mut().for_each(Running::doubt_costs);
        }
        self.living = living;
        self.capacity = capacity;
        self.measure_fleet(workers);
        Ok(())
    }
}

/// Prefix of everything the fleet says about itself.
const FLEET_PREFIX: &str = "fleet/";

/// The message of the attempt that `task` is in.
pub(super) fn message(
    backend: &Backend,
    options: &CoordinatorOptions,
    term: u64,
    running: &Running,
    task: &TaskId,
) -> Result<Outgoing, CoordinatorError> {
    let job = &running.job;
    let task = job.task(task).ok_or_else(|| BackendError::NotFound { what: format!("task {task}") })?;
    let payload = task_message(running, task, &options.thrift)?;
    let dedupe = format!("{}:{}:{}:{term}", payload.job, payload.task, payload.attempt);
    let queue = Queue::Task { agent: payload.agent.clone(), priority: payload.priority };
    let recipient = Recipient::Type(payload.agent.clone());
    let priority = payload.priority;
    let mut envelope = Envelope::new(
        MessageKind::Command,
        options.instance.clone(),
        recipient,
        payload.job.to_string(),
        backend.clock.now(),
        payload,
    );
    envelope.priority = priority;
    let body = serde_json::to_vec(&envelope)
        .map_err(|error| BackendError::Invalid { field: "task message", why: error.to_string() })?;
    Ok(Outgoing { queue, dedupe, body: Bytes::from(body) })
}

fn task_message(running: &Running, task: &Task, thrift: &Thrift) -> Result<TaskMessage, CoordinatorError> {
    let job = &running.job;
    let submitted = job.submission().ok_or_else(|| CoordinatorError::UnknownJob { job: running.id.clone() })?;
    let files = job.dependency_files(&task.id);
    // Only what the model itself got wrong is worth telling it.
    let feedback = task.last_failure.as_ref().filter(|failure| failure.kind == FailureKind::Rejected);
    Ok(TaskMessage {
        job: running.id.clone(),
        task: task.id.clone(),
        attempt: task.attempt,
        agent: task.agent.clone(),
        priority: task.priority,
        kind: task.kind.clone(),
        proposal: submitted.proposal.clone(),
        plan: job.plan_artifact().cloned(),
        title: task.title.clone(),
        instructions: task.instructions.clone(),
        dependencies: files.direct,
        interfaces: files.indirect,
        feedback: feedback.map(|failure| failure.message.clone()),
        estimated_tokens: task.estimated_tokens,
        model: thrift.model(task, running.spent_percent),
        failed_calls: task.failed_calls,
    })
}
