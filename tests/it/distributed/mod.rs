//! The fleet as it runs on many machines: real NATS and Redis servers, one process per coordinator and worker, one provider.
//!
//! Every process is started as a user would start it, with nothing but environment variables. The provider is our own
//! server in this process, so that its bill survives whatever happens to the fleet. What the stores hold is read through the
//! library's traits, on connections of the test's own.

mod chaos;
mod control;
mod example;
mod outage;
mod rebuild;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use codeswarm::backend::distributed;
use codeswarm::backend::open::distributed_options;
use codeswarm::backend::{Backend, Balance, Scope};
use codeswarm::config::{Environment, Layers};
use codeswarm::coordinator;
use codeswarm::llm::replay::{FakeOptions, FakeServer, Script};
use codeswarm::protocol::{Event, InstanceId, JobId, MicroUsd, RecordedEvent};
use tokio::runtime::Runtime;

use crate::support::servers::nats::NatsServer;
use crate::support::servers::redis::RedisServer;
use crate::support::{Books, Ended, PATIENCE, Running, Sandbox};

/// Servers, a provider, and what processes need to know about them.
pub(crate) struct Cluster {
    pub(crate) sandbox: Sandbox,
    pub(crate) nats: NatsServer,
    pub(crate) redis: RedisServer,
    pub(crate) runtime: Runtime,
    pub(crate) provider: Option<FakeServer>,
    settings: BTreeMap<String, String>,
}

impl Cluster {
    /// Starts the servers and a provider that answers `script`.
    pub(crate) fn start(script: Script, settings: &[(&str, &str)]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let provider = runtime.block_on(FakeServer::start(script, FakeOptions::default())).unwrap();
        let (nats, redis) = (NatsServer::start(), RedisServer::start());
        let own = [
            ("CODESWARM_BACKEND", "nats".to_owned()),
            ("NATS_URL", nats.url()),
            ("REDIS_URL", redis.url()),
            // What the servers flush is theirs to decide; a test cares about dead processes, not about power.
            ("CODESWARM_STORAGE_DURABILITY", "process".to_owned()),
            ("CODESWARM_JOB_BUDGET_USD", "500".to_owned()),
            ("CODESWARM_FLEET_CONCURRENCY", "4".to_owned()),
            ("CODESWARM_LLM_RETRY_FIRST_DELAY_MS", "20".to_owned()),
            ("CODESWARM_LLM_RETRY_LONGEST_DELAY_MS", "200".to_owned()),
            ("CODESWARM_JOB_RETRY_FIRST_DELAY_MS", "20".to_owned()),
            ("CODESWARM_JOB_RETRY_LONGEST_DELAY_MS", "200".to_owned()),
            ("ANTHROPIC_API_KEY", "sk-test".to_owned()),
            ("ANTHROPIC_BASE_URL", provider.base_url()),
        ];
        let mut all: BTreeMap<String, String> = own.into_iter().map(|(name, value)| (name.into(), value)).collect();
        all.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Self { sandbox: Sandbox::new(), nats, redis, runtime, provider: Some(provider), settings: all }
    }

    /// `program` of this package, set up for these servers.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let directory = Path::new(env!("CARGO_BIN_EXE_codeswarm")).parent().expect("a program lies in a directory");
        let mut command = self.sandbox.command(directory.join(program), arguments);
        command.envs(&self.settings);
        command
    }

    /// `codeswarm` with `arguments`, to its end.
    pub(crate) fn codeswarm(&self, arguments: &[&str]) -> Ended {
        Running::start(&mut self.command("codeswarm", arguments)).end()
    }

    /// A coordinator, once it says that it serves.
    pub(crate) fn coordinator(&self) -> Running {
        let mut running = Running::start(&mut self.command("codeswarm-coordinator", &["serve"]));
        assert!(running.wait_for(|line| line.contains("serving")).is_some(), "the coordinator does not serve");
        running
    }

    /// A worker of one type, once it says that it works.
    pub(crate) fn worker(&self, agent: &str) -> Running {
        self.worker_of(&format!("codeswarm-worker-{agent}"), &[])
    }

    /// A worker of all types.
    pub(crate) fn worker_of_all(&self) -> Running {
        self.worker_of("codeswarm-worker", &["--all"])
    }

    fn worker_of(&self, program: &str, arguments: &[&str]) -> Running {
        let mut running = Running::start(&mut self.command(program, arguments));
        assert!(running.wait_for(|line| line.contains("slots for")).is_some(), "{program} does not work");
        running
    }

    /// The stores, on connections of the test's own.
    pub(crate) fn backend(&self) -> Backend {
        let pairs = self.settings.iter();
        let environment = Environment::from_map(pairs.map(|(name, value)| (name.clone(), value.clone())).collect());
        let loaded = Layers { file: Some("/dev/null".into()), environment, flags: Vec::new() }.load().unwrap();
        let options = distributed_options(&loaded.settings, Path::new("")).unwrap();
        self.runtime.block_on(distributed::open(&options, &InstanceId::fresh("test"), None)).unwrap()
    }

    /// Hands a job in and answers its id.
    pub(crate) fn submit(&self, proposal: &Path, arguments: &[&str]) -> JobId {
        let path = proposal.display().to_string();
        let ended = self.codeswarm(&[&["submit", &path, "--yes", "--json"], arguments].concat()).expect_code(0);
        JobId::new(ended.json()["job"].as_str().expect("a job")).unwrap()
    }

    /// A proposal that says nothing in particular.
    pub(crate) fn proposal(&self) -> PathBuf {
        let path = self.sandbox.work().join("proposal.md");
        std::fs::write(&path, "# A made-up program\n\nWrite a few files that each define one constant.\n").unwrap();
        path
    }

    /// The provider's bill so far.
    pub(crate) fn billed(&self) -> (MicroUsd, u64, BTreeMap<Arc<str>, u64>) {
        let bill = self.provider.as_ref().expect("runs").bill();
        (bill.cost_micros, bill.calls, bill.calls_by_key())
    }

    pub(crate) fn log(&self, backend: &Backend, job: &JobId) -> Vec<RecordedEvent> {
        self.runtime.block_on(backend.events.read(job, 0, 100_000)).unwrap()
    }

    pub(crate) fn balance(&self, backend: &Backend, scope: &Scope) -> Balance {
        self.runtime.block_on(backend.ledger.balance(scope)).unwrap()
    }

    /// Waits until the job's log holds what `wanted` looks for, at most [`PATIENCE`].
    #[track_caller]
    pub(crate) fn wait_for<T>(
        &self,
        backend: &Backend,
        job: &JobId,
        mut wanted: impl FnMut(&[RecordedEvent]) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut log: Vec<RecordedEvent> = Vec::new();
        loop {
            let seq = log.last().map_or(0, |recorded| recorded.seq);
            // The servers may be away while we ask: that is part of some tests.
            if let Ok(more) = self.runtime.block_on(backend.events.read(job, seq, 10_000)) {
                log.extend(more);
            }
            if let Some(found) = wanted(&log) {
                return found;
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            assert!(
                !rest.is_zero(),
                "not seen after {PATIENCE:?}; the newest events: {:#?}",
                log.iter().rev().take(5).collect::<Vec<_>>()
            );
            let seq = log.last().map_or(0, |recorded| recorded.seq);
            let waited = self.runtime.block_on(backend.events.wait(job, seq, rest.min(Duration::from_secs(1))));
            if waited.is_err() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Waits until the job has ended and answers its last event.
    #[track_caller]
    pub(crate) fn wait_for_end(&self, backend: &Backend, job: &JobId) -> Event {
        // The last files may be committed after the end; whoever resumes the job takes the end back.
        let says = |recorded: &&RecordedEvent| {
            matches!(recorded.event, Event::JobEnded { .. } | Event::JobResumed | Event::TaskRevived { .. })
        };
        self.wait_for(backend, job, |log| {
            let last = log.iter().rev().find(says)?;
            matches!(last.event, Event::JobEnded { .. }).then(|| last.event.clone())
        })
    }

    /// Who leads now.
    pub(crate) fn leader(&self, backend: &Backend) -> Option<String> {
        self.runtime.block_on(coordinator::leader(backend)).ok().flatten()
    }

    /// Asks every process to stop; all must do so in good order.
    pub(crate) fn stop_all(processes: Vec<Running>) {
        for running in &processes {
            running.signal("TERM");
        }
        for running in processes {
            running.end().expect_code(0);
        }
    }

    /// Opened books over these servers' stores.
    pub(crate) fn books(&self) -> Books {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Books { backend: self.backend(), runtime }
    }
}
