//! Providers that are down, busy, slow or broken: waited for within bounds, paid for as the ledger says.
//!
//! A passing fault must not use up attempts of a task; a lasting one must end the run in bounded time with everything
//! paid for still there. Ambiguous calls count as spent: the provider may bill them.

use codeswarm::llm::replay::{Fault, Reply};
use codeswarm::protocol::MicroUsd;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use super::{Bout, Provider, Wrong, job, script};
use crate::rig::{KEY, Sandbox};

/// Silence is noticed after a second.
const IMPATIENT: (&str, &str) = ("CODESWARM_LLM_IDLE_TIMEOUT_SECONDS", "1");

#[tokio::test(flavor = "multi_thread")]
async fn whatever_passes_is_outlasted_within_one_attempt_of_the_task() {
    let faults = [
        Reply::new("").fault(Fault::Status429),
        Reply::new("").fault(Fault::Status429).retry_after(1),
        Reply::new("").fault(Fault::Status529),
        Reply::new("").fault(Fault::Status529).retry_after(1),
        Reply::new("").fault(Fault::Status500),
        Reply::new("").fault(Fault::StallBeforeHeaders),
        Reply::new("half of this is said").fault(Fault::StallMidStream),
        Reply::new("half of this is said").fault(Fault::CutMidStream),
        Reply::new("all but the end is said").fault(Fault::EofBeforeStop),
        Reply::new("half of this is said").fault(Fault::ErrorEvent),
    ];
    let job = job(5, 2);
    let wrong: Wrong = job
        .tasks
        .iter()
        .zip(&faults)
        .map(|(task, reply)| (format!("file {}", task.path), vec![reply.clone()]))
        .collect();
    let bout = Bout::of(script(&job, wrong, false), &[IMPATIENT]).await;
    bout.ran.assert_ended(0, &["completed", "10 of 10"]);
    bout.assert_files(&job, &[]);
    for (at, task) in job.tasks.iter().enumerate() {
        let id = format!("file/{}/{}", task.feature, task.id);
        assert!(bout.story.failures(&id).is_empty(), "{id}: {:?}", bout.story.failures(&id));
        let prompts = bout.provider.prompts(&format!("file {}", task.path));
        assert_eq!(prompts.len(), 2, "{id}");
        assert!(prompts.iter().all(|prompt| !prompt.contains("was refused")), "the model is not blamed");
        let billed = bout.provider.calls_of(&format!("file {}", task.path));
        assert_eq!(billed, if at < 4 { 1 } else { 2 }, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_ends_the_job_at_the_first_call_and_says_what_to_do() {
    let job = job(5, 2);
    let wrong = Wrong::from([("plan".to_owned(), vec![Reply::new("").fault(Fault::Status401)])]);
    let bout = Bout::of(script(&job, wrong, true), &[]).await;
    bout.ran.assert_ended(1, &["failed", "401", "authentication_error", "check ANTHROPIC_API_KEY", "codeswarm resume"]);
    assert_eq!((bout.provider.requests(), bout.story.balance.spent), (1, MicroUsd::ZERO));
    assert!(bout.sandbox.output().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_stays_broken_is_given_up_after_all_attempts_and_the_job_can_be_resumed() {
    let job = job(5, 2);
    // No waiting for what costs nothing; and the attempts of the task do not come on top of those of the call.
    let settings = [
        IMPATIENT,
        ("CODESWARM_LLM_ATTEMPTS", "2"),
        ("CODESWARM_JOB_MAX_ATTEMPTS", "2"),
        ("CODESWARM_JOB_LONGEST_PARKING_SECONDS", "0"),
    ];
    let rows = [
        (Fault::Status429, "429"),
        (Fault::Status529, "529"),
        (Fault::Status500, "500"),
        (Fault::CutMidStream, "cut"),
        (Fault::EofBeforeStop, "cut"),
        (Fault::StallBeforeHeaders, "no answer within 1s"),
        (Fault::StallMidStream, "nothing arrived for 1s"),
        (Fault::Huge, "4194304"),
    ];
    let runs = rows.map(|(fault, part)| {
        let wrong = Wrong::from([("plan".to_owned(), vec![Reply::new("a plan that never gets through").fault(fault)])]);
        let script = script(&job, wrong, true);
        async move {
            let bout = Bout::of(script, &settings).await;
            bout.ran.assert_ended(1, &["failed", part, "all 2 attempts failed", "plan is missing", "codeswarm resume"]);
            assert_eq!(bout.provider.requests(), 2, "{fault:?}");
            let (spent, billed) = (bout.story.balance.spent, bout.provider.billed());
            assert_eq!(billed == MicroUsd::ZERO, !fault.is_billed(), "{fault:?}");
            assert_eq!(spent == MicroUsd::ZERO, !fault.is_billed(), "{fault:?}");
            assert!(bout.sandbox.output().is_empty());
            bout
        }
    });
    let bouts = futures_util::future::join_all(runs).await;
    // The provider has recovered: what the summary tells to do brings the files.
    let healthy = Provider::start(script(&job, Wrong::new(), false)).await;
    let url = healthy.base_url();
    let ran = bouts[2].sandbox.run(&["resume", "--yes"], &[("ANTHROPIC_BASE_URL", &url)]).await;
    ran.assert_ended(0, &["completed", "10 of 10"]);
    bouts[2].assert_files(&job, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_down_costs_nothing_and_is_named() {
    let settings = [("CODESWARM_LLM_ATTEMPTS", "2"), ("CODESWARM_JOB_LONGEST_PARKING_SECONDS", "0")];
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (url, part) in [
        (format!("http://127.0.0.1:{port}"), "Connection refused"),
        ("http://codeswarm.invalid".to_owned(), "cannot connect"),
        (format!("https://127.0.0.1:{port}"), "Connection refused"),
    ] {
        let sandbox = Sandbox::new();
        let ran = sandbox.run_job(&[], &[&settings[..], &[("ANTHROPIC_BASE_URL", &url)]].concat()).await;
        ran.assert_ended(
            1,
            &["failed", "cannot connect to the provider", part, "check the network and ANTHROPIC_BASE_URL"],
        );
        let story = sandbox.story().await;
        story.assert_sound_money(MicroUsd::ZERO);
        assert_eq!((story.balance.spent, story.failures("plan").len()), (MicroUsd::ZERO, 1));
        assert!(sandbox.output().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_none_is_refused_before_anything_is_made() {
    let sandbox = Sandbox::new();
    for (url, exit, code, part) in [
        ("ftp://x", 2, "CS-CONFIG-002", "ftp://x"),
        ("nonsense", 2, "CS-CONFIG-002", "nonsense"),
        ("https://user:pa5s@x", 2, "CS-CONFIG-002", "user name or password"),
        ("https://", 1, "CS-LLM-001", "base URL"),
        ("https://x?key=1", 1, "CS-LLM-001", "query"),
    ] {
        let ran = sandbox.run_job(&[], &[("ANTHROPIC_BASE_URL", url)]).await;
        ran.assert_refused(exit, code, &[part]);
        assert!(!ran.stderr.contains("pa5s"), "{ran:?}");
        assert!(!sandbox.at("out").exists() && !sandbox.at("data").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_from_a_file_reaches_the_provider_and_nothing_else() {
    let job = job(5, 2);
    let (sandbox, provider) = (Sandbox::new(), Provider::start(script(&job, Wrong::new(), false)).await);
    sandbox.write("key-file", format!("  {KEY}\n"));
    let url = provider.base_url();
    let environment = [
        ("ANTHROPIC_BASE_URL", &*url),
        ("ANTHROPIC_API_KEY", ""),
        ("ANTHROPIC_API_KEY_FILE", "key-file"),
        ("CODESWARM_LOG_FILTER", "trace"),
        ("RUST_LOG", "trace"),
    ];
    // The sandbox searches all outputs and files for the key, here with everything logged that can be.
    let ran = sandbox.run_job_loudly(&environment).await;
    ran.assert_ended(0, &["completed", "10 of 10", "TRACE"]);
    assert!(provider.was_shown(KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_too_long_holds_no_attempt_and_ends_when_a_person_says_so() {
    let job = job(5, 2);
    let limited = Reply::new("").fault(Fault::Status429).retry_after(3_600);
    let wrong = Wrong::from([("plan".to_owned(), vec![limited])]);
    let (sandbox, provider) = (Sandbox::new(), Provider::start(script(&job, wrong, true)).await);
    let mut command = sandbox.command(env!("CARGO_BIN_EXE_codeswarm"));
    command.args(["run", "proposal.md", "--out", "out", "--yes"]).env("ANTHROPIC_BASE_URL", provider.base_url());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let parked = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("plan attempt 1 failed, will be tried again") {
                return line;
            }
        }
        panic!("the run ended by itself");
    };
    let line = tokio::time::timeout(std::time::Duration::from_secs(60), parked).await.unwrap();
    assert!(line.contains("429"), "{line}");
    let killed = std::process::Command::new("kill").args(["-TERM", &child.id().unwrap().to_string()]).status().unwrap();
    assert!(killed.success());
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), child.wait()).await.unwrap().unwrap();
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).await.unwrap();
    assert!(
        ended.code() == Some(5) && stdout.contains("interrupted") && stdout.contains("codeswarm resume"),
        "{stdout}"
    );
    assert_eq!(provider.requests(), 1);
    let story = sandbox.story().await;
    story.assert_sound_money(MicroUsd::ZERO);
    assert!(!story.is_dead("plan"));
}
