//! A coordinator and workers on servers, wired as the programs wire them, as tasks of this process.
//!
//! Each has stores of its own, that is connections, a puller and a presence of its own, as if it were a process of its own.
//! Only two things differ from the programs: the provider answers from memory, and the end of a job is noticed by looking
//! over the shoulder of the coordinator's log, which costs the servers nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use codeswarm::agent::{ContextLimits, RoleBook};
use codeswarm::backend::{Backend, BackendError, EventLog, GatePolicy, JobEntry, Limits};
use codeswarm::budget::{PriceTable, Treasurer};
use codeswarm::coordinator::{Coordinator, CoordinatorOptions, Estimator, Lead, Submission, Thrift, submit};
use codeswarm::job::{Job, JobStatus};
use codeswarm::llm::{Guards, Metered, Provider};
use codeswarm::protocol::{
    AgentType, Event, InstanceId, JobId, JobOutcome, JobSettings, MicroUsd, Origin, RecordedEvent,
};
use codeswarm::resilience::{AimdPolicy, Breaker, Bulkhead, FleetRates, RetryPolicy};
use codeswarm::worker::{Executor, Worker, WorkerOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Work};
use crate::noop::MODEL;

/// Slots of a worker process; more slots are more processes.
const SLOTS_OF_A_PROCESS: u32 = 50;

/// A running fleet.
pub(crate) struct Swarm {
    /// Stores of the one who hands jobs in.
    pub(crate) client: Backend,
    pub(crate) instance: InstanceId,
    /// Worker processes.
    pub(crate) processes: u32,
    ends: mpsc::UnboundedReceiver<JobId>,
    stop: CancellationToken,
    parts: Vec<JoinHandle<()>>,
}

/// What came of a round of jobs.
pub(crate) struct Round {
    pub(crate) took: Duration,
    /// From the first submission to the end of the first job.
    pub(crate) first: Duration,
    pub(crate) work: Work,
}

impl Swarm {
    /// Starts a coordinator, and workers of these `types` with `slots` slots in all, on the servers of `cluster`.
    pub(crate) async fn start(cluster: &Cluster, provider: Arc<dyn Provider>, slots: u32, types: &[AgentType]) -> Self {
        let prices = Arc::new(PriceTable::builtin().expect("prices"));
        let roles = RoleBook::builtin(MODEL);
        let (stop, mut parts) = (CancellationToken::new(), Vec::new());
        let processes = slots.div_ceil(SLOTS_OF_A_PROCESS);
        for number in 0..processes {
            let (backend, instance) = cluster.open("worker").await;
            let slots = slots / processes + u32::from(number < slots % processes);
            let options = WorkerOptions { instance, agents: types.to_vec(), slots, drain: Duration::from_secs(10) };
            let executor = executor(&backend, Arc::clone(&provider), &prices, &roles, slots);
            let worker = Worker::new(backend, options, executor);
            worker.announce().await.expect("announced");
            let stop = stop.clone();
            parts.push(tokio::spawn(async move { worker.run(stop).await.expect("a worker that drains") }));
        }
        let (backend, instance) = cluster.open("coordinator").await;
        let (ended, ends) = mpsc::unbounded_channel();
        let events = Arc::new(Watched { log: Arc::clone(&backend.events), ended });
        let options = options(instance, Arc::new(Estimator::new(prices, roles)));
        let coordinator = Coordinator::elect(Backend { events, ..backend }, options).await.expect("the lead");
        let stop_leading = stop.clone();
        parts.push(tokio::spawn(async move { coordinator.run(stop_leading).await.expect("an orderly end") }));
        let (client, instance) = cluster.open("client").await;
        Self { client, instance, processes, ends, stop, parts }
    }

    /// Hands `jobs` jobs in at once and waits until all have ended.
    pub(crate) async fn run(&mut self, cluster: &Cluster, jobs: usize) -> Round {
        let before = cluster.work();
        let started = Instant::now();
        // Ids of one millisecond may be alike, and a hundred are made in less.
        let mut ids = BTreeSet::new();
        while ids.len() < jobs {
            ids.insert(JobId::fresh());
        }
        let submitted = ids.iter().map(|id| submit(&self.client, &self.instance, submission(id)));
        futures_util::future::try_join_all(submitted).await.expect("submitted");
        let mut first = None;
        for _ in 0..jobs {
            self.ends.recv().await.expect("a coordinator");
            first.get_or_insert_with(|| started.elapsed());
        }
        let took = started.elapsed();
        let work = cluster.work() - before;
        for id in &ids {
            let job = self.folded(id).await;
            assert_eq!(job.status(), JobStatus::Ended(JobOutcome::Completed), "{:?}", job.end());
        }
        Round { took, first: first.unwrap_or_default(), work }
    }

    async fn folded(&self, id: &JobId) -> Job {
        let (mut job, mut seq) = (Job::new(id.clone()), 0);
        loop {
            let page = self.client.events.read(id, seq, 10_000).await.expect("events");
            let Some(last) = page.last() else { return job };
            seq = last.seq;
            page.iter().for_each(|recorded| job.apply(&recorded.event, recorded.at).expect("a log that folds"));
        }
    }

    /// Ends everybody.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        for part in self.parts {
            part.await.expect("no panic");
        }
    }
}

/// A log whose ends are told.
struct Watched {
    log: Arc<dyn EventLog>,
    ended: mpsc::UnboundedSender<JobId>,
}

#[async_trait]
impl EventLog for Watched {
    async fn append(&self, job: &JobId, expected: u64, events: Vec<Event>) -> Result<u64, BackendError> {
        let is_end = events.iter().any(|event| matches!(event, Event::JobEnded { .. }));
        let seq = self.log.append(job, expected, events).await?;
        if is_end {
            let _ = self.ended.send(job.clone());
        }
        Ok(seq)
    }

    async fn read(&self, job: &JobId, after: u64, limit: usize) -> Result<Vec<RecordedEvent>, BackendError> {
        self.log.read(job, after, limit).await
    }

    async fn wait(&self, job: &JobId, after: u64, wait: Duration) -> Result<bool, BackendError> {
        self.log.wait(job, after, wait).await
    }

    async fn jobs(&self) -> Result<Vec<JobEntry>, BackendError> {
        self.log.jobs().await
    }
}

fn executor(
    backend: &Backend,
    provider: Arc<dyn Provider>,
    prices: &Arc<PriceTable>,
    roles: &RoleBook,
    slots: u32,
) -> Executor {
    let seconds = Duration::from_secs;
    let treasurer = Treasurer::new(Arc::clone(&backend.ledger), Arc::clone(prices)).going_by(backend.clock.clone());
    let gate = GatePolicy {
        consecutive: 10,
        ratio_percent: 60,
        least_calls: 20,
        window: seconds(60),
        open: seconds(15),
        longest_open: seconds(240),
        trials: 2,
        trial_lease: seconds(660),
    };
    let limits = Limits { per_window: [None; 3], window: seconds(60), burst_percent: 100, sliding: false };
    let guards = Guards::new(
        "bench",
        Breaker::new(Arc::clone(&backend.rates), gate),
        FleetRates::new(Arc::clone(&backend.rates), limits),
        AimdPolicy { start: slots, max: 250, slowdown: 4 },
        Bulkhead { share_percent: 50 },
        seconds(60),
    );
    let metered = Metered::new(provider, treasurer, RetryPolicy::default(), seconds(600)).behind(guards);
    let limits = ContextLimits { max_bytes: 400_000, max_file_bytes: 1 << 20 };
    Executor::new(backend, metered, roles.clone(), limits)
}

fn options(instance: InstanceId, estimator: Arc<Estimator>) -> CoordinatorOptions {
    CoordinatorOptions {
        instance,
        lead: Lead::All,
        prefetch_percent: 10,
        retry: RetryPolicy::default(),
        longest_parking: Duration::from_secs(3_600),
        thrift: Thrift {
            warn_percent: 80,
            cheaper_model: None,
            drop_optional_percent: None,
            pause_percent: None,
            slices: true,
        },
        estimator,
    }
}

fn submission(id: &JobId) -> Submission {
    Submission {
        job: id.clone(),
        name: "bench".into(),
        proposal: "A job made up to be measured.".into(),
        budget: MicroUsd(10_000_000_000),
        free_tokens: None,
        origin: Origin::Live,
        settings: JobSettings {
            output: String::new(),
            git: false,
            approval: false,
            features: (1, 10_000),
            tasks_per_feature: (1, 10_000),
            max_attempts: 3,
            hold_back_percent: 0,
        },
    }
}
