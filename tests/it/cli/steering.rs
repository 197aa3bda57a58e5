//! Commands that steer a job, from another process while a run is active, and when no process works on it.
//!
//! Processes are synchronised by the lines they print, never by time.

use std::collections::HashSet;

use serde_json::Value;

use super::{Active, Room, example, finished};

#[test]
fn completed_jobs_have_no_use_for_commands() {
    let room = finished();
    let job = room.status()["job"].as_str().unwrap().to_owned();
    for args in
        [&["cancel", &job][..], &["pause", &job], &["budget", "top-up", &job, "1"], &["budget", "set", &job, "1"]]
    {
        let ended = room.run(args).expect(1);
        assert!(ended.err.contains("CS-JOB-013"), "{args:?}: {}", ended.err);
    }
    assert!(room.run(&["approve", &job]).expect(1).err.contains("CS-JOB-0"));
    assert!(room.run(&["retry", &job, "file/cli/commands"]).expect(1).err.contains("CS-JOB-016"));
    assert!(room.run(&["resume"]).expect(1).err.contains("CS-CLI-002"));
    assert_eq!(room.status()["budget_micro_usd"], 5_000_000);
}

#[test]
fn a_second_process_sees_an_active_run_and_ends_with_it() {
    let room = Room::new();
    let mut run = room.start_job(&["--out", "out", "--replay-latency", "300"]);
    run.until("[1/20]");
    let status = room.status();
    assert_eq!((&status["status"], &status["active"]), (&"running".into(), &true.into()));
    let watch = Active::start(&mut room.command(&["watch"]));
    let follow = Active::start(&mut room.command(&["events", "--follow", "--json"]));
    let second = room.finish_job(&["--out", "out2"]).expect(1).err;
    assert!(second.contains("CS-COORD-001"), "{second}");
    assert!(room.run(&["resume"]).expect(1).err.contains("codeswarm watch"));
    let watched = watch.finish().expect(0);
    assert!(watched.out.contains("[20/20]") && watched.out.contains("completed"), "{}", watched.out);
    let last: Value = serde_json::from_str(follow.finish().expect(0).out.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "job-ended");
    run.finish().expect(0);
    assert_eq!(room.run(&["list", "--json"]).expect(0).json()["jobs"].as_array().unwrap().len(), 1);
}

#[test]
fn a_run_is_cancelled_from_a_second_process() {
    let room = Room::new();
    let mut run = room.start_job(&["--out", "out", "--replay-latency", "300"]);
    run.until("[1/20]");
    let job = room.status()["job"].as_str().unwrap().to_owned();
    let watch = Active::start(&mut room.command(&["watch"]));
    let said = room.run(&["cancel", &job, "--reason", "no longer wanted"]).expect(0).out;
    assert!(said.contains("is cancelled"), "{said}");
    let summary = run.finish().expect(5).out;
    assert!(summary.contains("no longer wanted"), "{summary}");
    watch.finish().expect(5);
    assert!(room.run(&["cancel", &job]).expect(0).out.contains("already cancelled"));
    // To resume it by name or as the newest is to change one's mind.
    let resumed = room.run(&["resume", "--yes"]).expect(0).out;
    assert!(resumed.contains("completed"), "{resumed}");
}

#[test]
fn a_run_is_paused_and_goes_on_from_a_second_process() {
    let room = Room::new();
    let mut run = room.start_job(&["--out", "out", "--replay-latency", "300"]);
    run.until("[1/20]");
    let job = room.status()["job"].as_str().unwrap().to_owned();
    assert!(room.run(&["pause", &job]).expect(0).out.contains("is paused"));
    assert!(room.run(&["pause", &job]).expect(0).out.contains("already paused"));
    run.until("paused");
    assert!(room.run(&["resume", &job]).expect(0).out.contains("completed"));
    run.finish().expect(0);
}

#[test]
fn a_job_that_no_process_works_on_is_cancelled_all_the_same() {
    let room = Room::new();
    let mut run = room.start_job(&["--out", "out", "--replay-latency", "300"]);
    run.until("[3/20]");
    run.child.kill().unwrap();
    run.finish();
    let status = room.run(&["status"]).expect(0).out;
    assert!(status.contains("interrupted") && status.contains("codeswarm resume"), "{status}");
    let watched = room.run(&["watch"]).expect(5).out;
    assert!(watched.contains("interrupted"), "{watched}");
    let job = room.status()["job"].as_str().unwrap().to_owned();
    let said = room.run(&["cancel", &job]).expect(0).out;
    assert!(said.contains("no process was working on it"), "{said}");
    let status = room.status();
    assert_eq!(status["status"], "cancelled");
    // What was finished is delivered.
    let written = status["features"].as_array().unwrap().iter();
    let written: u64 = written.filter_map(|feature| feature["committed"]["files"].as_u64()).sum();
    assert_eq!(written, status["files"]["finished"].as_u64().unwrap());
    room.run(&["events", "--follow"]).expect(0);
    room.run(&["doctor"]).expect(0);
}

#[test]
fn a_job_without_money_is_topped_up_and_resumed() {
    let room = Room::new();
    let stopped = room.finish_job(&["--out", "out", "--budget", "0.45"]).expect(4);
    let waiting: Vec<&str> = stopped.err.lines().filter(|line| line.contains(" waits for money")).collect();
    let scope = |line: &&str| line.split_once(" left in ").unwrap().1.split_once(", this call").unwrap().0.to_owned();
    let distinct: HashSet<String> = waiting.iter().map(scope).collect();
    assert!(!waiting.is_empty() && waiting.len() == distinct.len(), "said once of each scope: {waiting:?}");
    assert!(waiting.iter().any(|line| line.contains(" that running calls may give back: ")), "{waiting:?}");
    // What to do is said once nothing else helps.
    assert!(waiting.iter().all(|line| !line.contains("top-up")), "{waiting:?}");
    assert!(stopped.out.contains("codeswarm budget top-up"), "{}", stopped.out);
    let again = room.run(&["resume"]).expect(4);
    assert!(again.err.contains("has not been raised"), "{}", again.err);
    room.run(&["watch"]).expect(4);
    let job = room.status()["job"].as_str().unwrap().to_owned();
    let topped = room.run(&["budget", "top-up", &job, "2"]).expect(0);
    assert!(topped.out.contains("$2.45"), "{}", topped.out);
    let resumed = room.run(&["resume"]).expect(0);
    assert!(!resumed.err.contains("has not been raised"), "{}", resumed.err);
    let status = room.status();
    assert_eq!(status["budget_micro_usd"], 2_450_000);
    assert!(status["spent_micro_usd"].as_u64().unwrap() <= 2_450_000);
}

#[test]
fn a_plan_waits_for_approval_until_somebody_gives_it() {
    let room = Room::new();
    let (proposal, replay) = (example().join("proposal.md"), example().join("replay.jsonl"));
    let (proposal, replay) = (proposal.display().to_string(), replay.display().to_string());
    let job = room.run(&["submit", &proposal, "--out", "out", "--replay", &replay]).expect(0).out;
    let job = job.trim();
    assert!(room.run(&["list"]).expect(0).out.contains("submitted"));
    // Nobody can be asked here: planned, shown, and left waiting rather than refused.
    let waiting = room.run(&["resume"]).expect(5);
    assert!(waiting.err.contains("README.md") && waiting.err.contains("expected to cost"), "{}", waiting.err);
    assert!(
        waiting.out.contains("waiting for approval") && waiting.out.contains("codeswarm approve"),
        "{}",
        waiting.out
    );
    assert_eq!(room.status()["status"], "awaiting-approval");
    assert!(room.run(&["approve", job]).expect(0).out.contains("is approved"));
    assert!(room.run(&["approve", job]).expect(0).out.contains("already approved"));
    room.run(&["resume"]).expect(0);
}

#[test]
fn frozen_spending_stops_a_run_and_thawing_lets_it_finish() {
    let room = Room::new();
    let mut run = room.start_job(&["--out", "out", "--replay-latency", "300"]);
    run.until("[1/20]");
    room.run(&["budget", "freeze"]).expect(0);
    assert!(room.run(&["budget", "show"]).expect(0).out.contains("frozen"));
    let stopped = run.finish().expect(4);
    assert!(stopped.out.contains("codeswarm budget thaw"), "{}", stopped.out);
    assert!(room.run(&["list"]).expect(0).out.contains("stopped by a freeze"));
    room.run(&["budget", "thaw"]).expect(0);
    room.run(&["resume"]).expect(0);
}
