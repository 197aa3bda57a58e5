//! What only the embedded backend promises: one directory, several processes, files that outlive them.
//!
//! Dropping every handle of a backend looks to the others like the death of its process: the threads end and the
//! kernel lets go of the file lock. Nothing else happens on the way out.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use codeswarm::backend::{
    Acquired, Adjustment, Backend, BackendError, Disposition, EntryFilter, Expected, LockMode, LockRequest, Queue,
    Scope, Signal, Write,
};
use codeswarm::clock::Clock;
use codeswarm::protocol::{InstanceId, Priority};

use super::broker::{publish, pull, queue};
use super::events::dispatched;
use super::ledger::request;
use crate::support::stores::{SOON, START, TestBackend, instance, job, open_embedded, s, usd};

fn normal() -> Queue {
    queue(Priority::Normal)
}

async fn reopen(test: &TestBackend, name: &str) -> (Backend, InstanceId) {
    let instance = instance(name);
    (open_embedded(test.directory.path(), &instance, &test.clock).await.expect("opens"), instance)
}

/// Waits until the death of `instance` has been noticed.
async fn until_dead(backend: &Backend, instance: &InstanceId) {
    let key = format!("fleet/instance/{instance}");
    let mut revision = 0;
    loop {
        let found = backend.state.changes(&key, revision, 10, SOON).await.unwrap();
        assert!(!found.is_empty(), "{instance} is not noticed to be dead");
        for change in found {
            revision = change.revision;
            if change.entry.value.as_deref() == Some(br#"{"state":"dead"}"#) {
                return;
            }
        }
    }
}

async fn open_at(directory: &Path) -> Result<Backend, BackendError> {
    open_embedded(directory, &instance("late"), &Clock::manual(START)).await
}

fn lock(owner: String) -> LockRequest {
    LockRequest {
        resource: "r".into(),
        owner,
        mode: LockMode::Exclusive,
        priority: Priority::Normal,
        lease: s(3_600),
        queue: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reopening_keeps_everything() {
    let test = TestBackend::embedded().await;
    let backend = &test.backend;
    let scope = Scope::Job(job("j"));
    publish(backend, &normal(), &["a", "b"]).await;
    backend.events.append(&job("j"), 0, vec![dispatched(1)]).await.unwrap();
    let artifact = backend.artifacts.put(Bytes::from_static(b"abc")).await.unwrap();
    let write = Write { key: "k".into(), expected: Expected::Absent, value: Some(Bytes::from_static(b"v")) };
    backend.state.commit(&test.instance, vec![write]).await.unwrap();
    backend.ledger.adjust("limit", &scope, Adjustment::SetLimit(Some(usd(100)))).await.unwrap();
    backend.ledger.reserve(request("x", std::slice::from_ref(&scope), 60)).await.unwrap();
    backend.ledger.release("x").await.unwrap();
    let Acquired::Granted { fence, .. } = backend.locks.acquire(lock("elsewhere".into())).await.unwrap() else {
        panic!("not granted")
    };
    let TestBackend { backend, clock, instance: first, directory, .. } = test;
    drop(backend);
    let second = instance("second");
    let backend = open_embedded(directory.path(), &second, &clock).await.unwrap();
    until_dead(&backend, &first).await;
    assert_eq!(pull(&backend, &[normal()], 9, Duration::ZERO).await.len(), 2);
    publish(&backend, &normal(), &["a"]).await;
    assert!(pull(&backend, &[normal()], 9, Duration::ZERO).await.is_empty(), "published ids are remembered");
    assert_eq!(backend.events.read(&job("j"), 0, 9).await.unwrap()[0].event, dispatched(1));
    assert_eq!(backend.artifacts.get(&artifact).await.unwrap(), "abc");
    assert_eq!(backend.state.get(&["k".into()]).await.unwrap()[0].as_ref().unwrap().version, 1);
    assert_eq!(backend.ledger.balance(&scope).await.unwrap().limit, Some(usd(100)));
    assert_eq!(backend.ledger.entries(EntryFilter::default()).await.unwrap().len(), 3);
    let Acquired::Granted { fence: next, .. } = backend.locks.acquire(lock("me".into())).await.unwrap() else {
        panic!("the dead hold no leases")
    };
    assert!(next > fence, "fences outlive everything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_10_a_dead_process_is_reaped_long_before_its_leases_end() {
    let test = TestBackend::embedded().await;
    let (dying, dead) = reopen(&test, "dying").await;
    let scope = Scope::Job(job("j"));
    let backend = &test.backend;
    backend.ledger.adjust("limit", &scope, Adjustment::SetLimit(Some(usd(100)))).await.unwrap();
    publish(backend, &normal(), &["a"]).await;
    assert_eq!(pull(&dying, &[normal()], 1, Duration::ZERO).await.len(), 1);
    dying.ledger.reserve(request("x", std::slice::from_ref(&scope), 60)).await.unwrap();
    dying.locks.acquire(lock(format!("{dead}/attempt-1"))).await.unwrap();
    let alive = backend.state.get(&[format!("fleet/instance/{dead}")]).await.unwrap().remove(0).unwrap();
    assert_eq!(alive.value.as_deref(), Some(&br#"{"state":"alive"}"#[..]));
    let waiting = {
        let backend = backend.clone();
        tokio::spawn(async move { pull(&backend, &[normal()], 1, SOON).await })
    };
    tokio::task::yield_now().await;
    drop(dying);
    let again = waiting.await.unwrap();
    assert_eq!((again.len(), again[0].deliveries), (1, 2));
    until_dead(backend, &dead).await;
    let balance = backend.ledger.balance(&scope).await.unwrap();
    assert_eq!((balance.spent, balance.reserved), (usd(60), usd(0)));
    assert!(matches!(backend.locks.acquire(lock("me".into())).await.unwrap(), Acquired::Granted { .. }));
    let own = backend.state.get(&[format!("fleet/instance/{}", test.instance)]).await.unwrap().remove(0).unwrap();
    assert_eq!(
        (own.version, own.value.as_deref()),
        (1, Some(&br#"{"state":"alive"}"#[..])),
        "the living are left alone"
    );
    assert!(!test.directory.path().join(format!("alive/{dead}.lock")).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_starting_and_dying_together_are_each_reaped_once() {
    let test = TestBackend::embedded().await;
    let mut starting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (directory, clock) = (test.directory.path().to_owned(), test.clock.clone());
        starting.spawn(async move {
            let instance = instance("brief");
            drop(open_embedded(&directory, &instance, &clock).await.expect("opens"));
            instance
        });
    }
    for instance in starting.join_all().await {
        until_dead(&test.backend, &instance).await;
        let past = test.backend.state.history(&format!("fleet/instance/{instance}"), 10).await.unwrap();
        assert_eq!(past.len(), 2, "alive, then dead");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_id_belongs_to_one_living_process() {
    let test = TestBackend::embedded().await;
    let second = open_embedded(test.directory.path(), &test.instance, &test.clock).await;
    assert!(matches!(second.map(drop), Err(BackendError::InUse { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_see_each_others_messages_events_changes_and_signals() {
    let test = TestBackend::embedded().await;
    let (other, writer) = reopen(&test, "other").await;
    let mut signals = test.backend.broker.signals();
    let (a, b, c) = (test.backend.clone(), test.backend.clone(), test.backend.clone());
    let message = tokio::spawn(async move { pull(&a, &[normal()], 1, SOON).await });
    let event = tokio::spawn(async move { b.events.wait(&job("j"), 0, SOON).await.unwrap() });
    let start = c.state.snapshot("k").await.unwrap().revision;
    let change = tokio::spawn(async move { c.state.changes("k", start, 1, SOON).await.unwrap() });
    tokio::task::yield_now().await;

    publish(&other, &normal(), &["a"]).await;
    other.events.append(&job("j"), 0, vec![dispatched(1)]).await.unwrap();
    let write = Write { key: "k".into(), expected: Expected::Absent, value: Some(Bytes::from_static(b"v")) };
    other.state.commit(&writer, vec![write]).await.unwrap();
    other.broker.signal(Signal::Freeze).await.unwrap();

    let message = message.await.unwrap();
    assert_eq!(message.len(), 1);
    assert!(event.await.unwrap());
    assert_eq!(change.await.unwrap()[0].entry.writer, writer);
    assert_eq!(tokio::time::timeout(SOON, signals.recv()).await.expect("in time").unwrap(), Signal::Freeze);
    assert!(signals.try_recv().is_err());

    let acked = other.broker.dispose(vec![(message[0].tag.clone(), Disposition::Ack)]).await;
    acked.expect("tags are valid in every process");
    assert_eq!(test.backend.broker.depth(&normal()).await.unwrap().in_flight, 0);
    let late = other.events.append(&job("j"), 0, vec![dispatched(1)]).await;
    assert!(matches!(late, Err(BackendError::Conflict { actual: 1, .. })), "{late:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_a_newer_program_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    drop(open_at(directory.path()).await.unwrap());
    let file = directory.path().join("codeswarm.db");
    rusqlite::Connection::open(&file).unwrap().pragma_update(None, "user_version", 999).unwrap();
    match open_at(directory.path()).await.map(drop) {
        Err(BackendError::NewerVersion { found: 999, known: 3, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_no_store_is_reported_and_left_alone() {
    let garbage = tempfile::tempdir().unwrap();
    let file = garbage.path().join("codeswarm.db");
    std::fs::write(&file, "no database at all, but long enough to have a header ".repeat(100)).unwrap();
    let before = std::fs::read(&file).unwrap();
    let outcome = open_at(garbage.path()).await.map(drop);
    assert!(matches!(outcome, Err(BackendError::Corrupt { .. })), "{outcome:?}");
    assert_eq!(std::fs::read(&file).unwrap(), before);

    let foreign = tempfile::tempdir().unwrap();
    let db = rusqlite::Connection::open(foreign.path().join("codeswarm.db")).unwrap();
    db.execute_batch("CREATE TABLE theirs (x)").unwrap();
    let outcome = open_at(foreign.path()).await.map(drop);
    assert!(matches!(outcome, Err(BackendError::Corrupt { .. })), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_cannot_be_written_is_a_storage_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    for path in [file.join("below"), "/proc/codeswarm".into()] {
        let outcome = open_at(&path).await.map(drop);
        assert!(matches!(outcome, Err(BackendError::Storage { .. })), "{}: {outcome:?}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_03_a_ledger_that_cannot_write_grants_nothing_and_changes_nothing() {
    let test = TestBackend::embedded().await;
    let (ledger, scope) = (&test.backend.ledger, Scope::Job(job("j")));
    ledger.adjust("limit", &scope, Adjustment::SetLimit(Some(usd(100)))).await.unwrap();
    ledger.reserve(request("before", std::slice::from_ref(&scope), 10)).await.unwrap();
    let db = rusqlite::Connection::open(test.directory.path().join("codeswarm.db")).unwrap();
    db.execute_batch("ALTER TABLE entries RENAME TO lost").unwrap();
    let refused = ledger.reserve(request("during", std::slice::from_ref(&scope), 10)).await;
    assert!(matches!(refused, Err(BackendError::Storage { .. } | BackendError::Corrupt { .. })), "{refused:?}");
    assert_eq!(ledger.balance(&scope).await.unwrap().reserved, usd(10));
    db.execute_batch("ALTER TABLE lost RENAME TO entries").unwrap();
    let granted = ledger.reserve(request("during", std::slice::from_ref(&scope), 10)).await.unwrap();
    assert_eq!(format!("{granted:?}"), "Granted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_24_tampered_bytes_and_entries_are_noticed() {
    let test = TestBackend::embedded().await;
    let artifact = test.backend.artifacts.put(Bytes::from_static(b"abc")).await.unwrap();
    test.backend.ledger.adjust("limit", &Scope::Account, Adjustment::Freeze).await.unwrap();
    let db = rusqlite::Connection::open(test.directory.path().join("codeswarm.db")).unwrap();
    db.execute("UPDATE artifacts SET bytes = CAST('abd' AS BLOB)", []).unwrap();
    let outcome = test.backend.artifacts.get(&artifact).await;
    assert!(matches!(outcome, Err(BackendError::Corrupt { .. })), "{outcome:?}");
    assert!(db.execute("UPDATE entries SET charged = 0", []).is_err());
    assert!(db.execute("DELETE FROM entries", []).is_err());
    let over = "INSERT INTO scopes (name, ceiling, spent, reserved, hold_back, frozen, overdraft)
                VALUES ('job:x', 10, 5, 6, 0, 0, 0)";
    assert!(db.execute(over, []).is_err(), "the table itself refuses to go past a limit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_operation_does_not_fail_those_it_shares_a_commit_with() {
    let test = TestBackend::embedded().await;
    let db = rusqlite::Connection::open(test.directory.path().join("codeswarm.db")).unwrap();
    db.execute_batch("DROP TABLE artifacts").unwrap();
    let mut racing = tokio::task::JoinSet::new();
    for number in 0..100_u32 {
        let (backend, writer) = (test.backend.clone(), test.instance.clone());
        racing.spawn(async move {
            if number % 10 == 0 {
                backend.artifacts.put(Bytes::from(number.to_string())).await.map(drop)
            } else {
                let write = Write { key: format!("k{number}"), expected: Expected::Absent, value: Some(Bytes::new()) };
                backend.state.commit(&writer, vec![write]).await.map(|versions| assert_eq!(versions, [1]))
            }
        });
    }
    let failed = racing.join_all().await.into_iter().filter(Result::is_err).count();
    assert_eq!(failed, 10);
    assert_eq!(test.backend.state.snapshot("k").await.unwrap().entries.len(), 90);
}
