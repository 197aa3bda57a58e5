//! Stores that are away for longer than any request may take: processes stay, say so, and go on once the stores are back.
//!
//! Requests are given little time here, so that an outage of a few seconds is a long one. What must not happen is that a
//! process ends, or sleeps on when there is work again.

use std::time::{Duration, Instant};

use codeswarm::backend::Scope;
use codeswarm::llm::replay::Synthetic;
use codeswarm::protocol::{Event, JobOutcome};

use super::Cluster;

/// From the return of the stores to the job's first task: what is left of a pause, an election and a dispatch.
const AT_WORK: Duration = Duration::from_secs(5);

#[test]
fn idle_processes_outlive_an_outage_of_both_stores_and_are_at_work_soon_after_it() {
    let script = Synthetic::new(5, 2, 7).build().unwrap().script;
    let settings = [("CODESWARM_NATS_REQUEST_TIMEOUT_MS", "1000"), ("CODESWARM_REDIS_REQUEST_TIMEOUT_MS", "1000")];
    let mut cluster = Cluster::start(script, &settings);
    let (mut leader, mut worker) = (cluster.coordinator(), cluster.worker_of_all());
    leader.wait_for(|line| line.contains("leading")).expect("it leads");
    let mut standby = cluster.coordinator();
    standby.wait_for(|line| line.contains("standing by")).expect("it stands by");
    cluster.nats.kill();
    cluster.redis.kill();
    let away = Instant::now();
    worker.wait_for(|line| line.contains("cannot pull; trying again")).expect("an idle worker notices");
    for coordinator in [&mut leader, &mut standby] {
        coordinator.wait_for(|line| line.contains("do not answer; trying again")).expect("coordinators notice");
    }
    let noticed = away.elapsed();
    assert!(noticed < Duration::from_secs(8), "noticed after {noticed:?}, where a pull waits for thirty seconds");
    cluster.nats.start_again();
    cluster.redis.start_again();
    let back = Instant::now();
    let backend = cluster.backend();
    let job = cluster.submit(&cluster.proposal(), &[]);
    let is_result = |event: &Event| matches!(event, Event::TaskSucceeded { .. });
    cluster.wait_for(&backend, &job, |log| log.iter().any(|recorded| is_result(&recorded.event)).then_some(()));
    assert!(back.elapsed() < AT_WORK, "at work only after {:?}", back.elapsed());
    let end = cluster.wait_for_end(&backend, &job);
    assert!(matches!(end, Event::JobEnded { outcome: JobOutcome::Completed, .. }), "{end:?}");
    Cluster::stop_all(vec![leader, standby, worker]);
}

#[test]
fn a_freeze_holds_while_nats_is_away() {
    let mut cluster = Cluster::start(Synthetic::new(5, 2, 7).build().unwrap().script, &[]);
    let backend = cluster.backend();
    assert!(!cluster.balance(&backend, &Scope::Account).frozen);
    cluster.nats.kill();
    let frozen = cluster.codeswarm(&["budget", "freeze"]).expect_code(0);
    assert!(frozen.stderr.contains("frozen; not yet in the journal"), "{}", frozen.stderr);
    assert!(frozen.stdout.contains("all spending is frozen"), "{}", frozen.stdout);
    let unknown = cluster.codeswarm(&["budget", "freeze", "abc"]).expect_code(1);
    assert!(unknown.stderr.contains("give the whole id"), "{}", unknown.stderr);
    assert!(cluster.balance(&backend, &Scope::Account).frozen, "the counters know it");
    cluster.nats.start_again();
    let job = cluster.submit(&cluster.proposal(), &[]);
    let fleet = vec![cluster.coordinator(), cluster.worker_of_all()];
    let end = cluster.wait_for_end(&backend, &job);
    assert!(matches!(end, Event::JobEnded { outcome: JobOutcome::BudgetExhausted, .. }), "{end:?}");
    assert_eq!(cluster.provider.as_ref().unwrap().requests(), 0, "no call is made");
    Cluster::stop_all(fleet);
}
