//! The stores of a race, the processes on them, and one round from its limit to its verdict.
//!
//! The fake provider is a fresh one in every round, so that its bill is the round's. Whoever dies is replaced at once, which
//! on a shared directory also means: taken over from, while the others go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use codeswarm::backend::{Adjustment, Backend, Balance, Entry, EntryFilter, Scope};
use codeswarm::llm::replay::{FakeOptions, FakeServer};
use codeswarm::protocol::{InstanceId, JobId, MicroUsd};
use tokio::runtime::Runtime;

use super::caller::{Place, ROLE, Shared, TOTAL};
use super::plan::{AGENTS, Order, PROCESSES, Report, Round};
use super::tally::Tally;
use crate::support::servers::nats::NatsServer;
use crate::support::servers::redis::RedisServer;
use crate::support::stores::{agent, job, usd};
use crate::support::{PATIENCE, Running, Sandbox};

/// Longer than the lease of any reservation.
const LEASE_IS_OVER: Duration = Duration::from_secs(120).saturating_add(TOTAL);

/// Where the processes meet.
pub(super) struct Arena {
    runtime: Runtime,
    backend: Backend,
    shared: Shared,
    children: Vec<Running>,
    sandbox: Sandbox,
    /// How long the last round's calls took.
    took: Duration,
    _servers: Option<(RedisServer, NatsServer)>,
}

/// What a round came to.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) job: String,
    /// Spent as the ledger says, in micro-dollars.
    pub(super) spent: u64,
    pub(super) billed: u64,
    pub(super) killed: u64,
    pub(super) report: Report,
    pub(super) tally: Tally,
}

impl Arena {
    pub(super) fn embedded(is_durable: bool) -> Self {
        let sandbox = Sandbox::new();
        let place = Place::Directory(sandbox.data());
        Self::open(sandbox, Shared { place, is_durable, by_hand: true }, None)
    }

    pub(super) fn servers(by_hand: bool) -> Self {
        let (redis, nats) = (RedisServer::start(), NatsServer::start());
        let place = Place::Servers { redis: redis.url(), nats: nats.url() };
        Self::open(Sandbox::new(), Shared { place, is_durable: true, by_hand }, Some((redis, nats)))
    }

    fn open(sandbox: Sandbox, shared: Shared, servers: Option<(RedisServer, NatsServer)>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let backend = runtime.block_on(shared.open(&InstanceId::fresh("referee")));
        let children = (0..PROCESSES).map(|_| child(&sandbox, &shared)).collect();
        let mut arena = Self { runtime, backend, shared, children, sandbox, took: Duration::ZERO, _servers: servers };
        for child in &mut arena.children {
            child.wait_for(|line| line == "ready").expect("the child is ready");
        }
        arena
    }

    /// Runs a round and judges it; whatever must hold in every round is asserted here.
    pub(super) fn run(&mut self, round: &Round) -> Verdict {
        let job = job(&format!("race-{}", round.number));
        let before = self.runtime.block_on(self.prepare(round, &job));
        let options = FakeOptions::default();
        let provider = self.runtime.block_on(FakeServer::start(round.script(), options)).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let watcher = self.runtime.spawn(watch(self.backend.clone(), job.clone(), Arc::clone(&is_over)));
        let began = Instant::now();
        self.tell(round, &job, &provider.base_url());
        let killed = self.interfere(round);
        let report = self.hear(killed);
        if killed.is_none() {
            self.took = began.elapsed();
        }
        is_over.store(true, Ordering::Relaxed);
        let highest = self.runtime.block_on(watcher).unwrap();
        let billed = self.runtime.block_on(provider.stop()).cost_micros.0;
        if killed.is_none() {
            let balance = self.runtime.block_on(self.backend.ledger.balance(&Scope::Job(job.clone()))).unwrap();
            assert_eq!(balance.reserved, MicroUsd::ZERO, "everybody lives and is idle: {round:?}");
        }
        self.runtime.block_on(self.until_idle(&job));
        let verdict = self.runtime.block_on(self.judge(round, job, report, billed, before));
        let most = round.limit + verdict.tally.overrun;
        assert!(highest <= most, "{highest} of {most} were seen in use: {round:?}");
        Verdict { killed: u64::from(killed.is_some()), ..verdict }
    }

    /// Sets the limits of a round; answers what the account had spent before.
    async fn prepare(&self, round: &Round, job: &JobId) -> Balance {
        let (number, ledger) = (round.number, &self.backend.ledger);
        let limits = [
            (Scope::Job(job.clone()), Adjustment::SetLimit(Some(usd(round.limit)))),
            (Scope::Job(job.clone()), Adjustment::HoldBack(usd(round.hold_back))),
            (Scope::Agent(job.clone(), agent(AGENTS[0])), Adjustment::SetLimit(round.agent_limit.map(MicroUsd))),
            (Scope::PerDay, Adjustment::SetLimit(self.day_limit(round).await)),
            // The one before may have ended with a call that cost more than its bound.
            (Scope::Account, Adjustment::Thaw),
        ];
        for (nth, (scope, adjustment)) in limits.into_iter().enumerate() {
            ledger.adjust(&format!("round-{number}-{nth}"), &scope, adjustment).await.unwrap();
        }
        ledger.balance(&Scope::Account).await.unwrap()
    }

    async fn day_limit(&self, round: &Round) -> Option<MicroUsd> {
        let [day, _] = Scope::windows(self.backend.clock.now());
        let spent = self.backend.ledger.balance(&day).await.unwrap().spent;
        round.day_room.map(|room| usd(spent.0 + room))
    }

    fn tell(&mut self, round: &Round, job: &JobId, url: &str) {
        let now = self.shared.by_hand.then(|| self.backend.clock.now().0);
        for (slot, child) in (0..).zip(&mut self.children) {
            let order =
                Order { round: round.number, slot, job: job.to_string(), url: url.to_owned(), now, drops: round.drops };
            child.say(&serde_json::to_string(&order).unwrap());
        }
    }

    /// Lets leases run out and kills somebody at some moment, as the round has it; answers whom.
    fn interfere(&mut self, round: &Round) -> Option<usize> {
        if round.lapses && self.shared.by_hand {
            std::thread::sleep(self.took / 3);
            self.backend.clock.advance(LEASE_IS_OVER);
            self.runtime.block_on(self.backend.ledger.expire()).unwrap();
        }
        let (slot, percent) = round.killed?;
        let slot = usize::try_from(slot).unwrap();
        std::thread::sleep(self.took * u32::try_from(percent).unwrap() / 100);
        let fresh = child(&self.sandbox, &self.shared);
        let ended = std::mem::replace(&mut self.children[slot], fresh).kill();
        assert_eq!(ended.code(), None, "it ended by itself: {}", ended.stderr);
        Some(slot)
    }

    /// Waits for the reports of all who live.
    fn hear(&mut self, killed: Option<usize>) -> Report {
        let mut sum = Report::default();
        for (slot, child) in self.children.iter_mut().enumerate() {
            if Some(slot) == killed {
                child.wait_for(|line| line == "ready").expect("the child is ready");
                continue;
            }
            let line = child.wait_for(|line| line.starts_with("done ")).expect("the child reports");
            sum.add(serde_json::from_str(&line["done ".len()..]).unwrap());
        }
        sum
    }

    /// Waits until nothing is set aside any more: at once where leases can be made to run out, otherwise until the dead
    /// have been found.
    async fn until_idle(&self, job: &JobId) {
        if self.shared.by_hand {
            self.backend.clock.advance(LEASE_IS_OVER);
        }
        let (ledger, scope, began) = (&self.backend.ledger, Scope::Job(job.clone()), Instant::now());
        loop {
            ledger.expire().await.unwrap();
            let reserved = ledger.balance(&scope).await.unwrap().reserved;
            if reserved == MicroUsd::ZERO {
                return;
            }
            assert!(!self.shared.by_hand && began.elapsed() < PATIENCE, "{reserved} stay reserved");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn judge(&self, round: &Round, job: JobId, report: Report, billed: u64, before: Balance) -> Verdict {
        let ledger = &self.backend.ledger;
        let balance = ledger.balance(&Scope::Job(job.clone())).await.unwrap();
        let tally = Tally::of(&entries(&self.backend, &job).await, round.limit);
        let spent = balance.spent.0;
        assert_eq!(report.unexpected, 0, "{report:?}, {round:?}");
        assert_eq!(tally.overshoot, 0, "{tally:?}, {round:?}");
        assert_eq!((tally.spent, tally.reserved), (spent, 0), "entries and balance disagree: {round:?}");
        assert!(billed <= spent, "{billed} billed, {spent} spent: {round:?}");
        assert!(spent <= round.limit + tally.overrun, "{balance:?}: {round:?}");
        assert!(round.is_broken || tally.overrun == 0, "a call cost more than its bound: {round:?}");
        assert_eq!(balance.frozen, tally.overrun > 0, "{balance:?}: {round:?}");
        assert!(report.cost <= spent, "callers were told of more than was charged: {report:?}, {round:?}");
        if round.is_accountable() && tally.expired == 0 {
            assert_eq!(report.cost, spent, "what the callers were told is not what was charged: {round:?}");
        }
        let account = ledger.balance(&Scope::Account).await.unwrap();
        assert_eq!((account.spent.0 - before.spent.0, account.reserved.0), (spent, 0), "{round:?}");
        let first = ledger.balance(&Scope::Agent(job.clone(), agent(AGENTS[0]))).await.unwrap();
        let within = |balance: Balance| balance.limit.is_none_or(|limit| balance.spent.0 <= limit.0 + tally.overrun);
        assert!(within(first) && first.reserved == MicroUsd::ZERO, "{first:?}: {round:?}");
        Verdict { job: job.to_string(), spent, billed, killed: 0, report, tally }
    }

    /// Makes the books anew from their journal, where there is one, and compares: a journal never knows of less than was
    /// billed, and of exactly what was spent where nobody died and no lease ran out. Answers its records.
    pub(super) fn rebuild(&self, verdicts: &[Verdict]) -> u64 {
        let rebuilt = self.runtime.block_on(self.backend.ledger.rebuild(true)).unwrap();
        for verdict in verdicts {
            let scope = Scope::Job(job(&verdict.job));
            let balance = self.runtime.block_on(self.backend.ledger.balance(&scope)).unwrap();
            let Verdict { job, spent, billed, .. } = verdict;
            let known = balance.spent.0 + balance.reserved.0;
            assert!(known >= *billed, "{job}: the journal knows of {known}, {billed} were billed");
            // What ran out and was released after all is charged in the books, and rightly not in the journal.
            let is_whole = verdict.killed == 0 && verdict.tally.expired == 0;
            assert!(known == *spent || !is_whole, "{job}: the journal knows of {known}, {spent} were spent");
        }
        rebuilt.map_or(0, |rebuilt| rebuilt.records)
    }
}

/// Looks at a job as often as it can until the round is over; answers the most that was ever in use.
async fn watch(backend: Backend, job: JobId, is_over: Arc<AtomicBool>) -> u64 {
    let (scope, mut highest) = (Scope::Job(job), 0);
    while !is_over.load(Ordering::Relaxed) {
        let balance = backend.ledger.balance(&scope).await.unwrap();
        highest = highest.max(balance.spent.0 + balance.reserved.0);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    highest
}

/// The job's entries, oldest first.
async fn entries(backend: &Backend, job: &JobId) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let after = entries.last().map_or(0, |entry| entry.id);
        let filter = EntryFilter { job: Some(job.clone()), after, ..EntryFilter::default() };
        let page = backend.ledger.entries(filter).await.unwrap();
        if page.is_empty() {
            return entries;
        }
        entries.extend(page);
    }
}

/// This program again, in the role of a caller.
fn child(sandbox: &Sandbox, shared: &Shared) -> Running {
    let program = std::env::current_exe().unwrap();
    let arguments = ["race::caller::calls_as_a_child", "--exact", "--ignored", "--nocapture"];
    let mut command = sandbox.command(program, &arguments);
    command.env(ROLE, serde_json::to_string(shared).unwrap());
    Running::listening(&mut command)
}
