//! What only this room can see of its stores: the delays, on a real server.
//!
//! Everything else is stated for all backends in `tests/it/conformance/`, or seen from outside in `tests/it/redis_faults/`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "the integration tests use the rest")]
#[path = "../../../tests/it/support/servers/redis.rs"]
mod server;

use bytes::Bytes;

use self::server::RedisServer;
use super::super::delay::Delayed;
use super::super::nats::{NatsLogin, NatsOptions};
use super::*;
use crate::clock::Timestamp;

fn options(server: &RedisServer) -> DistributedOptions {
    DistributedOptions {
        namespace: "test".into(),
        nats: NatsOptions {
            servers: Secret::new(""),
            login: NatsLogin::None,
            certificates: Certificates::default(),
            replicas: 1,
            max_queue_bytes: 1,
            ack_wait: Duration::ZERO,
            request_timeout: Duration::ZERO,
        },
        redis: RedisOptions {
            url: Secret::new(server.url()),
            user: None,
            password: None,
            certificates: Certificates::default(),
            connections: 2,
            request_timeout: Duration::from_secs(5),
            beat: Duration::from_secs(1),
            dead_after: Duration::from_secs(3_600),
        },
        require_durable: true,
    }
}

async fn process(server: &RedisServer, name: &str, clock: &Clock) -> Arc<dyn DelayStore> {
    let instance = InstanceId::new(name).unwrap();
    open(&options(server), &instance, Some(clock.clone())).await.unwrap().delays
}

fn message(id: &str, body: impl Into<Bytes>) -> Delayed {
    Delayed { id: id.into(), queue: "task.coder.normal".into(), body: body.into(), deliveries: 3 }
}

fn ids(taken: &[Delayed]) -> Vec<&str> {
    taken.iter().map(|message| message.id.as_str()).collect()
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_comes_back_byte_for_byte_when_it_is_due_and_again_until_it_is_removed() {
    let (server, clock) = (RedisServer::start(), Clock::manual(Timestamp(1_000_000)));
    let delays = process(&server, "a", &clock).await;
    let odd = message("odd", vec![0, b' ', 255, b'\n', b' ']);
    let messages = vec![(message("late", ""), s(9)), (odd.clone(), s(3)), (message("now", "x"), s(0))];
    delays.put(messages.clone()).await.unwrap();
    assert_eq!(ids(&delays.take_due(9).await.unwrap()), ["now"]);
    delays.remove(vec!["now".into(), "unknown".into()]).await.unwrap();
    clock.advance(s(3));
    assert_eq!(delays.take_due(9).await.unwrap(), std::slice::from_ref(&odd));
    assert!(delays.take_due(9).await.unwrap().is_empty(), "taken, so not due just now");
    let again = vec![(message("odd", "another body"), s(0)), (message("now", "x"), s(60))];
    delays.put(again).await.unwrap();
    assert_eq!(delays.waiting("task.coder.normal").await.unwrap(), 3, "an id that is there stays as it is");
    clock.advance(s(6));
    assert_eq!(delays.take_due(1).await.unwrap(), [odd], "nobody removed it");
    assert_eq!(ids(&delays.take_due(9).await.unwrap()), ["late"]);
    for _ in 0..2 {
        delays.remove(vec!["odd".into(), "late".into()]).await.unwrap();
        assert_eq!(delays.waiting("task.coder.normal").await.unwrap(), 1);
    }
    delays.remove(vec!["now".into()]).await.unwrap();
    assert_eq!(delays.waiting("task.coder.normal").await.unwrap(), 0);
    assert_eq!(delays.waiting("other").await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_moves_messages_until_it_has_been_idle_for_a_while() {
    let (server, clock) = (RedisServer::start(), Clock::manual(Timestamp(1_000_000)));
    let (a, b) = (process(&server, "a", &clock).await, process(&server, "b", &clock).await);
    a.put(vec![(message("1", ""), s(0)), (message("2", ""), s(1))]).await.unwrap();
    assert_eq!(ids(&a.take_due(9).await.unwrap()), ["1"]);
    clock.advance(s(1));
    assert!(b.take_due(9).await.unwrap().is_empty(), "a moves");
    assert_eq!(ids(&a.take_due(9).await.unwrap()), ["2"]);
    clock.advance(s(5));
    assert_eq!(ids(&b.take_due(9).await.unwrap()), ["1", "2"], "a has died over them");
    clock.advance(s(4));
    assert!(a.take_due(9).await.unwrap().is_empty(), "b moves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_process_is_due_once_that_process_is_buried() {
    let (server, clock) = (RedisServer::start(), Clock::manual(Timestamp(1_000_000)));
    let mut quick = options(&server);
    (quick.redis.beat, quick.redis.dead_after) = (Duration::from_millis(20), s(2));
    let open = async |name: &str| {
        let instance = InstanceId::new(name).unwrap();
        super::open(&quick, &instance, Some(clock.clone())).await.unwrap()
    };
    let (survivor, dying) = (open("survivor").await, open("dying").await);
    let held = (0..300).map(|number| (message(&format!("held-{number:03}"), ""), s(5)));
    dying.delays.put(held.collect()).await.unwrap();
    dying.delays.put(vec![(message("taken", ""), s(0)), (message("late", ""), s(3_600))]).await.unwrap();
    assert_eq!(ids(&dying.delays.take_due(9).await.unwrap()), ["taken"]);
    drop(dying);
    let key = crate::backend::presence::key(&InstanceId::new("dying").unwrap());
    let mut revision = survivor.state.snapshot("").await.unwrap().revision;
    // In steps, so that it is the process that is silent, and not the server that had not listened.
    for _ in 0..8 {
        clock.advance(Duration::from_millis(400));
        for change in survivor.state.changes(&key, revision, 1, Duration::from_millis(100)).await.unwrap() {
            revision = change.revision;
        }
    }
    assert!(clock.now().0 - 1_000_000 < 5_000, "nothing is due yet by the clock alone");
    let mut found = Vec::new();
    let taking = async {
        while found.len() < 301 {
            let due = survivor.delays.take_due(256).await.unwrap();
            found.extend(due.into_iter().map(|message| message.id));
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(s(20), taking).await.expect("it is buried, and they are due");
    found.sort_unstable();
    found.dedup();
    assert_eq!((found.len(), found.last().map(String::as_str)), (301, Some("taken")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_and_large_messages_are_put_and_taken_in_bounded_steps() {
    let (server, clock) = (RedisServer::start(), Clock::manual(Timestamp(1_000_000)));
    let delays = process(&server, "a", &clock).await;
    let large = Bytes::from(vec![7; 3 << 20]);
    let messages = (0..600).map(|number| {
        let body = if number < 5 { large.clone() } else { Bytes::from_static(b"small") };
        (message(&format!("{number:03}"), body), s(0))
    });
    delays.put(messages.collect()).await.unwrap();
    assert_eq!(delays.waiting("task.coder.normal").await.unwrap(), 600);
    let mut taken = 0;
    loop {
        let step = delays.take_due(1_000).await.unwrap();
        if step.is_empty() {
            break;
        }
        assert!(step.iter().map(|message| message.body.len()).sum::<usize>() <= 9 << 20);
        taken += step.len();
        delays.remove(step.into_iter().map(|message| message.id).collect()).await.unwrap();
    }
    assert_eq!((taken, delays.waiting("task.coder.normal").await.unwrap()), (600, 0));
}
