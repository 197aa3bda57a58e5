//! The promises of `LockTable`.
//!
//! Time is moved by the test, never waited for: leases end, waiters age and cycles close at exact moments. Every grant's
//! fencing token must be above the one before it, whoever held it.

use std::time::Duration;

use codeswarm::backend::{Acquired, Backend, BackendError, LockMode, LockRequest};
use codeswarm::protocol::Priority;

use crate::support::stores::{START, TestBackend, s};

use LockMode::{Exclusive, Shared};

const LEASE: Duration = Duration::from_secs(30);

fn request(resource: &str, owner: &str, mode: LockMode) -> LockRequest {
    LockRequest {
        resource: resource.into(),
        owner: owner.into(),
        mode,
        priority: Priority::Normal,
        lease: LEASE,
        queue: true,
    }
}

async fn ask(backend: &Backend, request: LockRequest) -> Acquired {
    backend.locks.acquire(request).await.unwrap()
}

async fn lock(backend: &Backend, resource: &str, owner: &str, mode: LockMode) -> Acquired {
    ask(backend, request(resource, owner, mode)).await
}

async fn urgent(backend: &Backend, owner: &str, priority: Priority) -> Acquired {
    ask(backend, LockRequest { priority, ..request("r", owner, Exclusive) }).await
}

async fn release(backend: &Backend, resource: &str, owner: &str) {
    backend.locks.release(resource, owner).await.unwrap();
}

fn fence(outcome: &Acquired) -> u64 {
    match outcome {
        Acquired::Granted { fence, .. } => *fence,
        other => panic!("not granted: {other:?}"),
    }
}

fn queued(ahead: u64) -> Acquired {
    Acquired::Queued { ahead }
}

fn deadlock(cycle: &[&str]) -> Acquired {
    Acquired::Deadlock { cycle: cycle.iter().map(|owner| (*owner).into()).collect() }
}

pub(crate) async fn an_exclusive_lease_excludes_everyone_until_it_is_given_back(test: &TestBackend) {
    let backend = &test.backend;
    let granted = lock(backend, "r", "a", Exclusive).await;
    assert_eq!(granted, Acquired::Granted { fence: fence(&granted), until: START.after(LEASE) });
    assert_eq!(lock(backend, "r", "b", Exclusive).await, queued(0));
    assert_eq!(lock(backend, "r", "c", Shared).await, queued(1));
    release(backend, "r", "a").await;
    fence(&lock(backend, "r", "b", Exclusive).await);
}

pub(crate) async fn asking_again_in_the_same_mode_answers_the_same_fence(test: &TestBackend) {
    let backend = &test.backend;
    for mode in [Exclusive, Shared, LockMode::Permit { capacity: 2 }] {
        let first = fence(&lock(backend, "r", "a", mode).await);
        test.pass(s(10)).await;
        let again = lock(backend, "r", "a", mode).await;
        assert_eq!(fence(&again), first);
        release(backend, "r", "a").await;
    }
}

pub(crate) async fn fences_grow_with_every_grant_and_survive_release(test: &TestBackend) {
    let backend = &test.backend;
    let mut last = 0;
    for round in 0..3 {
        for owner in ["a", "b"] {
            let fence = fence(&lock(backend, "r", owner, Exclusive).await);
            assert!(fence > last, "round {round}");
            last = fence;
            release(backend, "r", owner).await;
        }
        test.pass(s(3_600)).await;
    }
    let shared = fence(&lock(backend, "r", "a", Shared).await);
    assert!(fence(&lock(backend, "r", "b", Shared).await) > shared, "every grant has its own");
}

pub(crate) async fn a_lease_ends_by_the_clock_and_its_fence_is_stale(test: &TestBackend) {
    let backend = &test.backend;
    let stale = fence(&lock(backend, "r", "a", Exclusive).await);
    test.pass(s(20)).await;
    let until = backend.locks.renew("r", "a", stale, LEASE).await.unwrap();
    assert_eq!(until, START.after(s(50)));
    test.pass(s(30)).await;
    let late = backend.locks.renew("r", "a", stale, LEASE).await;
    assert!(matches!(late, Err(BackendError::LeaseLost { .. })), "{late:?}");
    let fresh = fence(&lock(backend, "r", "b", Exclusive).await);
    assert!(fresh > stale);
    for (owner, fence) in [("a", stale), ("b", stale), ("a", fresh), ("nobody", fresh)] {
        let outcome = backend.locks.renew("r", owner, fence, LEASE).await;
        assert!(matches!(outcome, Err(BackendError::LeaseLost { .. })), "{owner} {fence}: {outcome:?}");
    }
    release(backend, "r", "a").await;
    backend.locks.renew("r", "b", fresh, LEASE).await.unwrap();
}

pub(crate) async fn a_request_that_does_not_queue_is_told_who_holds(test: &TestBackend) {
    let backend = &test.backend;
    let impatient = |owner: &str| LockRequest { queue: false, ..request("r", owner, Exclusive) };
    lock(backend, "r", "a", Exclusive).await;
    assert_eq!(ask(backend, impatient("b")).await, Acquired::Busy { holder: "a".into() });
    release(backend, "r", "a").await;
    fence(&ask(backend, impatient("c")).await);
}

pub(crate) async fn equal_requests_are_served_in_order_of_arrival(test: &TestBackend) {
    let backend = &test.backend;
    lock(backend, "r", "holder", Exclusive).await;
    for (owner, ahead) in [("a", 0), ("b", 1), ("c", 2)] {
        for _ in 0..2 {
            assert_eq!(lock(backend, "r", owner, Exclusive).await, queued(ahead), "asking again keeps the place");
        }
    }
    release(backend, "r", "holder").await;
    assert_eq!(lock(backend, "r", "c", Exclusive).await, queued(2));
    assert_eq!(lock(backend, "r", "late", Exclusive).await, queued(3), "a free resource is not up for grabs");
    fence(&lock(backend, "r", "a", Exclusive).await);
    release(backend, "r", "a").await;
    assert_eq!(lock(backend, "r", "c", Exclusive).await, queued(1));
    fence(&lock(backend, "r", "b", Exclusive).await);
}

pub(crate) async fn urgent_requests_go_first_and_waiting_makes_urgent(test: &TestBackend) {
    let backend = &test.backend;
    let holder = fence(&lock(backend, "r", "holder", Exclusive).await);
    assert_eq!(urgent(backend, "low", Priority::Low).await, queued(0));
    assert_eq!(urgent(backend, "critical", Priority::Critical).await, queued(0));
    assert_eq!(urgent(backend, "high", Priority::High).await, queued(1));
    assert_eq!(urgent(backend, "low", Priority::Low).await, queued(2));
    release(backend, "r", "critical").await;
    release(backend, "r", "high").await;
    test.pass(s(20)).await;
    backend.locks.renew("r", "holder", holder, LEASE).await.unwrap();
    assert_eq!(urgent(backend, "low", Priority::Low).await, queued(0));
    assert_eq!(urgent(backend, "high", Priority::High).await, queued(1), "20 s have made low as urgent as high");
    assert_eq!(urgent(backend, "critical", Priority::Critical).await, queued(0), "but not more");
    test.pass(s(10)).await;
    release(backend, "r", "critical").await;
    release(backend, "r", "high").await;
    assert_eq!(urgent(backend, "critical", Priority::Critical).await, queued(1), "after 30 s it is first");
}

pub(crate) async fn an_abandoned_waiter_is_gone_at_its_own_deadline(test: &TestBackend) {
    let backend = &test.backend;
    let holder = fence(&ask(backend, LockRequest { lease: s(300), ..request("r", "holder", Exclusive) }).await);
    let short = |owner: &str| LockRequest { lease: s(5), ..request("r", owner, Exclusive) };
    assert_eq!(ask(backend, short("gone")).await, queued(0));
    assert_eq!(lock(backend, "r", "b", Exclusive).await, queued(1));
    test.pass(s(4)).await;
    assert_eq!(lock(backend, "r", "b", Exclusive).await, queued(1));
    test.pass(s(1)).await;
    assert_eq!(lock(backend, "r", "b", Exclusive).await, queued(0));
    assert_eq!(ask(backend, short("gone")).await, queued(1), "it has lost its place");
    backend.locks.renew("r", "holder", holder, LEASE).await.unwrap();
}

pub(crate) async fn a_waiter_that_gives_up_frees_its_place(test: &TestBackend) {
    let backend = &test.backend;
    lock(backend, "r", "holder", Exclusive).await;
    lock(backend, "r", "a", Exclusive).await;
    assert_eq!(lock(backend, "r", "b", Exclusive).await, queued(1));
    for _ in 0..2 {
        release(backend, "r", "a").await;
    }
    release(backend, "unknown", "nobody").await;
    assert_eq!(lock(backend, "r", "b", Exclusive).await, queued(0));
}

pub(crate) async fn shared_leases_are_held_together_and_do_not_starve_a_writer(test: &TestBackend) {
    let backend = &test.backend;
    fence(&lock(backend, "r", "r1", Shared).await);
    fence(&lock(backend, "r", "r2", Shared).await);
    assert_eq!(lock(backend, "r", "writer", Exclusive).await, queued(0));
    assert_eq!(lock(backend, "r", "r3", Shared).await, queued(1), "no overtaking a waiting writer");
    release(backend, "r", "r1").await;
    assert_eq!(lock(backend, "r", "writer", Exclusive).await, queued(0));
    release(backend, "r", "r2").await;
    assert_eq!(lock(backend, "r", "r3", Shared).await, queued(1));
    fence(&lock(backend, "r", "writer", Exclusive).await);
    release(backend, "r", "writer").await;
    fence(&lock(backend, "r", "r3", Shared).await);
}

pub(crate) async fn permits_are_held_by_as_many_as_there_are(test: &TestBackend) {
    let backend = &test.backend;
    let permit = LockMode::Permit { capacity: 2 };
    fence(&lock(backend, "pool", "a", permit).await);
    fence(&lock(backend, "pool", "b", permit).await);
    assert_eq!(lock(backend, "pool", "c", permit).await, queued(0));
    assert_eq!(lock(backend, "pool", "d", permit).await, queued(1));
    release(backend, "pool", "a").await;
    assert_eq!(lock(backend, "pool", "d", permit).await, queued(1), "the free permit is c's");
    fence(&lock(backend, "pool", "c", permit).await);
    release(backend, "pool", "b").await;
    fence(&lock(backend, "pool", "d", permit).await);
    for capacity in [0, 3] {
        let outcome = backend.locks.acquire(request("pool", "e", LockMode::Permit { capacity })).await;
        assert!(matches!(outcome, Err(BackendError::Invalid { .. })), "{capacity}: {outcome:?}");
    }
}

pub(crate) async fn a_cycle_of_two_is_a_deadlock_for_the_one_who_closes_it(test: &TestBackend) {
    let backend = &test.backend;
    lock(backend, "1", "a", Exclusive).await;
    lock(backend, "2", "b", Exclusive).await;
    assert_eq!(lock(backend, "2", "a", Exclusive).await, queued(0));
    for _ in 0..2 {
        assert_eq!(lock(backend, "1", "b", Exclusive).await, deadlock(&["b", "a"]));
    }
    assert_eq!(lock(backend, "1", "c", Exclusive).await, queued(0), "the victim is not queued");
    release(backend, "1", "c").await;
    release(backend, "2", "b").await;
    fence(&lock(backend, "2", "a", Exclusive).await);
}

pub(crate) async fn a_cycle_through_a_queued_waiter_is_a_deadlock(test: &TestBackend) {
    let backend = &test.backend;
    lock(backend, "1", "reader", Shared).await;
    lock(backend, "2", "late", Exclusive).await;
    assert_eq!(lock(backend, "1", "writer", Exclusive).await, queued(0));
    assert_eq!(lock(backend, "1", "late", Shared).await, queued(1), "held up only by the waiting writer");
    assert_eq!(lock(backend, "2", "reader", Exclusive).await, deadlock(&["reader", "late", "writer"]));
    release(backend, "1", "reader").await;
    fence(&lock(backend, "1", "writer", Exclusive).await);
}

pub(crate) async fn waiting_without_a_cycle_is_no_deadlock(test: &TestBackend) {
    let backend = &test.backend;
    lock(backend, "1", "a", Exclusive).await;
    lock(backend, "2", "b", Exclusive).await;
    assert_eq!(lock(backend, "1", "b", Exclusive).await, queued(0));
    assert_eq!(lock(backend, "2", "c", Exclusive).await, queued(0), "c waits for b, who waits for a, who is free");
    test.pass(LEASE).await;
    assert!(matches!(lock(backend, "2", "c", Exclusive).await, Acquired::Granted { .. }), "ended leases hold nobody");
}

pub(crate) async fn changing_the_mode_of_a_held_lease_is_waiting_for_oneself(test: &TestBackend) {
    let backend = &test.backend;
    let shared = fence(&lock(backend, "r", "a", Shared).await);
    assert_eq!(lock(backend, "r", "a", Exclusive).await, deadlock(&["a"]));
    backend.locks.renew("r", "a", shared, LEASE).await.unwrap();
}

pub(crate) async fn a_permit_deadlock_needs_every_holder_to_be_stuck(test: &TestBackend) {
    let backend = &test.backend;
    let permit = LockMode::Permit { capacity: 2 };
    lock(backend, "pool", "a", permit).await;
    lock(backend, "pool", "b", permit).await;
    lock(backend, "file", "c", Exclusive).await;
    assert_eq!(lock(backend, "file", "a", Exclusive).await, queued(0));
    assert_eq!(lock(backend, "pool", "c", permit).await, queued(0), "b can still give its permit back");
    let closing = lock(backend, "file", "b", Exclusive).await;
    assert!(matches!(&closing, Acquired::Deadlock { cycle } if cycle[0] == "b"), "{closing:?}");
}

pub(crate) async fn holders_and_waiters_can_be_inspected_by_prefix(test: &TestBackend) {
    let backend = &test.backend;
    let fence = fence(&lock(backend, "job/1", "a", Exclusive).await);
    lock(backend, "job/1", "b", Shared).await;
    lock(backend, "job0", "c", Shared).await;
    let told: Vec<_> = backend.locks.inspect("job/").await.unwrap();
    let told: Vec<_> = told.iter().map(|info| (info.owner.as_str(), info.mode, info.fence, info.until)).collect();
    let until = START.after(LEASE);
    assert_eq!(told, [("a", Exclusive, Some(fence), until), ("b", Shared, None, until)]);
    test.pass(LEASE).await;
    assert!(backend.locks.inspect("").await.unwrap().is_empty());
}

pub(crate) async fn racing_owners_never_hold_together_and_never_hang(test: &TestBackend) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    let holders: Arc<[AtomicU32; 2]> = Arc::default();
    let mut racing = tokio::task::JoinSet::new();
    for number in 0..6_usize {
        let (backend, holders) = (test.backend.clone(), holders.clone());
        racing.spawn(async move {
            let owner = format!("o{number}");
            for round in 0..10 {
                let order = if (number + round) % 2 == 0 { [0_usize, 1] } else { [1, 0] };
                'again: loop {
                    let mut held: Vec<usize> = Vec::new();
                    for resource in order {
                        loop {
                            match lock(&backend, &resource.to_string(), &owner, Exclusive).await {
                                Acquired::Granted { .. } => break,
                                Acquired::Queued { .. } => tokio::task::yield_now().await,
                                Acquired::Deadlock { cycle } => {
                                    assert_eq!(cycle[0], owner);
                                    for resource in held {
                                        holders[resource].fetch_sub(1, Ordering::SeqCst);
                                        release(&backend, &resource.to_string(), &owner).await;
                                    }
                                    continue 'again;
                                }
                                Acquired::Busy { .. } => unreachable!(),
                            }
                        }
                        assert_eq!(holders[resource].fetch_add(1, Ordering::SeqCst), 0);
                        held.push(resource);
                    }
                    for resource in held {
                        holders[resource].fetch_sub(1, Ordering::SeqCst);
                        release(&backend, &resource.to_string(), &owner).await;
                    }
                    break;
                }
            }
        });
    }
    racing.join_all().await;
    assert!(test.backend.locks.inspect("").await.unwrap().is_empty());
}
