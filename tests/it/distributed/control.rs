//! Steering a running fleet from the command line: cancel, freeze, pause, resume, approve, and what each leaves behind.
//!
//! What a command promises is measured where it matters: in the ledger and in the log, never by what a process says.

use std::time::{Duration, Instant};

use codeswarm::backend::Scope;
use codeswarm::llm::replay::{Reply, Script, Synthetic, SyntheticJob};
use codeswarm::protocol::{Event, JobOutcome, MicroUsd};

use super::Cluster;

/// Twenty files that take their time.
fn slow_job(seconds: u64) -> SyntheticJob {
    let duration = Duration::from_secs(seconds);
    Synthetic::new(5, 4, 7).durations(duration, duration).build().unwrap()
}

/// Waits until the provider answers `streams` calls at once.
fn wait_for_streams(cluster: &Cluster, planned: u64, streams: u64) {
    let deadline = Instant::now() + crate::support::PATIENCE;
    while cluster.provider.as_ref().unwrap().requests() < planned + streams {
        assert!(Instant::now() < deadline, "the calls do not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn cancelling_with_twenty_streams_open_takes_less_than_a_second_and_settles_them_all() {
    let job = slow_job(30);
    let cluster = Cluster::start(job.script.clone(), &[("CODESWARM_FLEET_CONCURRENCY", "10")]);
    let fleet = vec![cluster.coordinator(), cluster.worker_of_all(), cluster.worker_of_all()];
    let backend = cluster.backend();
    let id = cluster.submit(&cluster.proposal(), &[]);
    wait_for_streams(&cluster, 6, 20);
    let start = Instant::now();
    cluster.codeswarm(&["cancel", id.as_str()]).expect_code(0);
    let scope = Scope::Job(id.clone());
    while cluster.balance(&backend, &scope).reserved > MicroUsd::ZERO {
        assert!(start.elapsed() < Duration::from_secs(20), "calls go on after a cancel");
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "twenty streams were settled after {took:?}");
    assert!(matches!(cluster.wait_for_end(&backend, &id), Event::JobEnded { outcome: JobOutcome::Cancelled, .. }));
    let (billed, ..) = cluster.billed();
    assert!(billed <= cluster.balance(&backend, &scope).spent);
    Cluster::stop_all(fleet);
}

#[test]
fn a_freeze_reaches_every_process_within_a_second() {
    let job = slow_job(30);
    let cluster = Cluster::start(job.script.clone(), &[("CODESWARM_FLEET_CONCURRENCY", "10")]);
    let fleet = vec![cluster.coordinator(), cluster.worker_of_all(), cluster.worker_of_all()];
    let backend = cluster.backend();
    let id = cluster.submit(&cluster.proposal(), &[]);
    wait_for_streams(&cluster, 6, 20);
    let start = Instant::now();
    cluster.codeswarm(&["budget", "freeze"]).expect_code(0);
    while cluster.balance(&backend, &Scope::Account).reserved > MicroUsd::ZERO {
        assert!(start.elapsed() < Duration::from_secs(20), "calls go on after a freeze");
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "all spending had stopped after {took:?}");
    cluster.wait_for_end(&backend, &id);
    Cluster::stop_all(fleet);
}

#[test]
fn pause_resume_and_approval_work_across_processes() {
    let job =
        Synthetic::new(5, 2, 7).durations(Duration::from_millis(300), Duration::from_millis(300)).build().unwrap();
    let cluster = Cluster::start(job.script.clone(), &[("CODESWARM_FLEET_CONCURRENCY", "1")]);
    let fleet = vec![cluster.coordinator(), cluster.worker_of_all()];
    let backend = cluster.backend();
    let proposal = cluster.proposal().display().to_string();
    let submitted = cluster.codeswarm(&["submit", &proposal, "--json"]).expect_code(0).json();
    let id = codeswarm::protocol::JobId::new(submitted["job"].as_str().unwrap()).unwrap();
    cluster.wait_for(&backend, &id, |log| {
        log.iter().find(|recorded| matches!(recorded.event, Event::ApprovalRequested { .. })).map(drop)
    });
    let files = |log: &[codeswarm::protocol::RecordedEvent]| {
        let of =
            |event: &Event| matches!(event, Event::TaskDispatched { task, .. } if task.as_str().starts_with("file/"));
        log.iter().filter(|recorded| of(&recorded.event)).count()
    };
    assert_eq!(files(&cluster.log(&backend, &id)), 0, "nothing is written before somebody says so");
    cluster.codeswarm(&["approve", id.as_str()]).expect_code(0);
    cluster.wait_for(&backend, &id, |log| (files(log) > 0).then_some(()));
    cluster.codeswarm(&["pause", id.as_str()]).expect_code(0);
    cluster.wait_for(&backend, &id, |log| {
        log.iter().find(|recorded| matches!(recorded.event, Event::JobPaused { .. })).map(drop)
    });
    let paused = files(&cluster.log(&backend, &id));
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(files(&cluster.log(&backend, &id)), paused, "a paused job dispatches nothing");
    cluster.codeswarm(&["resume", id.as_str()]);
    assert!(matches!(cluster.wait_for_end(&backend, &id), Event::JobEnded { outcome: JobOutcome::Completed, .. }));
    Cluster::stop_all(fleet);
}

/// Resumes a job that a serving coordinator has let go of, and sees it through.
fn resume_to_the_end(cluster: &Cluster, backend: &codeswarm::backend::Backend, id: &codeswarm::protocol::JobId) {
    let resumed = cluster.codeswarm(&["resume", id.as_str()]).expect_code(0);
    assert!(resumed.stderr.contains("goes on with job"), "{}", resumed.stderr);
    assert!(matches!(cluster.wait_for_end(backend, id), Event::JobEnded { outcome: JobOutcome::Completed, .. }));
}

#[test]
fn a_job_that_money_has_stopped_is_topped_up_and_resumed_while_a_coordinator_serves() {
    let job = Synthetic::new(5, 2, 7).build().unwrap();
    let cluster = Cluster::start(job.script.clone(), &[]);
    let fleet = vec![cluster.coordinator(), cluster.worker_of_all()];
    let backend = cluster.backend();
    let id = cluster.submit(&cluster.proposal(), &["--budget", "0.01"]);
    let end = cluster.wait_for_end(&backend, &id);
    assert!(matches!(end, Event::JobEnded { outcome: JobOutcome::BudgetExhausted, .. }), "{end:?}");
    let topped = cluster.codeswarm(&["budget", "top-up", id.as_str(), "100"]).expect_code(0);
    let hint = format!("the job has ended (budget exhausted); go on with `codeswarm resume {id}`");
    assert!(topped.stderr.contains(&hint), "{}", topped.stderr);
    resume_to_the_end(&cluster, &backend, &id);
    Cluster::stop_all(fleet);
}

#[test]
fn a_job_that_a_freeze_or_a_person_has_stopped_is_resumed_while_a_coordinator_serves() {
    let duration = Duration::from_millis(500);
    let job = Synthetic::new(5, 2, 7).durations(duration, duration).build().unwrap();
    let cluster = Cluster::start(job.script.clone(), &[("CODESWARM_FLEET_CONCURRENCY", "2")]);
    let fleet = vec![cluster.coordinator(), cluster.worker_of_all()];
    let backend = cluster.backend();
    let began = |log: &[codeswarm::protocol::RecordedEvent]| {
        let of =
            |event: &Event| matches!(event, Event::TaskSucceeded { task, .. } if task.as_str().starts_with("file/"));
        log.iter().any(|recorded| of(&recorded.event)).then_some(())
    };
    let frozen = cluster.submit(&cluster.proposal(), &[]);
    cluster.wait_for(&backend, &frozen, began);
    cluster.codeswarm(&["budget", "freeze", frozen.as_str()]).expect_code(0);
    let end = cluster.wait_for_end(&backend, &frozen);
    assert!(matches!(end, Event::JobEnded { outcome: JobOutcome::BudgetExhausted, .. }), "{end:?}");
    cluster.codeswarm(&["budget", "thaw", frozen.as_str()]).expect_code(0);
    resume_to_the_end(&cluster, &backend, &frozen);

    let cancelled = cluster.submit(&cluster.proposal(), &[]);
    cluster.wait_for(&backend, &cancelled, began);
    cluster.codeswarm(&["cancel", cancelled.as_str()]).expect_code(0);
    // At once: the coordinator is still waiting for what running calls cost.
    resume_to_the_end(&cluster, &backend, &cancelled);
    Cluster::stop_all(fleet);
}

#[test]
fn a_dead_letter_is_listed_shown_replayed_and_gone() {
    let job = Synthetic::new(5, 2, 7).build().unwrap();
    let mut script = Script::new();
    script.push("plan", serde_json::to_string(&job.plan).unwrap());
    for (feature, plan) in job.plan.features.iter().zip(&job.feature_plans) {
        script.push(&format!("feature-plan {}", feature.id), serde_json::to_string(plan).unwrap());
    }
    for (at, task) in job.tasks.iter().enumerate() {
        let key = format!("file {}", task.path);
        if at == 0 {
            // Three attempts that bring nothing, then the right answer.
            (0..3).for_each(|_| script.push(&key, Reply::new("I would rather not.")));
        }
        script.push(&key, crate::faults::file(&task.path));
    }
    let cluster = Cluster::start(script, &[]);
    let fleet = vec![cluster.coordinator(), cluster.worker_of_all()];
    let backend = cluster.backend();
    let id = cluster.submit(&cluster.proposal(), &[]);
    cluster.wait_for_end(&backend, &id);
    let listed = cluster.codeswarm(&["dlq", "list", "--json"]).expect_code(0).json();
    let letters = listed["letters"].as_array().or_else(|| listed["dead_letters"].as_array()).expect("letters").clone();
    assert_eq!(letters.len(), 1, "{listed}");
    assert!(letters[0].to_string().contains(id.as_str()), "{listed}");
    let letter = letters[0]["id"].to_string();
    let shown = cluster.codeswarm(&["dlq", "show", &letter]).expect_code(0);
    assert!(shown.stdout.contains(&job.tasks[0].path), "{}", shown.stdout);
    cluster.codeswarm(&["dlq", "replay", &letter]).expect_code(0);
    let path = job.tasks[0].path.clone();
    cluster.wait_for(&backend, &id, |log| {
        let of = |event: &Event| match event {
            Event::TaskSucceeded { task, .. } => {
                task.as_str().ends_with(path.trim_end_matches(".py")) || task.as_str().contains("t0000")
            }
            _ => false,
        };
        let revived = log.iter().position(|recorded| matches!(recorded.event, Event::TaskRevived { .. }))?;
        log[revived..].iter().find(|recorded| of(&recorded.event)).map(drop)
    });
    let listed = cluster.codeswarm(&["dlq", "list", "--json"]).expect_code(0).json();
    assert!(!listed.to_string().contains(id.as_str()), "{listed}");
    Cluster::stop_all(fleet);
}
