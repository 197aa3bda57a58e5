//! The loss of Redis and everything in it, in the middle of a job: nothing is spent until the books are back, and then they
//! are right.

use std::time::Duration;

use codeswarm::backend::{Adjustment, BackendError, ReserveOutcome, Scope};
use codeswarm::llm::replay::Synthetic;
use codeswarm::protocol::{Event, JobOutcome, MicroUsd};

use super::Cluster;

#[test]
fn case_24_a_wiped_redis_stops_all_spending_until_the_books_are_rebuilt_from_the_journal() {
    let job =
        Synthetic::new(5, 8, 3).durations(Duration::from_millis(200), Duration::from_millis(400)).build().unwrap();
    let cluster = Cluster::start(job.script.clone(), &[]);
    let fleet = vec![cluster.coordinator(), cluster.worker_of_all()];
    let backend = cluster.backend();
    let id = cluster.submit(&cluster.proposal(), &[]);
    let scope = Scope::Job(id.clone());
    cluster.wait_for(&backend, &id, |log| {
        let is_done =
            |event: &Event| matches!(event, Event::TaskSucceeded { task, .. } if task.as_str().starts_with("file/"));
        (log.iter().filter(|recorded| is_done(&recorded.event)).count() >= 10).then_some(())
    });
    cluster.redis.command("FLUSHALL");

    // No process may count from zero, not even one that starts now.
    let fresh = cluster.backend();
    for ledger in [&backend.ledger, &fresh.ledger] {
        let refused = cluster.runtime.block_on(ledger.balance(&scope));
        assert!(matches!(refused, Err(BackendError::DataLost { .. })), "{refused:?}");
    }
    let refused = cluster.codeswarm(&["budget", "show"]);
    assert!(refused.code() == Some(1) && refused.stderr.contains("codeswarm budget rebuild"), "{refused:?}");

    let doctor = cluster.codeswarm(&["doctor", "--json"]);
    let says = |what: &str| doctor.stdout.contains(what);
    assert!(says("are not those of the journal") && says("codeswarm budget rebuild"), "{}", doctor.stdout);

    let rebuilt = cluster.codeswarm(&["budget", "rebuild", "--yes"]).expect_code(0);
    assert!(rebuilt.stdout.contains("rebuilt"), "{}", rebuilt.stdout);
    let balance = cluster.balance(&backend, &scope);
    assert_eq!(balance.limit, Some(MicroUsd(500_000_000)), "the limit is back");
    assert!(balance.spent > MicroUsd::ZERO, "what was spent is spent");
    let again = cluster.codeswarm(&["budget", "rebuild", "--yes"]);
    assert!(again.code() == Some(1) && again.stderr.contains("nothing is lost"), "{again:?}");

    let end = cluster.wait_for_end(&backend, &id);
    assert!(matches!(end, Event::JobEnded { outcome: JobOutcome::Completed, .. }), "{end:?}");
    Cluster::stop_all(fleet);
    // Calls that ended while there were no books are settled by their process afterwards, or by whoever buries it.
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while cluster.balance(&backend, &scope).reserved > MicroUsd::ZERO && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    let balance = cluster.balance(&backend, &scope);
    let (billed, ..) = cluster.billed();
    assert_eq!(balance.reserved, MicroUsd::ZERO);
    assert!(billed <= balance.spent && balance.spent <= balance.limit.unwrap(), "{billed}, {balance:?}");
    cluster.codeswarm(&["doctor"]);
    let doctor = cluster.codeswarm(&["doctor", "--json"]);
    assert!(doctor.stdout.contains("adds up entry by entry"), "{}", doctor.stdout);
}

#[test]
fn case_24_rebuilt_books_are_the_books_there_were() {
    let cluster = Cluster::start(Synthetic::new(5, 2, 3).build().unwrap().script, &[]);
    let backend = cluster.backend();
    let ledger = backend.ledger.as_ref();
    let job = crate::support::stores::job("j");
    let usd = MicroUsd;
    let everything = [Scope::Account, Scope::Job(job.clone())];
    let before = cluster.runtime.block_on(async {
        ledger.adjust("limit", &Scope::Job(job.clone()), Adjustment::SetLimit(Some(usd(1_000)))).await.unwrap();
        ledger.adjust("hold", &Scope::Job(job.clone()), Adjustment::HoldBack(usd(10))).await.unwrap();
        let reserve = async |id: &str, amount: u64| {
            ledger.reserve(crate::conformance::ledger::request(id, &everything, amount)).await.unwrap()
        };
        let settle = async |id: &str, amount: u64| {
            let settlement = codeswarm::backend::Settlement { amount: usd(amount), ..Default::default() };
            ledger.settle(id, settlement).await.unwrap()
        };
        assert_eq!(reserve("settled", 100).await, ReserveOutcome::Granted);
        assert_eq!(reserve("released", 200).await, ReserveOutcome::Granted);
        assert_eq!(reserve("open", 50).await, ReserveOutcome::Granted);
        assert!(matches!(reserve("shrunk", 5_000).await, ReserveOutcome::Refused { .. }));
        assert_eq!(reserve("shrunk", 70).await, ReserveOutcome::Granted);
        settle("settled", 60).await;
        ledger.release("released").await.unwrap();
        let mut before = Vec::new();
        for scope in &everything {
            before.push(ledger.balance(scope).await.unwrap());
        }
        before
    });
    assert_eq!((before[1].spent, before[1].reserved), (usd(60), usd(120)));
    // What is posted and not awaited is written by the time another record has been.
    cluster.runtime.block_on(ledger.adjust("freeze", &Scope::PerDay, Adjustment::Freeze)).unwrap();
    cluster.redis.command("FLUSHALL");
    let rebuilt = cluster.runtime.block_on(ledger.rebuild(false)).unwrap().expect("there is a journal");
    assert!(rebuilt.records >= 10, "{rebuilt:?}");
    for (scope, was) in everything.iter().zip(&before) {
        assert_eq!(cluster.balance(&backend, scope), *was, "{scope}");
    }
    cluster.runtime.block_on(async {
        // Repeated and late steps find what they left.
        let again = ledger.reserve(crate::conformance::ledger::request("open", &everything, 50)).await.unwrap();
        assert_eq!(again, ReserveOutcome::Granted);
        let late = codeswarm::backend::Settlement { amount: usd(20), ..Default::default() };
        assert_eq!(ledger.settle("open", late).await.unwrap().charged, usd(20));
        let first = codeswarm::backend::Settlement { amount: usd(99), ..Default::default() };
        assert_eq!(ledger.settle("settled", first).await.unwrap().charged, usd(60));
        let limit = ledger.adjust("limit", &Scope::Job(job.clone()), Adjustment::SetLimit(Some(usd(7)))).await.unwrap();
        assert_eq!(limit.limit, Some(usd(1_000)), "an adjustment happens once");
    });
    let balance = cluster.balance(&backend, &everything[1]);
    assert_eq!((balance.spent, balance.reserved), (usd(80), usd(70)));
}

#[test]
fn money_whose_reservation_could_not_be_written_down_is_still_set_aside_when_it_is_asked_for_again() {
    let script = Synthetic::new(5, 2, 3).build().unwrap().script;
    let mut cluster = Cluster::start(script, &[("CODESWARM_NATS_REQUEST_TIMEOUT_MS", "500")]);
    let (backend, job) = (cluster.backend(), crate::support::stores::job("j"));
    let scope = Scope::Job(job.clone());
    let limit = Adjustment::SetLimit(Some(MicroUsd(1_000)));
    cluster.runtime.block_on(backend.ledger.adjust("limit", &scope, limit)).unwrap();
    let request = crate::conformance::ledger::request("r", std::slice::from_ref(&scope), 100);
    cluster.nats.kill();
    let unknown = cluster.runtime.block_on(backend.ledger.reserve(request.clone()));
    assert!(matches!(unknown, Err(BackendError::Unavailable { .. })), "{unknown:?}");
    cluster.nats.start_again();
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while let Err(error) = cluster.runtime.block_on(backend.ledger.reserve(request.clone())) {
        assert!(std::time::Instant::now() < deadline, "{error}");
    }
    assert_eq!(cluster.balance(&backend, &scope).reserved, MicroUsd(100), "a call under it has money behind it");
    cluster.runtime.block_on(backend.ledger.release("r")).unwrap();
    assert_eq!(cluster.balance(&backend, &scope).reserved, MicroUsd::ZERO);
}

#[test]
fn doctor_adds_up_features_agent_types_and_tokens_and_compares_the_counters_with_their_journal() {
    let cluster = Cluster::start(Synthetic::new(5, 2, 2).build().unwrap().script, &[]);
    let fleet = vec![cluster.coordinator(), cluster.worker_of_all()];
    let backend = cluster.backend();
    let id = cluster.submit(&cluster.proposal(), &[]);
    cluster.wait_for_end(&backend, &id);
    Cluster::stop_all(fleet);
    let doctor = || cluster.codeswarm(&["doctor", "--json"]).stdout;
    let sound = doctor();
    assert!(sound.contains("adds up entry by entry") && sound.contains("the journal knows of entry"), "{sound}");

    let field = |command: &str| match cluster.redis.command(command) {
        redis::Value::BulkString(bytes) => String::from_utf8(bytes).unwrap(),
        other => panic!("{command}: {other:?}"),
    };
    let key = "codeswarm:{budget}:scopes";
    let log = cluster.log(&backend, &id);
    let feature = log.iter().find_map(|recorded| match &recorded.event {
        Event::TaskSucceeded { task, .. } => task.as_str().strip_prefix("feature/").map(str::to_owned),
        _ => None,
    });
    let parts = [
        format!("slice:{}", feature.expect("a feature was planned")),
        "agent:coordinator-planner".into(),
        "tokens".into(),
    ];
    let client = redis::Client::open(cluster.redis.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut set = |scope: &str, value: &str| {
        redis::cmd("HSET").arg(key).arg(scope).arg(value).exec(&mut connection).unwrap();
    };
    let whole = field(&format!("HGET {key} job:{id}"));
    for part in parts {
        let scope = format!("job:{id}/{part}");
        let was: Option<String> =
            redis::from_redis_value(cluster.redis.command(&format!("HGET {key} {scope}"))).unwrap();
        // As much as the whole job.
        set(&scope, &whole);
        let found = doctor();
        let named = if part == "tokens" { "tokens: the balance says" } else { scope.as_str() };
        assert!(found.contains(named) && found.contains("the balance says"), "{scope}: {found}");
        match was {
            Some(was) => set(&scope, &was),
            None => drop(cluster.redis.command(&format!("HDEL {key} {scope}"))),
        }
        assert!(doctor().contains("adds up entry by entry"));
    }
}
