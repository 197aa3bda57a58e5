//! Processes that die, or are taken for dead, and those that take over from them.
//!
//! Dropping the stores is as close to death as one process can show another: nothing is said, the beats just end.

use codeswarm::backend::presence;

use super::*;

fn quick(server: &RedisServer) -> DistributedOptions {
    let mut options = distributed_options(&server.url());
    (options.redis.beat, options.redis.dead_after) = (Duration::from_millis(50), s(2));
    options
}

/// Values that the presence key of `instance` takes after `revision`, until one is dead (or alive).
async fn until(state: &dyn StateStore, instance: &InstanceId, is_dead: bool, mut revision: u64) -> u64 {
    let key = presence::key(instance);
    loop {
        let found = state.changes(&key, revision, 10, SOON).await.unwrap();
        assert!(!found.is_empty(), "{instance} is not found dead ({is_dead}) in time");
        for change in found {
            revision = change.revision;
            if change.entry.value.is_some_and(|value| presence::is_dead(&value) == is_dead) {
                return revision;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_10_a_process_that_dies_is_buried_once_with_its_money_spent_and_its_leases_over() {
    let server = RedisServer::start();
    let options = quick(&server);
    let (survivor, own) = open(&options).await;
    let (_others, _) = (open(&options).await, open(&options).await);
    let (dying, dead) = open(&options).await;
    limit(&*survivor.ledger, 100).await;
    reserve(&*survivor.ledger, "mine", 10).await.unwrap();
    for number in 0..70 {
        let request = reservation(&format!("theirs-{number}"), &[scope()], 1);
        let asked = codeswarm::backend::ReserveRequest { instance: dead.clone(), ..request };
        assert_eq!(dying.ledger.reserve(asked).await.unwrap(), ReserveOutcome::Granted);
    }
    fence(dying.locks.acquire(lock("not named after the process")).await.unwrap());
    let elsewhere = LockRequest { resource: "other".into(), ..lock(&format!("{dead}/attempt-1")) };
    fence(survivor.locks.acquire(elsewhere.clone()).await.unwrap());
    fence(survivor.locks.acquire(LockRequest { resource: "mine".into(), ..lock("me") }).await.unwrap());
    drop(dying);
    until(&*survivor.state, &dead, true, 0).await;
    let after = balance(&*survivor.ledger).await;
    assert_eq!((after.spent, after.reserved), (usd(70), usd(10)));
    let left: Vec<_> = survivor.locks.inspect("").await.unwrap().into_iter().map(|info| info.resource).collect();
    assert_eq!(left, ["mine"]);
    let past = survivor.state.history(&presence::key(&dead), 9).await.unwrap();
    assert_eq!(past.len(), 2, "alive, then dead, however many look after it");
    let alive = survivor.state.get(&[presence::key(&own)]).await.unwrap().remove(0).unwrap();
    assert!(!presence::is_dead(&alive.value.unwrap()), "the living are left alone");
    assert_eq!(server.command(&format!("ZSCORE test:{{presence}}:beats {dead}")), ::redis::Value::Nil);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dies_while_burying_another_is_replaced() {
    let server = RedisServer::start();
    let (survivor, _) = open(&quick(&server)).await;
    let (dying, dead) = open(&quick(&server)).await;
    limit(&*survivor.ledger, 100).await;
    let asked = codeswarm::backend::ReserveRequest { instance: dead.clone(), ..reservation("theirs", &[scope()], 7) };
    assert_eq!(dying.ledger.reserve(asked).await.unwrap(), ReserveOutcome::Granted);
    drop(dying);
    // As if a third one had taken it on and died before the first step: it has a little time left to finish.
    let over = survivor.clock.now().after(Duration::from_millis(300));
    server.command(&format!("ZREM test:{{presence}}:beats {dead}"));
    server.command(&format!("ZADD test:{{presence}}:dying {} {dead}", over.0));
    until(&*survivor.state, &dead, true, 0).await;
    let after = balance(&*survivor.ledger).await;
    assert_eq!((after.spent, after.reserved), (usd(7), usd(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_only_taken_for_dead_says_that_it_lives() {
    let server = RedisServer::start();
    let (survivor, _) = open(&quick(&server)).await;
    let mut slow = quick(&server);
    slow.redis.beat = Duration::from_millis(400);
    let (stopped, taken_for_dead) = open(&slow).await;
    let mut revision = survivor.state.snapshot("").await.unwrap().revision;
    // As if it had been silent since 1970; its own next beat may come first, then it has to be silent once more.
    let key = presence::key(&taken_for_dead);
    loop {
        server.command(&format!("ZADD test:{{presence}}:beats 1 {taken_for_dead}"));
        let found = survivor.state.changes(&key, revision, 1, Duration::from_secs(1)).await.unwrap();
        if let Some(change) = found.first() {
            assert!(presence::is_dead(change.entry.value.as_ref().unwrap()), "first it is dead");
            revision = change.revision;
            break;
        }
    }
    until(&*survivor.state, &taken_for_dead, false, revision).await;
    put(&*stopped.state, "k", Expected::Any, "it works on").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_is_judged_by_the_stores_clock_and_the_long_dead_are_forgotten() {
    let server = RedisServer::start();
    let clock = Clock::manual(crate::support::stores::START);
    let options = quick(&server);
    let (own, dead) = (instance("own"), instance("dead"));
    let survivor = redis::open(&options, &own, Some(clock.clone())).await.unwrap();
    drop(redis::open(&options, &dead, Some(clock.clone())).await.unwrap());
    put(&*survivor.state, &format!("fleet/worker/{dead}"), Expected::Any, "its card").await.unwrap();
    let start = survivor.state.snapshot("").await.unwrap().revision;
    // In steps, as time goes by: after a leap it would be the server that had not listened.
    let (key, mut buried) = (presence::key(&dead), None);
    for _ in 0..100 {
        clock.advance(Duration::from_millis(400));
        let found = survivor.state.changes(&key, start, 1, Duration::from_millis(100)).await.unwrap();
        if let Some(change) = found.first() {
            assert!(presence::is_dead(change.entry.value.as_ref().unwrap()));
            buried = Some(change.revision);
            break;
        }
    }
    let buried = buried.expect("it is found dead");
    // The last step of a burial comes after the word; only from there on is it remembered.
    let noted = async {
        while server.command(&format!("ZSCORE test:{{presence}}:dead {dead}")) == ::redis::Value::Nil {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, noted).await.expect("the burial ends");
    clock.advance(s(3_700));
    let found = survivor.state.changes("fleet/", buried, 2, SOON).await.unwrap();
    let gone: Vec<_> = found.iter().map(|change| (change.entry.key.clone(), change.entry.value.is_none())).collect();
    assert_eq!(gone, [(presence::key(&dead), true), (format!("fleet/worker/{dead}"), true)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_dies_of_a_server_that_was_away_for_longer_than_any_silence() {
    let mut server = RedisServer::start();
    let mut options = quick(&server);
    options.redis.dead_after = Duration::from_millis(500);
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(open(&options).await);
    }
    server.kill();
    tokio::time::sleep(options.redis.dead_after * 3).await;
    server.start_again();
    // Until every one of them has been heard again, and again after as long as silence may last.
    for _ in 0..2 {
        let now = processes[0].0.clock.now().0;
        for (_, instance) in &processes {
            let heard = || {
                let score = server.command(&format!("ZSCORE test:{{presence}}:beats {instance}"));
                ::redis::from_redis_value::<Option<i64>>(score).unwrap().unwrap_or(0)
            };
            let again = async {
                while heard() <= now {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(SOON, again).await.expect("it says again that it lives");
        }
        tokio::time::sleep(options.redis.dead_after * 2).await;
    }
    for (stores, instance) in &processes {
        let past = stores.state.history(&presence::key(instance), 9).await.unwrap();
        assert_eq!(past.len(), 1, "{instance} was taken for dead: {past:?}");
    }
}
