//! How long a task waits for a free slot that is there: from publishing to the call being made ready.
//!
//! Tasks are published one by one at a steady rate, whatever becomes of them, to workers with more slots than they need. The
//! clock stops when the provider is asked to prepare the call: by then the message was stored, pulled and claimed, its
//! context read and its prompt built. So it is a little more than others call pickup.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use codeswarm::backend::{Adjustment, Outgoing, Queue, Scope};
use codeswarm::llm::replay::Synthetic;
use codeswarm::protocol::{
    AgentType, Envelope, JobId, MessageKind, MicroUsd, Priority, Recipient, TaskId, TaskKind, TaskMessage,
};

use crate::cluster::Cluster;
use crate::noop::NoOp;
use crate::swarm::Swarm;

/// Slots that wait.
const SLOTS: u32 = 50;

/// Percentiles of what was measured.
pub(crate) struct Pickup {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) longest: Duration,
    pub(crate) cpu_us: f64,
}

/// Publishes `count` tasks, `rate` a second.
pub(crate) async fn run(rate: u32, count: usize) -> Pickup {
    let cluster = Cluster::start();
    let job = Synthetic::new(1, count, 7).build().expect("a valid job");
    let asked = Arc::new(Mutex::new(HashMap::new()));
    let provider = NoOp::of(&job).noting(Arc::clone(&asked));
    let swarm = Swarm::start(&cluster, Arc::new(provider), SLOTS, &AgentType::builtin()).await;
    let id = JobId::fresh();
    let limit = Adjustment::SetLimit(Some(MicroUsd(10_000_000_000)));
    swarm.client.ledger.adjust("limit", &Scope::Job(id.clone()), limit).await.expect("a limit");
    let plan = serde_json::to_vec(&job.plan).expect("serialises");
    let plan = swarm.client.artifacts.put(plan.into()).await.expect("stored");
    let proposal = swarm.client.artifacts.put(Bytes::from_static(b"to be measured")).await.expect("stored");
    let template = TaskMessage {
        job: id.clone(),
        task: TaskId::plan(),
        attempt: 1,
        agent: AgentType::new("coder").expect("valid"),
        priority: Priority::Normal,
        kind: TaskKind::Plan { features: (1, 1), tasks: (1, 1) },
        proposal,
        plan: Some(plan),
        title: "Write a file".into(),
        instructions: "Define one constant.".into(),
        dependencies: Vec::new(),
        interfaces: Vec::new(),
        feedback: None,
        estimated_tokens: 100,
        model: None,
        failed_calls: 0,
    };
    let mut published = HashMap::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let before = cluster.work();
    for task in &job.tasks {
        ticks.tick().await;
        let kind = TaskKind::File { feature: task.feature.clone(), path: task.path.clone() };
        let name = TaskId::file(&task.feature, &task.id).expect("valid");
        published.insert(task.path.clone(), Instant::now());
        let broker = Arc::clone(&swarm.client.broker);
        let outgoing = outgoing(&swarm, TaskMessage { task: name, kind, ..template.clone() });
        tokio::spawn(async move { broker.publish(vec![outgoing]).await.expect("published") });
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while asked.lock().expect("unpoisoned").len() < count && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let work = cluster.work() - before;
    swarm.stop().await;
    let asked = asked.lock().expect("unpoisoned");
    // The first tasks also create the consumers and read the plan.
    let of = |path: &String| asked[path] - published[path];
    let mut times: Vec<Duration> = job.tasks.iter().skip(count / 10).map(|task| of(&task.path)).collect();
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let cpu: Duration = work.cpu.iter().sum();
    Pickup { p50: at(50), p99: at(99), longest: at(100), cpu_us: cpu.as_secs_f64() * 1e6 / count as f64 }
}

fn outgoing(swarm: &Swarm, message: TaskMessage) -> Outgoing {
    let queue = Queue::Task { agent: message.agent.clone(), priority: message.priority };
    let (dedupe, now) = (format!("{}:{}:1:0", message.job, message.task), swarm.client.clock.now());
    let (sender, to, job) = (swarm.instance.clone(), Recipient::Type(message.agent.clone()), message.job.to_string());
    let envelope = Envelope::new(MessageKind::Command, sender, to, job, now, message);
    Outgoing { queue, dedupe, body: serde_json::to_vec(&envelope).expect("serialises").into() }
}
