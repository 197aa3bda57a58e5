//! The promises of `EventLog`.
//!
//! Above all compare-and-set: of two writers exactly one wins and the other learns the actual sequence, for that is all
//! that keeps a deposed coordinator from writing.

use std::time::Duration;

use codeswarm::backend::{Backend, BackendError};
use codeswarm::protocol::{Event, JobId, RecordedEvent, TaskId};

use crate::support::stores::{SOON, START, TestBackend, job, s, usd};

pub(crate) fn dispatched(attempt: u32) -> Event {
    Event::TaskDispatched { task: TaskId::plan(), attempt }
}

async fn append(backend: &Backend, job: &JobId, expected: u64, attempts: &[u32]) -> Result<u64, BackendError> {
    backend.events.append(job, expected, attempts.iter().copied().map(dispatched).collect()).await
}

async fn read(backend: &Backend, job: &JobId, after: u64, limit: usize) -> Vec<RecordedEvent> {
    backend.events.read(job, after, limit).await.unwrap()
}

pub(crate) async fn sequences_start_at_one_and_have_no_gaps(test: &TestBackend) {
    let (a, b) = (job("a"), job("b"));
    assert_eq!(append(&test.backend, &a, 0, &[1, 2]).await.unwrap(), 2);
    assert_eq!(append(&test.backend, &b, 0, &[9]).await.unwrap(), 1, "every job has its own");
    test.clock.advance(s(3));
    assert_eq!(append(&test.backend, &a, 2, &[3]).await.unwrap(), 3);
    let events = read(&test.backend, &a, 0, 100).await;
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(events.iter().map(|event| event.event.clone()).collect::<Vec<_>>(), [1, 2, 3].map(dispatched));
    assert_eq!((events[0].at, events[2].at), (START, START.after(s(3))));
    assert_eq!(read(&test.backend, &a, 1, 1).await, events[1..2]);
    assert!(read(&test.backend, &a, 3, 100).await.is_empty());
    assert!(read(&test.backend, &a, u64::MAX, 100).await.is_empty());
    assert!(read(&test.backend, &job("unknown"), 0, 100).await.is_empty());
}

pub(crate) async fn an_append_that_expects_another_sequence_conflicts_and_names_the_actual_one(test: &TestBackend) {
    let a = job("a");
    append(&test.backend, &a, 0, &[1, 2]).await.unwrap();
    for expected in [0, 1, 3] {
        for _ in 0..2 {
            match append(&test.backend, &a, expected, &[7]).await {
                Err(BackendError::Conflict { expected: told, actual: 2, .. }) => assert_eq!(told, expected),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(read(&test.backend, &a, 0, 100).await.len(), 2);
}

pub(crate) async fn of_two_appenders_exactly_one_succeeds_each_time(test: &TestBackend) {
    let a = job("a");
    let mut racing = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (backend, a) = (test.backend.clone(), a.clone());
        racing.spawn(async move {
            let (mut won, mut expected) = (0, 0);
            while won < 25 {
                match append(&backend, &a, expected, &[1, 2]).await {
                    Ok(last) => {
                        assert_eq!(last, expected + 2);
                        (won, expected) = (won + 1, last);
                    }
                    Err(BackendError::Conflict { actual, .. }) => expected = actual,
                    Err(other) => panic!("{other}"),
                }
            }
        });
    }
    racing.join_all().await;
    let events = read(&test.backend, &a, 0, 1_000).await;
    assert!(events.iter().map(|event| event.seq).eq(1..=200));
    assert!(events.chunks(2).all(|pair| pair[0].event == dispatched(1) && pair[1].event == dispatched(2)));
}

pub(crate) async fn waiting_ends_when_an_event_comes(test: &TestBackend) {
    let a = job("a");
    assert!(!test.backend.events.wait(&a, 0, Duration::ZERO).await.unwrap());
    let (backend, waited) = (test.backend.clone(), a.clone());
    let waiting = tokio::spawn(async move { backend.events.wait(&waited, 1, SOON).await.unwrap() });
    append(&test.backend, &a, 0, &[1]).await.unwrap();
    append(&test.backend, &job("b"), 0, &[1, 2]).await.unwrap();
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished(), "sequence 1 and other jobs are not what it waits for");
    append(&test.backend, &a, 1, &[2]).await.unwrap();
    assert!(waiting.await.unwrap());
    assert!(test.backend.events.wait(&a, 1, Duration::ZERO).await.unwrap(), "what is there already needs no wait");
    assert!(!test.backend.events.wait(&a, 2, Duration::from_millis(10)).await.unwrap());
}

pub(crate) async fn jobs_are_listed_oldest_first(test: &TestBackend) {
    for name in ["z", "a", "m"] {
        append(&test.backend, &job(name), 0, &[1]).await.unwrap();
        test.clock.advance(s(1));
    }
    append(&test.backend, &job("z"), 1, &[2, 3]).await.unwrap();
    let jobs = test.backend.events.jobs().await.unwrap();
    assert_eq!(jobs.iter().map(|entry| entry.job.as_str()).collect::<Vec<_>>(), ["z", "a", "m"]);
    assert_eq!((jobs[0].last_seq, jobs[0].created_at, jobs[0].updated_at), (3, START, START.after(s(3))));
    assert_eq!((jobs[1].last_seq, jobs[1].created_at), (1, START.after(s(1))));
}

pub(crate) async fn every_kind_of_field_survives_the_log(test: &TestBackend) {
    let event = Event::BudgetWarning { spent: usd(u64::from(u32::MAX) * 1_000), limit: usd(1) };
    let reason = Event::TaskDead { task: TaskId::plan(), reason: "\"quoted\" \u{0} ü \u{1f980}\n".into() };
    test.backend.events.append(&job("a"), 0, vec![event.clone(), reason.clone()]).await.unwrap();
    let read: Vec<_> = read(&test.backend, &job("a"), 0, 9).await.into_iter().map(|one| one.event).collect();
    assert_eq!(read, [event, reason]);
}
