//! Servers that die, hang, lose answers or forget while they are in use.
//!
//! The process under test is never told what happens to its server; it has to find out and go on by itself.

use codeswarm::backend::Settlement;
use codeswarm::protocol::Usage;

use super::*;
use crate::support::servers::wire::Wire;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_comes_back_has_lost_nothing_and_work_goes_on_by_itself() {
    let (mut server, stores) = start().await;
    let (ledger, state, locks) = (stores.ledger.clone(), stores.state.clone(), stores.locks.clone());
    limit(&*ledger, 100).await;
    assert_eq!(reserve(&*ledger, "before", 30).await.unwrap(), ReserveOutcome::Granted);
    put(&*state, "k", Expected::Absent, "v").await.unwrap();
    let held = fence(locks.acquire(lock("a")).await.unwrap());
    let waiting = {
        let state = state.clone();
        let start = state.snapshot("after").await.unwrap().revision;
        tokio::spawn(async move { state.changes("after", start, 1, SOON).await })
    };
    server.kill();
    // Asked while there is no server; answered when there is one again.
    let asked = {
        let ledger = ledger.clone();
        tokio::spawn(async move { reserve(&*ledger, "during", 30).await })
    };
    server.start_again();
    assert_eq!(asked.await.unwrap().unwrap(), ReserveOutcome::Granted);
    assert_eq!(balance(&*ledger).await.reserved, usd(60));
    assert_eq!(
        reserve(&*ledger, "after", 41).await.unwrap(),
        ReserveOutcome::Refused { scope: scope(), available: usd(40) }
    );
    assert_eq!(put(&*state, "k", Expected::Version(1), "w").await.unwrap(), 2);
    assert_eq!(locks.acquire(lock("b")).await.unwrap(), Acquired::Busy { holder: "a".into() });
    locks.renew("r", "a", held, s(60)).await.unwrap();
    locks.release("r", "a").await.unwrap();
    assert!(fence(locks.acquire(lock("b")).await.unwrap()) > held);
    // Whoever follows the feed has been cut off too, and notices nothing.
    let follows = waiting.is_finished();
    put(&*state, "after", Expected::Absent, "v").await.unwrap();
    if !follows {
        let found = waiting.await.unwrap().unwrap();
        assert_eq!(found[0].entry.key, "after");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_03_a_server_that_hangs_is_unavailable_and_then_served_again() {
    let (server, _) = start().await;
    let mut options = distributed_options(&server.url());
    options.redis.request_timeout = Duration::from_millis(200);
    let (stores, _) = open(&options).await;
    limit(&*stores.ledger, 100).await;
    server.signal("STOP");
    for attempt in 0..5 {
        is_unavailable(reserve(&*stores.ledger, "a", 10).await);
        is_unavailable(put(&*stores.state, &format!("k{attempt}"), Expected::Any, "v").await);
    }
    server.signal("CONT");
    let outcome = eventually(|| reserve(&*stores.ledger, "a", 10)).await;
    assert_eq!(outcome, ReserveOutcome::Granted);
    assert_eq!(balance(&*stores.ledger).await.reserved, usd(10), "however often it was asked, it happened once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_03_a_step_whose_answer_is_lost_is_repeated_and_happens_once() {
    let server = RedisServer::start();
    let wire = Wire::to(server.port()).await;
    let mut options = distributed_options(&format!("redis://127.0.0.1:{}/0", wire.port()));
    // One connection, and no beats that could lose the answer instead.
    (options.redis.connections, options.redis.beat, options.redis.dead_after) = (1, s(3_600), s(7_200));
    let (stores, _) = open(&options).await;
    limit(&*stores.ledger, 100).await;
    // The first beat follows the opening at once; it must be over.
    put(&*stores.state, "warm", Expected::Any, "v").await.unwrap();

    let lost = wire.cuts();
    wire.cut_next_answer();
    assert_eq!(reserve(&*stores.ledger, "a", 10).await.unwrap(), ReserveOutcome::Granted);
    wire.cut_next_answer();
    let topped = stores.ledger.adjust("more", &scope(), Adjustment::TopUp(usd(5))).await.unwrap();
    assert_eq!((topped.limit, balance(&*stores.ledger).await.reserved), (Some(usd(105)), usd(10)));
    for (expected, version) in [(Expected::Absent, 1), (Expected::Version(1), 2), (Expected::Any, 3)] {
        wire.cut_next_answer();
        assert_eq!(put(&*stores.state, "k", expected, "v").await.unwrap(), version);
    }
    assert_eq!(stores.state.history("k", 9).await.unwrap().len(), 3, "each write once");
    wire.cut_next_answer();
    let held = fence(stores.locks.acquire(lock("a")).await.unwrap());
    assert_eq!(stores.locks.inspect("r").await.unwrap()[0].fence, Some(held));
    assert!(wire.cuts() >= lost + 6, "the answers were really lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_03_a_server_that_forgets_its_scripts_is_taught_them_again() {
    let (server, stores) = start().await;
    limit(&*stores.ledger, 100).await;
    for round in 0..3 {
        server.command("SCRIPT FLUSH");
        let mut asking = tokio::task::JoinSet::new();
        for number in 0..10 {
            let ledger = stores.ledger.clone();
            asking.spawn(async move { reserve(&*ledger, &format!("{round}-{number}"), 1).await.unwrap() });
        }
        assert!(asking.join_all().await.iter().all(|outcome| *outcome == ReserveOutcome::Granted));
    }
    assert_eq!(balance(&*stores.ledger).await.reserved, usd(30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_24_a_server_that_has_lost_its_data_is_never_spent_against() {
    use codeswarm::error::Coded;
    let (server, stores) = start().await;
    let ledger = &*stores.ledger;
    limit(ledger, 100).await;
    reserve(ledger, "a", 60).await.unwrap();
    let revision = stores.state.snapshot("").await.unwrap().revision;
    let held = fence(stores.locks.acquire(lock("a")).await.unwrap());
    server.command("FLUSHALL");
    let lost = |outcome: Result<(), BackendError>, found: &str| {
        let error = outcome.expect_err("refused");
        assert!(matches!(error, BackendError::DataLost { .. }) && error.to_string().contains(found), "{error}");
        assert_eq!(error.code(), "CS-STORE-010");
        assert!(error.remedy().contains("codeswarm budget rebuild"), "{}", error.remedy());
    };
    lost(reserve(ledger, "b", 1).await.map(drop), "holds none");
    lost(ledger.settle("a", Default::default()).await.map(drop), "holds none");
    lost(ledger.adjust("x", &scope(), Adjustment::TopUp(usd(1))).await.map(drop), "holds none");
    lost(ledger.balance(&scope()).await.map(drop), "holds none");
    lost(ledger.expire().await.map(drop), "holds none");
    let feed = stores.state.changes("", revision + 5, 9, Duration::ZERO).await;
    assert!(matches!(feed, Err(BackendError::DataLost { .. })), "{feed:?}");
    // Another process begins anew on the empty server; that does not make the old one trust it.
    let (fresh, _) = open(&distributed_options(&server.url())).await;
    lost(reserve(ledger, "b", 1).await.map(drop), "holds another one");
    assert_eq!(
        reserve(&*fresh.ledger, "b", 1).await.unwrap(),
        ReserveOutcome::Refused { scope: scope(), available: usd(0) }
    );
    assert!(fence(fresh.locks.acquire(lock("b")).await.unwrap()) > held, "fences grow even so");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_is_followed_too_late_says_so_and_a_history_keeps_the_newest() {
    let (_server, stores) = start().await;
    let writer = instance("writer");
    let start = stores.state.snapshot("").await.unwrap().revision;
    for round in 0..210 {
        let write = |number| Write { key: format!("k{number}"), expected: Expected::Any, value: Some("v".into()) };
        let versions = stores.state.commit(&writer, (0..100).map(write).collect()).await.unwrap();
        assert_eq!(versions, vec![round + 1; 100]);
    }
    let late = stores.state.changes("k", start, 10, Duration::ZERO).await;
    assert!(matches!(late, Err(BackendError::Compacted { oldest, .. }) if oldest > start + 1), "{late:?}");
    let snapshot = stores.state.snapshot("k").await.unwrap();
    assert_eq!(snapshot.entries.len(), 100);
    assert!(stores.state.changes("k", snapshot.revision, 10, Duration::ZERO).await.unwrap().is_empty());
    let recent = stores.state.changes("k7", snapshot.revision - 5_000, 10_000, Duration::ZERO).await.unwrap();
    assert!(!recent.is_empty() && recent.iter().all(|change| change.entry.key.starts_with("k7")));
    let history = stores.state.history("k7", 1_000).await.unwrap();
    let versions: Vec<_> = history.iter().map(|past| past.version).collect();
    assert_eq!(versions, (111..=210).rev().collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_still_reads_its_data_is_waited_for() {
    let mut server = RedisServer::start();
    let (before, _) = open(&distributed_options(&server.url())).await;
    limit(&*before.ledger, 100).await;
    let client = ::redis::Client::open(server.url()).unwrap();
    let mut ballast = ::redis::pipe();
    for number in 0..4_000 {
        ballast.set(format!("ballast-{number}"), number);
    }
    ballast.exec(&mut client.get_connection().unwrap()).unwrap();
    server.kill();
    // 300 µs for each of them, and a look at its clients after every 1,024.
    server.start_again_with(&["--key-load-delay", "300"]);
    let (after, _) = open(&distributed_options(&server.url())).await;
    assert_eq!(reserve(&*after.ledger, "a", 60).await.unwrap(), ReserveOutcome::Granted);
    assert_eq!(
        reserve(&*before.ledger, "b", 60).await.unwrap(),
        ReserveOutcome::Refused { scope: scope(), available: usd(40) }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_memory_is_full_refuses_writes_whole_and_says_what_to_do() {
    use codeswarm::error::Coded;
    let (server, stores) = start().await;
    limit(&*stores.ledger, 100).await;
    server.command("CONFIG SET maxmemory 1");
    for outcome in [
        reserve(&*stores.ledger, "a", 10).await.map(drop),
        put(&*stores.state, "k", Expected::Any, "v").await.map(drop),
    ] {
        let error = outcome.expect_err("the memory is full");
        assert!(matches!(error, BackendError::Storage { .. }), "{error}");
        assert!(error.remedy().contains("free space"), "{}", error.remedy());
    }
    assert_eq!(balance(&*stores.ledger).await.reserved, usd(0), "reading goes on");
    server.command("CONFIG SET maxmemory 0");
    assert_eq!(reserve(&*stores.ledger, "a", 10).await.unwrap(), ReserveOutcome::Granted);
    assert_eq!(put(&*stores.state, "k", Expected::Absent, "v").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_heard_of_at_once_and_again_after_the_wire_was_cut() {
    let (server, stores) = start().await;
    let listeners = || {
        let count: Vec<String> =
            ::redis::from_redis_value(server.command("PUBSUB NUMSUB test:{state}:changed")).unwrap();
        count[1].clone()
    };
    let is_heard = async |wanted: &str| {
        let heard = async {
            while listeners() != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, heard).await.expect("it listens");
    };
    assert_eq!(listeners(), "0", "who follows nothing does not listen");
    let mut revision = stores.state.snapshot("").await.unwrap().revision;
    for round in 0..2 {
        let mut quickest = Duration::MAX;
        for number in 0..10 {
            let state = stores.state.clone();
            let following = tokio::spawn(async move { state.changes("k", revision, 1, SOON).await.unwrap() });
            is_heard("1").await;
            let start = std::time::Instant::now();
            put(&*stores.state, "other", Expected::Any, "v").await.unwrap();
            put(&*stores.state, &format!("k{round}-{number}"), Expected::Absent, "v").await.unwrap();
            revision = following.await.unwrap()[0].revision;
            quickest = quickest.min(start.elapsed());
        }
        // Without hints each would take a good part of the second after which a follower looks anyway.
        assert!(quickest < Duration::from_millis(300), "{quickest:?}");
        server.command("CLIENT KILL TYPE pubsub");
    }
}

/// Callers who wait at the same time share a script; what is damaged for one of them is no other's trouble.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reservation_that_is_damaged_fails_alone() {
    let (server, stores) = start().await;
    let ledger = &*stores.ledger;
    limit(ledger, 1_000).await;
    for id in 0..30 {
        assert_eq!(reserve(ledger, &id.to_string(), 10).await.unwrap(), ReserveOutcome::Granted);
    }
    server.command("SET test:{budget}:reservation:7 damaged");
    let ids: Vec<String> = (0..30).map(|id| id.to_string()).collect();
    let settlement = Settlement { amount: usd(4), usage: Usage::default() };
    let outcomes = futures_util::future::join_all(ids.iter().map(|id| ledger.settle(id, settlement))).await;
    for (id, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(settled) => assert_eq!((settled.charged, id == 7), (usd(4), false)),
            Err(error) => assert!(id == 7 && matches!(error, BackendError::Corrupt { .. }), "{id}: {error}"),
        }
    }
    let left = balance(ledger).await;
    assert_eq!((left.spent, left.reserved), (usd(29 * 4), usd(10)), "what nobody can read stays set aside");
}
