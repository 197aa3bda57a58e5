//! A process of the race: it makes the calls of a round as a worker would, and tells how they ended.
//!
//! Everything between a call and the provider's socket is what production uses: guards, budget, retries, HTTP client. It
//! lives through many rounds, until somebody kills it, and never looks at the books itself.

use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use codeswarm::backend::embedded::{self, Durability};
use codeswarm::backend::{Backend, GatePolicy, Limits as RateLimits, distributed};
use codeswarm::budget::{CallContext, PriceTable, Treasurer};
use codeswarm::clock::{Clock, Timestamp};
use codeswarm::config::Secret;
use codeswarm::llm::anthropic::{Anthropic, AnthropicConfig};
use codeswarm::llm::http::Limits;
use codeswarm::llm::{CallOutcome, Guards, LlmError, LlmRequest, Metered};
use codeswarm::protocol::InstanceId;
use codeswarm::resilience::{AimdPolicy, Breaker, Bulkhead, FleetRates, RetryPolicy};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::plan::{AGENTS, IDLE_MS, MODEL, Order, Report, TASKS, key, random};
use crate::support::stores::{START, agent, distributed_options, job, s, task};

/// Tells a child which stores it shares, as JSON.
pub(super) const ROLE: &str = "CODESWARM_TEST_RACE";

/// Longest attempt at a call.
pub(super) const TOTAL: Duration = Duration::from_secs(10);

/// Where the books are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Place {
    /// A file in a directory.
    Directory(PathBuf),
    /// A Redis and a NATS server.
    Servers { redis: String, nats: String },
}

/// The stores that all processes share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Shared {
    pub(super) place: Place,
    /// Flush to the disk what must not be undone.
    pub(super) is_durable: bool,
    /// Clocks are moved by hand; otherwise the stores' own is gone by.
    pub(super) by_hand: bool,
}

impl Shared {
    /// Opens them for `instance`.
    pub(super) async fn open(&self, instance: &InstanceId) -> Backend {
        let clock = self.by_hand.then(|| Clock::manual(START));
        match &self.place {
            Place::Directory(directory) => {
                let durability = if self.is_durable { Durability::Full } else { Durability::Process };
                let clock = clock.unwrap_or_else(Clock::system);
                embedded::open(directory, instance, durability, clock).await.expect("the directory opens")
            }
            Place::Servers { redis, nats } => {
                let mut options = distributed_options(redis);
                options.nats.servers = Secret::new(nats);
                options.redis.dead_after = s(1);
                distributed::open(&options, instance, clock).await.expect("the servers answer")
            }
        }
    }
}

/// Moves a clock to where the order says it stands.
pub(super) fn set(clock: &Clock, now: Timestamp) {
    clock.advance(now.since(clock.now()));
}

/// What a process keeps from round to round.
struct Caller {
    backend: Backend,
    instance: InstanceId,
    treasurer: Treasurer,
}

fn guards(backend: &Backend) -> Guards {
    // By a clock that stands still in a round, whatever opened would stay open, and nobody would race any more.
    let consecutive = if backend.clock.is_manual() { 0 } else { 40 };
    let gate = GatePolicy {
        consecutive,
        ratio_percent: 0,
        least_calls: 1_000,
        window: s(10),
        open: Duration::from_millis(100),
        longest_open: Duration::from_millis(200),
        trials: 2,
        trial_lease: s(10),
    };
    let rates = RateLimits { per_window: [None; 3], window: s(60), burst_percent: 100, sliding: false };
    let places = AimdPolicy { start: 64, max: 64, slowdown: 0 };
    Guards::new(
        "anthropic",
        Breaker::new(Arc::clone(&backend.rates), gate),
        FleetRates::new(Arc::clone(&backend.rates), rates),
        places,
        Bulkhead { share_percent: 50 },
        s(3),
    )
}

impl Caller {
    async fn open(shared: &Shared) -> Self {
        let instance = InstanceId::fresh("racer");
        let backend = shared.open(&instance).await;
        let treasurer = Treasurer::new(backend.ledger.clone(), Arc::new(PriceTable::builtin().unwrap()));
        let treasurer = treasurer.going_by(backend.clock.clone());
        Self { backend, instance, treasurer }
    }

    /// Makes all calls of a round at once.
    async fn run(&self, order: &Order) -> Report {
        if let Some(now) = order.now {
            set(&self.backend.clock, Timestamp(now));
        }
        let limits = Limits {
            idle_timeout: Duration::from_millis(IDLE_MS),
            total_timeout: TOTAL,
            max_reply_bytes: 64 * 1024,
            ..Limits::default()
        };
        let config = AnthropicConfig::within(limits, Secret::new("sk-fake"));
        let provider = Anthropic::new(&AnthropicConfig { base_url: order.url.clone(), ..config }).unwrap();
        let retry = RetryPolicy {
            first_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(5),
            ..RetryPolicy::default()
        };
        let metered = Metered::new(Arc::new(provider), self.treasurer.clone(), retry, TOTAL);
        let metered = metered.behind(guards(&self.backend));
        let mut calls = JoinSet::new();
        for number in 0..TASKS {
            calls.spawn(call(metered.clone(), self.instance.clone(), order.clone(), number));
        }
        let mut report = Report::default();
        for outcome in calls.join_all().await {
            report.count(outcome);
        }
        self.treasurer.drain().await;
        report
    }
}

/// Makes one call; `None` when it was given up.
async fn call(metered: Metered, instance: InstanceId, order: Order, number: u64) -> Option<CallOutcome> {
    let mut random = random(order.round, order.slot, number);
    let agent = agent(AGENTS[usize::try_from(number).unwrap() % AGENTS.len()]);
    let name = task(&format!("file/{}/{number}", order.slot));
    let mut context = CallContext::new(job(&order.job), name, agent, instance, 1, order.round);
    if number.is_multiple_of(5) {
        context = context.with_hold_back();
    }
    let mut request = LlmRequest::of(MODEL, &format!("Write a file.\nRequest: {}", key(order.slot, number)));
    request.max_tokens = u32::try_from(500 + random.below(4_000)).unwrap();
    let least = [1, request.max_tokens / 2, request.max_tokens][usize::try_from(random.below(3)).unwrap()];
    let patience = (order.drops && random.below(12) == 0).then(|| Duration::from_millis(random.below(60)));
    let cancel = CancellationToken::new();
    let calling = metered.call(request, &context, least, &cancel);
    match patience {
        // Dropped in the middle of whatever it is doing.
        Some(patience) => tokio::time::timeout(patience, calling).await.ok(),
        None => Some(calling.await),
    }
}

impl Report {
    fn count(&mut self, outcome: Option<CallOutcome>) {
        let Some(outcome) = outcome else {
            self.dropped += 1;
            return;
        };
        self.attempts += u64::from(outcome.attempts);
        self.cost += outcome.cost.0;
        let ending = match &outcome.result {
            Ok(_) => &mut self.answered,
            Err(LlmError::BudgetRefused { .. } | LlmError::Frozen { .. }) => &mut self.refused,
            Err(LlmError::NotAdmitted { .. }) => &mut self.parked,
            Err(LlmError::Ledger(_) | LlmError::Unsupported(_)) => &mut self.unexpected,
            Err(_) => &mut self.failed,
        };
        *ending += 1;
    }
}

#[test]
#[ignore = "a process of another test"]
fn calls_as_a_child() {
    let role = std::env::var_os(ROLE).expect("started by the race").into_string().unwrap();
    let shared: Shared = serde_json::from_str(&role).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let caller = runtime.block_on(Caller::open(&shared));
    eprintln!("ready");
    for line in std::io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line.unwrap()).unwrap();
        let report = runtime.block_on(caller.run(&order));
        eprintln!("done {}", serde_json::to_string(&report).unwrap());
    }
}
