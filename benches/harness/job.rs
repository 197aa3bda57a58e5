//! One scenario from submission to the last written file, in this process.
//!
//! Coordinator, worker, stores and fake server are the real ones, wired as `codeswarm run` wires them, so that what is
//! measured is what a user waits for. Nothing here may take a short cut past the event log or the ledger.

use std::time::Instant;

use codeswarm::backend::distributed::{self, DistributedOptions};
use codeswarm::backend::embedded::{self, Durability};
use codeswarm::clock::Clock;
use codeswarm::config::{Environment, Layers};
use codeswarm::coordinator::{Lead, Submission, submit};
use codeswarm::fleet::{LocalFleet, LocalOptions, Parts};
use codeswarm::job::{Job, JobStatus};
use codeswarm::llm::replay::{FakeOptions, FakeServer};
use codeswarm::protocol::{InstanceId, JobId, JobOutcome, JobSettings, MicroUsd, Origin};

use super::ideal::Graph;
use super::scenario::{Measured, Replies, Scenario};

/// Runs `scenario` over embedded stores, or over the servers it is given, and measures it.
pub(crate) fn run(scenario: &Scenario, servers: Option<&DistributedOptions>) -> Measured {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(scenario, servers))
}

async fn measure(scenario: &Scenario, servers: Option<&DistributedOptions>) -> Measured {
    let synthetic = scenario.synthetic().build().expect("a valid job");
    let planning_us = match scenario.replies {
        Replies::Instant => 0,
        Replies::Fixed(ms) => ms * 1_000,
        Replies::LogNormal => 200_000,
    };
    let graph = Graph::of(&synthetic, planning_us);
    let directory = tempfile::tempdir().expect("a directory");
    let server = FakeServer::start(synthetic.script, FakeOptions::default()).await.expect("a server");
    let environment = Environment::from_pairs([
        ("ANTHROPIC_API_KEY", "bench"),
        ("ANTHROPIC_BASE_URL", &server.base_url()),
        // As many calls at once as there are slots, or it is the guards' slow start that is measured.
        ("CODESWARM_FLEET_CONCURRENCY", &scenario.slots.to_string()),
    ]);
    let layers = Layers { file: Some("/dev/null".into()), environment: environment.clone(), flags: Vec::new() };
    let settings = layers.load().expect("settings").settings;
    let instance = InstanceId::fresh("bench");
    let data = directory.path().join("data");
    let opened = match servers {
        Some(servers) => distributed::open(servers, &instance, None).await,
        None => embedded::open(&data, &instance, Durability::Full, Clock::system()).await,
    };
    let backend = opened.expect("stores");
    let parts = Parts::assemble(&settings, &environment, None, directory.path()).await.expect("parts");

    let cpu_before = cpu_us();
    let started = Instant::now();
    let id = JobId::fresh();
    let output = directory.path().join("out").to_string_lossy().into_owned();
    submit(&backend, &instance, submission(&id, output)).await.expect("submitted");
    let options = LocalOptions {
        instance,
        lead: Lead::Only(id.clone()),
        slots: scenario.slots,
        drain: std::time::Duration::from_secs(10),
    };
    let fleet = LocalFleet::start(&backend, parts, &settings, options).await.expect("a fleet");
    fleet.join().await.expect("an orderly end");
    let makespan_s = started.elapsed().as_secs_f64();
    let cpu = cpu_us() - cpu_before;

    let mut job = Job::new(id.clone());
    let mut seq = 0;
    loop {
        let page = backend.events.read(&id, seq, 10_000).await.expect("events");
        let Some(last) = page.last() else { break };
        seq = last.seq;
        page.iter().for_each(|recorded| job.apply(&recorded.event, recorded.at).expect("a log that folds"));
    }
    assert_eq!(job.status(), JobStatus::Ended(JobOutcome::Completed), "{:?}", job.end());
    Measured {
        tasks: graph.len(),
        makespan_s,
        ideal_s: graph.list_schedule_us(scenario.slots) as f64 / 1e6,
        lower_bound_s: graph.lower_bound_us(scenario.slots) as f64 / 1e6,
        cpu_us_per_task: cpu as f64 / graph.len() as f64,
        peak_mib: peak_kib() as f64 / 1024.0,
    }
}

fn submission(id: &JobId, output: String) -> Submission {
    Submission {
        job: id.clone(),
        name: "bench".into(),
        proposal: "A job made up to be measured.".into(),
        budget: MicroUsd(10_000_000_000),
        free_tokens: None,
        origin: Origin::Live,
        settings: JobSettings {
            output,
            git: false,
            approval: false,
            features: (1, 10_000),
            tasks_per_feature: (1, 10_000),
            max_attempts: 3,
            hold_back_percent: 0,
        },
    }
}

/// User and system time of this process so far, in microseconds (fields 14 and 15 of /proc/self/stat, in 1/100 s).
fn cpu_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    (ticks(11) + ticks(12)) * 10_000
}

/// Peak resident memory of this process in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}
