//! The worked examples, from their proposal to files whose own tests pass, with the real programs.
//!
//! What counts is what a newcomer sees: exit code, files, the number of tests that Python says it executed. Nothing here
//! may reach into the program while it runs.

use std::process::Command;

use codeswarm::job::JobStatus;
use codeswarm::protocol::JobOutcome;

use crate::support::{Books, Example, Fleet, Git, Running, Sandbox, billed_calls, differences};

/// Runs the tests of a generated tree and answers how many were executed. Python says so itself; its exit code alone
/// would also be good for no test at all.
fn executed_tests(sandbox: &Sandbox) -> u32 {
    let mut command: Command = sandbox.command("python3", &["-B", "-m", "unittest"]);
    let ended = Running::start(command.current_dir(sandbox.out())).end().expect_code(0);
    let ran = ended.stderr.lines().find_map(|line| line.strip_prefix("Ran ")?.split(' ').next()?.parse().ok());
    assert!(ended.stderr.lines().any(|line| line.trim() == "OK"), "{}", ended.stderr);
    ran.unwrap_or_else(|| panic!("unittest does not say what it ran:\n{}", ended.stderr))
}

fn assert_works(example: Example, features: usize, files: usize) {
    let sandbox = Sandbox::new();
    let bystanders = sandbox.bystanders();
    let ended = sandbox.run(example, &[]).expect_code(0);
    assert!(ended.stdout.contains("not from a live model"), "must say that replies are recorded:\n{}", ended.stdout);
    let books = Books::open(&sandbox.data());
    let job = books.job(&books.only_job());
    let planned = job.plan().unwrap();
    assert!(planned.features.len() >= features, "{} features", planned.features.len());
    let output = sandbox.output();
    let planned: Vec<&str> = job.tasks().iter().filter_map(|task| task.path()).collect();
    assert!(planned.len() >= files, "{} files", planned.len());
    assert_eq!(output.len(), planned.len(), "other files than planned: {:?}", output.keys());
    for path in planned {
        assert!(output.contains_key(path), "{path} was planned and is not there");
    }
    assert!(!sandbox.out().join(".codeswarm-stage").exists(), "scratch files are left in the output");
    assert!(executed_tests(&sandbox) > 20);
    assert_eq!(differences(&bystanders, &sandbox.bystanders()), "");
}

#[test]
fn the_link_shortener_is_written_and_passes_its_own_tests() {
    assert_works(Example::LINK_SHORTENER, 5, 14);
}

#[test]
fn the_site_generator_is_written_and_passes_its_own_tests() {
    assert_works(Example::SITE_GENERATOR, 8, 20);
}

#[test]
fn a_git_output_has_one_commit_per_feature_that_names_job_feature_and_tasks() {
    let sandbox = Sandbox::new();
    sandbox.run(Example::LINK_SHORTENER, &["--git"]).expect_code(0);
    let git = Git::at(&sandbox.out());
    let books = Books::open(&sandbox.data());
    let id = books.only_job();
    let job = books.job(&id);
    let mut planned: Vec<String> = job.features().map(|feature| feature.spec.id.to_string()).collect();
    planned.sort();
    assert_eq!(git.features(), planned);
    assert_eq!(git.trailers("Codeswarm-Job"), vec![id.to_string(); planned.len()]);
    let mut tasks = git.trailers("Codeswarm-Task");
    tasks.sort();
    let with_files = job.tasks().iter().filter(|task| task.path().is_some());
    let mut expected: Vec<String> = with_files.map(|task| task.id.to_string()).collect();
    expected.sort();
    assert_eq!(tasks, expected);
    assert_eq!(git.run(&["status", "--porcelain"]), "");
    for feature in job.features() {
        let commit = feature.committed.and_then(|commit| commit.commit.clone()).expect("the event names the commit");
        let subject = git.run(&["show", "--no-patch", "--format=%s", &commit]);
        assert_eq!(subject, format!("{}: {}", feature.spec.id, feature.spec.name));
    }
}

#[test]
fn a_run_with_json_prints_one_document_that_scripts_can_use() {
    let sandbox = Sandbox::new();
    let ended = sandbox.run(Example::LINK_SHORTENER, &["--json", "--budget", "3.50"]).expect_code(0);
    let result = ended.json();
    let books = Books::open(&sandbox.data());
    let id = books.only_job();
    assert_eq!(result["job"], id.as_str());
    assert_eq!(result["outcome"], "completed");
    assert_eq!(result["exit_code"], 0);
    assert_eq!(result["output"], sandbox.out().to_str().unwrap());
    assert_eq!(result["files"]["finished"], result["files"]["planned"]);
    assert_eq!(result["budget_micro_usd"], 3_500_000);
    assert_eq!(result["cost_micro_usd"], books.balance(&id).spent.0);
    assert_eq!(result["origin"]["from"], "replay");
    assert_eq!(result["warnings"], serde_json::json!([]));
}

#[test]
fn separate_processes_on_one_data_directory_write_the_same_files_as_one_process() {
    let alone = Sandbox::new();
    alone.run(Example::LINK_SHORTENER, &[]).expect_code(0);

    let sandbox = Sandbox::new();
    let fleet = Fleet::start(&sandbox, Example::LINK_SHORTENER);
    let mut submit = sandbox.codeswarm(&["submit", "--budget", "5", "--yes", "--json"]);
    submit.arg(Example::LINK_SHORTENER.proposal()).arg("--out").arg(sandbox.out());
    let submitted = Running::start(submit.env("CODESWARM_REPLAY", Example::LINK_SHORTENER.replay())).end();
    let submitted = submitted.expect_code(0).json();
    let books = Books::open(&sandbox.data());
    let id = books.only_job();
    assert_eq!(submitted["job"], id.as_str());
    let job = books.wait_until_ended(&id);
    assert_eq!(job.status(), JobStatus::Ended(JobOutcome::Completed));
    fleet.stop();
    assert_eq!(differences(&alone.output(), &sandbox.output()), "");
    let calls = billed_calls(&sandbox.bill());
    assert!(calls.values().all(|calls| *calls == 1), "{calls:?}");
}
