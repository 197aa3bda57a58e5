//! What several integration tests need: an opened backend with a clock to move, and short ways to say things.
//!
//! The clock stands still until a test moves it, so leases and delays end exactly when a case says so. Only the
//! constructors may know which backend is behind it.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use codeswarm::backend::distributed::{self, Certificates, DistributedOptions};
use codeswarm::backend::embedded::{self, Durability};
use codeswarm::backend::nats::{NatsLogin, NatsOptions};
use codeswarm::backend::redis::{self, RedisOptions};
use codeswarm::backend::{Backend, BackendError};
use codeswarm::clock::{Clock, Timestamp};
use codeswarm::config::Secret;
use codeswarm::protocol::{AgentType, InstanceId, JobId, MicroUsd, TaskId};
use tempfile::TempDir;

use super::servers::nats::NatsServer;
use super::servers::redis::RedisServer;

/// When the tests' clocks start: 2026-01-01T00:00:00Z.
pub(crate) const START: Timestamp = Timestamp(1_767_225_600_000);

/// Long enough for anything that has to happen; only a failing test waits that long.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Waits until somebody has taken over from `dead`. Opening does that, unless another test of this program is just starting
/// a process, which holds a copy of all locks for a moment; then it takes a second.
async fn until_buried(backend: &Backend, dead: &InstanceId) {
    let (key, start) = ([format!("fleet/instance/{dead}")], std::time::Instant::now());
    loop {
        let found = backend.state.get(&key).await.expect("answers").remove(0);
        if found.and_then(|entry| entry.value).as_deref() == Some(br#"{"state":"dead"}"#) {
            return;
        }
        assert!(start.elapsed() < SOON, "nobody has taken over from {dead}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What dies in a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The server, where there is one; whoever used it finds its connections gone.
    OfTheServer,
    /// The process as well.
    OfEverything,
}

/// What the keys of tests begin with that need no others.
const NAMESPACE: &str = "test";

/// A backend of its own for one test.
pub(crate) struct TestBackend {
    /// The stores.
    pub(crate) backend: Backend,
    /// The clock they were opened with; moved by hand.
    pub(crate) clock: Clock,
    /// The process they were opened for.
    pub(crate) instance: InstanceId,
    /// Where they keep their files, removed at the end.
    pub(crate) directory: TempDir,
    /// The servers behind them, killed at the end.
    pub(crate) servers: Vec<RedisServer>,
    /// The broker behind them, killed at the end. It goes by a clock of its own.
    pub(crate) nats: Option<NatsServer>,
    /// The broker's clock matters to this test, so that time has to go by there as well.
    waits: bool,
    /// Within which a delivery's lease ends when it should.
    pub(crate) margin: Duration,
    /// What the keys on the servers begin with.
    namespace: String,
}

/// Waits until the process that holds `lock` is gone, which is some time after its last handle is.
async fn until_unlocked(lock: &Path) {
    let start = std::time::Instant::now();
    let file = std::fs::File::open(lock).expect("it was alive");
    while file.try_lock().is_err() {
        assert!(start.elapsed() < SOON, "{} is still held", lock.display());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl TestBackend {
    /// A fresh embedded backend. Flushing adds nothing to what these tests can see, so it is left out.
    pub(crate) async fn embedded() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let clock = Clock::manual(START);
        let instance = instance("first");
        let backend = open_embedded(directory.path(), &instance, &clock).await.expect("opens");
        let margin = Duration::from_millis(1);
        let (servers, nats, waits, namespace) = (Vec::new(), None, false, NAMESPACE.to_owned());
        Self { backend, clock, instance, directory, servers, nats, waits, margin, namespace }
    }

    /// State, ledger, locks and rates on a Redis server of their own, the rest embedded.
    pub(crate) async fn redis() -> Self {
        let mut test = Self::embedded().await;
        let server = RedisServer::start();
        let options = distributed_options(&server.url());
        let stores = redis::open(&options, &test.instance, Some(test.clock.clone())).await.expect("opens");
        (test.backend.state, test.backend.ledger) = (stores.state, stores.ledger);
        (test.backend.locks, test.backend.rates) = (stores.locks, stores.rates);
        test.servers.push(server);
        test
    }

    /// Everything on servers of its own: queues, logs and artifacts on NATS, the rest on Redis. Deliveries last a second,
    /// for the broker's clock cannot be moved.
    pub(crate) async fn distributed() -> Self {
        let (nats, redis) = (NatsServer::start(), RedisServer::start());
        let mut options = distributed_options(&redis.url());
        options.nats.servers = Secret::new(nats.url());
        options.nats.ack_wait = s(1);
        let (clock, instance) = (Clock::manual(START), instance("first"));
        let backend = distributed::open(&options, &instance, Some(clock.clone())).await.expect("opens");
        let (directory, margin) = (tempfile::tempdir().expect("a temporary directory"), Duration::from_millis(300));
        let (servers, nats, waits, namespace) = (vec![redis], Some(nats), true, NAMESPACE.to_owned());
        Self { backend, clock, instance, directory, servers, nats, waits, margin, namespace }
    }

    /// The same servers for tests of the ledger alone: it goes by Redis's clock only, which is moved by hand.
    pub(crate) async fn journaled() -> Self {
        Self { waits: false, ..Self::distributed().await }
    }

    /// The same stores, opened by another process called `name`.
    pub(crate) async fn another(&self, name: &str) -> Backend {
        let (instance, clock) = (instance(name), self.clock.clone());
        let Some(server) = self.servers.first() else {
            return open_embedded(self.directory.path(), &instance, &clock).await.expect("opens");
        };
        let mut options = distributed_options(&server.url());
        if let Some(nats) = &self.nats {
            options.nats.servers = Secret::new(nats.url());
            return distributed::open(&options, &instance, Some(clock)).await.expect("opens");
        }
        let stores = redis::open(&options, &instance, Some(clock)).await.expect("opens");
        let mut backend = self.backend.clone();
        (backend.state, backend.ledger, backend.locks, backend.rates) =
            (stores.state, stores.ledger, stores.locks, stores.rates);
        backend
    }

    /// Forgets everything: another directory, or other keys on the same Redis server, and the clock at its start. The clock
    /// must not be taken for silence of a process, so nobody is ever taken for dead here.
    pub(crate) async fn renew(&mut self) {
        /// Books on one server; more make its file, which is read again after a crash, too long.
        const BOOKS_EACH: u64 = 200;
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        self.clock = Clock::manual(START);
        if self.servers.is_empty() {
            self.directory = tempfile::tempdir().expect("a temporary directory");
            self.instance = instance("next");
            self.backend = open_embedded(self.directory.path(), &self.instance, &self.clock).await.expect("opens");
            return;
        }
        if nth.is_multiple_of(BOOKS_EACH) {
            self.servers = vec![RedisServer::start()];
            self.nats = self.nats.take().map(|_| NatsServer::start());
        }
        self.namespace = format!("books-{nth}");
        self.reopen_servers().await;
    }

    /// Removes every counter of the ledger, as a Redis server that has lost its disk would have it.
    pub(crate) fn wipe_counters(&self) {
        let server = &self.servers[0];
        let keys: Vec<String> =
            ::redis::from_redis_value(server.command(&format!("KEYS {}:{{budget}}:*", self.namespace))).expect("keys");
        for keys in keys.chunks(100) {
            server.command(&format!("DEL {}", keys.join(" ")));
        }
    }

    /// Lets the Redis server die, which is started again, and the process if asked to; where they are one, both. Answers whether what the dead
    /// process had set aside is charged by now, because its death cannot be doubted.
    pub(crate) async fn crash(&mut self, how: Crash) -> bool {
        let Some(server) = self.servers.first_mut() else {
            let lock = self.directory.path().join(format!("alive/{}.lock", self.instance));
            // Nothing of this process may stay open: its end is what the next one sees.
            self.backend = Self::embedded().await.backend;
            until_unlocked(&lock).await;
            let dead = std::mem::replace(&mut self.instance, instance("next"));
            self.backend = open_embedded(self.directory.path(), &self.instance, &self.clock).await.expect("opens");
            until_buried(&self.backend, &dead).await;
            return true;
        };
        server.kill();
        server.start_again();
        if how == Crash::OfEverything {
            self.reopen_servers().await;
        }
        false
    }

    async fn reopen_servers(&mut self) {
        let mut options = distributed_options(&self.servers[0].url());
        options.namespace.clone_from(&self.namespace);
        options.redis.dead_after = s(1 << 30);
        self.instance = instance("next");
        let clock = Some(self.clock.clone());
        if let Some(nats) = &self.nats {
            options.nats.servers = Secret::new(nats.url());
            self.backend = distributed::open(&options, &self.instance, clock).await.expect("opens");
            return;
        }
        let stores = redis::open(&options, &self.instance, clock).await.expect("opens");
        self.backend.ledger = stores.ledger;
    }

    /// Lets time go by for the stores, and for a broker that goes by a clock of its own.
    pub(crate) async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        if self.waits {
            tokio::time::sleep(time).await;
        }
    }
}

/// How to reach a Redis server at `url` from a quick process: it beats ten times a second and gives up after two.
pub(crate) fn distributed_options(url: &str) -> DistributedOptions {
    DistributedOptions {
        namespace: NAMESPACE.into(),
        nats: NatsOptions {
            servers: Secret::new("nats://127.0.0.1:1"),
            login: NatsLogin::None,
            certificates: Certificates::default(),
            replicas: 1,
            max_queue_bytes: 1 << 30,
            ack_wait: s(30),
            request_timeout: s(5),
        },
        redis: RedisOptions {
            url: Secret::new(url),
            user: None,
            password: None,
            certificates: Certificates::default(),
            connections: 3,
            request_timeout: s(2),
            beat: Duration::from_millis(100),
            dead_after: s(4),
        },
        require_durable: true,
    }
}

/// Opens the embedded stores in `directory`.
pub(crate) async fn open_embedded(
    directory: &Path,
    instance: &InstanceId,
    clock: &Clock,
) -> Result<Backend, BackendError> {
    embedded::open(directory, instance, Durability::Process, clock.clone()).await
}

/// An instance id that ends in `name` and was never used before in this test run.
pub(crate) fn instance(name: &str) -> InstanceId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    InstanceId::new(format!("i{}-{name}", NEXT.fetch_add(1, Ordering::Relaxed))).expect("valid")
}

/// A job id.
pub(crate) fn job(name: &str) -> JobId {
    JobId::new(name).expect("valid")
}

/// A task id.
pub(crate) fn task(name: &str) -> TaskId {
    TaskId::new(name).expect("valid")
}

/// An agent type.
pub(crate) fn agent(name: &str) -> AgentType {
    AgentType::new(name).expect("valid")
}

/// Micro-dollars.
pub(crate) const fn usd(micros: u64) -> MicroUsd {
    MicroUsd(micros)
}

/// Seconds.
pub(crate) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
