//! NATS servers that fail, refuse or hold strange things: said at once, and nothing that was acknowledged is lost.
//!
//! Every case runs against real servers of its own, next to a Redis server for what NATS does not hold. What a plain
//! conformance case can state stands there; here is what needs a server to be killed, stopped or filled with garbage.

use std::time::{Duration, Instant};

use async_nats::jetstream::stream;
use bytes::Bytes;
use codeswarm::backend::distributed::{self, DistributedOptions};
use codeswarm::backend::{Backend, BackendError, Delivery, Disposition, Outgoing, Queue, Signal};
use codeswarm::config::Secret;
use codeswarm::error::Coded;
use codeswarm::protocol::{Event, Priority, TaskId};

use crate::support::servers::nats::NatsServer;
use crate::support::servers::redis::RedisServer;
use crate::support::stores::{SOON, agent, distributed_options, instance, job, s};

/// Servers of one test.
pub(crate) struct Servers {
    pub(crate) nats: NatsServer,
    _redis: RedisServer,
    pub(crate) options: DistributedOptions,
}

impl Servers {
    pub(crate) fn start() -> Self {
        Self::with(NatsServer::start())
    }

    /// With this NATS server. Deliveries last a second, requests may take two.
    pub(crate) fn with(nats: NatsServer) -> Self {
        let redis = RedisServer::start();
        let mut options = distributed_options(&redis.url());
        options.nats.servers = Secret::new(nats.url());
        (options.nats.ack_wait, options.nats.request_timeout) = (s(1), s(2));
        Self { nats, _redis: redis, options }
    }

    /// One more process.
    pub(crate) async fn open(&self) -> Backend {
        self.try_open().await.unwrap()
    }

    pub(crate) async fn try_open(&self) -> Result<Backend, BackendError> {
        distributed::open(&self.options, &instance("worker"), None).await
    }

    /// A client that is none of ours.
    pub(crate) async fn stranger(&self) -> async_nats::Client {
        async_nats::connect(self.nats.url()).await.unwrap()
    }
}

pub(crate) fn queue() -> Queue {
    Queue::Task { agent: agent("coder"), priority: Priority::Normal }
}

pub(crate) fn message(id: &str) -> Outgoing {
    Outgoing { queue: queue(), dedupe: id.into(), body: Bytes::from(format!("body of {id}")) }
}

pub(crate) async fn publish(backend: &Backend, ids: &[&str]) {
    backend.broker.publish(ids.iter().map(|id| message(id)).collect()).await.unwrap();
}

/// Publishes until it is known to have worked, as every caller does.
pub(crate) async fn publish_for_certain(backend: &Backend, id: &str) {
    while let Err(error) = backend.broker.publish(vec![message(id)]).await {
        assert!(error.retry().is_retryable(), "{error}");
    }
}

pub(crate) async fn pull(backend: &Backend, max: usize, wait: Duration) -> Vec<Delivery> {
    backend.broker.pull(&instance("consumer"), &[queue()], max, wait).await.unwrap()
}

/// Pulls until `count` messages have come, acknowledges them and answers their bodies in order of arrival.
pub(crate) async fn pull_all(backend: &Backend, count: usize) -> Vec<String> {
    let (mut bodies, started) = (Vec::new(), Instant::now());
    while bodies.len() < count {
        assert!(started.elapsed() < SOON, "only {bodies:?}");
        let pulled = match backend.broker.pull(&instance("consumer"), &[queue()], count, s(5)).await {
            Ok(pulled) => pulled,
            Err(error) if error.retry().is_retryable() => continue,
            Err(error) => panic!("{error}"),
        };
        for delivery in pulled {
            bodies.push(String::from_utf8_lossy(&delivery.body).replace("body of ", ""));
            backend.broker.dispose(vec![(delivery.tag, Disposition::Ack)]).await.unwrap();
        }
    }
    bodies
}

/// Nothing waits and nothing is in flight.
pub(crate) async fn assert_empty(backend: &Backend) {
    let started = Instant::now();
    loop {
        let depth = backend.broker.depth(&queue()).await.unwrap();
        if depth.waiting + depth.in_flight == 0 {
            return;
        }
        assert!(started.elapsed() < SOON, "{depth:?}");
        tokio::task::yield_now().await;
    }
}

fn assert_refused(error: &BackendError, parts: &[&str]) {
    assert!(matches!(error, BackendError::Refused { .. }), "{error:?}");
    let text = format!("{error}; {}", error.remedy());
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_took_with_it_when_it_was_killed_is_sent_again_at_once() {
    let mut servers = Servers::start();
    servers.options.nats.request_timeout = s(10);
    let backend = servers.open().await;
    let job = job("j");
    let paused = Event::JobPaused { reason: None };
    backend.events.append(&job, 0, vec![paused.clone()]).await.unwrap();
    publish(&backend, &["before"]).await;
    // A server that is stopped reads nothing, and what waits for it in its sockets dies with it.
    servers.nats.signal("STOP");
    let steps = {
        let (backend, job) = (backend.clone(), job.clone());
        tokio::spawn(async move {
            let appending = backend.events.append(&job, 1, vec![Event::JobResumed]);
            let publishing = backend.broker.publish(vec![message("meanwhile")]);
            let reading = backend.events.read(&job, 0, 1);
            tokio::join!(appending, publishing, reading)
        })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    servers.nats.kill();
    let started = Instant::now();
    servers.nats.start_again();
    let (appended, published, read) = steps.await.unwrap();
    assert_eq!(appended.unwrap(), 2);
    published.unwrap();
    assert_eq!(read.unwrap()[0].event, paused);
    assert!(started.elapsed() < s(8), "answered after {:?}, where a request may take ten", started.elapsed());
    assert_eq!(pull_all(&backend, 2).await, ["before", "meanwhile"]);
    assert_eq!(backend.events.read(&job, 0, 9).await.unwrap().len(), 2);
    assert_empty(&backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_that_wait_while_the_server_restarts_get_what_is_published_after_it() {
    let mut servers = Servers::start();
    let backend = servers.open().await;
    publish(&backend, &["first"]).await;
    assert_eq!(pull_all(&backend, 1).await, ["first"]);
    let waiting = tokio::spawn({
        let backend = backend.clone();
        async move { pull(&backend, 1, s(60)).await }
    });
    tokio::task::yield_now().await;
    servers.nats.kill();
    servers.nats.start_again();
    let back = Instant::now();
    publish_for_certain(&backend, "second").await;
    let got = tokio::time::timeout(SOON, waiting).await.expect("in time").unwrap();
    assert_eq!(got[0].body, "body of second");
    assert!(back.elapsed() < s(2), "{:?}", back.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing_that_was_published() {
    let mut servers = Servers::start();
    let backend = servers.open().await;
    publish(&backend, &["a", "b", "c", "d"]).await;
    let held = pull(&backend, 2, s(5)).await;
    backend.broker.dispose(vec![(held[0].tag.clone(), Disposition::Ack)]).await.unwrap();
    let seq = backend.events.append(&job("j"), 0, vec![dispatched(1), dispatched(2)]).await.unwrap();
    let artifact = backend.artifacts.put(Bytes::from_static(b"kept")).await.unwrap();
    servers.nats.restart();
    publish_for_certain(&backend, "c").await;
    // The newest acknowledgement may be lost with the server, so "a" may come again; what is still there may not be doubled.
    let mut bodies = pull_all(&backend, 3).await;
    while bodies.len() < 4 && ["b", "c", "d"].iter().any(|id| !bodies.iter().any(|body| body == id)) {
        bodies.extend(pull_all(&backend, 1).await);
    }
    bodies.sort();
    bodies.retain(|body| body != "a");
    assert_eq!(bodies, ["b", "c", "d"]);
    assert_empty(&backend).await;
    assert_eq!(backend.events.append(&job("j"), seq, vec![dispatched(3)]).await.unwrap(), 3);
    assert_eq!(backend.artifacts.get(&artifact).await.unwrap(), "kept");
}

pub(crate) fn dispatched(attempt: u32) -> Event {
    Event::TaskDispatched { task: TaskId::plan(), attempt }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_reported_in_time_and_goes_on_where_it_was() {
    let servers = Servers::start();
    let backend = servers.open().await;
    publish(&backend, &["a"]).await;
    servers.nats.signal("STOP");
    let started = Instant::now();
    let (consumer, queues, log) = (instance("consumer"), [queue()], job("j"));
    let outcomes = tokio::join!(
        backend.broker.publish(vec![message("b")]),
        backend.broker.pull(&consumer, &queues, 1, Duration::ZERO),
        backend.events.append(&log, 0, vec![dispatched(1)]),
        backend.artifacts.put(Bytes::from_static(b"x")),
        backend.broker.depth(&queues[0]),
    );
    assert!(started.elapsed() < s(5), "{:?}", started.elapsed());
    let errors = [
        outcomes.0.unwrap_err(),
        outcomes.1.unwrap_err(),
        outcomes.2.unwrap_err(),
        outcomes.3.unwrap_err(),
        outcomes.4.unwrap_err(),
    ];
    for error in &errors {
        assert!(matches!(error, BackendError::Unavailable { .. }) && error.retry().is_retryable(), "{error:?}");
        assert!(error.to_string().contains(&format!("127.0.0.1:{}", servers.nats.port())), "{error}");
    }
    servers.nats.signal("CONT");
    publish_for_certain(&backend, "b").await;
    let mut bodies = pull_all(&backend, 2).await;
    bodies.sort();
    assert_eq!(bodies, ["a", "b"]);
    assert_empty(&backend).await;
    // Whether the append happened is unknown, which its repetition finds out.
    let again = backend.events.append(&job("j"), 0, vec![dispatched(1)]).await;
    assert!(matches!(again, Ok(1) | Err(BackendError::Conflict { actual: 1, .. })), "{again:?}");
    assert_eq!(backend.events.read(&job("j"), 0, 9).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_used_is_refused_with_its_address_and_what_to_do() {
    let mut servers = Servers::with(NatsServer::without_jetstream());
    let address = format!("127.0.0.1:{}", servers.nats.port());
    let error = servers.try_open().await.err().unwrap();
    assert_refused(&error, &[&address, "JetStream is not enabled", "-js"]);

    servers.nats.kill();
    let error = servers.try_open().await.err().unwrap();
    assert!(matches!(error, BackendError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains(&address), "{error}");

    servers.options.nats.servers = Secret::new("nats://no-such-host.invalid:4222");
    let error = servers.try_open().await.err().unwrap();
    assert!(error.to_string().contains("no-such-host.invalid:4222"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_ours_is_named_and_left_as_it_is() {
    let servers = Servers::start();
    let stranger = async_nats::jetstream::new(servers.stranger().await);
    let theirs = stream::Config {
        name: "TEST_TASKS".into(),
        subjects: vec!["test.task.*.*".into()],
        retention: stream::RetentionPolicy::Limits,
        ..stream::Config::default()
    };
    let mut created = stranger.create_stream(theirs).await.unwrap();
    stranger.publish("test.task.a.b", "theirs".into()).await.unwrap().await.unwrap();
    let error = servers.try_open().await.err().unwrap();
    assert_refused(&error, &["TEST_TASKS", "retention", "Limits", "WorkQueue", "storage.namespace"]);
    assert_eq!(created.info().await.unwrap().state.messages, 1);

    stranger.delete_stream("TEST_TASKS").await.unwrap();
    let theirs = stream::Config { name: "THEIRS".into(), subjects: vec!["test.>".into()], ..stream::Config::default() };
    stranger.create_stream(theirs).await.unwrap();
    let error = servers.try_open().await.err().unwrap();
    assert_refused(&error, &["subjects", "THEIRS", "storage.namespace"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_adjusted_in_a_stream_or_consumer_is() {
    let mut servers = Servers::start();
    let backend = servers.open().await;
    publish(&backend, &["a"]).await;
    drop(backend);
    servers.options.nats.max_queue_bytes = 7 << 20;
    servers.options.nats.ack_wait = s(9);
    let backend = servers.open().await;
    publish(&backend, &["b"]).await;
    let stranger = async_nats::jetstream::new(servers.stranger().await);
    let mut tasks = stranger.get_stream("TEST_TASKS").await.unwrap();
    let info = tasks.info().await.unwrap();
    assert_eq!((info.config.max_bytes, info.state.messages), (7 << 20, 2));
    assert_eq!(info.config.retention, stream::RetentionPolicy::WorkQueue);
    let consumer = tasks.consumer_info("coder-normal").await.unwrap();
    assert_eq!(consumer.config.ack_wait, s(9));
    assert_eq!(consumer.config.description.as_deref(), Some("Tasks of priority normal for coder workers"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_namespaces_on_one_server_do_not_meet() {
    let mut servers = Servers::start();
    let one = servers.open().await;
    servers.options.namespace = "other".into();
    let other = servers.open().await;
    publish(&one, &["a"]).await;
    one.events.append(&job("j"), 0, vec![dispatched(1)]).await.unwrap();
    let artifact = one.artifacts.put(Bytes::from_static(b"one's")).await.unwrap();
    let mut signals = other.broker.signals();
    one.broker.signal(Signal::Freeze).await.unwrap();
    other.broker.signal(Signal::JobChanged { job: job("other") }).await.unwrap();
    assert_eq!(signals.recv().await.unwrap(), Signal::JobChanged { job: job("other") });
    assert!(pull(&other, 1, Duration::ZERO).await.is_empty());
    assert!(other.events.jobs().await.unwrap().is_empty());
    assert!(matches!(other.artifacts.get(&artifact).await, Err(BackendError::NotFound { .. })));
    assert_eq!(pull_all(&one, 1).await, ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_so_and_takes_messages_again_when_there_is_room() {
    let mut servers = Servers::start();
    servers.options.nats.max_queue_bytes = 1 << 20;
    let backend = servers.open().await;
    let large = |id: u32| Outgoing { queue: queue(), dedupe: id.to_string(), body: Bytes::from(vec![b'x'; 200_000]) };
    let (mut sent, mut refusal) = (0, None);
    while refusal.is_none() && sent < 20 {
        match backend.broker.publish(vec![large(sent)]).await {
            Ok(()) => sent += 1,
            Err(error) => refusal = Some(error),
        }
    }
    let refusal = refusal.expect("a limit");
    assert!(refusal.retry().is_retryable() && refusal.to_string().contains("nats.max_queue_bytes"), "{refusal}");
    pull_all(&backend, 1).await;
    let started = Instant::now();
    while backend.broker.publish(vec![large(sent)]).await.is_err() {
        assert!(started.elapsed() < SOON);
    }
    pull_all(&backend, sent as usize).await;
    assert_empty(&backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_goes_on_when_one_of_three_servers_dies_and_loses_nothing() {
    let [first, second, third] = NatsServer::cluster();
    let urls = [&first, &second, &third].map(NatsServer::url).join(",");
    let mut servers = Servers::with(first);
    servers.options.nats.servers = Secret::new(urls);
    servers.options.nats.replicas = 3;
    let started = Instant::now();
    let backend = loop {
        match servers.try_open().await {
            Ok(backend) => break backend,
            Err(error) => assert!(error.retry().is_retryable() && started.elapsed() < SOON * 2, "{error}"),
        }
    };
    let log = job("j");
    let (mut published, mut seq, mut kept) = (Vec::new(), 0, Vec::new());
    for round in 0..60_u32 {
        if round == 20 {
            servers.nats.kill();
        }
        if round == 40 {
            servers.nats.start_again();
        }
        let id = round.to_string();
        publish_for_certain(&backend, &id).await;
        published.push(id.clone());
        seq = match backend.events.append(&log, seq, vec![dispatched(round)]).await {
            Ok(last) => last,
            Err(BackendError::Conflict { actual, .. }) if actual == seq + 1 => actual,
            Err(error) => {
                assert!(error.retry().is_retryable(), "{error}");
                seq
            }
        };
        while let Err(error) = backend.artifacts.put(Bytes::from(id.clone())).await {
            assert!(error.retry().is_retryable(), "{error}");
        }
        kept.push(backend.artifacts.put(Bytes::from(id)).await);
    }
    let mut bodies = pull_all(&backend, published.len()).await;
    bodies.sort();
    published.sort();
    assert_eq!(bodies, published);
    let events = loop {
        match backend.events.read(&log, 0, 1_000).await {
            Ok(events) => break events,
            Err(error) => assert!(error.retry().is_retryable(), "{error}"),
        }
    };
    assert!(events.iter().map(|event| event.seq).eq(1..=events.len() as u64) && events.len() as u64 >= seq);
    for (round, artifact) in kept.into_iter().enumerate() {
        if let Ok(artifact) = artifact {
            assert_eq!(backend.artifacts.get(&artifact).await.unwrap(), round.to_string());
        }
    }
    drop((second, third));
}
