//! What the stores can carry: messages a second through a queue, time from publishing to pickup, appends, artifacts.
//!
//! Producer, workers and servers share this machine, as they do for the figures of other systems that these are compared
//! with. `cargo bench --bench queues -- embedded` or `-- distributed` measures one backend. Nothing here asserts a time.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark prints, and fails by panicking"
)]

#[path = "../tests/it/support/servers/nats.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod nats_server;
#[path = "../tests/it/support/servers/redis.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod redis_server;
#[path = "harness/options.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod options;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use codeswarm::backend::distributed;
use codeswarm::backend::embedded::{self, Durability};
use codeswarm::backend::{Backend, Disposition, Outgoing, Queue};
use codeswarm::clock::Clock;
use codeswarm::protocol::{AgentType, Event, InstanceId, JobId, Priority, TaskId};
use nats_server::NatsServer;
use options::options;
use redis_server::RedisServer;
use tokio::task::JoinSet;

/// Bytes of a message.
const BODY: usize = 1_024;

/// Slots that pull at once.
const SLOTS: usize = 50;

fn queues() -> Vec<Queue> {
    let agent = AgentType::new("coder").unwrap();
    Priority::ALL.into_iter().map(|priority| Queue::Task { agent: agent.clone(), priority }).collect()
}

fn message(queue: &Queue, number: usize) -> Outgoing {
    Outgoing { queue: queue.clone(), dedupe: number.to_string(), body: Bytes::from(vec![b'x'; BODY]) }
}

/// Processor time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    Duration::from_millis(10 * (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()))
}

fn show(name: &str, count: usize, started: Instant, cpu_before: Duration) {
    let (took, cpu) = (started.elapsed(), cpu() - cpu_before);
    let rate = count as f64 / took.as_secs_f64();
    println!("{name:<46} {rate:>9.0}/s   {:>6.1} µs CPU each", cpu.as_secs_f64() * 1e6 / count as f64);
}

/// Pulls and acknowledges `count` messages with `slots` slots, `max` at a time.
async fn drain(backend: &Backend, slots: usize, max: usize, count: usize) {
    let left = Arc::new(AtomicUsize::new(count));
    let mut workers = JoinSet::new();
    for _ in 0..slots {
        let (backend, left) = (backend.clone(), Arc::clone(&left));
        workers.spawn(async move {
            let (instance, queues) = (InstanceId::fresh("bench"), queues());
            while left.load(Ordering::Relaxed) > 0 {
                let got = backend.broker.pull(&instance, &queues, max, Duration::from_millis(200)).await.unwrap();
                left.fetch_sub(got.len(), Ordering::Relaxed);
                let acks = got.into_iter().map(|delivery| (delivery.tag, Disposition::Ack)).collect();
                backend.broker.dispose(acks).await.unwrap();
            }
        });
    }
    workers.join_all().await;
}

async fn publish(backend: &Backend, from: usize, count: usize) {
    let queue = &queues()[2];
    for chunk in (from..from + count).collect::<Vec<_>>().chunks(64) {
        backend.broker.publish(chunk.iter().map(|number| message(queue, *number)).collect()).await.unwrap();
    }
}

/// Time from publishing to pickup, at `rate` messages a second, with all slots free.
async fn pickup(backend: &Backend, from: usize, rate: u32, count: usize) {
    let started = Instant::now();
    let (told, mut times) = tokio::sync::mpsc::unbounded_channel();
    let mut workers = JoinSet::new();
    for _ in 0..SLOTS {
        let (backend, told) = (backend.clone(), told.clone());
        workers.spawn(async move {
            let (instance, queues) = (InstanceId::fresh("bench"), queues());
            loop {
                let got = backend.broker.pull(&instance, &queues, 1, Duration::from_secs(30)).await.unwrap();
                for delivery in got {
                    let sent = u64::from_le_bytes(delivery.body[..8].try_into().unwrap());
                    let now = u64::try_from(started.elapsed().as_nanos()).unwrap();
                    let _ = told.send(Duration::from_nanos(now - sent));
                    backend.broker.dispose(vec![(delivery.tag, Disposition::Ack)]).await.unwrap();
                }
            }
        });
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    let (queue, before) = (queues().remove(2), cpu());
    for number in from..from + count {
        ticks.tick().await;
        let mut outgoing = message(&queue, number);
        let mut body = vec![0; BODY];
        body[..8].copy_from_slice(&u64::try_from(started.elapsed().as_nanos()).unwrap().to_le_bytes());
        outgoing.body = body.into();
        let backend = backend.clone();
        tokio::spawn(async move { backend.broker.publish(vec![outgoing]).await.unwrap() });
    }
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        all.push(times.recv().await.unwrap());
    }
    let spent = cpu() - before;
    workers.abort_all();
    all.sort();
    let at = |percent: usize| all[(all.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    println!(
        "pickup at {rate}/s, {SLOTS} slots{:<19} p50 {:.2} ms  p99 {:.2} ms  max {:.2} ms  {:.0} µs CPU each",
        "",
        at(50),
        at(99),
        at(100),
        spent.as_secs_f64() * 1e6 / count as f64
    );
}

async fn measure(backend: &Backend) {
    publish(backend, 0, 2_000).await;
    drain(backend, SLOTS, 1, 2_000).await;
    let count = 40_000;
    let (started, before) = (Instant::now(), cpu());
    publish(backend, 10_000, count).await;
    show("publish, 64 at a time", count, started, before);
    let (started, before) = (Instant::now(), cpu());
    drain(backend, SLOTS, 1, count).await;
    show("pull one + ack, 50 slots, from a backlog", count, started, before);
    let (started, before) = (Instant::now(), cpu());
    tokio::join!(publish(backend, 100_000, count), drain(backend, SLOTS, 1, count));
    show("publish + pull one + ack, 50 slots", count, started, before);
    let (started, before) = (Instant::now(), cpu());
    tokio::join!(publish(backend, 200_000, count), drain(backend, 1, 256, count));
    show("publish + pull 256 + ack, one puller", count, started, before);
    let (started, before) = (Instant::now(), cpu());
    tokio::join!(publish(backend, 300_000, 5_000), drain(backend, 1, 1, 5_000));
    show("publish + pull one + ack, one slot", 5_000, started, before);
    pickup(backend, 400_000, 200, 2_000).await;
    pickup(backend, 500_000, 1_000, 5_000).await;
    let job = JobId::fresh();
    let (started, before) = (Instant::now(), cpu());
    for seq in 0..2_000 {
        let event = Event::TaskDispatched { task: TaskId::plan(), attempt: 1 };
        backend.events.append(&job, seq, vec![event]).await.unwrap();
    }
    show("append, one at a time", 2_000, started, before);
    let (started, before) = (Instant::now(), cpu());
    let mut read = 0;
    while read < 2_000 {
        read += backend.events.read(&job, read, 500).await.unwrap().len() as u64;
    }
    show("read, 500 at a time", 2_000, started, before);
    let content = |number: usize| Bytes::from(format!("{number:08}").repeat(512));
    let mut kept = Vec::new();
    let (started, before) = (Instant::now(), cpu());
    for number in 0..2_000 {
        kept.push(backend.artifacts.put(content(number)).await.unwrap());
    }
    show("put 4 KiB, one at a time", 2_000, started, before);
    let (started, before) = (Instant::now(), cpu());
    for artifact in &kept {
        backend.artifacts.get(artifact).await.unwrap();
    }
    show("get 4 KiB, one at a time", 2_000, started, before);
}

#[tokio::main]
async fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
    let instance = InstanceId::fresh("bench");
    if is_wanted("embedded") {
        println!("embedded");
        let directory = tempfile::tempdir().unwrap();
        let opened = embedded::open(directory.path(), &instance, Durability::Full, Clock::system()).await;
        measure(&opened.unwrap()).await;
    }
    if is_wanted("distributed") {
        println!("distributed");
        let (nats, redis) = (NatsServer::start(), RedisServer::start());
        measure(&distributed::open(&options("bench", &nats.url(), &redis.url()), &instance, None).await.unwrap()).await;
    }
}
