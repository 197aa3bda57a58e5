//! Messages that kill their workers, workers whose stores fail, and work that would starve: one process, real stores.
//!
//! What would take three dead processes or a broken disk is put in place by hand; what follows from it is the real thing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use codeswarm::backend::{
    Backend, BackendError, Broker, DeadLetter, Delivery, DeliveryTag, Depth, Disposition, Expected, Outgoing, Queue,
    Signal, Write,
};
use codeswarm::error::Coded;
use codeswarm::fleet::{Stop, work};
use codeswarm::protocol::{
    AgentType, Envelope, FailureKind, InstanceId, JobId, Priority, TaskId, TaskMessage, TaskOutcome, TaskResult,
    validate,
};
use tokio::sync::broadcast;
use tokio::time::timeout;

use crate::redelivery::Bench;
use crate::support::stores::SOON;

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_killed_three_workers_is_lost_and_its_message_a_dead_letter() {
    let bench = Bench::new().await;
    let job = bench.submit().await;
    bench.dispatch_only(&job).await;
    let record = br#"{"worker":"gone","claims":3,"lease_until":0}"#;
    let key = format!("attempt/{job}/plan/1");
    let write = Write { key, expected: Expected::Absent, value: Some(Bytes::from_static(record)) };
    bench.backend.state.commit(&bench.instance, vec![write]).await.unwrap();

    let stop = Stop::default();
    let parts = bench.parts().await;
    let agents = parts.agents();
    let worker = InstanceId::new("worker").unwrap();
    let working = work(&bench.backend, parts, worker, agents, 1, Duration::ZERO, stop.clone());
    let reading = async {
        let result = bench.read_elsewhere().await;
        stop.gently.cancel();
        result
    };
    let (worked, result) = tokio::join!(working, reading);
    worked.unwrap();
    let TaskOutcome::Failed { failure } = result.outcome else { panic!("{result:?}") };
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (FailureKind::Lost, "3 processes died while working on this task")
    );
    let letters = bench.backend.broker.dead_letters(0, 10).await.unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0].dedupe, format!("{job}:plan:1"));
    assert_eq!(letters[0].reason, failure.message);
    assert_eq!(bench.server.bill().calls_of("plan"), 0, "nobody called again");
}

/// Task messages of one agent type that no worker can do anything about: what they name does not exist.
fn message(job: &JobId, priority: Priority, number: usize) -> Outgoing {
    let sample = include_str!("../golden/v1/envelope-file.json");
    let mut envelope: Envelope<TaskMessage> = serde_json::from_str(sample).unwrap();
    envelope.expires_at = None;
    let task = &mut envelope.payload;
    task.job = job.clone();
    task.task = TaskId::new(format!("file/{}/t{number}", priority.as_str())).unwrap();
    task.agent = AgentType::new("docs").unwrap();
    task.priority = priority;
    let queue = Queue::Task { agent: task.agent.clone(), priority };
    let dedupe = format!("{}:{}", job, task.task);
    Outgoing { queue, dedupe, body: Bytes::from(serde_json::to_vec(&envelope).unwrap()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn low_work_is_served_while_urgent_work_never_ends() {
    let bench = Bench::new().await;
    let job = JobId::new("crowd").unwrap();
    let mut messages: Vec<Outgoing> = (0..96).map(|n| message(&job, Priority::Critical, n)).collect();
    messages.extend((0..6).map(|n| message(&job, Priority::Low, n)));
    let total = messages.len();
    bench.backend.broker.publish(messages).await.unwrap();

    let stop = Stop::default();
    let parts = bench.parts().await;
    let agents = vec![AgentType::new("docs").unwrap()];
    let worker = InstanceId::new("worker").unwrap();
    let working = work(&bench.backend, parts, worker, agents, 1, SOON, stop.clone());
    let reading = async {
        let served = results(&bench.backend, total).await;
        stop.gently.cancel();
        served
    };
    let (worked, served) = timeout(SOON, async { tokio::join!(working, reading) }).await.expect("all are served");
    worked.unwrap();
    let low: Vec<usize> =
        served.iter().enumerate().filter(|(_, task)| task.contains("/low/")).map(|(at, _)| at).collect();
    assert_eq!(low.len(), 6);
    for (nth, at) in low.iter().enumerate() {
        assert!((nth * 16..(nth + 1) * 16).contains(at), "one of every sixteen: {low:?}");
    }
}

/// Tasks in the order in which they were reported.
async fn results(backend: &Backend, total: usize) -> Vec<String> {
    let reader = InstanceId::new("reader").unwrap();
    let mut served = Vec::new();
    while served.len() < total {
        let pulled = backend.broker.pull(&reader, &[Queue::Result { shard: 0 }], 64, SOON).await.unwrap();
        for delivery in pulled {
            let result = validate::decode_envelope::<TaskResult>(&delivery.body, backend.clock.now()).unwrap().payload;
            served.push(result.task.to_string());
            backend.broker.dispose(vec![(delivery.tag, Disposition::Ack)]).await.unwrap();
        }
    }
    served
}

/// A broker that has lost its disk.
struct Lost(Arc<dyn Broker>);

#[async_trait]
impl Broker for Lost {
    async fn publish(&self, messages: Vec<Outgoing>) -> Result<(), BackendError> {
        self.0.publish(messages).await
    }

    async fn pull(&self, _: &InstanceId, _: &[Queue], _: usize, _: Duration) -> Result<Vec<Delivery>, BackendError> {
        Err(BackendError::Storage { what: "the disk".into(), reason: "it is gone".into() })
    }

    async fn dispose(&self, deliveries: Vec<(DeliveryTag, Disposition)>) -> Result<(), BackendError> {
        self.0.dispose(deliveries).await
    }

    async fn depth(&self, queue: &Queue) -> Result<Depth, BackendError> {
        self.0.depth(queue).await
    }

    async fn dead_letters(&self, after: u64, limit: usize) -> Result<Vec<DeadLetter>, BackendError> {
        self.0.dead_letters(after, limit).await
    }

    async fn dead_letter(&self, letters: Vec<(Outgoing, String)>) -> Result<(), BackendError> {
        self.0.dead_letter(letters).await
    }

    async fn purge_dead_letters(&self, ids: &[u64]) -> Result<u64, BackendError> {
        self.0.purge_dead_letters(ids).await
    }

    async fn signal(&self, signal: Signal) -> Result<(), BackendError> {
        self.0.signal(signal).await
    }

    fn signals(&self) -> broadcast::Receiver<Signal> {
        self.0.signals()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_loop_dies_ends_instead_of_lingering() {
    let mut bench = Bench::new().await;
    bench.backend.broker = Arc::new(Lost(Arc::clone(&bench.backend.broker)));
    let parts = bench.parts().await;
    let (agents, worker) = (parts.agents(), InstanceId::new("worker").unwrap());
    let working = work(&bench.backend, parts, worker, agents, 4, SOON, Stop::default());
    let error = timeout(SOON, working).await.expect("it ends by itself").unwrap_err();
    assert_eq!(error.code(), "CS-STORE-008", "{error}");
}
