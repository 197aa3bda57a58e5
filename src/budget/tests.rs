//! The guard's promises: whatever happens to it, the ledger ends with the truth or with the dearest guess.
//!
//! A ledger in memory that loses answers and goes away on demand stands in for the stores. Each case ends by reading the
//! ledger, for what the guard itself believes proves nothing.

use std::sync::Arc;
use std::time::Duration;

use super::test_ledger::{MemoryLedger, Wire};
use super::*;
use crate::backend::{ReservationState, Settlement};
use crate::clock::Clock;
use crate::protocol::{AgentType, InstanceId, JobId, MicroUsd, TaskId, Usage};

const LEASE: Duration = Duration::from_secs(700);
const COST: Settlement = Settlement {
    amount: MicroUsd(30),
    usage: Usage { input: 1, cache_write_5m: 0, cache_write_1h: 0, cache_read: 0, output: 2 },
};

fn context() -> CallContext {
    let instance = InstanceId::new("worker-1").unwrap();
    CallContext::new(JobId::new("j").unwrap(), TaskId::plan(), AgentType::planner(), instance, 1, 1)
}

fn treasury(limit: u64) -> (Arc<MemoryLedger>, Treasurer) {
    let ledger = Arc::new(MemoryLedger::with_limit(MicroUsd(limit)));
    let treasurer = Treasurer::new(ledger.clone(), Arc::new(PriceTable::builtin().unwrap()));
    (ledger, treasurer)
}

async fn reserve(treasurer: &Treasurer, amount: u64) -> Result<Reservation, BudgetError> {
    let context = context();
    treasurer.reserve("r".into(), &context, "m", MicroUsd(amount), LEASE).await
}

fn only_state(ledger: &MemoryLedger) -> (ReservationState, MicroUsd) {
    let held = ledger.held();
    assert_eq!(held.len(), 1, "{held:?}");
    (held[0].1.state, held[0].1.charged)
}

#[tokio::test(start_paused = true)]
async fn every_ending_reaches_the_ledger() {
    for (ending, spent) in [("settle", 30), ("release", 0), ("forfeit", 100)] {
        let (ledger, treasurer) = treasury(1_000);
        let reservation = reserve(&treasurer, 100).await.unwrap();
        assert_eq!(ledger.account().reserved, MicroUsd(100));
        match ending {
            "settle" => assert_eq!(reservation.settle(COST).await.unwrap().charged, MicroUsd(30)),
            "release" => reservation.release().await.unwrap(),
            _ => assert_eq!(reservation.forfeit().await.unwrap().charged, MicroUsd(100)),
        }
        treasurer.drain().await;
        assert_eq!(ledger.account().spent, MicroUsd(spent), "{ending}");
        assert_eq!(ledger.account().reserved, MicroUsd::ZERO, "{ending}");
    }
}

#[tokio::test(start_paused = true)]
async fn case_19_prices_go_by_the_clock_of_the_stores() {
    let (_, treasurer) = treasury(1_000);
    let price = |day: &str| {
        let stores = Clock::manual(day.parse().unwrap());
        let treasurer = treasurer.clone().going_by(stores);
        // 1,000 tokens of input at 0.75, which is 1.5 from 2027 on.
        treasurer.prices().charge("gemini-3.8-flash", &Usage { input: 1_000, ..Usage::default() }).unwrap()
    };
    assert_eq!((price("2026-06-01"), price("2027-06-01")), (MicroUsd(750), MicroUsd(1_500)));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_guard_is_charged_in_full() {
    let (ledger, treasurer) = treasury(1_000);
    drop(reserve(&treasurer, 100).await.unwrap());
    treasurer.drain().await;
    assert_eq!(only_state(&ledger), (ReservationState::Settled, MicroUsd(100)));
}

#[tokio::test(start_paused = true)]
async fn a_guard_dropped_while_the_ledger_is_away_is_charged_once_it_is_back() {
    let (ledger, treasurer) = treasury(1_000);
    let reservation = reserve(&treasurer, 100).await.unwrap();
    ledger.be_away_for(3);
    drop(reservation);
    treasurer.drain().await;
    assert_eq!(only_state(&ledger), (ReservationState::Settled, MicroUsd(100)));
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_the_ledger_missed_is_repeated_with_the_true_amount() {
    let (ledger, treasurer) = treasury(1_000);
    let reservation = reserve(&treasurer, 100).await.unwrap();
    ledger.be_away_for(6);
    assert!(matches!(reservation.settle(COST).await, Err(BudgetError::Ledger(_))));
    treasurer.drain().await;
    assert_eq!(only_state(&ledger), (ReservationState::Settled, MicroUsd(30)));
}

#[tokio::test(start_paused = true)]
async fn a_settlement_dropped_half_way_is_finished_with_the_true_amount() {
    let (ledger, treasurer) = treasury(1_000);
    let reservation = reserve(&treasurer, 100).await.unwrap();
    ledger.be_away_for(1);
    let settling = reservation.settle(COST);
    assert!(tokio::time::timeout(Duration::from_millis(10), settling).await.is_err());
    treasurer.drain().await;
    assert_eq!(only_state(&ledger), (ReservationState::Settled, MicroUsd(30)));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_under_the_same_id() {
    let (ledger, treasurer) = treasury(150);
    ledger.lose_next_answer();
    let reservation = reserve(&treasurer, 100).await.unwrap();
    assert_eq!(ledger.account().reserved, MicroUsd(100));
    reservation.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_stays_away_refuses_and_keeps_nothing() {
    let (ledger, treasurer) = treasury(1_000);
    ledger.be_away_for(5);
    assert!(matches!(reserve(&treasurer, 100).await, Err(BudgetError::Ledger(_))));
    treasurer.drain().await;
    assert_eq!(only_state(&ledger), (ReservationState::Released, MicroUsd::ZERO));

    // The money was set aside, but nobody ever learned it: no call was made, so it has to come back.
    let (ledger, treasurer) = treasury(1_000);
    ledger.lose_next_answer();
    let asking = reserve(&treasurer, 100);
    assert!(tokio::time::timeout(Duration::from_millis(10), asking).await.is_err());
    treasurer.drain().await;
    assert_eq!(only_state(&ledger), (ReservationState::Released, MicroUsd::ZERO));
}

#[tokio::test(start_paused = true)]
async fn money_that_is_granted_after_its_caller_has_given_up_comes_back() {
    let ledger = Arc::new(MemoryLedger::with_limit(MicroUsd(1_000)));
    let wire = Wire::to(&ledger).lagging(Duration::from_secs(1));
    let treasurer = Treasurer::new(Arc::new(wire), Arc::new(PriceTable::builtin().unwrap()));
    let asking = reserve(&treasurer, 100);
    assert!(tokio::time::timeout(Duration::from_millis(10), asking).await.is_err());
    treasurer.drain().await;
    assert_eq!(only_state(&ledger), (ReservationState::Released, MicroUsd::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_question_that_arrives_long_after_it_was_given_up_sets_nothing_aside() {
    let ledger = Arc::new(MemoryLedger::with_limit(MicroUsd(1_000)));
    let wire = Wire::to(&ledger).holding_back(5, Duration::from_secs(600));
    let treasurer = Treasurer::new(Arc::new(wire), Arc::new(PriceTable::builtin().unwrap()));
    assert!(matches!(reserve(&treasurer, 100).await, Err(BudgetError::Ledger(_))));
    treasurer.drain().await;
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    assert_eq!(ledger.account().reserved, MicroUsd::ZERO);
    assert_eq!(only_state(&ledger), (ReservationState::Released, MicroUsd::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_what_is_left_and_leaves_it_untouched() {
    let (ledger, treasurer) = treasury(99);
    match reserve(&treasurer, 100).await {
        Err(BudgetError::Refused { needed, available, .. }) => {
            assert_eq!((needed, available), (MicroUsd(100), MicroUsd(99)));
        }
        other => panic!("{other:?}"),
    }
    treasurer.drain().await;
    assert_eq!(ledger.account().reserved, MicroUsd::ZERO);
    assert_eq!(ledger.held(), vec![]);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_stays_away_does_not_hold_up_a_shutdown_for_every_call() {
    let (ledger, treasurer) = treasury(1_000);
    let context = context();
    let mut guards = Vec::new();
    for _ in 0..5 {
        let id = context.next_reservation_id();
        guards.push(treasurer.reserve(id, &context, "m", MicroUsd(100), LEASE).await.unwrap());
    }
    ledger.be_away_for(1_000);
    drop(guards);
    let start = tokio::time::Instant::now();
    treasurer.drain().await;
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert_eq!(ledger.account().reserved, MicroUsd(500), "left to the lease");
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_is_away_for_minutes_is_asked_until_the_lease_is_over_and_no_call_waits_for_another() {
    let (ledger, treasurer) = treasury(1_000);
    let context = context();
    let mut guards = Vec::new();
    for _ in 0..5 {
        let id = context.next_reservation_id();
        guards.push(treasurer.reserve(id, &context, "m", MicroUsd(100), LEASE).await.unwrap());
    }
    // Of each call that many attempts fail: more than five minutes, with pauses of at most half a minute.
    ledger.be_away_for(5 * 18);
    drop(guards);
    let start = tokio::time::Instant::now();
    while ledger.account().reserved > MicroUsd::ZERO {
        assert!(start.elapsed() < LEASE, "not charged within the lease");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(start.elapsed() > Duration::from_secs(300), "it was away for {:?} only", start.elapsed());
    assert_eq!(ledger.account().spent, MicroUsd(500), "each by the settler, none by its lease");
}

#[tokio::test(start_paused = true)]
async fn a_call_is_not_ended_any_more_once_its_lease_is_over() {
    let (ledger, treasurer) = treasury(1_000);
    let reservation = reserve(&treasurer, 100).await.unwrap();
    ledger.be_away_for(u32::MAX);
    drop(reservation);
    tokio::time::sleep(LEASE).await;
    ledger.be_away_for(0);
    tokio::time::sleep(LEASE).await;
    assert_eq!(only_state(&ledger).0, ReservationState::Open, "the lease decides");
}
