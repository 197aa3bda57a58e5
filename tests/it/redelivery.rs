//! A result that a coordinator of another job has read is reported again once its own job is led again.
//!
//! Results of all jobs come through one queue, so whoever leads at the time reads and acknowledges them, also those it
//! can do nothing with; the claim keeps them. The parts are the real ones in one process; only the foreign coordinator
//! is played by the test, which acknowledges exactly as that one would and can therefore not be late or early.

use std::time::Duration;

use bytes::Bytes;
use codeswarm::backend::embedded::{self, Durability};
use codeswarm::backend::{Backend, Disposition, Expected, Queue, Write};
use codeswarm::clock::Clock;
use codeswarm::config::{Environment, Layers, Settings};
use codeswarm::coordinator::{Lead, Submission, submit};
use codeswarm::fleet::{LocalFleet, LocalOptions, Parts, Stop, work};
use codeswarm::job::{Job, JobStatus};
use codeswarm::llm::replay::{FakeOptions, FakeServer, Synthetic};
use codeswarm::protocol::{Event, InstanceId, JobId, JobOutcome, JobSettings, MicroUsd, Origin, TaskResult, validate};
use codeswarm::worker::{CARD_PREFIX, WorkerCard};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::stores::SOON;

/// One data directory, a fake provider, and settings that lead to it.
pub(crate) struct Bench {
    pub(crate) directory: TempDir,
    pub(crate) server: FakeServer,
    environment: Environment,
    settings: Settings,
    pub(crate) instance: InstanceId,
    pub(crate) backend: Backend,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let script = Synthetic::new(5, 2, 1).build().unwrap().script;
        let server = FakeServer::start(script, FakeOptions::default()).await.unwrap();
        let url = server.base_url();
        let environment = Environment::from_pairs([("ANTHROPIC_API_KEY", "test"), ("ANTHROPIC_BASE_URL", &url)]);
        let layers = Layers { file: Some("/dev/null".into()), environment: environment.clone(), flags: Vec::new() };
        let settings = layers.load().unwrap().settings;
        let instance = InstanceId::fresh("bench");
        let data = directory.path().join("data");
        let backend = embedded::open(&data, &instance, Durability::Process, Clock::system()).await.unwrap();
        Self { directory, server, environment, settings, instance, backend }
    }

    pub(crate) async fn parts(&self) -> Parts {
        Parts::assemble(&self.settings, &self.environment, None, self.directory.path()).await.unwrap()
    }

    pub(crate) async fn submit(&self) -> JobId {
        self.submit_to(self.directory.path().join("out").to_string_lossy().into_owned()).await
    }

    /// Hands the job in with an output directory, or none.
    pub(crate) async fn submit_to(&self, output: String) -> JobId {
        let settings = JobSettings {
            output,
            git: false,
            approval: false,
            features: (1, 100),
            tasks_per_feature: (1, 100),
            max_attempts: 3,
            hold_back_percent: 0,
        };
        let submission = Submission {
            job: JobId::fresh(),
            name: "job".into(),
            proposal: "A job that loses its coordinator.".into(),
            budget: MicroUsd(1_000_000_000),
            free_tokens: None,
            origin: Origin::Live,
            settings,
        };
        submit(&self.backend, &self.instance, submission).await.unwrap()
    }

    pub(crate) async fn fleet(&self, job: &JobId, slots: u32) -> LocalFleet {
        let lead = Lead::Only(job.clone());
        let options = LocalOptions { instance: self.instance.clone(), lead, slots, drain: SOON };
        LocalFleet::start(&self.backend, self.parts().await, &self.settings, options).await.unwrap()
    }

    /// Announces a worker of every type, or takes that back.
    async fn announce(&self, name: &str, slots: Option<u32>) {
        let agents = self.parts().await.agents();
        let since = self.backend.clock.now();
        let instance = InstanceId::new(name).unwrap();
        let card = slots.map(|slots| WorkerCard { instance, agents, slots, since });
        let value = card.map(|card| Bytes::from(serde_json::to_vec(&card).unwrap()));
        let write = Write { key: format!("{CARD_PREFIX}{name}"), expected: Expected::Any, value };
        self.backend.state.commit(&self.instance, vec![write]).await.unwrap();
    }

    pub(crate) async fn events(&self, job: &JobId) -> Vec<Event> {
        let recorded = self.backend.events.read(job, 0, 10_000).await.unwrap();
        recorded.into_iter().map(|recorded| recorded.event).collect()
    }

    /// A coordinator without workers dispatches the planning task to a worker that is announced, and is gone.
    pub(crate) async fn dispatch_only(&self, job: &JobId) {
        self.announce("absent", Some(1)).await;
        let fleet = self.fleet(job, 0).await;
        let dispatched = async {
            let mut seen = 0;
            while !self.events(job).await.iter().any(|event| matches!(event, Event::TaskDispatched { .. })) {
                self.backend.events.wait(job, seen, SOON).await.unwrap();
                seen = self.events(job).await.len() as u64;
            }
        };
        timeout(SOON, dispatched).await.expect("the planning task is dispatched");
        fleet.drain_handle().cancel();
        timeout(SOON, fleet.join()).await.expect("the coordinator stops").unwrap();
        self.announce("absent", None).await;
    }

    /// Reads the one result there is as a coordinator that leads another job does: acknowledged, and nothing else.
    pub(crate) async fn read_elsewhere(&self) -> TaskResult {
        let reader = InstanceId::new("elsewhere").unwrap();
        let queues = [Queue::Result { shard: 0 }];
        let mut pulled = self.backend.broker.pull(&reader, &queues, 2, SOON).await.unwrap();
        assert_eq!(pulled.len(), 1, "one attempt, one result");
        let delivery = pulled.remove(0);
        let envelope = validate::decode_envelope::<TaskResult>(&delivery.body, self.backend.clock.now()).unwrap();
        self.backend.broker.dispose(vec![(delivery.tag, Disposition::Ack)]).await.unwrap();
        envelope.payload
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_read_by_the_leader_of_another_job_is_reported_again_and_not_paid_again() {
    let bench = Bench::new().await;
    let job = bench.submit().await;
    bench.dispatch_only(&job).await;

    let stop = Stop::default();
    let parts = bench.parts().await;
    let (agents, worker) = (parts.agents(), InstanceId::new("worker").unwrap());
    let working = work(&bench.backend, parts, worker, agents, 1, Duration::ZERO, stop.clone());
    let reading = async {
        let result = bench.read_elsewhere().await;
        stop.gently.cancel();
        result
    };
    let (worked, lost) = tokio::join!(working, reading);
    worked.unwrap();
    assert_eq!((&lost.job, lost.task.as_str(), lost.attempt), (&job, "plan", 1));

    let fleet = bench.fleet(&job, 4).await;
    timeout(SOON, fleet.join()).await.expect("a lost result would be waited for for ever").unwrap();

    let mut folded = Job::new(job.clone());
    for recorded in bench.backend.events.read(&job, 0, 10_000).await.unwrap() {
        folded.apply(&recorded.event, recorded.at).unwrap();
    }
    assert_eq!(folded.status(), JobStatus::Ended(JobOutcome::Completed), "{:?}", folded.end());
    assert_eq!(bench.server.bill().calls_of("plan"), 1, "the stored result answers, not another call");
}
