//! Fetching a job's files from the stores alone: as a directory, an archive, a bundle, whole or in part.
//!
//! The output directory is removed first, so that nothing can come from anywhere but the stores.

use std::io::Read;
use std::process::{Command, Stdio};

use codeswarm::fleet::LocalFleet;
use codeswarm::protocol::Event;
use tokio::time::timeout;

use super::EXAMPLE;
use crate::faults::{Wrong, job, script};
use crate::redelivery::Bench;
use crate::rig::Sandbox as Rig;
use crate::support::stores::SOON;
use crate::support::{Running, Sandbox, Tree, differences, tree};

/// The example's job, done, its output moved out of the way.
fn done() -> (Sandbox, Tree) {
    let sandbox = Sandbox::new();
    sandbox.run(EXAMPLE, &[]).expect_code(0);
    let output = sandbox.output();
    std::fs::remove_dir_all(sandbox.out()).unwrap();
    (sandbox, output)
}

fn fetch(sandbox: &Sandbox, arguments: &[&str]) -> Running {
    Running::start(sandbox.codeswarm(&["fetch"]).arg("--out").args(arguments))
}

fn files(sandbox: &Sandbox, name: &str) -> Tree {
    let mut found = tree(&sandbox.work().join(name));
    found.retain(|path, _| !path.starts_with(".git/") && !path.starts_with(".codeswarm-"));
    found
}

#[test]
fn a_job_is_fetched_as_a_directory_an_archive_and_a_bundle() {
    let (sandbox, output) = done();
    let ended = fetch(&sandbox, &["here", "--json"]).end().expect_code(0).json();
    assert_eq!((&ended["files"]["fetched"], &ended["complete"]), (&20.into(), &true.into()), "{ended}");
    assert_eq!(differences(&output, &files(&sandbox, "here")), "");
    fetch(&sandbox, &["here"]).end().expect_code(0);

    fetch(&sandbox, &["one.tar"]).end().expect_code(0);
    fetch(&sandbox, &["two", "--format", "tar"]).end().expect_code(0);
    let archive = std::fs::read(sandbox.work().join("one.tar")).unwrap();
    assert!(archive == std::fs::read(sandbox.work().join("two")).unwrap(), "the same files give the same bytes");
    tar::Archive::new(archive.as_slice()).unpack(sandbox.work().join("unpacked")).unwrap();
    assert_eq!(differences(&output, &files(&sandbox, "unpacked")), "");
    let mut piped = sandbox.codeswarm(&["fetch", "--out", "-"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut bytes = Vec::new();
    piped.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    assert!(piped.wait().unwrap().success() && bytes == archive, "standard output gets the same archive");

    fetch(&sandbox, &["job.bundle"]).end().expect_code(0);
    let clone = Command::new("git")
        .args(["clone", "--quiet", "job.bundle", "cloned"])
        .current_dir(sandbox.work())
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .status()
        .unwrap();
    assert!(clone.success());
    assert_eq!(differences(&output, &files(&sandbox, "cloned")), "");
    let left: Vec<String> = std::fs::read_dir(sandbox.work())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "nothing unfinished is left behind");
}

#[test]
fn what_cannot_be_fetched_is_said_and_nothing_is_overwritten() {
    let (sandbox, _) = done();
    std::fs::create_dir(sandbox.work().join("theirs")).unwrap();
    std::fs::write(sandbox.work().join("theirs/notes"), "keep").unwrap();
    std::fs::write(sandbox.work().join("theirs.tar"), "keep").unwrap();
    for (arguments, code, part) in [
        (&["theirs"][..], 1, "not empty"),
        (&["theirs.tar"], 2, "already"),
        (&["x.tar.gz"], 2, "compressed"),
        (&["-", "--format", "dir"], 2, "standard output"),
        (&["-", "--json"], 2, "standard output"),
        (&["x", "--format", "zip"], 2, "invalid value"),
        (&["x", "nobody"], 2, "no job \"nobody\""),
        (&["missing/deep/x.tar"], 1, "cannot write"),
    ] {
        let ended = fetch(&sandbox, arguments).end().expect_code(code);
        assert!(ended.stderr.contains(part), "{arguments:?}: {}", ended.stderr);
    }
    assert_eq!(std::fs::read(sandbox.work().join("theirs.tar")).unwrap(), b"keep");
    assert_eq!(files(&sandbox, "theirs").len(), 1);
    let empty = Sandbox::new();
    let ended = fetch(&empty, &["x"]).end().expect_code(1);
    assert!(ended.stderr.contains("CS-CLI-011"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_job_in_parts_the_committed_files_are_fetched_and_the_rest_is_named() {
    let sandbox = Rig::new();
    let job = job(5, 2);
    let no = || codeswarm::llm::replay::Reply::new("no");
    let wrong = Wrong::from([(format!("file {}", job.tasks[0].path), vec![no(), no(), no()])]);
    sandbox.write("replay.jsonl", script(&job, wrong, true).to_json_lines("2026-11-21", "made up").unwrap());
    sandbox.run_job(&["--replay", "replay.jsonl"], &[]).await.assert_ended(3, &["9 of 10"]);
    let committed = sandbox.output();
    std::fs::remove_dir_all(sandbox.at("out")).unwrap();
    let ran = sandbox.run(&["fetch", "--out", "out"], &[]).await;
    ran.assert_ended(3, &["only 9 of 10"]);
    assert_eq!(sandbox.output(), committed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_an_output_directory_is_committed_in_its_log_and_fetched_from_anywhere() {
    let bench = Bench::new().await;
    let job = bench.submit_to(String::new()).await;
    let fleet: LocalFleet = bench.fleet(&job, 4).await;
    timeout(SOON, fleet.join()).await.expect("the job ends").unwrap();
    let committed = bench
        .events(&job)
        .await
        .into_iter()
        .filter(|event| matches!(event, Event::FeatureCommitted { complete: true, .. }));
    assert_eq!(committed.count(), 5);
    let data = bench.directory.path().join("data");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_codeswarm"));
        command.args(arguments).current_dir(bench.directory.path()).env_clear();
        Running::start(command.env("PATH", std::env::var_os("PATH").unwrap()).arg("--data").arg(&data)).end()
    };
    let status = run(&["status"]).expect_code(0);
    assert!(status.stdout.contains("codeswarm fetch"), "{}", status.stdout);
    assert_eq!(run(&["status", "--json"]).expect_code(0).json()["output"], serde_json::Value::Null);
    run(&["fetch", "--out", "here"]).expect_code(0);
    let mut found = tree(&bench.directory.path().join("here"));
    found.retain(|path, _| !path.starts_with(".codeswarm-"));
    assert_eq!(found.len(), 10);
}
