//! What setting money aside costs: reserve and settle on the embedded ledger, against the disk's own flush.
//!
//! Both are measured in the same run on the same disk, because a reservation is as durable as a flush and can never be
//! faster than one. Nothing here asserts a time.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark prints, and fails by panicking"
)]

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use codeswarm::backend::embedded::{self, Durability};
use codeswarm::backend::{Adjustment, Backend, ReserveOutcome, ReserveRequest, Scope, Settlement};
use codeswarm::clock::Clock;
use codeswarm::protocol::{AgentType, InstanceId, JobId, MicroUsd, TaskId, Usage};

/// Pairs per row.
const PAIRS: usize = 4_000;

fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("| what | callers | per second | p50 µs | p99 µs | p99 ÷ flush p50 |");
    println!("|---|---|---|---|---|---|");
    let flushes = flush(directory.path());
    let flush_p50 = percentile(&flushes, 50);
    show("bare 4 KiB fdatasync", 1, flushes.iter().sum(), &flushes, flush_p50);
    for durability in [Durability::Full, Durability::Process] {
        for callers in [1, 10, 50, 250] {
            let data = directory.path().join(format!("{durability:?}-{callers}"));
            let (elapsed, pairs) = runtime.block_on(pairs(&data, durability, callers));
            show(&format!("reserve + settle, {durability:?}"), callers, elapsed, &pairs, flush_p50);
        }
    }
}

fn show(what: &str, callers: usize, elapsed: Duration, samples: &[Duration], flush_p50: Duration) {
    let (p50, p99) = (percentile(samples, 50), percentile(samples, 99));
    println!(
        "| {what} | {callers} | {:.0} | {} | {} | {:.1} |",
        samples.len() as f64 / elapsed.as_secs_f64(),
        p50.as_micros(),
        p99.as_micros(),
        p99.as_secs_f64() / flush_p50.as_secs_f64()
    );
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

/// Runs pairs from `callers` tasks; answers the whole time and the time of each pair.
async fn pairs(data: &Path, durability: Durability, callers: usize) -> (Duration, Vec<Duration>) {
    let instance = InstanceId::fresh("bench");
    let backend = embedded::open(data, &instance, durability, Clock::system()).await.expect("stores");
    let job = JobId::fresh();
    let limit = Adjustment::SetLimit(Some(MicroUsd(1_000_000_000)));
    backend.ledger.adjust("limit", &Scope::Job(job.clone()), limit).await.expect("a limit");
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..callers {
        tasks.spawn(caller_pairs(backend.clone(), instance.clone(), job.clone(), caller, PAIRS / callers));
    }
    let samples = tasks.join_all().await.concat();
    (started.elapsed(), samples)
}

async fn caller_pairs(
    backend: Backend,
    instance: InstanceId,
    job: JobId,
    caller: usize,
    count: usize,
) -> Vec<Duration> {
    let mut samples = Vec::with_capacity(count);
    for n in 0..count {
        let id = format!("{caller}:{n}");
        let request = ReserveRequest {
            id: id.clone(),
            scopes: vec![Scope::Account, Scope::Job(job.clone())],
            amount: MicroUsd(1_000),
            lease: Duration::from_secs(600),
            may_use_hold_back: false,
            instance: instance.clone(),
            job: job.clone(),
            task: TaskId::plan(),
            agent: AgentType::planner(),
            model: "claude-sonnet-5-5".into(),
        };
        let started = Instant::now();
        let outcome = backend.ledger.reserve(request).await.expect("an answer");
        assert_eq!(outcome, ReserveOutcome::Granted);
        let settlement =
            Settlement { amount: MicroUsd(400), usage: Usage { input: 100, output: 20, ..Usage::default() } };
        backend.ledger.settle(&id, settlement).await.expect("settled");
        samples.push(started.elapsed());
    }
    samples
}
