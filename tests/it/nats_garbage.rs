//! Garbage on the subjects of ours: it ends as dead letters or is stepped over, and never stops anybody.
//!
//! Whoever may publish to the server may send anything, from bodies that are no messages to headers that no client can read.

use std::time::Instant;

use async_nats::HeaderMap;
use bytes::Bytes;
use codeswarm::backend::{BackendError, Disposition};
use codeswarm::error::Coded;

use crate::nats_faults::{Servers, assert_empty, dispatched, publish, publish_for_certain, pull, pull_all, queue};
use crate::support::stores::{SOON, instance, job, s};

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_our_subjects_ends_as_dead_letters_or_is_stepped_over() {
    let servers = Servers::start();
    let backend = servers.open().await;
    let log = job("j");
    backend.events.append(&log, 0, vec![dispatched(1)]).await.unwrap();
    let stranger = async_nats::jetstream::new(servers.stranger().await);
    let lost = "f".repeat(64);
    let with = |name: &'static str, value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(name, value);
        headers
    };
    let garbage = [
        ("test.task.coder.normal", HeaderMap::new(), "garbage"),
        ("test.task.coder.normal", with("Codeswarm-Body", &format!("{lost}:9")), ""),
        ("test.task.coder.normal", with("Codeswarm-Body", "nonsense"), ""),
        ("test.task.coder.normal", with("Codeswarm-Deliveries", "-1"), "more"),
        ("test.task.Nobody!.never", HeaderMap::new(), "for nobody"),
        ("test.event.j", HeaderMap::new(), "no event"),
        ("test.event.j", with("Codeswarm-First", "1"), "[]"),
        ("test.event.Not-A-Job", HeaderMap::new(), "[]"),
        ("test.event.only-garbage", HeaderMap::new(), "[]"),
        ("test.dlq.x", HeaderMap::new(), "no letter"),
    ];
    for (subject, headers, body) in garbage {
        stranger.publish_with_headers(subject, headers, body.into()).await.unwrap().await.unwrap();
    }
    servers.stranger().await.publish("test.signal", "no signal".into()).await.unwrap();
    publish(&backend, &["good"]).await;

    let (mut bodies, started) = (Vec::new(), Instant::now());
    while bodies.len() < 3 {
        assert!(started.elapsed() < SOON, "only {bodies:?}");
        for delivery in pull(&backend, 9, s(1)).await {
            bodies.push(String::from_utf8_lossy(&delivery.body).into_owned());
            let disposition = match delivery.body.as_ref() {
                b"body of good" => Disposition::Ack,
                _ => Disposition::DeadLetter("not a task".into()),
            };
            backend.broker.dispose(vec![(delivery.tag, disposition)]).await.unwrap();
        }
    }
    assert_eq!(bodies, ["garbage", "more", "body of good"]);
    assert_empty(&backend).await;
    let letters = backend.broker.dead_letters(0, 100).await.unwrap();
    let reasons: Vec<_> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    for part in ["not a task", "does not exist", "is no reference"] {
        assert!(reasons.iter().any(|reason| reason.contains(part)), "{part} is missing in {reasons:?}");
    }

    assert_eq!(backend.events.append(&log, 1, vec![dispatched(2)]).await.unwrap(), 2);
    let other = servers.open().await;
    let read = other.events.read(&log, 0, 9).await.unwrap();
    assert_eq!(read.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2]);
    stranger.publish("test.event.j", "the end".into()).await.unwrap().await.unwrap();
    assert_eq!(other.events.read(&log, 1, 9).await.unwrap()[..], read[1..]);
    let conflict = other.events.append(&log, 1, vec![dispatched(3)]).await;
    assert!(matches!(conflict, Err(BackendError::Conflict { actual: 2, .. })), "{conflict:?}");
    assert_eq!(other.events.append(&log, 2, vec![dispatched(3)]).await.unwrap(), 3);
    assert_eq!(backend.events.append(&log, 3, vec![dispatched(4)]).await.unwrap(), 4);
    let jobs = backend.events.jobs().await.unwrap();
    assert_eq!(jobs.iter().map(|entry| (entry.job.as_str(), entry.last_seq)).collect::<Vec<_>>(), [("j", 4)]);
}

/// Publishes as no client does: with headers that are none.
fn publish_poison(port: u16, subject: &str, headers: &[u8]) {
    use std::io::{Read, Write};
    let mut connection = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = headers.len();
    write!(connection, "CONNECT {{\"verbose\":false,\"headers\":true}}\r\nHPUB {subject} {length} {}\r\n", length + 6)
        .unwrap();
    connection.write_all(headers).unwrap();
    connection.write_all(b"poison\r\nPING\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"PONG\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_ends_the_connection_of_whoever_gets_it_is_put_aside() {
    let servers = Servers::start();
    let backend = servers.open().await;
    publish(&backend, &["before"]).await;
    publish_poison(servers.nats.port(), "test.task.coder.normal", b"NATS/1.0\r\nName: \xff\r\n\r\n");
    publish_for_certain(&backend, "after").await;
    let mut bodies = pull_all(&backend, 2).await;
    bodies.sort();
    assert_eq!(bodies, ["after", "before"]);
    assert_empty(&backend).await;
    let letters = backend.broker.dead_letters(0, 9).await.unwrap();
    assert_eq!((&letters[0].body[..], &letters[0].reason[..]), (&b"poison"[..], "its headers cannot be read"));

    // In a log it is stepped over where single messages are read.
    backend.events.append(&job("j"), 0, vec![dispatched(1)]).await.unwrap();
    publish_poison(servers.nats.port(), "test.event.j", b"NATS/1.0\r\nName: \xff\r\n\r\n");
    assert_eq!(backend.events.jobs().await.unwrap().len(), 1);
    for round in 1..20 {
        assert_eq!(backend.events.append(&job("j"), round, vec![dispatched(1)]).await.unwrap(), round + 1);
    }
    let started = Instant::now();
    // The attempt to read many ends the connection, upon which they are read one by one.
    let read = loop {
        match servers.open().await.events.read(&job("j"), 0, 100).await {
            Ok(read) => break read,
            Err(error) => assert!(error.retry().is_retryable() && started.elapsed() < SOON, "{error}"),
        }
    };
    assert!(read.iter().map(|event| event.seq).eq(1..=20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_kills_the_client_of_whoever_gets_it_is_put_aside_by_those_who_come_after() {
    let servers = Servers::start();
    let backend = servers.open().await;
    publish_poison(servers.nats.port(), "test.task.coder.normal", b"NATS/1.0\r\nName: a\rb\r\n\r\n");
    publish(&backend, &["after"]).await;
    let (mut bodies, started) = (Vec::new(), Instant::now());
    // Every process opened here dies of it in turn, as a supervised worker would, until one finds it.
    let letters = loop {
        assert!(started.elapsed() < SOON);
        let backend = servers.open().await;
        for delivery in backend.broker.pull(&instance("w"), &[queue()], 1, s(2)).await.unwrap_or_default() {
            bodies.push(delivery.body.clone());
            drop(backend.broker.dispose(vec![(delivery.tag, Disposition::Ack)]).await);
        }
        let letters = servers.open().await.broker.dead_letters(0, 9).await.unwrap();
        if !letters.is_empty() {
            break letters;
        }
    };
    assert_eq!((&letters[0].body[..], letters.len()), (&b"poison"[..], 1));
    assert!(bodies.contains(&Bytes::from_static(b"body of after")));
    assert_empty(&servers.open().await).await;
}
