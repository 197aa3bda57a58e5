//! Dead letters from the command line: what is given up can be looked at, given another chance, and removed.
//!
//! Letters are made by failing for real, never written by hand, so that the tests see what a person would.

use std::process::Stdio;

use bytes::Bytes;
use codeswarm::backend::{Outgoing, Queue};
use codeswarm::llm::replay::Reply;
use codeswarm::protocol::{AgentType, Priority};
use serde_json::Value;

use super::Watched;
use crate::faults::{Wrong, job, script};
use crate::rig::Sandbox as Rig;
use crate::support::{Books, Running, Sandbox};

const REPLAY: [&str; 2] = ["--replay", "replay.jsonl"];

/// A job of ten files of which one is never written as it should be.
async fn with_a_dead_task() -> (Rig, String) {
    let sandbox = Rig::new();
    let job = job(5, 2);
    let path = job.tasks[0].path.clone();
    let wrong = Wrong::from([(format!("file {path}"), vec![Reply::new("no"), Reply::new("no"), Reply::new("no")])]);
    let script = script(&job, wrong, false).to_json_lines("2026-11-21", "made up").unwrap();
    sandbox.write("replay.jsonl", script);
    sandbox.run_job(&REPLAY, &[]).await.assert_ended(3, &["9 of 10"]);
    (sandbox, path)
}

async fn letters(sandbox: &Rig) -> Vec<Value> {
    let ran = sandbox.run(&["dlq", "list", "--json"], &[]).await;
    ran.assert_ended(0, &[]);
    let listed: Value = serde_json::from_str(&ran.stdout).unwrap();
    listed["dead_letters"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_was_given_up_is_a_letter_and_replaying_it_is_a_new_attempt() {
    let (sandbox, path) = with_a_dead_task().await;
    let listed = letters(&sandbox).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    let letter = &listed[0];
    assert_eq!(letter["attempt"], 3);
    assert!(letter["task"].as_str().unwrap().starts_with("file/"), "{letter}");
    assert!(letter["queue"].as_str().unwrap().starts_with("task."), "{letter}");
    assert!(letter["reason"].as_str().unwrap().contains("given up after 3 attempts"), "{letter}");
    let id = letter["id"].to_string();
    let shown = sandbox.run(&["dlq", "show", &id], &[]).await;
    shown.assert_ended(0, &["given up after 3 attempts", &path, "\"instructions\""]);
    sandbox.run(&["dlq", "list"], &[]).await.assert_ended(0, &["given up", letter["task"].as_str().unwrap()]);

    sandbox.run(&["dlq", "replay", &id], &[]).await.assert_ended(0, &["gets new attempts"]);
    assert_eq!(letters(&sandbox).await, Vec::<Value>::new());
    // The recording starts anew with this process, so its fourth answer has to be brought forward.
    let good = script(&job(5, 2), Wrong::new(), false).to_json_lines("2026-11-21", "made up").unwrap();
    sandbox.write("replay.jsonl", good);
    sandbox.run(&[&["resume", "--yes"], &REPLAY[..]].concat(), &[]).await.assert_ended(0, &["completed", "10 of 10"]);
    assert_eq!(sandbox.output().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_removed_only_when_that_was_meant() {
    let (sandbox, _) = with_a_dead_task().await;
    let id = letters(&sandbox).await[0]["id"].to_string();
    for (arguments, code, part) in [
        (&["dlq", "purge", &id][..], "CS-CLI-001", "--yes"),
        (&["dlq", "purge", "999", "--yes"], "CS-CLI-029", "999"),
        (&["dlq", "show", "0"], "CS-CLI-029", "no dead letter 0"),
        (&["dlq", "replay", "999"], "CS-CLI-029", "999"),
    ] {
        sandbox.run(arguments, &[]).await.assert_refused(2, code, &[part]);
    }
    for arguments in [&["dlq", "purge"][..], &["dlq", "replay"], &["dlq", "purge", "1", "--all"], &["dlq", "show", "x"]]
    {
        assert_eq!(sandbox.run(arguments, &[]).await.code, Some(2), "{arguments:?}");
    }
    assert_eq!(letters(&sandbox).await.len(), 1, "nothing was removed so far");
    sandbox.run(&["dlq", "purge", &id, "--yes"], &[]).await.assert_ended(0, &["1 dead letters removed"]);
    assert_eq!(letters(&sandbox).await, Vec::<Value>::new());
    sandbox.run(&["dlq", "purge", "--all", "--yes"], &[]).await.assert_ended(0, &["no dead letters"]);
    sandbox.run(&["dlq", "replay", "--all"], &[]).await.assert_ended(0, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_needs_no_new_attempt_keeps_its_letter() {
    let (sandbox, _) = with_a_dead_task().await;
    let id = letters(&sandbox).await[0]["id"].to_string();
    let task = letters(&sandbox).await[0]["task"].as_str().unwrap().to_owned();
    let job = letters(&sandbox).await[0]["job"].as_str().unwrap().to_owned();
    sandbox.run(&["retry", &job, &task], &[]).await.assert_ended(0, &["new attempts"]);
    let ran = sandbox.run(&["dlq", "replay", &id], &[]).await;
    ran.assert_ended(1, &["stays", &task]);
    assert_eq!(letters(&sandbox).await.len(), 1);
}

#[test]
fn an_unreadable_message_is_put_aside_and_put_back_as_it_was() {
    let sandbox = Sandbox::new();
    let worker = Watched::worker(&sandbox, &[]);
    let books = Books::open(&sandbox.data());
    let queue = Queue::Task { agent: AgentType::new("docs").unwrap(), priority: Priority::Normal };
    let body = Bytes::from_static(b"\xff not a message");
    let message = Outgoing { queue, dedupe: "junk".into(), body: body.clone() };
    books.runtime.block_on(books.backend.broker.publish(vec![message])).unwrap();
    let first = letter_after(&books, 0);
    assert_eq!((first.queue.as_str(), &first.body), ("task.docs.normal", &body));
    let dlq = |arguments: &[&str]| {
        let mut command = sandbox.codeswarm(&[&["dlq"], arguments].concat());
        Running::start(command.stdin(Stdio::null())).end().expect_code(0)
    };
    let shown = dlq(&["show", &first.id.to_string()]);
    assert!(shown.stdout.contains("not a message") && shown.stdout.contains(&first.reason), "{}", shown.stdout);
    let ended = dlq(&["replay", "--all"]);
    assert!(ended.stdout.contains("back in queue task.docs.normal"), "{}", ended.stdout);
    // The worker cannot read it any better now.
    let second = letter_after(&books, first.id);
    assert_eq!(second.body, body);
    assert_ne!(second.dedupe, first.dedupe, "or the broker would have taken it for a duplicate");
    worker.running.signal("TERM");
    worker.running.end().expect_code(0);
}

/// Waits for a dead letter after `after`.
fn letter_after(books: &Books, after: u64) -> codeswarm::backend::DeadLetter {
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    loop {
        let found = books.runtime.block_on(books.backend.broker.dead_letters(after, 1)).unwrap().pop();
        match found {
            Some(letter) => return letter,
            None => assert!(std::time::Instant::now() < deadline, "no dead letter came"),
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
