//! One job on several worker processes: the head of its prompts is written into the provider's cache once.
//!
//! What counts is the bill of the provider, who knows nothing of processes. Every call takes long enough for all workers to
//! have one under way before the first reply begins.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use codeswarm::llm::replay::{FakeOptions, FakeServer, Latency, Synthetic};

use crate::support::servers::nats::NatsServer;
use crate::support::servers::redis::RedisServer;
use crate::support::{Running, Sandbox};

/// Worker processes; each of them has calls with the same head at once.
const WORKERS: usize = 4;

/// One of the fleet's programs, with this provider and these stores.
fn program(sandbox: &Sandbox, name: &str, environment: &[(&str, String)]) -> Command {
    let directory = Path::new(env!("CARGO_BIN_EXE_codeswarm")).parent().expect("a program lies in a directory");
    let mut command = sandbox.command(directory.join(name), &["--data"]);
    command.arg(sandbox.data()).env("ANTHROPIC_API_KEY", "any");
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

fn started(command: &mut Command, says: &str) -> Running {
    let mut running = Running::start(command);
    assert!(running.wait_for(|line| line.contains(says)).is_some(), "it never says {says:?}");
    running
}

/// Runs a job of independent files and answers what the provider billed.
fn write_the_head_once(stores: &[(&str, String)]) {
    let job = Synthetic::new(8, 4, 5).build().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let options = FakeOptions { latency: Latency::Fixed(Duration::from_millis(300)), ..FakeOptions::default() };
    let server = runtime.block_on(FakeServer::start(job.script, options)).unwrap();
    let environment = [stores, &[("ANTHROPIC_BASE_URL", server.base_url())]].concat();
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.work().join("proposal.md"), "# A program\n\nWrite a few files.\n").unwrap();
    let mut everybody = vec![started(program(&sandbox, "codeswarm-coordinator", &environment).arg("serve"), "serving")];
    for _ in 0..WORKERS {
        let mut worker = program(&sandbox, "codeswarm-worker", &environment);
        everybody.push(started(worker.args(["--all", "--concurrency", "4"]), "slots for"));
    }
    let mut submit = program(&sandbox, "codeswarm", &environment);
    submit.args(["submit", "proposal.md", "--yes", "--budget", "50", "--wait"]);
    Running::start(&mut submit).end().expect_code(0);
    for running in &everybody {
        running.signal("TERM");
    }
    for running in everybody {
        running.end().expect_code(0);
    }
    let bill = runtime.block_on(server.stop());
    let calls = u64::try_from(1 + 8 + 8 * 4).unwrap();
    let (written, read) = (bill.usage.cache_write_5m, bill.usage.cache_read);
    assert_eq!(bill.calls, calls, "{bill:?}");
    // All but the first plan have the head, and all but one of those read it.
    assert!(written > 0 && read == written * (calls - 2), "written {written}, read {read}: {} times", read / written);
}

#[test]
fn several_workers_on_one_data_directory_write_the_head_of_a_job_once() {
    write_the_head_once(&[]);
}

#[test]
fn several_workers_on_servers_write_the_head_of_a_job_once() {
    let (nats, redis) = (NatsServer::start(), RedisServer::start());
    write_the_head_once(&[
        ("CODESWARM_BACKEND", "nats".into()),
        ("NATS_URL", nats.url()),
        ("REDIS_URL", redis.url()),
        ("CODESWARM_STORAGE_DURABILITY", "process".into()),
    ]);
}
