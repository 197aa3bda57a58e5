//! What is measured: every metric's name, labels and meaning, in one place.
//!
//! Rooms call the functions below where things happen; whether anybody collects is decided elsewhere (see
//! [`crate::telemetry`]), and without a collector a call costs next to nothing. Names follow the Prometheus conventions:
//! one prefix, base units, `_total` for counters. A label must never hold an id of a job, a task or a message: its
//! values would grow without bound.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use crate::clock::Timestamp;

/// Kind of a metric, for its description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// A present value.
    Gauge,
    /// A distribution.
    Histogram,
}

/// Messages in a task queue, by agent type, priority and state (`waiting`, `in_flight`). Told by the leader.
pub const QUEUE_DEPTH: &str = "codeswarm_queue_depth";
/// Dead letters, counted up to a thousand. Told by the leader.
pub const DEAD_LETTERS: &str = "codeswarm_dead_letters";
/// Attempts that ended, by agent type and outcome.
pub const TASKS: &str = "codeswarm_tasks_total";
/// Time from claim to stored outcome, by agent type.
pub const TASK_DURATION: &str = "codeswarm_task_duration_seconds";
/// Time from publication to claim, by agent type.
pub const PICKUP: &str = "codeswarm_pickup_seconds";
/// Tasks being worked on in this process, by agent type.
pub const TASKS_RUNNING: &str = "codeswarm_tasks_running";
/// Model calls sent, by model and outcome.
pub const LLM_CALLS: &str = "codeswarm_llm_calls_total";
/// Tokens, by model and kind.
pub const LLM_TOKENS: &str = "codeswarm_llm_tokens_total";
/// Time that a model call took, by model.
pub const LLM_CALL_DURATION: &str = "codeswarm_llm_call_duration_seconds";
/// Attempts that passed the guards, by model and what became of them (`answered`, `rejected`, `failed`, `ended`).
pub const LLM_ATTEMPTS: &str = "codeswarm_llm_attempts_total";
/// Model calls that were tried again, by model.
pub const LLM_RETRIES: &str = "codeswarm_llm_retries_total";
/// Inputs that the provider was asked to count, by model and what came of it (`smaller`, `no_smaller`, `absurd`, `failed`).
pub const LLM_INPUT_COUNTS: &str = "codeswarm_llm_input_counts_total";
/// Time that a call waited for the guards.
pub const LLM_ADMISSION: &str = "codeswarm_llm_admission_seconds";
/// Calls sent back to their queue by a guard.
pub const LLM_PARKED: &str = "codeswarm_llm_parked_total";
/// Calls at once that this process may make, by model.
pub const LLM_PERMITS_LIMIT: &str = "codeswarm_llm_permits_limit";
/// Calls that this process makes, by model.
pub const LLM_PERMITS_HELD: &str = "codeswarm_llm_permits_held";
/// Calls that wait for others of this process, by model.
pub const LLM_PERMITS_WAITING: &str = "codeswarm_llm_permits_waiting";
/// 0 closed, 1 trying, 2 open, by model.
pub const LLM_BREAKER_STATE: &str = "codeswarm_llm_breaker_state";
/// Times that this process has found the breaker open, by model.
pub const LLM_BREAKER_SEEN_OPEN: &str = "codeswarm_llm_breaker_seen_open_total";
/// Time that a call waited for the fleet's rates, by model.
pub const LLM_RATE_WAIT: &str = "codeswarm_llm_rate_wait_seconds";
/// Times that this process has taken from the fleet's allowance, by model.
pub const LLM_RATE_TAKES: &str = "codeswarm_llm_rate_takes_total";
/// Limit of a budget scope. Told by the leader.
pub const BUDGET_LIMIT: &str = "codeswarm_budget_limit_usd";
/// Spent in a budget scope. Told by the leader.
pub const BUDGET_SPENT: &str = "codeswarm_budget_spent_usd";
/// Set aside in a budget scope. Told by the leader.
pub const BUDGET_RESERVED: &str = "codeswarm_budget_reserved_usd";
/// 1 while spending is frozen. Told by the leader.
pub const BUDGET_FROZEN: &str = "codeswarm_budget_frozen";
/// 1 while this process leads, 0 while it stands by.
pub const LEADER: &str = "codeswarm_leader";
/// Jobs that this process leads, by state.
pub const JOBS: &str = "codeswarm_jobs";
/// Living workers, by agent type they serve. Told by the leader.
pub const ACTIVE_AGENTS: &str = "codeswarm_active_agents";
/// Store operations that failed, by store.
pub const STORE_ERRORS: &str = "codeswarm_store_errors_total";
/// 1 while a store answers, by store.
pub const BACKEND_UP: &str = "codeswarm_backend_up";
/// What happened to the connection to NATS, by event.
pub const NATS_CONNECTION_EVENTS: &str = "codeswarm_nats_connection_events_total";
/// Messages that came for nobody and were given back.
pub const NATS_GIVEN_BACK: &str = "codeswarm_nats_given_back_total";
/// When this process started, in seconds since the Unix epoch.
pub const PROCESS_START: &str = "codeswarm_process_start_time_seconds";

/// Every metric with its help text.
pub const ALL: [(&str, Kind, &str); 33] = [
    (QUEUE_DEPTH, Kind::Gauge, "Messages in a task queue"),
    (DEAD_LETTERS, Kind::Gauge, "Dead letters, counted up to 1000"),
    (TASKS, Kind::Counter, "Attempts that ended"),
    (TASK_DURATION, Kind::Histogram, "Seconds from claim to stored outcome"),
    (PICKUP, Kind::Histogram, "Seconds from publication to claim"),
    (TASKS_RUNNING, Kind::Gauge, "Tasks being worked on in this process"),
    (LLM_CALLS, Kind::Counter, "Model calls sent"),
    (LLM_TOKENS, Kind::Counter, "Tokens as the provider reported them"),
    (LLM_CALL_DURATION, Kind::Histogram, "Seconds that a model call took"),
    (LLM_ATTEMPTS, Kind::Counter, "Attempts that passed the guards, by what became of them"),
    (LLM_RETRIES, Kind::Counter, "Model calls that were tried again"),
    (LLM_INPUT_COUNTS, Kind::Counter, "Inputs that the provider was asked to count"),
    (LLM_ADMISSION, Kind::Histogram, "Seconds that a call waited for the guards"),
    (LLM_PARKED, Kind::Counter, "Calls sent back to their queue by a guard"),
    (LLM_PERMITS_LIMIT, Kind::Gauge, "Calls at once that this process may make"),
    (LLM_PERMITS_HELD, Kind::Gauge, "Calls that this process makes"),
    (LLM_PERMITS_WAITING, Kind::Gauge, "Calls that wait for others of this process"),
    (LLM_BREAKER_STATE, Kind::Gauge, "Breaker: 0 closed, 1 trying, 2 open"),
    (LLM_BREAKER_SEEN_OPEN, Kind::Counter, "Times that this process has found the breaker open"),
    (LLM_RATE_WAIT, Kind::Histogram, "Seconds that a call waited for the rates of the fleet"),
    (LLM_RATE_TAKES, Kind::Counter, "Times that this process has taken from the allowance of the fleet"),
    (BUDGET_LIMIT, Kind::Gauge, "Limit in US dollars; absent without one"),
    (BUDGET_SPENT, Kind::Gauge, "Spent in US dollars"),
    (BUDGET_RESERVED, Kind::Gauge, "Set aside for running calls in US dollars"),
    (BUDGET_FROZEN, Kind::Gauge, "1 while spending is frozen"),
    (LEADER, Kind::Gauge, "1 while this process leads"),
    (JOBS, Kind::Gauge, "Jobs that this process leads"),
    (ACTIVE_AGENTS, Kind::Gauge, "Living workers"),
    (STORE_ERRORS, Kind::Counter, "Store operations that failed"),
    (BACKEND_UP, Kind::Gauge, "1 while the store answers"),
    (NATS_CONNECTION_EVENTS, Kind::Counter, "What happened to the connection to NATS"),
    (NATS_GIVEN_BACK, Kind::Counter, "Messages that came for nobody and were given back"),
    (PROCESS_START, Kind::Gauge, "Start of this process, seconds since the Unix epoch"),
];

/// Upper bounds of the buckets of the durations that models decide, in seconds.
pub const LONG_BUCKETS: [f64; 14] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0];

/// Upper bounds of the buckets of [`PICKUP`], in seconds.
pub const SHORT_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// How full a task queue is.
pub fn queue_depth(agent: &str, priority: &'static str, waiting: u64, in_flight: u64) {
    for (state, count) in [("waiting", waiting), ("in_flight", in_flight)] {
        gauge!(QUEUE_DEPTH, "agent_type" => agent.to_owned(), "priority" => priority, "state" => state)
            .set(whole(count));
    }
}

/// How many dead letters there are.
pub fn dead_letters(count: u64) {
    gauge!(DEAD_LETTERS).set(whole(count));
}

/// A message was claimed for the first time, `wait` after it was published.
pub fn picked_up(agent: &str, wait: Duration) {
    histogram!(PICKUP, "agent_type" => agent.to_owned()).record(wait);
}

/// A task is being worked on until this is dropped.
#[derive(Debug)]
pub struct RunningTask(String);

impl RunningTask {
    /// Counts the task.
    #[must_use]
    pub fn start(agent: &str) -> Self {
        gauge!(TASKS_RUNNING, "agent_type" => agent.to_owned()).increment(1.0);
        Self(agent.to_owned())
    }
}

impl Drop for RunningTask {
    fn drop(&mut self) {
        gauge!(TASKS_RUNNING, "agent_type" => std::mem::take(&mut self.0)).decrement(1.0);
    }
}

/// An attempt ended.
pub fn task_ended(agent: &str, outcome: &'static str, duration: Duration) {
    counter!(TASKS, "agent_type" => agent.to_owned(), "outcome" => outcome).increment(1);
    histogram!(TASK_DURATION, "agent_type" => agent.to_owned()).record(duration);
}

/// A model call ended. `tokens` names kinds and counts.
pub fn model_called(model: &str, outcome: &'static str, duration: Duration, tokens: [(&'static str, u64); 4]) {
    counter!(LLM_CALLS, "model" => model.to_owned(), "outcome" => outcome).increment(1);
    histogram!(LLM_CALL_DURATION, "model" => model.to_owned()).record(duration);
    for (kind, count) in tokens.into_iter().filter(|(_, count)| *count > 0) {
        counter!(LLM_TOKENS, "model" => model.to_owned(), "kind" => kind).increment(count);
    }
}

/// An attempt at a call has ended, as `outcome` says.
pub fn attempt_ended(key: &str, outcome: &'static str) {
    counter!(LLM_ATTEMPTS, "key" => key.to_owned(), "outcome" => outcome).increment(1);
}

/// A model call is tried again.
pub fn call_retried(model: &str) {
    counter!(LLM_RETRIES, "model" => model.to_owned()).increment(1);
}

/// The provider was asked to count the input of a call.
pub fn input_counted(model: &str, outcome: &'static str) {
    counter!(LLM_INPUT_COUNTS, "model" => model.to_owned(), "outcome" => outcome).increment(1);
}

/// A call has waited for the guards; `parked_by` names the one that sent it back, if one did.
pub fn admitted(wait: Duration, parked_by: Option<&'static str>) {
    histogram!(LLM_ADMISSION).record(wait);
    if let Some(guard) = parked_by {
        counter!(LLM_PARKED, "guard" => guard).increment(1);
    }
}

/// The calls of this process at a moment: how many it may make, makes, and keeps waiting.
pub fn permits(key: &str, limit: u32, held: u32, waiting: usize) {
    let set = |name: &'static str, count: u64| gauge!(name, "key" => key.to_owned()).set(whole(count));
    set(LLM_PERMITS_LIMIT, u64::from(limit));
    set(LLM_PERMITS_HELD, u64::from(held));
    set(LLM_PERMITS_WAITING, waiting as u64);
}

/// How this process has seen a breaker: 0 closed, 1 trying, 2 open; `opened` when it was not open before.
pub fn breaker_seen(key: &str, state: u8, opened: bool) {
    gauge!(LLM_BREAKER_STATE, "key" => key.to_owned()).set(f64::from(state));
    if opened {
        counter!(LLM_BREAKER_SEEN_OPEN, "key" => key.to_owned()).increment(1);
    }
}

/// A call has waited for the fleet's rates.
pub fn rate_waited(key: &str, wait: Duration) {
    histogram!(LLM_RATE_WAIT, "key" => key.to_owned()).record(wait);
}

/// This process has taken from the fleet's allowance.
pub fn rate_taken(key: &str) {
    counter!(LLM_RATE_TAKES, "key" => key.to_owned()).increment(1);
}

/// The account's money, in micro-dollars.
pub fn account(limit: Option<u64>, spent: u64, reserved: u64, frozen: bool) {
    if let Some(limit) = limit {
        gauge!(BUDGET_LIMIT, "scope" => "account").set(dollars(limit));
    }
    gauge!(BUDGET_SPENT, "scope" => "account").set(dollars(spent));
    gauge!(BUDGET_RESERVED, "scope" => "account").set(dollars(reserved));
    gauge!(BUDGET_FROZEN).set(whole(u64::from(frozen)));
}

/// Whether this process leads.
pub fn leads(leads: bool) {
    gauge!(LEADER).set(whole(u64::from(leads)));
}

/// How many jobs this process leads in a state.
pub fn jobs(state: &'static str, count: u64) {
    gauge!(JOBS, "state" => state).set(whole(count));
}

/// How many living workers serve an agent type.
pub fn active_agents(agent: &str, count: u64) {
    gauge!(ACTIVE_AGENTS, "agent_type" => agent.to_owned()).set(whole(count));
}

/// A store operation failed.
pub fn store_failed(store: &'static str) {
    counter!(STORE_ERRORS, "store" => store).increment(1);
}

/// Whether a store answers.
pub fn store_up(store: &'static str, up: bool) {
    gauge!(BACKEND_UP, "store" => store).set(whole(u64::from(up)));
}

/// Something happened to the connection to NATS.
pub fn nats_connection(event: &'static str) {
    counter!(NATS_CONNECTION_EVENTS, "event" => event).increment(1);
}

/// A message came for nobody and was given back.
pub fn nats_given_back() {
    counter!(NATS_GIVEN_BACK).increment(1);
}

/// When this process started.
pub fn process_started(at: Timestamp) {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are exact in a double")]
    gauge!(PROCESS_START).set(at.0 as f64 / 1_000.0);
}

#[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 do not occur")]
const fn whole(count: u64) -> f64 {
    count as f64
}

fn dollars(micros: u64) -> f64 {
    whole(micros) / 1e6
}
