//! Serving processes from outside: any worker, waiting submissions, draining, handing the lead over.
//!
//! Calls that must still be running when something happens take ten minutes, so no test depends on being fast enough.

use std::path::PathBuf;

use codeswarm::job::JobStatus;
use codeswarm::llm::replay::Script;
use codeswarm::protocol::{JobOutcome, MicroUsd};

use super::{EXAMPLE, Watched};
use crate::support::{Books, Running, Sandbox, program};

/// The example's recording, with files that take ten minutes each to write.
fn slow_recording(sandbox: &Sandbox) -> PathBuf {
    let text = std::fs::read_to_string(EXAMPLE.replay()).unwrap();
    let slow = text.replace("{\"request\": \"file ", "{\"delay_ms\": 600000, \"request\": \"file ");
    Script::parse(&slow).expect("still a script");
    let path = sandbox.work().join("slow.jsonl");
    std::fs::write(&path, slow).unwrap();
    path
}

fn submit(sandbox: &Sandbox, more: &[&str]) -> Running {
    let mut command = sandbox.codeswarm(&["submit", "--yes", "--budget", "50"]);
    Running::start(command.arg("--out").arg(sandbox.out()).arg(EXAMPLE.proposal()).args(more))
}

#[test]
fn one_worker_of_all_types_does_a_job_that_submit_waits_for() {
    let sandbox = Sandbox::new();
    let waiting = submit(&sandbox, &["--wait", "--json"]);
    let coordinator = Watched::coordinator(&sandbox);
    let worker = Watched::worker(&sandbox, &[]);
    let ended = waiting.end().expect_code(0);
    assert_eq!(ended.json()["outcome"], "completed");
    let agents = Running::start(&mut sandbox.codeswarm(&["agents", "--json"])).end().expect_code(0).json();
    assert_eq!(agents["workers"].as_array().map(Vec::len), Some(1), "{agents}");
    assert_eq!(agents["workers"][0]["state"], "alive");
    assert!(agents["workers"][0]["agent_types"].as_array().unwrap().len() >= 14, "{agents}");
    assert!(agents["leader"].as_str().unwrap().starts_with("coordinator-"), "{agents}");
    worker.running.kill();
    Books::open(&sandbox.data());
    let agents = |more: &[&str]| {
        let ended = Running::start(&mut sandbox.codeswarm(&[&["agents", "--json"], more].concat())).end();
        ended.expect_code(0).json()["workers"].clone()
    };
    assert_eq!(agents(&[]).as_array().map(Vec::len), Some(0), "whoever died is not shown");
    assert_eq!(agents(&["--all"])[0]["state"], "dead");
    let mut status = program(&sandbox, "coordinator", EXAMPLE);
    let status = Running::start(status.args(["status", "--json"])).end().expect_code(0).json();
    assert_eq!(status["status"], "completed");
    coordinator.running.kill();
}

#[test]
fn a_worker_serves_agent_types_of_ones_own_and_refuses_those_without_a_role() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.work().join("translator.md"), "You translate.").unwrap();
    let config = sandbox.work().join("fleet.toml");
    std::fs::write(&config, "[roles.translator]\nprompt_file = \"translator.md\"\n").unwrap();
    let mut command = program(&sandbox, "worker", EXAMPLE);
    command.args(["--agent", "translator", "--agent", "docs", "--config"]).arg(&config);
    let worker = Watched::start(&mut command, "10 slots for translator, docs tasks");
    worker.running.signal("TERM");
    worker.running.end().expect_code(0);
    for (arguments, part) in [
        (&["--agent", "translator"][..], "roles.translator"),
        (&[], "--all"),
        (&["--all", "--agent", "docs"], "cannot be used with"),
    ] {
        let ended = Running::start(program(&sandbox, "worker", EXAMPLE).args(arguments)).end().expect_code(2);
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
}

#[test]
fn sigterm_ends_readiness_at_once_and_keeps_running_calls_until_the_second_one() {
    let sandbox = Sandbox::new();
    let slow = slow_recording(&sandbox);
    let coordinator = Watched::coordinator(&sandbox);
    let worker = Watched::worker(&sandbox, &["--replay", slow.to_str().unwrap()]);
    worker.until("/readyz", 200);
    submit(&sandbox, &[]).end().expect_code(0);
    let books = Books::open(&sandbox.data());
    let id = books.only_job();
    books.wait_for_entry(&id, |entry| entry.task.as_deref().is_some_and(|task| task.starts_with("file/")));
    worker.running.signal("TERM");
    assert!(worker.until("/readyz", 503).contains("draining"));
    assert_eq!(worker.get("/healthz").0, 200, "a draining process lives");
    assert!(books.balance(&id).reserved > MicroUsd::ZERO, "the calls go on");
    worker.running.signal("TERM");
    worker.running.end().expect_code(0);
    assert_eq!(books.balance(&id).reserved, MicroUsd::ZERO, "what was cut off is paid");
    coordinator.running.kill();
}

#[test]
fn a_drain_ends_by_itself_after_the_time_it_was_given() {
    let sandbox = Sandbox::new();
    let slow = slow_recording(&sandbox);
    let coordinator = Watched::coordinator(&sandbox);
    let worker = Watched::worker(&sandbox, &["--drain", "1", "--replay", slow.to_str().unwrap()]);
    submit(&sandbox, &[]).end().expect_code(0);
    let books = Books::open(&sandbox.data());
    let id = books.only_job();
    books.wait_for_entry(&id, |entry| entry.task.as_deref().is_some_and(|task| task.starts_with("file/")));
    worker.running.signal("TERM");
    // The calls would take ten minutes, which is more than any wait in here.
    worker.running.end().expect_code(0);
    assert_eq!(books.balance(&id).reserved, MicroUsd::ZERO);
    coordinator.running.kill();
}

#[test]
fn a_coordinator_that_is_asked_to_stop_hands_the_lead_over() {
    let sandbox = Sandbox::new();
    let leader = Watched::coordinator(&sandbox);
    leader.until("/readyz", 200);
    let mut standby = Watched::coordinator(&sandbox);
    standby.running.wait_for(|line| line.contains("standing by")).expect("only one leads");
    let metric = |process: &Watched| {
        process.get("/metrics").1.lines().find(|line| line.starts_with("codeswarm_leader ")).map(str::to_owned)
    };
    assert_eq!(metric(&standby).as_deref(), Some("codeswarm_leader 0"));
    let worker = Watched::worker(&sandbox, &["--replay-latency", "20"]);
    submit(&sandbox, &[]).end().expect_code(0);
    let books = Books::open(&sandbox.data());
    let id = books.only_job();
    books.wait_for_entry(&id, |entry| entry.task.as_deref().is_some_and(|task| task.starts_with("file/")));
    leader.running.signal("TERM");
    leader.running.end().expect_code(0);
    standby.running.wait_for(|line| line.contains("leading")).expect("the standby leads");
    let job = books.wait_until_ended(&id);
    assert_eq!(job.status(), JobStatus::Ended(JobOutcome::Completed));
    for process in [worker, standby] {
        process.running.signal("TERM");
        process.running.end().expect_code(0);
    }
}
