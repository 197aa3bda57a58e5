//! Being asked to stop, and losing one process of several: running calls are finished or paid for, never forgotten.
//!
//! Calls that must still be running when something happens take ten minutes, so no test depends on being fast enough.

use std::path::PathBuf;

use codeswarm::backend::EntryKind;
use codeswarm::job::JobStatus;
use codeswarm::llm::replay::{Bill, Script};
use codeswarm::protocol::{JobId, JobOutcome, MicroUsd};

use crate::support::{AGENTS, Books, Example, Running, Sandbox, billed_calls, coordinator, differences, worker};

/// The output of a run that nobody disturbed.
fn reference() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.run(Example::LINK_SHORTENER, &[]).expect_code(0);
    sandbox
}

/// The example's recording, with files that take ten minutes each to write.
fn slow_recording(sandbox: &Sandbox) -> PathBuf {
    let text = std::fs::read_to_string(Example::LINK_SHORTENER.replay()).unwrap();
    let slow = text.replace("{\"request\": \"file ", "{\"delay_ms\": 600000, \"request\": \"file ");
    assert_ne!(slow, text);
    Script::parse(&slow).expect("still a script");
    let path = sandbox.work().join("slow.jsonl");
    std::fs::write(&path, slow).unwrap();
    path
}

#[test]
fn sigterm_finishes_running_calls_and_resume_pays_for_none_of_them_again() {
    let whole = reference();
    let sandbox = Sandbox::new();
    let mut running = Running::start(&mut sandbox.run_command(Example::LINK_SHORTENER, &["--replay-latency", "40"]));
    running.wait_for(|line| line.contains("/20] ")).expect("a file is written");
    running.signal("TERM");
    let ended = running.end().expect_code(5);
    assert!(ended.stderr.contains("running calls are being finished"), "{}", ended.stderr);
    assert!(ended.stdout.contains("interrupted") && ended.stdout.contains("codeswarm resume"), "{}", ended.stdout);
    {
        // Nothing was cut off, so the ledger knows every cost exactly.
        let books = Books::open(&sandbox.data());
        let id = books.only_job();
        let balance = books.balance(&id);
        assert_eq!(balance.reserved, MicroUsd::ZERO);
        assert_eq!(balance.spent, Bill::load(&sandbox.bill()).unwrap().cost_micros);
        assert_eq!(books.job(&id).end(), None);
    }
    sandbox.resume(Example::LINK_SHORTENER, &[]).expect_code(0);
    assert_eq!(differences(&whole.output(), &sandbox.output()), "");
    let calls = billed_calls(&sandbox.bill());
    assert!(calls.values().all(|calls| *calls == 1), "{calls:?}");
}

#[test]
fn case_22_a_second_sigint_cuts_running_calls_off_and_counts_them_as_spent() {
    let whole = reference();
    let sandbox = Sandbox::new();
    let slow = slow_recording(&sandbox);
    let mut run = sandbox.codeswarm(&["run", "--yes", "--budget", "50"]);
    run.arg(Example::LINK_SHORTENER.proposal()).arg("--replay").arg(slow);
    let mut running = Running::start(run.arg("--replay-bill").arg(sandbox.bill()).arg("--out").arg(sandbox.out()));
    running.wait_for(|line| line.starts_with("planned feature foundation")).expect("a feature is planned");
    let planned = Bill::load(&sandbox.bill()).unwrap().cost_micros;
    let underway = {
        let books = Books::open(&sandbox.data());
        books.wait_for_entry(&books.only_job(), |entry| entry.task.as_deref().is_some_and(is_file)).reserved
    };
    running.signal("INT");
    running.wait_for(|line| line.contains("press Ctrl-C again")).expect("the first one is answered");
    running.signal("INT");
    running.end().expect_code(5);
    {
        let books = Books::open(&sandbox.data());
        let balance = books.balance(&books.only_job());
        assert_eq!(balance.reserved, MicroUsd::ZERO, "{balance:?}");
        let least = planned.saturating_add(underway);
        assert!(balance.spent >= least, "{balance:?} must cover {least}: calls that were cut off may have been billed");
    }
    sandbox.resume(Example::LINK_SHORTENER, &[]).expect_code(0);
    assert_eq!(differences(&whole.output(), &sandbox.output()), "");
}

#[test]
fn the_work_of_a_killed_worker_process_goes_to_its_replacement() {
    let whole = reference();
    let sandbox = Sandbox::new();
    let mut fleet = vec![coordinator(&sandbox, EXAMPLE)];
    let others = AGENTS.iter().filter(|agent| **agent != "testing");
    fleet.extend(others.map(|agent| worker(&sandbox, EXAMPLE, agent, 0)));
    // This one takes ten minutes for every reply.
    let doomed = worker(&sandbox, EXAMPLE, "testing", 600_000);
    let (books, id) = submit(&sandbox);
    let lost = books.wait_for_entry(&id, |entry| entry.agent.as_deref() == Some("testing"));
    doomed.kill();
    fleet.push(worker(&sandbox, EXAMPLE, "testing", 0));
    assert_completed(&books, &id, &sandbox, &whole);
    let entries = books.entries(&id);
    let end = entries.iter().find(|entry| entry.reservation == lost.reservation && entry.kind != EntryKind::Reserve);
    let end = end.expect("the lost reservation was ended");
    assert_eq!((end.kind, end.charged), (EntryKind::Expire, lost.reserved), "what may have been billed is spent");
    stop_all(fleet);
}

#[test]
fn a_standby_coordinator_leads_on_when_the_leader_is_killed() {
    let whole = reference();
    let sandbox = Sandbox::new();
    let leader = coordinator(&sandbox, EXAMPLE);
    let mut fleet: Vec<Running> = AGENTS.iter().map(|agent| worker(&sandbox, EXAMPLE, agent, 30)).collect();
    let (books, id) = submit(&sandbox);
    books.wait_for_entry(&id, |entry| entry.task.as_deref().is_some_and(is_file));
    fleet.push(coordinator(&sandbox, EXAMPLE));
    leader.kill();
    assert_completed(&books, &id, &sandbox, &whole);
    let calls = billed_calls(&sandbox.bill());
    assert!(calls.values().all(|calls| *calls == 1), "no worker died, so nothing is paid twice: {calls:?}");
    stop_all(fleet);
}

const EXAMPLE: Example = Example::LINK_SHORTENER;

fn is_file(task: &str) -> bool {
    task.starts_with("file/")
}

/// Hands the job in.
fn submit(sandbox: &Sandbox) -> (Books, JobId) {
    let mut submit = sandbox.codeswarm(&["submit", "--budget", "50", "--yes"]);
    submit.arg(EXAMPLE.proposal()).arg("--out").arg(sandbox.out()).arg("--replay").arg(EXAMPLE.replay());
    let ended = Running::start(&mut submit).end().expect_code(0);
    let books = Books::open(&sandbox.data());
    let id = books.only_job();
    assert_eq!(ended.stdout, id.as_str());
    (books, id)
}

/// Waits for the end of the job and checks its files and its books.
fn assert_completed(books: &Books, id: &JobId, sandbox: &Sandbox, whole: &Sandbox) {
    let job = books.wait_until_ended(id);
    assert_eq!(job.status(), JobStatus::Ended(JobOutcome::Completed));
    assert_eq!(differences(&whole.output(), &sandbox.output()), "");
    let balance = books.balance(id);
    assert!(Bill::load(&sandbox.bill()).unwrap().cost_micros <= balance.spent, "{balance:?}");
    assert_eq!(balance.reserved, MicroUsd::ZERO);
}

fn stop_all(fleet: Vec<Running>) {
    for running in &fleet {
        running.signal("TERM");
    }
    for running in fleet {
        running.end().expect_code(0);
    }
}
