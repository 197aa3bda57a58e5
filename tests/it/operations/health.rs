//! Health, readiness, metrics and log lines of real processes, and how they end when their stores do.
//!
//! Processes listen on a port the system chooses and say which, so that tests never guess one.

use std::net::TcpListener;

use serde_json::Value;

use super::{EXAMPLE, Watched, ask};
use crate::support::{Running, Sandbox, program};

#[test]
fn processes_answer_health_readiness_and_metrics_and_their_own_healthcheck() {
    let sandbox = Sandbox::new();
    let coordinator = Watched::coordinator(&sandbox);
    let worker = Watched::worker(&sandbox, &[]);
    for process in [&coordinator, &worker] {
        assert_eq!(process.get("/healthz"), (200, "{\"alive\":true}\n".into()));
        assert_eq!(process.until("/readyz", 200), "{\"ready\":true}\n");
        let (status, metrics) = process.get("/metrics");
        assert_eq!(status, 200);
        assert!(metrics.contains("\ncodeswarm_process_start_time_seconds "), "{metrics}");
        process.until_metric("codeswarm_backend_up{store=\"state\"} 1");
        assert_eq!(process.get("/elsewhere").0, 404);
        assert_eq!(ask(&process.address, "POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").0, 405);
        assert_ne!(ask(&process.address, &format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(100_000))).0, 200);
        assert_ne!(ask(&process.address, "nonsense\r\n\r\n").0, 200);
        assert_eq!(process.get("/healthz").0, 200, "nonsense does no harm");
    }
    coordinator_metrics(&coordinator);
    healthchecks(&sandbox, worker, coordinator);
}

/// The leader tells about the fleet.
fn coordinator_metrics(coordinator: &Watched) {
    for line in [
        "codeswarm_leader 1",
        "codeswarm_active_agents{agent_type=\"backend\"} 1",
        "codeswarm_jobs{state=\"running\"} 0",
        "# TYPE codeswarm_queue_depth gauge",
        "codeswarm_budget_frozen 0",
        "codeswarm_dead_letters 0",
    ] {
        coordinator.until_metric(line);
    }
}

/// `healthcheck` of every program agrees, and its exit code says it.
fn healthchecks(sandbox: &Sandbox, worker: Watched, coordinator: Watched) {
    let url = format!("http://{}", worker.address);
    let ended = |command: &mut std::process::Command| Running::start(command).end();
    for name in ["worker", "worker-docs", "coordinator"] {
        let mut own = program(sandbox, name, EXAMPLE);
        ended(own.arg("healthcheck").env("CODESWARM_HTTP_LISTEN", &worker.address)).expect_code(0);
    }
    let alive = ended(&mut sandbox.codeswarm(&["healthcheck", "--url", &url])).expect_code(0);
    assert_eq!(alive.stdout, format!("{url}: {{\"alive\":true}}"));
    let missing = format!("{url}/elsewhere");
    let refused = ended(&mut sandbox.codeswarm(&["healthcheck", "--url", &missing])).expect_code(1);
    assert!(refused.stderr.contains("answer 404") && refused.stderr.lines().count() == 1, "{}", refused.stderr);
    worker.running.kill();
    let dead = ended(&mut sandbox.codeswarm(&["healthcheck", "--url", &url])).expect_code(1);
    assert_eq!(dead.stderr.lines().count(), 1, "{}", dead.stderr);
    for wrong in [&["healthcheck"][..], &["healthcheck", "--url", "https://x"], &["healthcheck", "--url", "x y"]] {
        ended(&mut sandbox.codeswarm(wrong)).expect_code(2);
    }
    coordinator.running.signal("TERM");
    coordinator.running.end().expect_code(0);
}

#[test]
fn an_address_in_use_is_an_error_of_the_start() {
    let sandbox = Sandbox::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (name, argument) in [("coordinator", "serve"), ("worker", "--all")] {
        let mut command = program(&sandbox, name, EXAMPLE);
        let ended = Running::start(command.arg(argument).env("CODESWARM_HTTP_LISTEN", &address)).end().expect_code(1);
        assert!(ended.stderr.contains("CS-TELEMETRY-001") && ended.stderr.contains(&address), "{}", ended.stderr);
    }
    assert!(!sandbox.data().exists(), "nothing was opened");
}

#[test]
fn json_logs_are_all_that_a_process_says_and_name_it_and_the_work() {
    let sandbox = Sandbox::new();
    let coordinator = Watched::coordinator(&sandbox);
    let mut command = program(&sandbox, "worker", EXAMPLE);
    command.args(["--all"]).env("CODESWARM_LOG_JSON", "true").env("CODESWARM_LOG_FILTER", "codeswarm=debug");
    let worker = Watched::start(&mut command, "slots for");
    let mut submit = sandbox.codeswarm(&["submit", "--wait", "--yes"]);
    submit.arg("--out").arg(sandbox.out()).arg(EXAMPLE.proposal()).arg("--replay").arg(EXAMPLE.replay());
    Running::start(&mut submit).end().expect_code(0);
    worker.running.signal("TERM");
    let ended = worker.running.end().expect_code(0);
    let lines: Vec<Value> = ended
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let instance = lines[0]["instance"].as_str().expect("a name").to_owned();
    assert!(lines.iter().all(|line| line["instance"] == instance.as_str() && line["role"] == "worker"));
    let claimed: Vec<&Value> = lines.iter().filter(|line| line["message"] == "claimed").collect();
    assert_eq!(claimed.len(), 27, "one line per task");
    assert!(claimed.iter().all(|line| line["job"].is_string() && line["task"].is_string() && line["attempt"] == 1));
    assert_eq!(lines.last().unwrap()["message"], "drained");
    coordinator.running.kill();
}

#[test]
fn a_process_whose_stores_are_destroyed_ends_with_an_error() {
    let sandbox = Sandbox::new();
    let coordinator = Watched::coordinator(&sandbox);
    coordinator.until("/readyz", 200);
    for suffix in ["", "-wal"] {
        std::fs::write(sandbox.data().join(format!("codeswarm.db{suffix}")), vec![0xa5; 200_000]).unwrap();
    }
    let ended = coordinator.running.end().expect_code(1);
    assert!(ended.stderr.contains("cannot go on without its stores"), "{}", ended.stderr);
}
