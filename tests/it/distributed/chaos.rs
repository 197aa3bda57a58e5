//! A job of three hundred files while everything around it dies: workers, the leading coordinator, NATS, Redis.
//!
//! Faults come in an order that a seed decides, each when some more files are done, and the time until the fleet is at
//! work again is measured. What must hold afterwards: every file once, nothing stored paid for again, and books that agree
//! with the provider's own bill to the micro-dollar as far as anybody can know.

#![allow(clippy::print_stderr, reason = "the figures are what people look for")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use codeswarm::backend::{Backend, Balance, EntryKind, Scope};
use codeswarm::llm::replay::{SplitMix64, Synthetic};
use codeswarm::protocol::{Event, JobId, JobOutcome, MicroUsd, Usage};

use super::Cluster;
use crate::support::{PATIENCE, Running, share, tree};

/// The longest that the fleet may stand still after a fault; more where the machine may be busy with other tests.
fn recovery() -> Duration {
    share(Duration::from_secs(8), Duration::from_secs(5))
}

/// Longer than any lease of a delivery and than a process may be silent.
const ASLEEP: Duration = Duration::from_millis(6_500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    WorkerKilled,
    WorkerAsleep,
    LeaderKilled,
    NatsRestarted,
    RedisRestarted,
}

const ALL: [Trouble; 6] = [
    Trouble::WorkerKilled,
    Trouble::WorkerAsleep,
    Trouble::LeaderKilled,
    Trouble::NatsRestarted,
    Trouble::RedisRestarted,
    Trouble::WorkerKilled,
];

/// A process with the name it goes by in the stores.
struct Named {
    running: Running,
    instance: String,
}

impl Named {
    fn worker(cluster: &Cluster) -> Self {
        Self::start(cluster, "codeswarm-worker", &["--all"], "worker ", "slots for")
    }

    fn coordinator(cluster: &Cluster) -> Self {
        Self::start(cluster, "codeswarm-coordinator", &["serve"], "coordinator ", "serving")
    }

    fn start(cluster: &Cluster, program: &str, arguments: &[&str], before: &str, sign: &str) -> Self {
        let mut running = Running::start(&mut cluster.command(program, arguments));
        let line = running.wait_for(|line| line.contains(sign)).unwrap_or_else(|| panic!("{program} does not start"));
        let rest = line.split(before).nth(1).unwrap_or_else(|| panic!("no name in {line:?}"));
        let instance = rest.split(':').next().unwrap().trim().to_owned();
        Self { running, instance }
    }
}

/// The attempts that `instance` has claimed and not finished.
fn held(cluster: &Cluster, backend: &Backend, job: &JobId, instance: &str) -> BTreeSet<String> {
    let prefix = format!("attempt/{job}/");
    let Ok(snapshot) = cluster.runtime.block_on(backend.state.snapshot(&prefix)) else { return BTreeSet::new() };
    let is_held = |value: &[u8]| {
        let record: serde_json::Value = serde_json::from_slice(value).unwrap();
        record["worker"] == instance && record["outcome"].is_null()
    };
    let entries = snapshot.entries.into_iter();
    entries.filter(|entry| entry.value.as_deref().is_some_and(is_held)).map(|entry| entry.key).collect()
}

fn done(log: &[codeswarm::protocol::RecordedEvent]) -> usize {
    let is_file =
        |event: &Event| matches!(event, Event::TaskSucceeded { task, .. } if task.as_str().starts_with("file/"));
    log.iter().filter(|recorded| is_file(&recorded.event)).count()
}

/// Waits until `is_over` and answers how long that took.
fn measure(mut is_over: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is_over() {
        assert!(start.elapsed() < PATIENCE, "no recovery");
        std::thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}

struct Bout {
    cluster: Cluster,
    backend: Backend,
    job: JobId,
    workers: Vec<Named>,
    coordinators: Vec<Named>,
    /// Attempts that others took over from a process that was only asleep, so that its calls may have come to a good end.
    woken: u64,
}

impl Bout {
    /// Until something new is in the log.
    fn until_news(&self) -> Duration {
        let before = self.cluster.log(&self.backend, &self.job).len();
        let start = Instant::now();
        self.cluster.wait_for(&self.backend, &self.job, |log| (log.len() > before).then_some(()));
        start.elapsed()
    }

    /// Until everything that `instance` held has been taken over; answers how much that was, too.
    fn until_taken_over(&self, instance: &str) -> (Duration, u64) {
        let left = held(&self.cluster, &self.backend, &self.job, instance);
        (measure(|| held(&self.cluster, &self.backend, &self.job, instance).is_disjoint(&left)), left.len() as u64)
    }

    /// Makes trouble and answers how long the fleet needed to get over it.
    fn suffer(&mut self, trouble: Trouble, random: &mut SplitMix64) -> Duration {
        let at = usize::try_from(random.below(self.workers.len() as u64)).unwrap();
        match trouble {
            Trouble::WorkerKilled => {
                let fresh = Named::worker(&self.cluster);
                let worker = std::mem::replace(&mut self.workers[at], fresh);
                worker.running.kill();
                self.until_taken_over(&worker.instance).0
            }
            Trouble::WorkerAsleep => {
                let start = Instant::now();
                self.workers[at].running.signal("STOP");
                let instance = self.workers[at].instance.clone();
                let (took, left) = self.until_taken_over(&instance);
                self.woken += left;
                std::thread::sleep(ASLEEP.saturating_sub(start.elapsed()));
                self.workers[at].running.signal("CONT");
                took
            }
            Trouble::LeaderKilled => {
                let leader = self.cluster.leader(&self.backend).expect("somebody leads");
                let at = self.coordinators.iter().position(|it| it.instance == leader).expect("it is one of ours");
                let fresh = Named::coordinator(&self.cluster);
                std::mem::replace(&mut self.coordinators[at], fresh).running.kill();
                let (cluster, backend) = (&self.cluster, &self.backend);
                let took = measure(|| cluster.leader(backend).is_some_and(|now| now != leader));
                took + self.until_news()
            }
            Trouble::NatsRestarted => {
                self.cluster.nats.restart();
                self.until_news()
            }
            Trouble::RedisRestarted => {
                self.cluster.redis.kill();
                self.cluster.redis.start_again();
                self.until_news()
            }
        }
    }
}

#[test]
fn stress_a_job_survives_the_loss_of_any_process_with_every_file_once_and_sound_books() {
    for seed in 0..share(1, 5) {
        survive(seed);
    }
}

fn survive(seed: u64) {
    let mut random = SplitMix64::new(seed);
    let made_up = Synthetic::new(15, 20, seed)
        // Long enough together for the job to outlast all the trouble.
        .durations(Duration::from_millis(500), Duration::from_millis(1_500))
        .local_edges(30)
        .build()
        .unwrap();
    let settings = [
        ("CODESWARM_JOB_MAX_TASKS_PER_FEATURE", "20"),
        ("CODESWARM_JOB_MAX_ATTEMPTS", "8"),
        ("CODESWARM_FLEET_CONCURRENCY", "3"),
    ];
    let cluster = Cluster::start(made_up.script.clone(), &settings);
    let coordinators = vec![Named::coordinator(&cluster), Named::coordinator(&cluster)];
    let workers = (0..4).map(|_| Named::worker(&cluster)).collect();
    let backend = cluster.backend();
    let job = cluster.submit(&cluster.proposal(), &[]);
    let mut bout = Bout { cluster, backend, job, workers, coordinators, woken: 0 };

    let mut order = ALL;
    for at in (1..order.len()).rev() {
        order.swap(at, usize::try_from(random.below(at as u64 + 1)).unwrap());
    }
    let mut recoveries = Vec::new();
    for (turn, trouble) in order.into_iter().enumerate() {
        let enough = 20 + turn * 40;
        let files =
            bout.cluster.wait_for(&bout.backend, &bout.job, |log| Some(done(log)).filter(|done| *done >= enough));
        assert!(files < made_up.tasks.len(), "seed {seed}: the job is over before {trouble:?}");
        let took = bout.suffer(trouble, &mut random);
        eprintln!("seed {seed}: {trouble:?} after {enough} files: at work again after {took:?}");
        recoveries.push((trouble, took));
    }
    let end = bout.cluster.wait_for_end(&bout.backend, &bout.job);
    assert!(matches!(end, Event::JobEnded { outcome: JobOutcome::Completed, .. }), "seed {seed}: {end:?}");
    assert_books(&bout, seed);
    bout.cluster.codeswarm(&["fetch", bout.job.as_str(), "--out", "fetched"]).expect_code(0);
    let mut files = tree(&bout.cluster.sandbox.work().join("fetched"));
    files.retain(|path, _| !path.starts_with(".codeswarm-"));
    let expected: BTreeSet<&str> = made_up.tasks.iter().map(|task| task.path.as_str()).collect();
    assert_eq!(files.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected, "seed {seed}");
    for (trouble, took) in recoveries {
        assert!(took < recovery(), "seed {seed}: {trouble:?} took {took:?}");
    }
}

/// Every file once, nothing stored paid again, and a ledger that knows of every call the provider billed.
fn assert_books(bout: &Bout, seed: u64) {
    let log = bout.cluster.log(&bout.backend, &bout.job);
    let mut successes: BTreeMap<&str, u32> = BTreeMap::new();
    let mut failures = 0;
    for recorded in &log {
        match &recorded.event {
            Event::TaskSucceeded { task, .. } => *successes.entry(task.as_str()).or_default() += 1,
            Event::TaskFailed { .. } => failures += 1,
            _ => {}
        }
    }
    assert!(successes.values().all(|count| *count == 1), "seed {seed}: {successes:?}");
    let (charges, balance) = closed_books(bout, seed);
    let known = |charge: &&Charge| charge.kind == EntryKind::Settle && charge.usage != Usage::default();
    let sum = |amounts: Vec<u64>| MicroUsd(amounts.into_iter().sum());
    let settled = sum(charges.iter().filter(known).map(|charge| charge.amount.0).collect());
    let in_full = sum(charges.iter().filter(|charge| !known(charge)).map(|charge| charge.amount.0).collect());
    let lost = charges.iter().filter(|charge| !known(charge)).count() as u64;
    assert_eq!(balance.spent, settled.saturating_add(in_full), "seed {seed}");
    let (billed, calls, keys) = bout.cluster.billed();
    // Every call whose cost is known is on the bill; what is on it beyond those was cut off and is charged in full.
    assert!(settled <= billed && billed <= balance.spent, "seed {seed}: {settled} <= {billed} <= {}", balance.spent);
    assert!(calls <= charges.len() as u64, "seed {seed}: {calls} calls billed, {} charged", charges.len());
    // A reply is on the bill from its beginning, so a call that is cut off is, too. A process that was asleep still reads what
    // its calls have been answered and knows their cost, so they are not among those that were lost.
    let (again, woken): (u64, u64) = (keys.values().map(|calls| calls - 1).sum(), bout.woken);
    let why = format!("{lost} lost, {failures} failed, {woken} taken over from one that was asleep");
    assert!(again <= lost + failures + woken, "seed {seed}: {again} calls made again, {why}");
    eprintln!(
        "seed {seed}: {calls} calls, {again} of them made again; billed {billed}, spent {}, of which {in_full} for {lost} calls that were cut off",
        balance.spent
    );
}

/// What the ledger has recorded of one call.
struct Charge {
    kind: EntryKind,
    amount: MicroUsd,
    usage: Usage,
}

/// The newest charge of every call and the job's balance, once no call is under way any more. A process that was stopped
/// may end its calls a moment after the job, which then did not need them.
fn closed_books(bout: &Bout, seed: u64) -> (Vec<Charge>, Balance) {
    let (books, scope) = (bout.cluster.books(), Scope::Job(bout.job.clone()));
    let start = Instant::now();
    loop {
        let before = bout.cluster.balance(&bout.backend, &scope);
        let mut charges: BTreeMap<String, Charge> = BTreeMap::new();
        for entry in books.entries(&bout.job) {
            if matches!(entry.kind, EntryKind::Settle | EntryKind::Expire) {
                let charge = Charge { kind: entry.kind, amount: entry.charged, usage: entry.usage };
                charges.insert(entry.reservation, charge);
            }
        }
        let after = bout.cluster.balance(&bout.backend, &scope);
        if before == after && after.reserved == MicroUsd::ZERO {
            return (charges.into_values().collect(), after);
        }
        assert!(start.elapsed() < recovery(), "seed {seed}: {after:?} long after the job has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
}
