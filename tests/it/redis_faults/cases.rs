//! Cases of the budget that only a ledger on servers can suffer (`docs/cases.md`): one of them is gone, or forgets.
//!
//! What does not answer refuses. No test here may go by an answer alone: the books are read back when they can be again.

use codeswarm::backend::Settlement;

use super::*;
use crate::support::stores::TestBackend;

fn impatient(server: &RedisServer) -> DistributedOptions {
    let mut options = distributed_options(&server.url());
    options.redis.request_timeout = Duration::from_millis(300);
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_03_a_server_that_is_gone_refuses_and_what_was_reserved_is_kept() {
    let (mut server, _) = start().await;
    let (stores, _) = open(&impatient(&server)).await;
    limit(&*stores.ledger, 100).await;
    assert_eq!(reserve(&*stores.ledger, "before", 60).await.unwrap(), ReserveOutcome::Granted);
    server.kill();
    for id in ["during", "before"] {
        is_unavailable(reserve(&*stores.ledger, id, 60).await);
    }
    server.start_again();
    assert_eq!(eventually(|| reserve(&*stores.ledger, "before", 60)).await, ReserveOutcome::Granted, "recorded");
    assert_eq!(balance(&*stores.ledger).await.reserved, usd(60));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_03_a_primary_that_became_a_read_only_replica_refuses_until_it_is_primary_again() {
    let elsewhere = RedisServer::start();
    let (server, _) = start().await;
    let (stores, _) = open(&impatient(&server)).await;
    limit(&*stores.ledger, 100).await;
    server.command("CONFIG SET replica-serve-stale-data yes");
    // A replica of a server that is not there keeps its data, as after a failover that has just begun.
    let port = elsewhere.port();
    drop(elsewhere);
    server.command(&format!("REPLICAOF 127.0.0.1 {port}"));
    is_unavailable(reserve(&*stores.ledger, "a", 10).await);
    server.command("REPLICAOF NO ONE");
    assert_eq!(eventually(|| reserve(&*stores.ledger, "a", 10)).await, ReserveOutcome::Granted);
    assert_eq!(balance(&*stores.ledger).await.reserved, usd(10), "however often it was asked, it happened once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_03_without_its_journal_no_reservation_is_granted() {
    let mut test = TestBackend::journaled().await;
    let ledger = test.backend.ledger.clone();
    limit(&*ledger, 100).await;
    assert_eq!(reserve(&*ledger, "before", 10).await.unwrap(), ReserveOutcome::Granted);
    test.nats.as_mut().expect("runs").kill();
    let outcome = reserve(&*ledger, "during", 10).await;
    assert!(matches!(outcome, Err(BackendError::Unavailable { .. })), "{outcome:?}");
    // Whoever asked may ask again under the same id, so the money stays until that caller gives it back, as every caller does.
    assert_eq!(balance(&*ledger).await.reserved, usd(20), "a grant that may be repeated has money behind it");
    ledger.release("during").await.unwrap();
    assert_eq!(balance(&*ledger).await.reserved, usd(10));
}

/// Every key of the budget with the time it has left, -1 for ever.
fn lifetimes(server: &RedisServer) -> Vec<(String, i64)> {
    let keys: Vec<String> = ::redis::from_redis_value(server.command("KEYS test:{budget}:*")).unwrap();
    let left = |key: &String| match server.command(&format!("PTTL {key}")) {
        ::redis::Value::Int(left) => left,
        other => panic!("{other:?}"),
    };
    keys.iter().map(|key| (key.clone(), left(key))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_24_no_key_of_the_budget_ever_expires_whatever_is_done_to_it() {
    let test = TestBackend::journaled().await;
    let (ledger, server) = (test.backend.ledger.clone(), &test.servers[0]);
    limit(&*ledger, 1_000).await;
    let scopes = [Scope::Account, Scope::windows(test.clock.now())[0].clone(), scope()];
    for id in ["settled", "released", "expired", "late", "over", "open"] {
        assert_eq!(ledger.reserve(reservation(id, &scopes, 10)).await.unwrap(), ReserveOutcome::Granted);
    }
    let settle = async |id: &str, amount| {
        let settlement = Settlement { amount: usd(amount), ..Settlement::default() };
        ledger.settle(id, settlement).await.unwrap()
    };
    settle("settled", 5).await;
    ledger.release("released").await.unwrap();
    ledger.adjust("freeze", &Scope::PerDay, Adjustment::Freeze).await.unwrap();
    test.pass(s(60)).await;
    assert_eq!(ledger.expire().await.unwrap().len(), 4);
    settle("late", 3).await;
    assert!(settle("over", 99).await.overrun);
    let before = lifetimes(server);
    assert!(before.len() > 10, "{before:?}");
    server.command("FLUSHALL");
    ledger.rebuild(false).await.unwrap().expect("there is a journal");
    let after = lifetimes(server);
    assert!(after.len() > 10, "{after:?}");
    for (key, left) in before.iter().chain(&after) {
        assert_eq!(*left, -1, "{key} would be gone in {left} ms");
    }
}
