//! Two processes, one store, one breaker: who learns what, when, and how often the store is asked.
//!
//! The store is a map behind a lock that uses the shared arithmetic and Tokio's paused clock, so that every second is
//! exact.

use super::*;
use crate::resilience::test_table::TestTable;

const POLICY: GatePolicy = GatePolicy {
    consecutive: 3,
    ratio_percent: 0,
    least_calls: 1,
    window: Duration::from_secs(60),
    open: Duration::from_secs(10),
    longest_open: Duration::from_secs(60),
    trials: 1,
    trial_lease: Duration::from_secs(600),
};
const KEY: &str = "test/model";

fn two() -> (Arc<TestTable>, Breaker, Breaker) {
    let table = Arc::new(TestTable::default());
    (table.clone(), Breaker::new(table.clone(), POLICY), Breaker::new(table, POLICY))
}

async fn call(breaker: &Breaker, health: Health) {
    breaker.enter(KEY).await.expect("it lets calls through").finish(health).await;
}

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

#[tokio::test(start_paused = true)]
async fn a_healthy_provider_costs_one_look_a_second_however_many_call() {
    let (table, breaker, _) = two();
    for _ in 0..100 {
        call(&breaker, Health::Well).await;
    }
    assert_eq!(table.gate_steps(), 1);
    pass(Duration::from_secs(1)).await;
    call(&breaker, Health::Well).await;
    assert_eq!(table.gate_steps(), 2);
}

#[tokio::test(start_paused = true)]
async fn failures_of_one_process_close_the_way_for_all_within_a_second() {
    let (_, one, other) = two();
    call(&other, Health::Well).await;
    for _ in 0..3 {
        call(&one, Health::Sick).await;
    }
    assert_eq!(one.look(KEY).await, Err(Duration::from_secs(10)));
    pass(Duration::from_secs(1)).await;
    assert_eq!(other.look(KEY).await, Err(Duration::from_secs(9)));
    assert!(other.enter(KEY).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_about_the_provider_never_counts() {
    let (table, breaker, _) = two();
    for _ in 0..50 {
        call(&breaker, Health::Unknown).await;
    }
    assert!(breaker.look(KEY).await.is_ok());
    assert_eq!(table.gate_steps(), 1);
}

#[tokio::test(start_paused = true)]
async fn successes_between_failures_are_reported_and_keep_it_closed() {
    let (_, breaker, _) = two();
    for _ in 0..10 {
        call(&breaker, Health::Sick).await;
        call(&breaker, Health::Sick).await;
        pass(Duration::from_secs(1)).await;
        call(&breaker, Health::Well).await;
    }
    assert!(breaker.look(KEY).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_process_makes_the_trial_and_its_success_lets_all_through() {
    let (_, one, other) = two();
    for _ in 0..3 {
        call(&one, Health::Sick).await;
    }
    pass(Duration::from_secs(10)).await;
    let trial = one.enter(KEY).await.unwrap();
    assert!(other.enter(KEY).await.is_err());
    trial.finish(Health::Well).await;
    pass(Duration::from_secs(1)).await;
    call(&other, Health::Well).await;
    call(&one, Health::Well).await;
}

#[tokio::test(start_paused = true)]
async fn a_trial_lasts_as_long_as_its_call_and_one_whose_process_died_only_as_long_as_its_lease() {
    let (table, one, other) = two();
    for _ in 0..3 {
        call(&one, Health::Sick).await;
    }
    pass(Duration::from_secs(10)).await;
    let trial = one.enter(KEY).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3 * 600)).await;
    assert!(other.enter(KEY).await.is_err(), "the call is still made");
    trial.finish(Health::Sick).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    // A process that dies neither ends its trial nor renews it.
    table.gate(KEY, &POLICY, GateStep::Enter { id: "dead".into() }).await.unwrap();
    assert!(other.enter(KEY).await.is_err());
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert!(other.enter(KEY).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_ended_because_its_renewal_came_late_is_not_set_up_again() {
    let (table, one, other) = two();
    for _ in 0..3 {
        call(&one, Health::Sick).await;
    }
    pass(Duration::from_secs(10)).await;
    let late = one.enter(KEY).await.unwrap();
    tokio::task::yield_now().await;
    let before = table.gate_steps();
    // As if the process had stood still: the renewal is due only after the lease is over.
    pass(Duration::from_secs(601)).await;
    while table.gate_steps() == before {
        tokio::task::yield_now().await;
    }
    assert!(other.enter(KEY).await.is_ok(), "another may make the trial");
    drop(late);
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_is_dropped_is_given_back() {
    let (_, one, other) = two();
    for _ in 0..3 {
        call(&one, Health::Sick).await;
    }
    pass(Duration::from_secs(10)).await;
    drop(one.enter(KEY).await.unwrap());
    tokio::task::yield_now().await;
    other.enter(KEY).await.unwrap().finish(Health::Sick).await;
    assert_eq!(other.look(KEY).await, Err(Duration::from_secs(20)));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_stops_nothing() {
    let (table, breaker, _) = two();
    table.be_away();
    for _ in 0..10 {
        call(&breaker, Health::Sick).await;
    }
}
