//! Counters and their journal when one of them forgets, goes back in time or is made anew while it is used.
//!
//! The provider's bill does not forget. So in each case the books end with at least what was really spent, at most that and
//! what was really set aside, and nothing is granted that they do not know of.

use async_nats::jetstream;
use codeswarm::backend::{Backend, EntryFilter, Settlement};
use codeswarm::budget::audit::Audit;
use codeswarm::config::Secret;
use codeswarm::error::Coded;
use tokio::task::JoinSet;

use super::*;
use crate::conformance::write_down;
use crate::support::servers::nats::NatsServer;
use crate::support::servers::wire::Wire;
use crate::support::stores::TestBackend;

async fn settle(ledger: &dyn Ledger, id: &str, amount: u64) -> Result<u64, BackendError> {
    let outcome = ledger.settle(id, Settlement { amount: usd(amount), ..Settlement::default() }).await?;
    Ok(outcome.charged.0)
}

async fn counts(ledger: &dyn Ledger) -> (u64, u64) {
    let balance = balance(ledger).await;
    (balance.spent.0, balance.reserved.0)
}

fn is_lost<T: std::fmt::Debug>(outcome: &Result<T, BackendError>) -> bool {
    matches!(outcome, Err(BackendError::DataLost { .. }))
}

async fn sum_of_entries(ledger: &dyn Ledger) -> (u64, u64) {
    let mut audit = Audit::default();
    ledger.entries(EntryFilter::default()).await.unwrap().into_iter().for_each(|entry| audit.take(entry));
    (audit.account().spent.0, audit.account().reserved.0)
}

fn epoch(test: &TestBackend) -> String {
    match test.servers[0].command("GET test:{budget}:epoch") {
        ::redis::Value::BulkString(bytes) => String::from_utf8(bytes).unwrap(),
        other => format!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_24_of_several_rebuilds_at_once_the_last_one_alone_opens_the_books_and_they_are_right() {
    let test = TestBackend::journaled().await;
    let other = test.another("other").await;
    let ledger = test.backend.ledger.clone();
    limit(&*ledger, 100_000).await;
    let mut calls = JoinSet::new();
    for number in 0..600 {
        let ledger = ledger.clone();
        calls.spawn(async move {
            let id = format!("r{number}");
            assert_eq!(reserve(&*ledger, &id, 10).await.unwrap(), ReserveOutcome::Granted);
            if number % 2 == 0 {
                settle(&*ledger, &id, 7).await.unwrap();
            }
        });
    }
    calls.join_all().await;
    write_down(&*ledger).await.unwrap();
    let before = counts(&*ledger).await;
    assert_eq!(before, (2_100, 3_000));
    let mut overtaken = 0;
    for round in 0..12 {
        if round % 2 == 0 {
            test.servers[0].command("FLUSHALL");
        }
        let force = round % 2 == 1;
        let (one, another) = tokio::join!(ledger.rebuild(force), other.ledger.rebuild(force));
        let outcomes = [one, another];
        assert!(outcomes.iter().any(Result::is_ok), "{outcomes:?}");
        for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            // Who begins after the other has ended finds nothing lost.
            if !force && error.code() == "CS-STORE-005" {
                continue;
            }
            assert_eq!(error.code(), "CS-STORE-013", "{error}");
            assert!(error.remedy().contains("wait for the other one"), "{}", error.remedy());
            overtaken += 1;
        }
        for ledger in [&ledger, &other.ledger] {
            assert_eq!(counts(&**ledger).await, before, "round {round}: {outcomes:?}");
        }
    }
    assert!(overtaken > 0, "they never met");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_24_a_step_of_an_overtaken_rebuild_neither_removes_nor_adds_nor_opens() {
    let test = TestBackend::journaled().await;
    let ledger = test.backend.ledger.clone();
    limit(&*ledger, 100_000).await;
    // More than can be removed before anybody notices.
    let mut many = ::redis::cmd("EVAL");
    many.arg("for i = 1, 200000 do redis.call('SET', 'test:{budget}:x:' .. i, i) end").arg(0);
    let client = ::redis::Client::open(test.servers[0].url()).unwrap();
    many.exec(&mut client.get_connection().unwrap()).unwrap();
    let overtaken = tokio::spawn(async move { ledger.rebuild(true).await });
    let start = std::time::Instant::now();
    while !epoch(&test).starts_with("rebuilding") {
        assert!(start.elapsed() < SOON && !overtaken.is_finished(), "it never began");
        tokio::task::yield_now().await;
    }
    test.servers[0].command("SET test:{budget}:epoch another");
    test.servers[0].command("SET test:{budget}:mine kept");
    let error = overtaken.await.unwrap().expect_err("overtaken");
    assert!(matches!(error, BackendError::Overtaken { .. }), "{error}");
    let left = test.servers[0].command("DBSIZE");
    assert!(matches!(left, ::redis::Value::Int(10_000..)), "it went on removing: {left:?} are left");
    assert_eq!(
        (epoch(&test).as_str(), test.servers[0].command("EXISTS test:{budget}:mine")),
        ("another", ::redis::Value::Int(1))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_24_what_is_refused_while_the_books_are_lost_is_not_on_the_rebuilt_ones() {
    let test = TestBackend::journaled().await;
    let other = test.another("other").await;
    let ledger = test.backend.ledger.clone();
    limit(&*ledger, 1_000).await;
    reserve(&*ledger, "spent", 100).await.unwrap();
    settle(&*ledger, "spent", 60).await.unwrap();
    assert_eq!(reserve(&*ledger, "open", 50).await.unwrap(), ReserveOutcome::Granted);
    write_down(&*ledger).await.unwrap();
    // Some are under way when the books are lost, many more come after that, and come again.
    let mut asking = JoinSet::new();
    for number in 0..300 {
        let ledger = if number % 2 == 0 { ledger.clone() } else { other.ledger.clone() };
        asking.spawn(async move {
            let id = format!("r{number}");
            let mut outcome = reserve(&*ledger, &id, 1).await;
            for _ in 0..5 {
                outcome = match outcome {
                    Err(error) if error.retry().is_retryable() => reserve(&*ledger, &id, 1).await,
                    outcome => return outcome,
                };
            }
            outcome
        });
        if number == 150 {
            test.servers[0].command("FLUSHALL");
        }
    }
    let outcomes = asking.join_all().await;
    let granted = outcomes.iter().filter(|outcome| matches!(outcome, Ok(ReserveOutcome::Granted))).count() as u64;
    let lost = outcomes.iter().filter(|outcome| is_lost(outcome)).count() as u64;
    assert!(lost > 100 && granted + lost == 300, "{granted} granted, {lost} lost");
    // Who takes a record back does not wait for that.
    let start = std::time::Instant::now();
    loop {
        let rebuilt = ledger.rebuild(true).await.unwrap().expect("a journal");
        let after = counts(&*ledger).await;
        assert!(after.0 == 60 && after.1 >= 50 + granted, "{after:?}");
        if after.1 == 50 + granted {
            assert!(rebuilt.records < 1_000, "{rebuilt:?} for {granted} granted");
            break;
        }
        assert!(start.elapsed() < SOON, "{after:?} with {granted} granted");
    }
    assert_eq!(settle(&*ledger, "open", 20).await.unwrap(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_24_a_server_that_went_back_in_time_is_refused_also_by_who_has_seen_less() {
    let (mut server, stores) = start().await;
    limit(&*stores.ledger, 100).await;
    let (idle, _) = open(&distributed_options(&server.url())).await;
    assert_eq!(balance(&*idle.ledger).await.reserved, usd(0));
    let copy = server.back_up();
    assert_eq!(eventually(|| reserve(&*stores.ledger, "a", 60)).await, ReserveOutcome::Granted);
    server.restore(&copy);
    let refused = loop {
        match reserve(&*stores.ledger, "b", 60).await {
            Err(BackendError::Unavailable { .. }) => {}
            outcome => break outcome,
        }
    };
    assert!(is_lost(&refused), "{refused:?}");
    let error = refused.unwrap_err();
    assert!(error.to_string().contains("older than what was seen"), "{error}");
    let refused = reserve(&*idle.ledger, "b", 60).await;
    assert!(is_lost(&refused), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_24_counters_older_than_their_journal_are_refused_by_a_fresh_process_and_rebuilt_without_force() {
    let mut test = TestBackend::journaled().await;
    let ledger = test.backend.ledger.clone();
    limit(&*ledger, 100).await;
    reserve(&*ledger, "a", 10).await.unwrap();
    settle(&*ledger, "a", 7).await.unwrap();
    let copy = test.servers[0].back_up();
    assert_eq!(eventually(|| reserve(&*ledger, "b", 30)).await, ReserveOutcome::Granted);
    settle(&*ledger, "b", 20).await.unwrap();
    write_down(&*ledger).await.unwrap();
    test.servers[0].restore(&copy);

    let fresh = test.another("fresh").await;
    let refused = loop {
        match fresh.ledger.balance(&scope()).await {
            Err(BackendError::Unavailable { .. }) => {}
            outcome => break outcome,
        }
    };
    assert!(is_lost(&refused), "{refused:?}");
    let standing = fresh.ledger.standing().await.unwrap().unwrap();
    assert!(!standing.is_whole && standing.journal > Some(standing.entry), "{standing:?}");
    fresh.ledger.rebuild(false).await.unwrap().expect("a journal");
    // Whoever was there before goes on by itself.
    for ledger in [&ledger, &fresh.ledger] {
        assert_eq!(counts(&**ledger).await, (27, 0));
    }
    assert_eq!(reserve(&*ledger, "c", 73).await.unwrap(), ReserveOutcome::Granted);
    assert!(matches!(reserve(&*fresh.ledger, "d", 1).await.unwrap(), ReserveOutcome::Refused { .. }));
    let standing = fresh.ledger.standing().await.unwrap().unwrap();
    assert!(standing.is_whole && standing.carried.is_none(), "{standing:?}");
    let again = fresh.ledger.rebuild(false).await;
    assert!(matches!(again, Err(BackendError::Invalid { .. })), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_24_a_lost_journal_is_begun_anew_from_the_counters_while_others_go_on() {
    let mut test = TestBackend::journaled().await;
    let ledger = test.backend.ledger.clone();
    limit(&*ledger, 100).await;
    ledger.adjust("hold", &scope(), Adjustment::HoldBack(usd(5))).await.unwrap();
    let both = [Scope::Account, scope()];
    for (id, amount) in [("a", 10), ("open", 20)] {
        let asked = reservation(id, &both, amount);
        assert_eq!(ledger.reserve(asked).await.unwrap(), ReserveOutcome::Granted);
    }
    settle(&*ledger, "a", 7).await.unwrap();
    test.nats.as_mut().expect("runs").forget();

    // Several find it at the same time.
    let (one, another) = tokio::join!(test.another("one"), test.another("another"));
    let books: [&Backend; 2] = [&one, &another];
    for backend in books {
        let standing = backend.ledger.standing().await.unwrap().unwrap();
        assert!(standing.is_whole && standing.carried.is_some(), "{standing:?}");
        assert_eq!(counts(&*backend.ledger).await, (7, 20));
    }
    // Who was there before learns the new name, and its steps are in the new journal.
    assert_eq!(eventually(|| reserve(&*ledger, "b", 30)).await, ReserveOutcome::Granted);
    assert_eq!(settle(&*ledger, "b", 11).await.unwrap(), 11);
    write_down(&*ledger).await.unwrap();
    test.servers[0].command("FLUSHALL");
    one.ledger.rebuild(false).await.unwrap().expect("a journal");
    let rebuilt = balance(&*another.ledger).await;
    assert_eq!(
        (rebuilt.limit, rebuilt.hold_back, rebuilt.spent, rebuilt.reserved),
        (Some(usd(100)), usd(5), usd(18), usd(20))
    );
    assert_eq!(settle(&*ledger, "open", 20).await.unwrap(), 20, "what was open still is");
    assert_eq!(another.ledger.balance(&Scope::Account).await.unwrap().spent, usd(27));
    assert_eq!(sum_of_entries(&*ledger).await, (38, 0), "the entries add up to what the job has spent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_24_books_are_never_made_from_an_empty_journal_unless_somebody_insists() {
    let test = TestBackend::journaled().await;
    let whole = test.backend.ledger.rebuild(false).await;
    assert!(matches!(whole, Err(BackendError::Invalid { .. })), "{whole:?}");
    test.servers[0].command("FLUSHALL");
    let error = test.backend.ledger.rebuild(false).await.expect_err("there is nothing to make them from");
    assert_eq!(error.code(), "CS-STORE-012");
    assert!(error.to_string().contains("no records") && error.remedy().contains("--force"), "{error}");
    assert!(is_lost(&test.backend.ledger.balance(&scope()).await), "nothing was changed");
    assert_eq!(test.backend.ledger.rebuild(true).await.unwrap().expect("a journal").records, 0);
    limit(&*test.backend.ledger, 10).await;
}

/// A process that reaches the broker over a wire.
async fn on_a_wire(test: &TestBackend) -> (Wire, Backend) {
    let nats = test.nats.as_ref().expect("runs");
    let port = nats.url().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let wire = Wire::to(port).await;
    let mut options = distributed_options(&test.servers[0].url());
    options.nats.servers = Secret::new(format!("nats://127.0.0.1:{}", wire.port()));
    let opened = codeswarm::backend::distributed::open(&options, &instance("wired"), Some(test.clock.clone())).await;
    (wire, opened.expect("opens"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_24_a_grant_whose_record_came_after_the_rebuild_had_read_the_journal_is_not_used() {
    let test = TestBackend::journaled().await;
    let ledger = test.backend.ledger.clone();
    limit(&*ledger, 100).await;
    let (wire, slow) = on_a_wire(&test).await;
    // Not its first, which asks for the books before it writes anything.
    reserve(&*slow.ledger, "first", 1).await.unwrap();
    slow.ledger.release("first").await.unwrap();
    write_down(&*slow.ledger).await.unwrap();
    wire.hold(true);
    let asking = tokio::spawn({
        let ledger = slow.ledger.clone();
        async move { reserve(&*ledger, "r", 10).await }
    });
    let start = std::time::Instant::now();
    while balance(&*ledger).await.reserved == usd(0) {
        assert!(start.elapsed() < SOON, "the counters never granted it");
    }
    ledger.rebuild(true).await.unwrap().expect("a journal");
    assert_eq!(counts(&*ledger).await, (0, 0), "its record was not there yet");
    wire.hold(false);
    let outcome = asking.await.unwrap();
    assert!(matches!(outcome, Err(BackendError::Unavailable { .. })), "{outcome:?}");
    assert_eq!(eventually(|| reserve(&*slow.ledger, "r", 10)).await, ReserveOutcome::Granted);
    assert_eq!(counts(&*ledger).await, (0, 10), "asked again it is on the new books");
    assert_eq!(settle(&*slow.ledger, "r", 4).await.unwrap(), 4);
    assert_eq!(counts(&*ledger).await, (4, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_24_a_call_whose_reservation_the_books_have_forgotten_is_charged_all_the_same() {
    let test = TestBackend::journaled().await;
    let ledger = test.backend.ledger.clone();
    limit(&*ledger, 100).await;
    reserve(&*ledger, "r", 60).await.unwrap();
    // The last that the broker's disk has kept is from before.
    let nats: &NatsServer = test.nats.as_ref().expect("runs");
    let client = async_nats::connect(nats.url()).await.unwrap();
    let mut stream = jetstream::new(client).get_stream("TEST_JOURNAL").await.unwrap();
    let last = stream.info().await.unwrap().state.last_sequence;
    assert!(stream.delete_message(last).await.unwrap());
    ledger.rebuild(true).await.unwrap().expect("a journal");
    assert_eq!(counts(&*ledger).await, (0, 0));
    let stranger = test.another("stranger").await;
    assert!(matches!(settle(&*stranger.ledger, "r", 1).await, Err(BackendError::NotFound { .. })));
    assert_eq!(reserve(&*ledger, "since then", 70).await.unwrap(), ReserveOutcome::Granted);
    assert_eq!(settle(&*ledger, "r", 50).await.unwrap(), 50);
    let after = balance(&*ledger).await;
    assert_eq!(
        (after.spent, after.reserved, after.frozen),
        (usd(50), usd(70), true),
        "past the limit, so it is frozen"
    );
    assert_eq!(settle(&*ledger, "r", 50).await.unwrap(), 50, "once");
    // And the journal knows of it.
    ledger.rebuild(true).await.unwrap().expect("a journal");
    assert_eq!(counts(&*ledger).await, (50, 70));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_24_what_was_released_too_late_is_charged_on_rebuilt_books_as_well() {
    let test = TestBackend::journaled().await;
    let ledger = test.backend.ledger.clone();
    limit(&*ledger, 100).await;
    for id in ["late", "in time"] {
        assert_eq!(reserve(&*ledger, id, 30).await.unwrap(), ReserveOutcome::Granted);
    }
    ledger.release("in time").await.unwrap();
    test.pass(s(61)).await;
    ledger.release("late").await.unwrap();
    assert_eq!(counts(&*ledger).await, (30, 0));
    write_down(&*ledger).await.unwrap();
    test.servers[0].command("FLUSHALL");
    ledger.rebuild(false).await.unwrap().expect("a journal");
    assert_eq!(counts(&*ledger).await, (30, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_24_of_two_changes_of_a_scope_the_later_one_counts_in_whatever_order_they_were_written_down() {
    let test = TestBackend::journaled().await;
    let (wire, slow) = on_a_wire(&test).await;
    limit(&*slow.ledger, 100).await;
    wire.hold(true);
    let first = tokio::spawn({
        let ledger = slow.ledger.clone();
        async move { ledger.adjust("first", &scope(), Adjustment::TopUp(usd(50))).await }
    });
    let ledger = &test.backend.ledger;
    let start = std::time::Instant::now();
    while balance(&**ledger).await.limit != Some(usd(150)) {
        assert!(start.elapsed() < SOON, "it was never changed");
    }
    ledger.adjust("second", &scope(), Adjustment::TopUp(usd(7))).await.unwrap();
    wire.hold(false);
    assert_eq!(first.await.unwrap().unwrap().limit, Some(usd(150)));
    test.servers[0].command("FLUSHALL");
    ledger.rebuild(false).await.unwrap().expect("a journal");
    assert_eq!(balance(&**ledger).await.limit, Some(usd(157)));
}
