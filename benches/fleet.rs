//! The fleet on servers: tasks a second through the whole path, what each costs whom, and how long one waits.
//!
//! NATS, Redis, coordinator and workers share this machine, everything is on, and only the provider answers from memory. Every
//! rate stands beside what the bare servers do in the same run, because machines are noisy and ratios are not. Nothing here
//! asserts a time. `cargo bench --bench fleet -- --quick` takes about a minute; names of sections measure only those.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark prints, and fails by panicking"
)]

#[path = "harness/cluster.rs"]
mod cluster;
#[path = "harness/ideal.rs"]
mod ideal;
#[path = "harness/idle.rs"]
mod idle;
#[path = "harness/job.rs"]
mod job;
#[path = "../tests/it/support/servers/nats.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod nats_server;
#[path = "harness/noop.rs"]
mod noop;
#[path = "harness/options.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod options;
#[path = "harness/pickup.rs"]
mod pickup;
#[path = "harness/process.rs"]
mod process;
#[path = "harness/raw.rs"]
mod raw;
#[path = "../tests/it/support/servers/redis.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod redis_server;
#[path = "harness/scenario.rs"]
mod scenario;
#[path = "harness/swarm.rs"]
mod swarm;

use std::process::Command;
use std::sync::Arc;

use cluster::Cluster;
use codeswarm::llm::replay::Synthetic;
use codeswarm::protocol::AgentType;
use noop::NoOp;
use scenario::{Measured, SCENARIOS};
use swarm::Swarm;

/// Sections, in the order in which they are measured.
const SECTIONS: [&str; 6] = ["slots", "large", "many", "pickup", "makespan", "idle"];

/// What the bare servers do, in tasks a second.
struct Bare {
    jetstream: f64,
    redis: f64,
}

/// One row of the table of rates.
struct Row {
    name: &'static str,
    /// Jobs at once; features and files of each.
    jobs: usize,
    shape: (usize, usize),
    slots: u32,
    /// One agent type for all files, and workers that serve nothing else; otherwise five types, and workers of every type.
    typed: bool,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [_, name, _, stores] = &arguments[..]
        && arguments[0] == "--scenario"
    {
        return makespan(name, stores);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(&arguments));
}

async fn measure(arguments: &[String]) {
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let is_close = arguments.iter().any(|argument| argument == "--close");
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let is_wanted = |section: &&str| wanted.is_empty() || wanted.iter().any(|one| *one == section);
    for section in SECTIONS.iter().filter(|section| is_wanted(section)) {
        match *section {
            "pickup" => pickups(is_quick).await,
            "makespan" => makespans(is_quick),
            "idle" => idles().await,
            other => rates(other, is_quick, is_close).await,
        }
    }
}

fn rows(section: &str, is_quick: bool) -> Vec<Row> {
    let row = |name, jobs, shape, slots| Row { name, jobs, shape, slots, typed: false };
    let typed = |name, jobs, shape, slots| Row { name, jobs, shape, slots, typed: true };
    match (section, is_quick) {
        ("slots", false) => [(1, 3), (5, 10), (10, 20), (25, 40), (50, 50), (100, 50), (250, 50)]
            .map(|(slots, features)| row("one job", 1, (features, 100), slots))
            .into_iter()
            .chain([typed("one job, one type", 1, (50, 100), 50)])
            .collect(),
        ("slots", true) => {
            let one = "one job, one type";
            vec![row("one job", 1, (5, 100), 5), row("one job", 1, (20, 100), 50), typed(one, 1, (20, 100), 50)]
        }
        ("large", false) => vec![row("10,000 tasks", 1, (100, 100), 64)],
        ("large", true) => vec![row("3,000 tasks", 1, (30, 100), 64)],
        ("many", false) => vec![row("100 jobs", 100, (5, 6), 64)],
        _ => vec![row("20 jobs", 20, (5, 6), 64)],
    }
}

async fn rates(section: &str, is_quick: bool, is_close: bool) {
    println!("\n## {section}\n");
    println!(
        "Per task: messages into and out of NATS, stored in streams; requests to Redis, commands it ran; CPU µs.\n"
    );
    println!(
        "| what | tasks | slots | processes | tasks/s | ÷ JetStream | ÷ Redis | in | out | stored | requests | commands \
         | CPU ours | NATS | Redis |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for row in rows(section, is_quick) {
        let cluster = Cluster::start();
        let count = if is_quick { 5_000 } else { 20_000 };
        let bare = Bare { jetstream: raw::jetstream(&cluster, count).await, redis: raw::redis(&cluster, count).await };
        drop(cluster);
        rate(&row, &bare, is_close).await;
    }
}

async fn rate(row: &Row, bare: &Bare, is_close: bool) {
    let cluster = Cluster::start();
    let (features, files) = row.shape;
    let (agents, types): (&[&str], _) = match row.typed {
        true => (&["coder"], ["coordinator-planner", "feature-coordinator", "coder"].map(agent).to_vec()),
        false => (&[], AgentType::builtin()),
    };
    let job = Synthetic::new(features, files, 42).agents(agents).build().expect("a valid job");
    let mut swarm = Swarm::start(&cluster, Arc::new(NoOp::of(&job)), row.slots, &types).await;
    let redis_before = is_close.then(|| cluster.commands());
    let round = swarm.run(&cluster, row.jobs).await;
    if let Some(before) = redis_before {
        println!("{}\n---\n{}", before, cluster.commands());
    }
    let (processes, tasks) = (swarm.processes, row.jobs * (1 + features + features * files));
    swarm.stop().await;
    let (rate, each) = (tasks as f64 / round.took.as_secs_f64(), |count: u64| count as f64 / tasks as f64);
    let (work, cpu) = (round.work, round.work.cpu.map(|time| time.as_secs_f64() * 1e6 / tasks as f64));
    println!(
        "| {} | {tasks} | {} | {processes} | {rate:.0} | {:.3} | {:.3} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} \
         | {:.0} | {:.0} |",
        row.name,
        row.slots,
        rate / bare.jetstream,
        rate / bare.redis,
        each(work.nats_in),
        each(work.nats_out),
        each(work.stored),
        each(work.requests),
        each(work.commands),
        cpu[0],
        cpu[1],
        cpu[2],
    );
    println!(
        "<!-- bare: JetStream {:.0}/s, Redis {:.0}/s; took {:.2} s, first end after {:.2} s -->",
        bare.jetstream,
        bare.redis,
        round.took.as_secs_f64(),
        round.first.as_secs_f64()
    );
}

fn agent(name: &str) -> AgentType {
    AgentType::new(name).expect("valid")
}

async fn pickups(is_quick: bool) {
    println!("\n## pickup\n\n| tasks/s | slots | p50 ms | p99 ms | longest ms | CPU µs each, servers included |");
    println!("|---|---|---|---|---|---|");
    for (rate, count) in if is_quick { vec![(200, 1_000)] } else { vec![(200, 4_000), (1_000, 8_000)] } {
        let pickup = pickup::run(rate, count).await;
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        let (p50, p99, longest) = (ms(pickup.p50), ms(pickup.p99), ms(pickup.longest));
        println!("| {rate} | 50 | {p50:.2} | {p99:.2} | {longest:.2} | {:.0} |", pickup.cpu_us);
    }
}

/// Whole jobs with an HTTP provider, over embedded stores and over servers, in turn and each in a process of its own.
fn makespans(is_quick: bool) {
    println!(
        "\n## makespan\n\n| scenario | slots | embedded ÷ ideal | on servers ÷ ideal | difference |\n|---|---|---|---|---|"
    );
    let names: &[&str] =
        if is_quick { &["fan-out-50"] } else { &["fan-out-10", "fan-out-50", "random-10", "random-50"] };
    for scenario in SCENARIOS.iter().filter(|scenario| names.contains(&scenario.name)) {
        let mut ratios = [Vec::new(), Vec::new()];
        for _ in 0..if is_quick { 1 } else { 3 } {
            for (stores, ratios) in ["embedded", "servers"].into_iter().zip(&mut ratios) {
                let program = std::env::current_exe().expect("own path");
                let output = Command::new(program).args(["--scenario", scenario.name, "--stores", stores]).output();
                let output = output.expect("it starts");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                let measured: Measured = serde_json::from_slice(&output.stdout).expect("a measurement");
                ratios.push(measured.makespan_s / measured.ideal_s);
            }
        }
        let [embedded, servers] = ratios.map(|mut ratios| {
            ratios.sort_by(f64::total_cmp);
            ratios[ratios.len() / 2]
        });
        let difference = servers - embedded;
        println!("| {} | {} | {embedded:.3} | {servers:.3} | {difference:+.3} |", scenario.name, scenario.slots);
    }
}

/// Measures one scenario in this process, for [`makespans`].
fn makespan(name: &str, stores: &str) {
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).expect("known scenario");
    let cluster = (stores == "servers").then(Cluster::start);
    let measured = job::run(scenario, cluster.as_ref().map(Cluster::options).as_ref());
    println!("{}", serde_json::to_string(&measured).expect("serialises"));
}

async fn idles() {
    println!("\n## idle\n\n| program | resident MiB | of these not shared | ms to first pull | CPU ms a second |");
    println!("|---|---|---|---|---|");
    for (name, program, arguments) in [
        ("codeswarm-worker-backend", option_env!("CARGO_BIN_EXE_codeswarm-worker-backend"), &[][..]),
        ("codeswarm-worker --all", option_env!("CARGO_BIN_EXE_codeswarm-worker"), &["--all"][..]),
    ] {
        let idle = idle::run(program.expect("cargo bench builds the programs"), arguments).await;
        println!(
            "| {name} | {:.1} | {:.1} | {:.0} | {:.1} |",
            idle.resident_mib,
            idle.own_mib,
            idle.first_pull.as_secs_f64() * 1e3,
            idle.cpu_a_second.as_secs_f64() * 1e3
        );
    }
}
