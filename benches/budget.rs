//! What setting money aside costs: reserve and settle on each ledger, against the least that its medium can do.
//!
//! On SQLite that is the disk's own flush, on Redis a script of two increments (`-- redis`), both measured in the same run
//! on the same machine, because a reservation can never be faster than what it rests on. Nothing here asserts a time.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark prints, and fails by panicking"
)]

#[path = "harness/options.rs"]
mod options;
#[path = "harness/servers.rs"]
mod servers;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use codeswarm::backend::embedded::{self, Durability};
use codeswarm::backend::{Adjustment, Ledger, ReserveOutcome, ReserveRequest, Scope, Settlement};
use codeswarm::clock::Clock;
use codeswarm::protocol::{AgentType, InstanceId, JobId, MicroUsd, TaskId, Usage};
use servers::{Bare, Servers};
use tokio::task::JoinSet;

/// Pairs per row on SQLite.
const PAIRS: usize = 4_000;

/// Pairs per round on Redis: a single caller waits for the disk each time, many share its flushes.
const fn round_of(callers: usize) -> usize {
    if callers < 10 { 400 } else { 5_000 }
}

/// Rounds of each row on Redis, of which the median is shown; taken in turns, so that whatever disturbs the machine disturbs all rows alike.
const ROUNDS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    match std::env::args().nth(1).as_deref() {
        Some("redis") => runtime.block_on(redis()),
        _ => embedded(&runtime),
    }
}

fn embedded(runtime: &tokio::runtime::Runtime) {
    let directory = tempfile::tempdir().expect("a directory");
    println!("| what | callers | per second | p50 µs | p99 µs | p99 ÷ flush p50 |");
    println!("|---|---|---|---|---|---|");
    let flushes = flush(directory.path());
    let flush_p50 = percentile(&flushes, 50);
    let show = |what: &str, callers: usize, elapsed: Duration, samples: &[Duration]| {
        let (p50, p99) = (percentile(samples, 50), percentile(samples, 99));
        let (rate, ratio) = (samples.len() as f64 / elapsed.as_secs_f64(), p99.as_secs_f64() / flush_p50.as_secs_f64());
        println!("| {what} | {callers} | {rate:.0} | {} | {} | {ratio:.1} |", p50.as_micros(), p99.as_micros());
    };
    show("bare 4 KiB fdatasync", 1, flushes.iter().sum(), &flushes);
    for durability in [Durability::Full, Durability::Process] {
        for callers in [1, 10, 50, 250] {
            let data = directory.path().join(format!("{durability:?}-{callers}"));
            let (elapsed, samples) = runtime.block_on(async {
                let instance = InstanceId::fresh("bench");
                let backend = embedded::open(&data, &instance, durability, Clock::system()).await.expect("stores");
                round(backend.ledger.clone(), &instance, callers, PAIRS).await
            });
            show(&format!("reserve + settle, {durability:?}"), callers, elapsed, &samples);
        }
    }
}

/// Rows of one round: pairs a second and the time of each pair.
type Round = (f64, Vec<Duration>);

async fn redis() {
    let servers = Servers::start().await;
    println!("| what | callers | pairs per second | ÷ bare | p50 µs | p99 µs |");
    println!("|---|---|---|---|---|---|");
    for callers in [1, 10, 50, 250] {
        let mut rows: [Vec<Round>; 3] = Default::default();
        // The first round of each is not counted: scripts are loaded, connections made.
        for number in 0..=ROUNDS {
            let bare = bare_round(&servers.bare, callers).await;
            let counters = round(servers.counters.clone(), &servers.instance, callers, round_of(callers)).await;
            let journaled = round(servers.journaled.clone(), &servers.instance, callers, round_of(callers)).await;
            for (row, (elapsed, samples)) in rows.iter_mut().zip([bare, counters, journaled]) {
                if number > 0 {
                    row.push((samples.len() as f64 / elapsed.as_secs_f64(), samples));
                }
            }
        }
        let bare = median(&rows[0]);
        for (what, row) in ["bare script", "reserve + settle", "the same, with its journal on NATS"].iter().zip(&rows) {
            let (rate, samples) =
                (median(row), row.iter().flat_map(|(_, all)| all.iter().copied()).collect::<Vec<_>>());
            let (p50, p99) = (percentile(&samples, 50).as_micros(), percentile(&samples, 99).as_micros());
            println!("| {what} | {callers} | {rate:.0} | {:.2} | {p50} | {p99} |", rate / bare);
        }
    }
}

fn median(rounds: &[Round]) -> f64 {
    let mut rates: Vec<f64> = rounds.iter().map(|(rate, _)| *rate).collect();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn percentile(samples: &[Duration], percent: usize) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort();
    sorted[(sorted.len() - 1) * percent / 100]
}

/// Time of each of 1,000 flushes of one block.
fn flush(directory: &Path) -> Vec<Duration> {
    let mut file = std::fs::File::create(directory.join("flush")).expect("a file");
    let once = |_| {
        let started = Instant::now();
        file.write_all(&[7; 4096]).expect("written");
        file.sync_data().expect("flushed");
        started.elapsed()
    };
    (0..1_000).map(once).collect()
}

/// `pairs` pairs of bare steps from `callers` tasks.
async fn bare_round(bare: &Bare, callers: usize) -> (Duration, Vec<Duration>) {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let bare = bare.clone();
        tasks.spawn(async move {
            let mut samples = Vec::with_capacity(round_of(callers) / callers);
            for _ in 0..round_of(callers) / callers {
                let started = Instant::now();
                bare.step(caller, 1_000, 0).await;
                bare.step(caller, -1_000, 400).await;
                samples.push(started.elapsed());
            }
            samples
        });
    }
    let samples = tasks.join_all().await.concat();
    (started.elapsed(), samples)
}

/// `pairs` pairs from `callers` tasks, for a new job; answers the whole time and the time of each pair.
async fn round(
    ledger: Arc<dyn Ledger>,
    instance: &InstanceId,
    callers: usize,
    pairs: usize,
) -> (Duration, Vec<Duration>) {
    let job = JobId::fresh();
    let limit = Adjustment::SetLimit(Some(MicroUsd(1_000_000_000)));
    ledger.adjust(&format!("{job}-limit"), &Scope::Job(job.clone()), limit).await.expect("a limit");
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        tasks.spawn(caller_pairs(Arc::clone(&ledger), instance.clone(), job.clone(), caller, pairs / callers));
    }
    let samples = tasks.join_all().await.concat();
    (started.elapsed(), samples)
}

async fn caller_pairs(
    ledger: Arc<dyn Ledger>,
    instance: InstanceId,
    job: JobId,
    caller: usize,
    count: usize,
) -> Vec<Duration> {
    let mut samples = Vec::with_capacity(count);
    for n in 0..count {
        let id = format!("{job}:{caller}:{n}");
        let request = ReserveRequest {
            id: id.clone(),
            scopes: vec![Scope::Account, Scope::Job(job.clone())],
            amount: MicroUsd(1_000),
            tokens: 0,
            lease: Duration::from_secs(600),
            may_use_hold_back: false,
            instance: instance.clone(),
            job: job.clone(),
            task: TaskId::plan(),
            agent: AgentType::planner(),
            model: "claude-sonnet-5-5".into(),
        };
        let started = Instant::now();
        let outcome = ledger.reserve(request).await.expect("an answer");
        assert_eq!(outcome, ReserveOutcome::Granted);
        let settlement =
            Settlement { amount: MicroUsd(400), usage: Usage { input: 100, output: 20, ..Usage::default() } };
        ledger.settle(&id, settlement).await.expect("settled");
        samples.push(started.elapsed());
    }
    samples
}
