//! Prompt heads warmed once for the whole fleet: gates of several processes over one store, and a job on several workers.
//!
//! What one process knows alone is tested beside the gate. Here every process has its own handle of the stores, as if it were
//! the only one; the stores' clock is moved by hand, and no wait here ends because time went by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use codeswarm::backend::{Backend, BackendError, Change, Condition, Expected, Snapshot, StateStore, Versioned, Write};
use codeswarm::budget::PriceTable;
use codeswarm::clock::Clock;
use codeswarm::llm::warm::{Passage, WarmGate};
use codeswarm::llm::{LlmRequest, SystemBlock};
use codeswarm::protocol::InstanceId;
use tokio_util::sync::CancellationToken;

use crate::support::stores::{SOON, TestBackend, instance, s};

mod fleet;

/// Less than a call's patience: who passes within it was not let through by its end.
const BEFORE_PATIENCE: Duration = Duration::from_secs(12);

/// A process with the stores and a gate of its own.
#[derive(Clone)]
struct Process {
    gate: WarmGate,
    prices: Arc<PriceTable>,
    cancel: CancellationToken,
}

impl Process {
    fn over(state: Arc<dyn StateStore>, name: &str, clock: &Clock) -> Self {
        let prices = Arc::new(PriceTable::builtin().unwrap());
        let gate = WarmGate::shared(state, instance(name), clock.clone());
        Self { gate, prices, cancel: CancellationToken::new() }
    }

    async fn of(test: &TestBackend, name: &str) -> Self {
        Self::over(test.another(name).await.state, name, &test.clock)
    }

    async fn pass(&self, head: &str) -> Passage {
        self.gate.pass(&request(head), &self.prices, &self.cancel).await
    }

    /// Passes without having waited for patience to end.
    async fn passes_soon(&self, head: &str) -> Passage {
        tokio::time::timeout(BEFORE_PATIENCE, self.pass(head)).await.expect("passes before its patience ends")
    }

    fn passing(&self, head: &'static str) -> tokio::task::JoinHandle<Passage> {
        let process = self.clone();
        tokio::spawn(async move { process.passes_soon(head).await })
    }
}

fn request(head: &str) -> LlmRequest {
    let system = vec![SystemBlock { text: head.repeat(9_000 / head.len()).into(), cache: true }];
    LlmRequest { system, ..LlmRequest::of("claude-sonnet-5-5", "go") }
}

/// The only record of a warm head.
async fn record(backend: &Backend) -> Option<Versioned> {
    let mut entries = backend.state.snapshot("warm/").await.unwrap().entries;
    assert!(entries.len() <= 1, "{entries:?}");
    entries.pop()
}

/// Waits until `holds`, which nobody tells.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < SOON, "{what} does not come true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A store that counts what it is asked, and may be away.
struct Watched {
    inner: Arc<dyn StateStore>,
    away: Away,
    gets: AtomicU64,
    commits: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Away {
    No,
    Refusing,
    Silent,
}

impl Watched {
    fn new(inner: Arc<dyn StateStore>, away: Away) -> Arc<Self> {
        Arc::new(Self { inner, away, gets: AtomicU64::new(0), commits: AtomicU64::new(0) })
    }

    async fn asked(&self, counter: &AtomicU64) -> Result<(), BackendError> {
        counter.fetch_add(1, Ordering::SeqCst);
        match self.away {
            Away::No => Ok(()),
            Away::Refusing => Err(BackendError::Unavailable { store: "state", reason: "it is away".into() }),
            Away::Silent => std::future::pending().await,
        }
    }

    fn counted(&self) -> (u64, u64) {
        (self.gets.load(Ordering::SeqCst), self.commits.load(Ordering::SeqCst))
    }
}

#[async_trait]
impl StateStore for Watched {
    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Versioned>>, BackendError> {
        self.asked(&self.gets).await?;
        self.inner.get(keys).await
    }

    async fn commit_if(
        &self,
        writer: &InstanceId,
        conditions: Vec<Condition>,
        writes: Vec<Write>,
    ) -> Result<Vec<u64>, BackendError> {
        self.asked(&self.commits).await?;
        self.inner.commit_if(writer, conditions, writes).await
    }

    async fn history(&self, key: &str, limit: usize) -> Result<Vec<Versioned>, BackendError> {
        self.inner.history(key, limit).await
    }

    async fn snapshot(&self, prefix: &str) -> Result<Snapshot, BackendError> {
        self.inner.snapshot(prefix).await
    }

    async fn changes(
        &self,
        prefix: &str,
        revision: u64,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Change>, BackendError> {
        self.inner.changes(prefix, revision, limit, wait).await
    }
}

async fn of_many_processes_one_leads_and_the_others_wait_until_its_reply_begins(test: &TestBackend) {
    let mut passing = tokio::task::JoinSet::new();
    for name in ["a", "b", "c", "d"] {
        let process = Process::of(test, name).await;
        passing.spawn(async move { process.passes_soon("h").await });
    }
    let leader = passing.join_next().await.unwrap().unwrap();
    assert!(leader.leads());
    // Another head is another gate, and by the time it was passed the others have all had their turn.
    assert!(Process::of(test, "e").await.passes_soon("x").await.leads());
    assert!(passing.try_join_next().is_none(), "nobody passes before the reply begins");
    leader.began().tell();
    for other in passing.join_all().await {
        assert!(!other.leads());
    }
    // The call goes on, but its head is warm for whoever comes.
    assert!(!Process::of(test, "f").await.passes_soon("h").await.leads());
}

async fn a_leader_that_dies_is_followed_by_another_before_anybodys_patience_ends(test: &TestBackend) {
    let leader = Process::of(test, "dying").await.passes_soon("h").await;
    assert!(leader.leads());
    // Whoever dies takes nothing back.
    std::mem::forget(leader);
    let waiting = Process::of(test, "waiting").await.passing("h");
    until("the lead", || async { record(&test.backend).await.is_some() }).await;
    assert!(!waiting.is_finished());
    test.clock.advance(s(20));
    assert!(waiting.await.unwrap().leads());
}

async fn a_leader_whose_call_fails_or_is_given_up_makes_way_at_once(test: &TestBackend) {
    let (first, second) = (Process::of(test, "first").await, Process::of(test, "second").await);
    let failed = first.passes_soon("h").await;
    let waiting = second.passing("h");
    drop(failed);
    let succeeded = waiting.await.unwrap();
    assert!(succeeded.leads());
    // One who gives up while it waits leaves the lead where it is, and one who gives up as a leader takes it along.
    let impatient = first.passing("h");
    first.cancel.cancel();
    assert!(!impatient.await.unwrap().leads());
    drop(succeeded);
    until("the withdrawal", || async { record(&test.backend).await.is_none() }).await;
}

async fn what_is_warm_lapses_when_the_provider_forgets_it(test: &TestBackend) {
    let leader = Process::of(test, "first").await.passes_soon("h").await;
    leader.began().tell();
    drop(leader);
    assert!(!Process::of(test, "second").await.passes_soon("h").await.leads());
    test.clock.advance(s(271));
    assert!(Process::of(test, "third").await.passes_soon("h").await.leads());
}

async fn a_head_that_is_still_read_stays_warm_for_the_fleet(test: &TestBackend) {
    let leader = Process::of(test, "first").await.passes_soon("h").await;
    leader.began().tell();
    let reader = Process::of(test, "reader").await;
    assert!(!reader.passes_soon("h").await.leads());
    let written = record(&test.backend).await.unwrap().version;
    test.clock.advance(s(200));
    let late = Process::of(test, "late").await;
    assert!(!late.passes_soon("h").await.leads());
    until("the renewal", || async { record(&test.backend).await.unwrap().version > written }).await;
    test.clock.advance(s(200));
    assert!(!Process::of(test, "later").await.passes_soon("h").await.leads());
}

async fn a_process_asks_the_store_once_for_a_head_and_tells_it_twice_if_it_leads(test: &TestBackend) {
    let (leading, reading) =
        (Watched::new(test.backend.state.clone(), Away::No), Watched::new(test.backend.state.clone(), Away::No));
    let leader = Process::over(leading.clone(), "leading", &test.clock);
    let passage = leader.passes_soon("h").await;
    assert_eq!(leading.counted(), (1, 1));
    passage.began().tell();
    drop(passage);
    let written = || async { record(&test.backend).await.is_some_and(|record| record.version == 2) };
    until("the reply's beginning", written).await;
    let reader = Process::over(reading.clone(), "reading", &test.clock);
    for _ in 0..50 {
        assert!(!leader.passes_soon("h").await.leads());
        assert!(!reader.passes_soon("h").await.leads());
    }
    assert_eq!((leading.counted(), reading.counted()), ((1, 2), (1, 0)));
}

async fn a_store_that_is_away_or_silent_stops_no_call(test: &TestBackend) {
    for away in [Away::Refusing, Away::Silent] {
        let store = Watched::new(test.backend.state.clone(), away);
        let process = Process::over(store.clone(), "alone", &test.clock);
        let leader = process.passes_soon("h").await;
        assert!(leader.leads(), "as a process that shares nothing");
        let waiting = process.passing("h");
        tokio::task::yield_now().await;
        leader.began().tell();
        assert!(!waiting.await.unwrap().leads());
        drop(leader);
        assert!(!process.passes_soon("h").await.leads());
        assert!(store.counted().0 <= 2, "{:?}", store.counted());
        let cancelled = Process::over(store, "cancelled", &test.clock);
        cancelled.cancel.cancel();
        assert!(!cancelled.passes_soon("h").await.leads());
    }
}

async fn a_record_that_nobody_can_read_is_written_anew(test: &TestBackend) {
    drop(Process::of(test, "first").await.passes_soon("h").await);
    until("the withdrawal", || async { record(&test.backend).await.is_none() }).await;
    let leader = Process::of(test, "second").await.passes_soon("h").await;
    let key = record(&test.backend).await.unwrap().key;
    let garbage = Write { key, expected: Expected::Any, value: Some(Bytes::from_static(b"\x00not json")) };
    test.backend.state.commit(&instance("vandal"), vec![garbage]).await.unwrap();
    // Kept, for a lead that is given up would let the fourth lead before the fleet hears of the second's reply.
    let third = Process::of(test, "third").await.passes_soon("h").await;
    assert!(third.leads());
    leader.began().tell();
    assert!(!Process::of(test, "fourth").await.passes_soon("h").await.leads());
    drop(third);
}

/// Every promise above, over each store there is.
macro_rules! over_every_store {
    ($($store:ident)+: $cases:tt) => { $(over_every_store!(@one $store $cases);)+ };
    (@one $store:ident { $($case:ident,)+ }) => {
        mod $store {
            use crate::support::stores::TestBackend;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case(&TestBackend::$store().await).await;
                }
            )+
        }
    };
}

over_every_store!(embedded redis: {
    of_many_processes_one_leads_and_the_others_wait_until_its_reply_begins,
    a_leader_that_dies_is_followed_by_another_before_anybodys_patience_ends,
    a_leader_whose_call_fails_or_is_given_up_makes_way_at_once,
    what_is_warm_lapses_when_the_provider_forgets_it,
    a_head_that_is_still_read_stays_warm_for_the_fleet,
    a_process_asks_the_store_once_for_a_head_and_tells_it_twice_if_it_leads,
    a_store_that_is_away_or_silent_stops_no_call,
    a_record_that_nobody_can_read_is_written_anew,
});
