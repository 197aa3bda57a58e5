//! What the servers can do without us: the yardsticks of the same run on the same machine.
//!
//! JetStream carries a task and its result as two bare messages: published with their acknowledgements awaited, consumed in
//! batches, acknowledged. Redis runs the two scripts that no call can do without, its reservation and its settlement. Both
//! are given as much company as a fleet has, and nothing else to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer, stream};
use bytes::Bytes;
use codeswarm::backend::{Adjustment, Ledger, ReserveOutcome, ReserveRequest, Scope, Settlement, redis};
use codeswarm::protocol::{AgentType, FeatureId, InstanceId, JobId, MicroUsd, TaskId, Usage};
use futures_util::StreamExt;
use tokio::task::JoinSet;

use crate::cluster::Cluster;

/// Messages or callers at once.
const COMPANY: usize = 64;

/// Bytes of a message: as many as a task's.
const BODY: usize = 1_024;

/// Tasks a second that bare JetStream carries, at two messages each.
pub(crate) async fn jetstream(cluster: &Cluster, tasks: usize) -> f64 {
    let client = async_nats::connect(cluster.nats.url()).await.expect("connected");
    let context = jetstream::new(client);
    let retention = stream::RetentionPolicy::WorkQueue;
    let config = stream::Config {
        name: "RAW".into(),
        subjects: vec!["raw.*".into()],
        retention,
        duplicate_window: Duration::from_secs(120),
        ..stream::Config::default()
    };
    let stream = context.create_stream(config).await.expect("a stream");
    let config = consumer::pull::Config {
        durable_name: Some("raw".into()),
        max_ack_pending: 100_000,
        ..consumer::pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.expect("a consumer");
    let messages = tasks * 2;
    let started = Instant::now();
    let publishing = async {
        for first in (0..messages).step_by(COMPANY) {
            let mut acks = Vec::with_capacity(COMPANY);
            for number in first..messages.min(first + COMPANY) {
                let body = Bytes::from(vec![b'x'; BODY]);
                let message = async_nats::jetstream::message::PublishMessage::build();
                let message = message.payload(body).message_id(number.to_string());
                acks.push(context.send_publish("raw.task", message).await.expect("sent"));
            }
            for ack in acks {
                ack.await.expect("stored");
            }
        }
    };
    let consuming = async {
        let mut left = messages;
        while left > 0 {
            let mut batch = consumer.fetch().max_messages(COMPANY).messages().await.expect("a batch");
            while let Some(message) = batch.next().await {
                message.expect("a message").ack().await.expect("acknowledged");
                left -= 1;
            }
        }
    };
    tokio::join!(publishing, consuming);
    tasks as f64 / started.elapsed().as_secs_f64()
}

/// Tasks a second that bare Redis reserves and settles for, in the scopes of a real call.
pub(crate) async fn redis(cluster: &Cluster, tasks: usize) -> f64 {
    let instance = InstanceId::fresh("raw");
    let mut options = cluster.options();
    options.namespace = "raw".into();
    let stores = redis::open(&options, &instance, None).await.expect("stores");
    let (ledger, clock) = (stores.ledger, stores.clock);
    let (job, agent) = (JobId::fresh(), AgentType::new("coder").expect("valid"));
    let limit = Adjustment::SetLimit(Some(MicroUsd(1 << 50)));
    ledger.adjust("limit", &Scope::Job(job.clone()), limit).await.expect("a limit");
    let mut scopes = vec![Scope::Account];
    scopes.extend(Scope::windows(clock.now()));
    let feature = FeatureId::new("f0000").expect("valid");
    scopes.extend([
        Scope::Job(job.clone()),
        Scope::Agent(job.clone(), agent.clone()),
        Scope::Slice(job.clone(), feature),
    ]);
    let request = ReserveRequest {
        id: String::new(),
        scopes,
        amount: MicroUsd(1_000),
        tokens: 0,
        lease: Duration::from_secs(600),
        may_use_hold_back: false,
        instance,
        job,
        task: TaskId::plan(),
        agent,
        model: "claude-haiku-4-5".into(),
    };
    let next = Arc::new(AtomicUsize::new(0));
    let (mut callers, started) = (JoinSet::new(), Instant::now());
    for _ in 0..COMPANY {
        callers.spawn(pairs(Arc::clone(&ledger), request.clone(), Arc::clone(&next), tasks));
    }
    callers.join_all().await;
    tasks as f64 / started.elapsed().as_secs_f64()
}

async fn pairs(ledger: Arc<dyn Ledger>, request: ReserveRequest, next: Arc<AtomicUsize>, tasks: usize) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= tasks {
            return;
        }
        let id = format!("raw:{number}");
        let granted = ledger.reserve(ReserveRequest { id: id.clone(), ..request.clone() }).await.expect("an answer");
        assert_eq!(granted, ReserveOutcome::Granted);
        let settlement =
            Settlement { amount: MicroUsd(400), usage: Usage { input: 100, output: 20, ..Usage::default() } };
        ledger.settle(&id, settlement).await.expect("settled");
    }
}
