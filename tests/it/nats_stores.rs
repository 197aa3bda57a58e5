//! What only a NATS deployment promises: several processes, other NATS programs beside ours, bodies beyond a message.
//!
//! The traits' own promises stand in `conformance/`; here is what they do not speak of, or what needs more than one process
//! on the same servers.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use bytes::Bytes;
use codeswarm::backend::{Backend, BackendError, Disposition, Outgoing, Queue};
use codeswarm::protocol::{Event, Priority, TaskId};
use futures_util::StreamExt;
use tokio::io::AsyncReadExt;

use crate::nats_faults::Servers;
use crate::support::servers::nats::NatsServer;
use crate::support::stores::{SOON, agent, instance, job, s};

fn start() -> Servers {
    Servers::with(NatsServer::start())
}

fn queue(priority: Priority) -> Queue {
    Queue::Task { agent: agent("coder"), priority }
}

fn message(id: &str) -> Outgoing {
    Outgoing { queue: queue(Priority::Normal), dedupe: id.into(), body: Bytes::from(id.to_owned()) }
}

fn dispatched(attempt: u32) -> Event {
    Event::TaskDispatched { task: TaskId::plan(), attempt }
}

async fn jetstream(servers: &Servers) -> jetstream::Context {
    jetstream::new(async_nats::connect(servers.nats.url()).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_objects_that_any_nats_client_can_read() {
    let servers = start();
    let backend = servers.open().await;
    let store = jetstream(&servers).await.get_object_store("TEST_ARTIFACTS").await.unwrap();
    for size in [0, 1, 100_000, 131_072, 131_073, 3_000_000] {
        let content: Bytes = (0..=250_u8).cycle().take(size).collect();
        let artifact = backend.artifacts.put(content.clone()).await.unwrap();
        let mut object = store.get(&artifact.sha256).await.unwrap();
        let mut read = Vec::new();
        object.read_to_end(&mut read).await.unwrap();
        assert!(read == content, "{size} bytes");
        assert_eq!(store.info(&artifact.sha256).await.unwrap().size, size);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_was_deleted_or_damaged_is_never_handed_out_and_can_be_put_again() {
    let servers = start();
    let backend = servers.open().await;
    let jetstream = jetstream(&servers).await;
    let store = jetstream.get_object_store("TEST_ARTIFACTS").await.unwrap();
    for size in [10_usize, 300_000] {
        let content = Bytes::from(vec![7; size]);
        let artifact = backend.artifacts.put(content.clone()).await.unwrap();
        store.delete(&artifact.sha256).await.unwrap();
        let outcome = backend.artifacts.get(&artifact).await;
        assert!(matches!(outcome, Err(BackendError::NotFound { .. })), "{outcome:?}");
        assert_eq!(backend.artifacts.put(content.clone()).await.unwrap(), artifact);
        assert!(backend.artifacts.get(&artifact).await.unwrap() == content);
        let mut read = Vec::new();
        store.get(&artifact.sha256).await.unwrap().read_to_end(&mut read).await.unwrap();
        assert!(read == content);
    }
    let artifact = backend.artifacts.put(Bytes::from_static(b"right")).await.unwrap();
    let subject = format!("$O.TEST_ARTIFACTS.C.{}", artifact.sha256);
    jetstream.publish(subject, "wrong".into()).await.unwrap().await.unwrap();
    let outcome = backend.artifacts.get(&artifact).await;
    assert!(matches!(outcome, Err(BackendError::Corrupt { .. })), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_a_message_survives_a_retry_and_the_dead_letters() {
    let servers = start();
    let (one, other) = (servers.open().await, servers.open().await);
    let large = Outgoing { body: Bytes::from(vec![b'x'; 3_000_000]), ..message("large") };
    one.broker.publish(vec![message("before"), large.clone(), message("after")]).await.unwrap();
    let queues = [queue(Priority::Normal)];
    let got = other.broker.pull(&instance("w"), &queues, 9, SOON).await.unwrap();
    assert_eq!(got.iter().map(|one| one.body.len()).collect::<Vec<_>>(), [6, 3_000_000, 5]);
    let retry = Disposition::RetryLater(Duration::from_millis(1));
    let done = [0, 2].map(|place| (got[place].tag.clone(), Disposition::Ack));
    other.broker.dispose(done.into_iter().chain([(got[1].tag.clone(), retry)]).collect()).await.unwrap();
    let again = one.broker.pull(&instance("w"), &queues, 9, SOON).await.unwrap();
    assert!(again.len() == 1 && again[0].body == large.body && again[0].deliveries == 2);
    one.broker.dispose(vec![(again[0].tag.clone(), Disposition::DeadLetter("too large".into()))]).await.unwrap();
    let letters = other.broker.dead_letters(0, 9).await.unwrap();
    assert!(letters[0].body == large.body && letters[0].dedupe == "large" && letters[0].reason == "too large");
    let many = vec![(Outgoing { dedupe: "other".into(), ..large.clone() }, "by hand\nof many lines".to_owned())];
    other.broker.dead_letter(many.clone()).await.unwrap();
    other.broker.dead_letter(many).await.unwrap();
    other.broker.dead_letter(vec![(large, "again".into())]).await.unwrap();
    let letters = one.broker.dead_letters(letters[0].id, 9).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.reason.as_str()).collect::<Vec<_>>(), ["by hand\nof many lines"]);
    assert_eq!(one.broker.purge_dead_letters(&[letters[0].id, letters[0].id + 100]).await.unwrap(), 1);
    assert_eq!(one.broker.dead_letters(0, 9).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_gives_up_another_gets() {
    let mut servers = start();
    servers.options.nats.ack_wait = s(20);
    let (one, other) = (servers.open().await, servers.open().await);
    let queues = [queue(Priority::High), queue(Priority::Normal)];
    // A pull that is gone leaves a question behind, whose answer comes for nobody.
    let waiting = tokio::spawn({
        let (one, queues) = (one.clone(), queues.clone());
        async move { one.broker.pull(&instance("w"), &queues, 1, SOON).await }
    });
    tokio::time::timeout(Duration::from_millis(50), async { std::future::pending::<()>().await }).await.unwrap_err();
    waiting.abort();
    let started = Instant::now();
    one.broker.publish(vec![message("a")]).await.unwrap();
    let got = other.broker.pull(&instance("w"), &queues, 1, SOON).await.unwrap();
    assert_eq!(got[0].body, "a");
    assert!(started.elapsed() < s(2), "{:?}: it lay with the first process", started.elapsed());
    // A process that ends in order gives back what lies with it; what it holds comes when its lease ends.
    drop(one);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_is_out_before_the_process_can_end() {
    let servers = start();
    let backend = servers.open().await;
    let options = servers.options.clone();
    for round in 0..10 {
        let id = format!("m{round}");
        backend.broker.publish(vec![message(&id)]).await.unwrap();
        let options = options.clone();
        // A runtime of its own that is torn down at once, which is as near to a sudden exit as a test can come.
        let brief = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let brief = codeswarm::backend::distributed::open(&options, &instance("brief"), None).await.unwrap();
                let got = brief.broker.pull(&instance("w"), &[queue(Priority::Normal)], 1, SOON).await.unwrap();
                brief.broker.dispose(vec![(got[0].tag.clone(), Disposition::Ack)]).await.unwrap();
                std::mem::forget(brief);
            });
            runtime.shutdown_background();
            String::new()
        });
        tokio::task::spawn_blocking(move || brief.join().unwrap()).await.unwrap();
    }
    let left = backend.broker.pull(&instance("w"), &[queue(Priority::Normal)], 9, s(2)).await.unwrap();
    assert!(left.is_empty(), "{} came again", left.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_slots_of_several_processes_share_queues_without_loss_or_repetition() {
    let servers = start();
    let queues: Vec<Queue> = Priority::ALL.into_iter().map(queue).collect();
    let (told, mut done) = tokio::sync::mpsc::unbounded_channel();
    let mut slots = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let backend = servers.open().await;
        for _ in 0..10 {
            let (backend, queues, told) = (backend.clone(), queues.clone(), told.clone());
            slots.spawn(async move {
                loop {
                    for delivery in backend.broker.pull(&instance("w"), &queues, 1, s(30)).await.unwrap() {
                        backend.broker.dispose(vec![(delivery.tag, Disposition::Ack)]).await.unwrap();
                        told.send(String::from_utf8_lossy(&delivery.body).into_owned()).unwrap();
                    }
                }
            });
        }
    }
    let backend = servers.open().await;
    let total = 2_000;
    for chunk in (0..total).collect::<Vec<u32>>().chunks(50) {
        let outgoing = |number: &u32| Outgoing {
            queue: queues[*number as usize % queues.len()].clone(),
            ..message(&number.to_string())
        };
        backend.broker.publish(chunk.iter().map(outgoing).collect()).await.unwrap();
    }
    let mut seen = std::collections::HashSet::new();
    while seen.len() < total as usize {
        let body = tokio::time::timeout(SOON, done.recv()).await.expect("in time").unwrap();
        assert!(seen.insert(body), "one came twice");
    }
    slots.abort_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_somebody_removed_is_made_anew() {
    let servers = start();
    let backend = servers.open().await;
    backend.broker.publish(vec![message("a")]).await.unwrap();
    let queues = [queue(Priority::Normal)];
    let got = backend.broker.pull(&instance("w"), &queues, 1, SOON).await.unwrap();
    backend.broker.dispose(vec![(got[0].tag.clone(), Disposition::Ack)]).await.unwrap();
    let stream = jetstream(&servers).await.get_stream("TEST_TASKS").await.unwrap();
    let waiting = tokio::spawn({
        let (backend, queues) = (backend.clone(), queues.clone());
        async move { backend.broker.pull(&instance("w"), &queues, 1, SOON).await.unwrap() }
    });
    while stream.consumer_info("coder-normal").await.unwrap().num_waiting == 0 {
        tokio::task::yield_now().await;
    }
    assert!(stream.delete_consumer("coder-normal").await.unwrap().success);
    backend.broker.publish(vec![message("b")]).await.unwrap();
    let got = tokio::time::timeout(SOON, waiting).await.expect("in time").unwrap();
    assert_eq!(got[0].body, "b");
}

async fn append(backend: &Backend, name: &str, expected: u64, count: u32) -> u64 {
    let events = (0..count).map(dispatched).collect();
    backend.events.append(&job(name), expected, events).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_learns_of_events_at_once_and_reads_them_from_where_it_was() {
    let servers = start();
    let (one, other) = (servers.open().await, servers.open().await);
    let mut last = 0;
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        let waiting = tokio::spawn({
            let other = other.clone();
            async move { other.events.wait(&job("j"), last, SOON).await.unwrap() }
        });
        tokio::time::timeout(Duration::from_millis(20), async { std::future::pending::<()>().await })
            .await
            .unwrap_err();
        let appended = Instant::now();
        let next = append(&one, "j", last, 1 + round % 3).await;
        assert!(waiting.await.unwrap());
        slowest = slowest.max(appended.elapsed());
        let read = other.events.read(&job("j"), last, 100).await.unwrap();
        assert!(read.iter().map(|event| event.seq).eq(last + 1..=next));
        last = next;
    }
    assert!(slowest < Duration::from_millis(400), "{slowest:?}");
    assert_eq!(append(&other, "j", last, 1).await, last + 1);
    let conflict = one.events.append(&job("j"), last, vec![dispatched(1)]).await;
    assert!(matches!(conflict, Err(BackendError::Conflict { actual, .. }) if actual == last + 1), "{conflict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_logs_are_read_page_by_page_and_large_appends_are_one() {
    let servers = start();
    let (one, other) = (servers.open().await, servers.open().await);
    let mut last = 0;
    for round in 0..300 {
        last = append(&one, "long", last, 1 + round % 120).await;
        append(&one, &format!("other-{round}"), 0, 1).await;
    }
    for (backend, page) in [(&one, 500), (&other, 777), (&other, 100_000), (&one, 7_001)] {
        let mut read = Vec::new();
        while (read.len() as u64) < last {
            let more = backend.events.read(&job("long"), read.len() as u64, page).await.unwrap();
            assert!(!more.is_empty() && more.len() <= page);
            read.extend(more.into_iter().map(|event| event.seq));
        }
        assert!(read.into_iter().eq(1..=last), "pages of {page}");
    }
    assert_eq!(one.events.jobs().await.unwrap().len(), 301);
    let reason = "x".repeat(30_000);
    let large: Vec<Event> =
        (0..100).map(|_| Event::TaskDead { task: TaskId::plan(), reason: reason.clone() }).collect();
    assert_eq!(one.events.append(&job("large"), 0, large.clone()).await.unwrap(), 100);
    let read: Vec<Event> =
        other.events.read(&job("large"), 0, 1_000).await.unwrap().into_iter().map(|one| one.event).collect();
    assert!(read == large);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_process_answers_as_a_micro_service_with_its_name_until_its_stores_are_dropped() {
    let servers = start();
    let backend = servers.open().await;
    let client = async_nats::connect(servers.nats.url()).await.unwrap();
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    client.publish_with_reply("$SRV.PING", inbox, Bytes::new()).await.unwrap();
    let answer = tokio::time::timeout(SOON, answers.next()).await.expect("in time").unwrap();
    let pong: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(pong["name"].as_str().unwrap().starts_with("codeswarm-i"), "{pong}");
    assert!(pong["metadata"]["instance"].as_str().unwrap().ends_with("-worker"), "{pong}");
    drop(backend);
    let started = Instant::now();
    // Nobody there to answer means that the connection is gone, and with it whatever ran in the background.
    while client.request("$SRV.PING", Bytes::new()).await.is_ok() {
        assert!(started.elapsed() < SOON);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_tells_what_it_is() {
    let servers = start();
    let facts = codeswarm::backend::nats::facts(&servers.options.nats, "test", &instance("doctor")).await.unwrap();
    assert_eq!(facts.address, format!("127.0.0.1:{}", servers.nats.port()));
    assert!(facts.version.starts_with("2.") && facts.max_payload == 1 << 20 && !facts.tls, "{facts:?}");
    assert!(facts.round_trip > Duration::ZERO && facts.round_trip < s(1), "{facts:?}");
    assert_eq!(facts.streams, 0, "asking creates nothing");
}
