//! What a call costs besides the provider: guards, budget and bookkeeping, in processor time; and what 250 calls at once
//! weigh.
//!
//! The provider of the first table answers at once and from memory, so that what is left is ours: with and without guards,
//! over the embedded stores. The second table runs real streams from a `fake-claude` in a process of its own. Nothing here
//! asserts a figure.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark prints, and fails by panicking"
)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use codeswarm::backend::embedded::{self, Durability};
use codeswarm::backend::{Adjustment, Backend, GatePolicy, Limits, Scope};
use codeswarm::budget::{CallContext, PriceTable, Reservation, Treasurer, WorstCaseInput};
use codeswarm::clock::Clock;
use codeswarm::config::Secret;
use codeswarm::llm::anthropic::{Anthropic, AnthropicConfig};
use codeswarm::llm::replay::{FakeOptions, FakeServer, Latency, Script};
use codeswarm::llm::{Guards, LlmError, LlmReply, LlmRequest, Metered, Prepared, Provider, StopReason};
use codeswarm::protocol::{AgentType, InstanceId, JobId, MicroUsd, TaskId, Usage};
use codeswarm::resilience::{AimdPolicy, Breaker, Bulkhead, FleetRates, RetryPolicy};
use tokio_util::sync::CancellationToken;

const MODEL: &str = "claude-haiku-4-5";

/// Calls per row of the first table.
const CALLS: usize = 20_000;

/// Calls at once in the second.
const STREAMS: usize = 250;

fn main() {
    if std::env::args().any(|argument| argument == "--server") {
        return serve();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("| stack | callers | calls | CPU µs per call | µs per call |");
    println!("|---|---|---|---|---|");
    for callers in [1, 50] {
        for (what, limit) in
            [("budget", None), ("guards without limits", Some(None)), ("guards", Some(Some(10_000_000)))]
        {
            let (cpu, wall) = runtime.block_on(calls(limit, callers));
            println!("| {what} | {callers} | {CALLS} | {cpu:.0} | {wall:.0} |");
        }
    }
    let (before, peak, took) = runtime.block_on(streams());
    println!("\n| streams at once | peak MiB | MiB before | seconds |\n|---|---|---|---|");
    println!("| {STREAMS} | {peak:.0} | {before:.0} | {took:.1} |");
}

/// Answers at once.
struct Instantly;

#[async_trait]
impl Provider for Instantly {
    fn prepare(&self, request: &LlmRequest) -> Result<Prepared, LlmError> {
        let body = "x".repeat(4_000);
        let worst_case = WorstCaseInput::from_body(&request.model, &body, request.max_tokens);
        Ok(Prepared::new(body, worst_case))
    }

    async fn send(&self, _: &Prepared, _: &Reservation, _: &CancellationToken) -> Result<LlmReply, LlmError> {
        Ok(LlmReply {
            text: "done".into(),
            stop: StopReason::EndTurn,
            usage: Some(Usage { input: 1_000, output: 500, ..Usage::default() }),
            model: MODEL.into(),
            request_id: None,
        })
    }
}

fn guards(backend: &Backend, requests: Option<u64>) -> Guards {
    let seconds = Duration::from_secs;
    let gate = GatePolicy {
        consecutive: 10,
        ratio_percent: 60,
        least_calls: 20,
        window: seconds(60),
        open: seconds(15),
        longest_open: seconds(240),
        trials: 2,
        trial_lease: seconds(700),
    };
    let limits = Limits {
        per_window: [requests, requests.map(|n| n * 10_000), requests.map(|n| n * 10_000)],
        window: seconds(60),
        burst_percent: 100,
        sliding: false,
    };
    Guards::new(
        "bench",
        Breaker::new(Arc::clone(&backend.rates), gate),
        FleetRates::new(Arc::clone(&backend.rates), limits),
        AimdPolicy { start: 250, max: 250, slowdown: 4 },
        Bulkhead { share_percent: 50 },
        seconds(60),
    )
}

/// Budgeted calls to `provider`; `guarded` says whether behind guards, and with which limit.
async fn metered(provider: Arc<dyn Provider>, backend: &Backend, guarded: Option<Option<u64>>) -> Metered {
    let limit = Adjustment::SetLimit(Some(MicroUsd(1 << 50)));
    backend.ledger.adjust("limit", &Scope::Job(JobId::new("bench").unwrap()), limit).await.expect("a limit");
    let treasurer = Treasurer::new(Arc::clone(&backend.ledger), Arc::new(PriceTable::builtin().expect("prices")));
    let metered = Metered::new(provider, treasurer, RetryPolicy::default(), Duration::from_secs(600));
    match guarded {
        Some(requests) => metered.behind(guards(backend, requests)),
        None => metered,
    }
}

async fn call(metered: &Metered, text: &str) {
    let instance = InstanceId::new("bench").unwrap();
    let agent = AgentType::new("coder").unwrap();
    let context = CallContext::new(JobId::new("bench").unwrap(), TaskId::plan(), agent, instance, 1, 1);
    let request = LlmRequest::of(MODEL, text);
    let outcome = metered.call(request, &context, 1, &CancellationToken::new()).await;
    outcome.result.expect("a reply");
}

/// Processor time and time of each call, in microseconds.
async fn calls(guarded: Option<Option<u64>>, callers: usize) -> (f64, f64) {
    let directory = tempfile::tempdir().expect("a directory");
    let instance = InstanceId::fresh("bench");
    let backend =
        embedded::open(directory.path(), &instance, Durability::Process, Clock::system()).await.expect("stores");
    let metered = metered(Arc::new(Instantly), &backend, guarded).await;
    let (cpu, started) = (cpu_us(), Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let metered = metered.clone();
        tasks.spawn(async move {
            for _ in 0..CALLS / callers {
                call(&metered, "hello").await;
            }
        });
    }
    tasks.join_all().await;
    let (cpu, wall) = ((cpu_us() - cpu) as f64, started.elapsed().as_micros() as f64);
    (cpu / CALLS as f64, wall * callers as f64 / CALLS as f64)
}

/// The other end of the streams: says where it is and lives as long as its standard input.
fn serve() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut script = Script::new();
    script.push("file a.py", "x = 1  # a line like many others\n".repeat(600));
    let options = FakeOptions { latency: Latency::Fixed(Duration::from_secs(3)), ..FakeOptions::default() };
    let server = runtime.block_on(FakeServer::start(script, options)).expect("a server");
    println!("{}", server.base_url());
    let _ = std::io::stdin().lock().lines().next();
}

/// MiB before, MiB at the peak, and seconds.
async fn streams() -> (f64, f64, f64) {
    let program = std::env::current_exe().expect("own path");
    let mut server = Command::new(program);
    let mut server = server.arg("--server").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a server");
    let mut base_url = String::new();
    BufReader::new(server.stdout.take().expect("piped")).read_line(&mut base_url).expect("an address");
    let config = AnthropicConfig { base_url: base_url.trim().into(), ..AnthropicConfig::new(Secret::new("bench")) };
    let directory = tempfile::tempdir().expect("a directory");
    let instance = InstanceId::fresh("bench");
    let backend = embedded::open(directory.path(), &instance, Durability::Full, Clock::system()).await.expect("stores");
    let metered = metered(Arc::new(Anthropic::new(&config).expect("a client")), &backend, Some(None)).await;
    let (before, started) = (kib("VmRSS:") / 1024.0, Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let metered = metered.clone();
        let prompt =
            format!("{}\nRequest: file a.py (id 7f3a9c)", "context that a file's task is given\n".repeat(2_000));
        tasks.spawn(async move { call(&metered, &prompt).await });
    }
    tasks.join_all().await;
    drop(server.stdin.take());
    server.wait().expect("it ends");
    (before, kib("VmHWM:") / 1024.0, started.elapsed().as_secs_f64())
}

/// User and system time of this process so far, in microseconds (fields 14 and 15 of /proc/self/stat, in 1/100 s).
fn cpu_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    (ticks(11) + ticks(12)) * 10_000
}

/// A figure of /proc/self/status, in KiB.
fn kib(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with(name)).expect("the figure");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}
