//! The promises of `StateStore`.
//!
//! A commit over several keys takes effect whole or not at all, and a snapshot with the changes after its revision misses
//! nothing: claims and stops rest on both.

use std::time::Duration;

use bytes::Bytes;
use codeswarm::backend::{Backend, BackendError, Change, Condition, Expected, Write};

use crate::support::stores::{SOON, START, TestBackend, instance, s};

fn write(key: &str, expected: Expected, value: &str) -> Write {
    Write { key: key.into(), expected, value: Some(Bytes::copy_from_slice(value.as_bytes())) }
}

fn delete(key: &str, expected: Expected) -> Write {
    Write { key: key.into(), expected, value: None }
}

async fn commit(backend: &Backend, writes: &[Write]) -> Result<Vec<u64>, BackendError> {
    backend.state.commit(&instance("writer"), writes.to_vec()).await
}

async fn value(backend: &Backend, key: &str) -> Option<(u64, String)> {
    let found = backend.state.get(&[key.to_owned()]).await.unwrap().remove(0)?;
    Some((found.version, String::from_utf8(found.value?.to_vec()).unwrap()))
}

async fn changes(backend: &Backend, prefix: &str, revision: u64) -> Vec<Change> {
    backend.state.changes(prefix, revision, 1_000, Duration::ZERO).await.unwrap()
}

fn keys(changes: &[Change]) -> Vec<(&str, u64)> {
    changes.iter().map(|change| (change.entry.key.as_str(), change.entry.version)).collect()
}

pub(crate) async fn versions_grow_by_one_per_write_deletions_included(test: &TestBackend) {
    let backend = &test.backend;
    assert_eq!(commit(backend, &[write("k", Expected::Absent, "1")]).await.unwrap(), [1]);
    assert_eq!(commit(backend, &[write("k", Expected::Version(1), "2")]).await.unwrap(), [2]);
    assert_eq!(commit(backend, &[delete("k", Expected::Version(2))]).await.unwrap(), [3]);
    assert_eq!(value(backend, "k").await, None);
    assert_eq!(commit(backend, &[write("k", Expected::Absent, "4")]).await.unwrap(), [4]);
    assert_eq!(value(backend, "k").await, Some((4, "4".into())));
    assert_eq!(commit(backend, &[write("k", Expected::Any, "5")]).await.unwrap(), [5]);
}

pub(crate) async fn a_failed_condition_names_key_and_actual_version(test: &TestBackend) {
    let backend = &test.backend;
    commit(backend, &[write("k", Expected::Any, "1"), write("gone", Expected::Any, "1")]).await.unwrap();
    commit(backend, &[delete("gone", Expected::Any)]).await.unwrap();
    let cases = [
        (write("k", Expected::Absent, "x"), 1),
        (write("k", Expected::Version(2), "x"), 1),
        (write("new", Expected::Version(1), "x"), 0),
        (write("gone", Expected::Version(1), "x"), 0),
    ];
    for (failing, found) in cases {
        for _ in 0..2 {
            match commit(backend, std::slice::from_ref(&failing)).await {
                Err(BackendError::Conflict { what, actual, .. }) => {
                    assert_eq!((what, actual), (failing.key.clone(), found));
                }
                other => panic!("{failing:?}: {other:?}"),
            }
        }
    }
}

pub(crate) async fn a_commit_applies_all_its_writes_or_none(test: &TestBackend) {
    let backend = &test.backend;
    commit(backend, &[write("b", Expected::Any, "old")]).await.unwrap();
    let writes = [
        write("a", Expected::Absent, "new"),
        write("b", Expected::Version(9), "new"),
        write("c", Expected::Version(8), "new"),
    ];
    match commit(backend, &writes).await {
        Err(BackendError::Conflict { what, .. }) => assert_eq!(what, "b", "the first that failed"),
        other => panic!("{other:?}"),
    }
    assert_eq!((value(backend, "a").await, value(backend, "b").await), (None, Some((1, "old".into()))));
    assert_eq!(changes(backend, "", 0).await.iter().filter(|change| change.entry.key == "a").count(), 0);
    let good = [write("a", Expected::Absent, "new"), write("b", Expected::Version(1), "new")];
    assert_eq!(commit(backend, &good).await.unwrap(), [1, 2]);
}

pub(crate) async fn of_many_racing_commits_each_version_is_won_once(test: &TestBackend) {
    let mut racing = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let backend = test.backend.clone();
        racing.spawn(async move {
            for _ in 0..20 {
                loop {
                    let (version, count) = value(&backend, "n").await.unwrap_or((0, "0".into()));
                    let expected = if version == 0 { Expected::Absent } else { Expected::Version(version) };
                    let next = (count.parse::<u32>().unwrap() + 1).to_string();
                    match commit(&backend, &[write("n", expected, &next)]).await {
                        Ok(_) => break,
                        Err(BackendError::Conflict { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        });
    }
    racing.join_all().await;
    assert_eq!(value(&test.backend, "n").await, Some((160, "160".into())));
}

pub(crate) async fn values_come_in_the_order_asked_for(test: &TestBackend) {
    commit(&test.backend, &[write("a", Expected::Any, "1"), write("b", Expected::Any, "2")]).await.unwrap();
    let keys = ["b", "none", "a", "b"].map(String::from);
    let found = test.backend.state.get(&keys).await.unwrap();
    let found: Vec<_> = found.iter().map(|one| one.as_ref().map(|value| value.key.as_str())).collect();
    assert_eq!(found, [Some("b"), None, Some("a"), Some("b")]);
}

pub(crate) async fn history_is_newest_first_and_remembers_writer_and_time(test: &TestBackend) {
    let (one, two) = (instance("one"), instance("two"));
    test.backend.state.commit(&one, vec![write("k", Expected::Any, "1")]).await.unwrap();
    test.pass(s(1)).await;
    test.backend.state.commit(&two, vec![delete("k", Expected::Any)]).await.unwrap();
    test.backend.state.commit(&one, vec![write("k", Expected::Any, "3")]).await.unwrap();
    let history = test.backend.state.history("k", 10).await.unwrap();
    let told: Vec<_> = history.iter().map(|past| (past.version, past.writer.clone(), past.value.is_some())).collect();
    assert_eq!(told, [(3, one.clone(), true), (2, two, false), (1, one, true)]);
    assert_eq!((history[2].at, history[0].at), (START, START.after(s(1))));
    assert_eq!(test.backend.state.history("k", 2).await.unwrap(), history[..2]);
    assert!(test.backend.state.history("unknown", 2).await.unwrap().is_empty());
}

pub(crate) async fn a_snapshot_holds_the_living_keys_under_a_prefix_in_order(test: &TestBackend) {
    let all = ["job/b", "job/a", "job0", "job", "other", "job/z", "job/ü\u{10ffff}"];
    let writes: Vec<_> = all.iter().map(|key| write(key, Expected::Any, "v")).collect();
    commit(&test.backend, &writes).await.unwrap();
    commit(&test.backend, &[delete("job/z", Expected::Any)]).await.unwrap();
    let keys = |prefix: &'static str| {
        let backend = test.backend.clone();
        async move {
            let entries = backend.state.snapshot(prefix).await.unwrap().entries;
            entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>()
        }
    };
    assert_eq!(keys("job/").await, ["job/a", "job/b", "job/ü\u{10ffff}"]);
    assert_eq!(keys("job/ü").await, ["job/ü\u{10ffff}"]);
    assert!(keys("").await.len() >= 6);
    assert!(keys("none").await.is_empty());
}

pub(crate) async fn snapshot_and_then_changes_miss_nothing_and_repeat_nothing(test: &TestBackend) {
    let backend = test.backend.clone();
    let writing = tokio::spawn(async move {
        for round in 0..200 {
            commit(&backend, &[write(&format!("p/{}", round % 7), Expected::Any, &round.to_string())]).await.unwrap();
        }
    });
    tokio::task::yield_now().await;
    let snapshot = test.backend.state.snapshot("p/").await.unwrap();
    let mut versions: std::collections::HashMap<String, u64> =
        snapshot.entries.iter().map(|entry| (entry.key.clone(), entry.version)).collect();
    let mut revision = snapshot.revision;
    while versions.values().sum::<u64>() < 200 {
        let found = test.backend.state.changes("p/", revision, 3, SOON).await.unwrap();
        assert!(!found.is_empty(), "no change within {SOON:?}");
        for change in found {
            assert!(change.revision > revision, "in revision order");
            revision = change.revision;
            let version = versions.entry(change.entry.key).or_default();
            assert_eq!(change.entry.version, *version + 1, "each change once");
            *version += 1;
        }
    }
    writing.await.unwrap();
    assert!(changes(&test.backend, "p/", revision).await.is_empty());
}

pub(crate) async fn changes_show_deletions_and_only_the_prefix(test: &TestBackend) {
    let start = test.backend.state.snapshot("").await.unwrap().revision;
    commit(&test.backend, &[write("a/1", Expected::Any, "v"), write("b/1", Expected::Any, "v")]).await.unwrap();
    commit(&test.backend, &[delete("a/1", Expected::Any)]).await.unwrap();
    let found = changes(&test.backend, "a/", start).await;
    assert_eq!(keys(&found), [("a/1", 1), ("a/1", 2)]);
    assert_eq!((found[0].entry.value.is_some(), found[1].entry.value.is_some()), (true, false));
    let all = changes(&test.backend, "", start).await;
    assert_eq!(keys(&all), [("a/1", 1), ("b/1", 1), ("a/1", 2)]);
    assert_eq!(test.backend.state.changes("", start, 1, Duration::ZERO).await.unwrap(), all[..1]);
}

pub(crate) async fn a_waiting_feed_wakes_for_its_prefix_only(test: &TestBackend) {
    let start = test.backend.state.snapshot("").await.unwrap().revision;
    let backend = test.backend.clone();
    let waiting = tokio::spawn(async move { backend.state.changes("a/", start, 10, SOON).await.unwrap() });
    commit(&test.backend, &[write("b/1", Expected::Any, "v")]).await.unwrap();
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    commit(&test.backend, &[write("a/1", Expected::Any, "v")]).await.unwrap();
    assert_eq!(keys(&waiting.await.unwrap()), [("a/1", 1)]);
    let none = test.backend.state.changes("c/", start, 10, Duration::from_millis(10)).await.unwrap();
    assert!(none.is_empty());
}

pub(crate) async fn keys_and_values_are_bounded(test: &TestBackend) {
    let long = "k".repeat(512);
    commit(&test.backend, &[write(&long, Expected::Any, "v")]).await.unwrap();
    for key in [String::new(), "k".repeat(513), "a\nb".into(), "a\u{0}".into()] {
        let outcome = commit(&test.backend, &[write(&key, Expected::Any, "v")]).await;
        assert!(matches!(outcome, Err(BackendError::Invalid { .. })), "{key:?}: {outcome:?}");
    }
    let twice = commit(&test.backend, &[write("k", Expected::Any, "1"), write("k", Expected::Any, "2")]).await;
    assert!(matches!(twice, Err(BackendError::Invalid { .. })), "{twice:?}");
}

fn condition(key: &str, expected: Expected) -> Condition {
    Condition { key: key.into(), expected }
}

pub(crate) async fn a_commit_can_depend_on_keys_that_it_does_not_write(test: &TestBackend) {
    let (backend, writer) = (&test.backend, instance("writer"));
    commit(backend, &[write("lease", Expected::Any, "mine"), write("gone", Expected::Any, "v")]).await.unwrap();
    commit(backend, &[delete("gone", Expected::Any)]).await.unwrap();
    let holds = vec![
        condition("lease", Expected::Version(1)),
        condition("stop", Expected::Absent),
        condition("gone", Expected::Absent),
        condition("whatever", Expected::Any),
    ];
    let writes = vec![write("a", Expected::Absent, "1"), write("b", Expected::Absent, "1")];
    assert_eq!(backend.state.commit_if(&writer, holds.clone(), writes).await.unwrap(), [1, 1]);
    assert_eq!(backend.state.commit_if(&writer, holds, Vec::new()).await.unwrap(), [0_u64; 0], "a mere question");
    assert_eq!(value(backend, "lease").await, Some((1, "mine".into())), "a condition writes nothing");
    assert_eq!(backend.state.history("stop", 9).await.unwrap(), []);
}

pub(crate) async fn a_condition_that_fails_is_named_before_any_write_and_nothing_is_written(test: &TestBackend) {
    let (backend, writer) = (&test.backend, instance("writer"));
    commit(backend, &[write("lease", Expected::Any, "1"), write("stop", Expected::Any, "1")]).await.unwrap();
    commit(backend, &[write("lease", Expected::Any, "2")]).await.unwrap();
    let cases = [
        (condition("lease", Expected::Version(1)), 1, 2),
        (condition("stop", Expected::Absent), 0, 1),
        (condition("none", Expected::Version(3)), 3, 0),
    ];
    for (failing, wanted, found) in cases {
        let key = failing.key.clone();
        let conditions = vec![condition("whatever", Expected::Any), failing];
        let writes = vec![write("a", Expected::Absent, "1"), write("b", Expected::Version(7), "1")];
        match backend.state.commit_if(&writer, conditions, writes).await {
            Err(BackendError::Conflict { what, expected, actual }) => {
                assert_eq!((what, expected, actual), (key, wanted, found));
            }
            other => panic!("{key}: {other:?}"),
        }
        assert_eq!((value(backend, "a").await, value(backend, "b").await), (None, None));
    }
    let twice = vec![condition("a", Expected::Absent)];
    let outcome = backend.state.commit_if(&writer, twice, vec![write("a", Expected::Absent, "1")]).await;
    assert!(matches!(outcome, Err(BackendError::Invalid { .. })), "a key stands in at most one of them: {outcome:?}");
}
