//! The promises of `Broker`.
//!
//! At-least-once is the promise, so cases repeat, lose and delay on purpose: duplicates of an id are dropped, leases end,
//! nothing acknowledged comes back, and nothing unacknowledged is lost.

use std::time::Duration;

use bytes::Bytes;
use codeswarm::backend::broker::MAX_MESSAGE_BYTES;
use codeswarm::backend::{Backend, BackendError, Delivery, Depth, Disposition, Outgoing, Queue, Signal};
use codeswarm::protocol::Priority;

use crate::support::stores::{SOON, TestBackend, agent, instance, job, s};

const NOW: Duration = Duration::ZERO;

pub(crate) fn queue(priority: Priority) -> Queue {
    Queue::Task { agent: agent("coder"), priority }
}

fn normal() -> Queue {
    queue(Priority::Normal)
}

pub(crate) fn message(queue: &Queue, id: &str) -> Outgoing {
    Outgoing { queue: queue.clone(), dedupe: id.into(), body: Bytes::from(format!("body of {id}")) }
}

pub(crate) async fn publish(backend: &Backend, queue: &Queue, ids: &[&str]) {
    backend.broker.publish(ids.iter().map(|id| message(queue, id)).collect()).await.unwrap();
}

pub(crate) async fn pull(backend: &Backend, queues: &[Queue], max: usize, wait: Duration) -> Vec<Delivery> {
    backend.broker.pull(&instance("consumer"), queues, max, wait).await.unwrap()
}

async fn pull_one(backend: &Backend) -> Delivery {
    pull(backend, &[normal()], 1, NOW).await.pop().expect("a message")
}

/// A message whose lease has just ended; a broker with a clock of its own may need a moment.
async fn pull_again(backend: &Backend) -> Delivery {
    pull(backend, &[normal()], 1, SOON).await.pop().expect("a message")
}

async fn dispose(backend: &Backend, delivery: &Delivery, disposition: Disposition) -> Result<(), BackendError> {
    backend.broker.dispose(vec![(delivery.tag.clone(), disposition)]).await
}

async fn depth(backend: &Backend) -> Depth {
    backend.broker.depth(&normal()).await.unwrap()
}

/// Waits until the queue is as full as it should be: a broker of several processes may count a moment late.
async fn assert_depth(backend: &Backend, waiting: u64, in_flight: u64) {
    let expected = Depth { waiting, in_flight };
    assert_settles(backend, |depth| depth == expected, &format!("{expected:?}")).await;
}

/// Waits until the queue holds `count` messages, of which some brokers cannot tell those that wait to be delivered again
/// from those in flight.
async fn assert_holds(backend: &Backend, count: u64) {
    assert_settles(backend, |depth| depth.waiting + depth.in_flight == count, &format!("{count} in all")).await;
}

async fn assert_settles(backend: &Backend, is_right: impl Fn(Depth) -> bool, expected: &str) {
    let started = std::time::Instant::now();
    loop {
        let found = depth(backend).await;
        if is_right(found) {
            return;
        }
        assert!(started.elapsed() < SOON, "{found:?} instead of {expected}");
        tokio::task::yield_now().await;
    }
}

fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries
        .iter()
        .map(|delivery| String::from_utf8(delivery.body.to_vec()).unwrap().replace("body of ", ""))
        .collect()
}

pub(crate) async fn messages_come_out_in_publishing_order(test: &TestBackend) {
    publish(&test.backend, &normal(), &["a", "b"]).await;
    publish(&test.backend, &normal(), &["c"]).await;
    assert_depth(&test.backend, 3, 0).await;
    let first = pull(&test.backend, &[normal()], 2, NOW).await;
    assert_eq!(bodies(&first), ["a", "b"]);
    assert_eq!((first[0].deliveries, &first[0].queue), (1, &normal()));
    assert_depth(&test.backend, 1, 2).await;
    assert_eq!(bodies(&pull(&test.backend, &[normal()], 9, NOW).await), ["c"]);
    assert!(pull(&test.backend, &[normal()], 9, NOW).await.is_empty());
}

pub(crate) async fn an_acked_message_is_gone_and_acking_twice_changes_nothing(test: &TestBackend) {
    publish(&test.backend, &normal(), &["a", "b"]).await;
    let delivery = pull_one(&test.backend).await;
    for _ in 0..2 {
        dispose(&test.backend, &delivery, Disposition::Ack).await.unwrap();
        assert_depth(&test.backend, 1, 0).await;
    }
    test.pass(test.backend.delivery_lease * 2).await;
    assert_eq!(bodies(&pull(&test.backend, &[normal()], 9, NOW).await), ["b"]);
}

pub(crate) async fn publishing_an_id_again_changes_nothing_even_after_the_ack(test: &TestBackend) {
    for _ in 0..2 {
        publish(&test.backend, &normal(), &["a"]).await;
        assert_depth(&test.backend, 1, 0).await;
    }
    let delivery = pull_one(&test.backend).await;
    dispose(&test.backend, &delivery, Disposition::Ack).await.unwrap();
    test.clock.advance(s(119));
    publish(&test.backend, &normal(), &["a"]).await;
    assert_depth(&test.backend, 0, 0).await;
    publish(&test.backend, &queue(Priority::High), &["a"]).await;
    assert_eq!(pull(&test.backend, &[queue(Priority::High)], 9, NOW).await.len(), 1, "ids count per queue");
}

pub(crate) async fn repeating_a_call_completes_it(test: &TestBackend) {
    publish(&test.backend, &normal(), &["a"]).await;
    publish(&test.backend, &normal(), &["a", "b", "c"]).await;
    publish(&test.backend, &normal(), &["a", "b", "c"]).await;
    assert_eq!(bodies(&pull(&test.backend, &[normal()], 9, NOW).await), ["a", "b", "c"]);
}

pub(crate) async fn earlier_queues_of_the_slice_are_served_first(test: &TestBackend) {
    let queues: Vec<_> = Priority::ALL.into_iter().map(queue).collect();
    for (queue, id) in queues.iter().zip(["critical", "high", "normal", "low"]).rev() {
        publish(&test.backend, queue, &[id]).await;
    }
    assert_eq!(bodies(&pull(&test.backend, &queues, 1, NOW).await), ["critical"]);
    assert_eq!(bodies(&pull(&test.backend, &queues, 2, NOW).await), ["high", "normal"]);
    let rest = pull(&test.backend, &queues, 9, NOW).await;
    assert_eq!((bodies(&rest), &rest[0].queue), (vec!["low".into()], &queues[3]));
}

pub(crate) async fn a_waiting_pull_gets_what_is_published_meanwhile(test: &TestBackend) {
    let backend = test.backend.clone();
    let waiting = tokio::spawn(async move { pull(&backend, &[queue(Priority::High), normal()], 1, SOON).await });
    tokio::task::yield_now().await;
    publish(&test.backend, &normal(), &["a"]).await;
    assert_eq!(bodies(&waiting.await.unwrap()), ["a"]);
}

pub(crate) async fn each_message_goes_to_exactly_one_of_many_waiting_pulls(test: &TestBackend) {
    let mut pulls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let backend = test.backend.clone();
        pulls.spawn(async move { bodies(&pull(&backend, &[normal()], 1, SOON).await) });
    }
    let ids: Vec<String> = (10..60).map(|number| number.to_string()).collect();
    for id in &ids {
        publish(&test.backend, &normal(), &[id]).await;
    }
    let mut got = pulls.join_all().await.concat();
    got.sort();
    assert_eq!(got, ids);
}

pub(crate) async fn a_dropped_pull_loses_nothing(test: &TestBackend) {
    for round in 0..20 {
        let id = round.to_string();
        let backend = test.backend.clone();
        let waiting = tokio::spawn(async move { pull(&backend, &[normal()], 1, SOON).await });
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        publish(&test.backend, &normal(), &[&id]).await;
        waiting.abort();
        let got = match waiting.await {
            Ok(deliveries) if !deliveries.is_empty() => deliveries,
            _ => pull(&test.backend, &[normal()], 1, SOON).await,
        };
        assert_eq!((bodies(&got), got[0].deliveries), (vec![id], 1), "a delivery nobody saw does not count");
        dispose(&test.backend, &got[0], Disposition::Ack).await.unwrap();
    }
}

pub(crate) async fn a_lease_that_ends_makes_the_message_available_again(test: &TestBackend) {
    publish(&test.backend, &normal(), &["a"]).await;
    pull_one(&test.backend).await;
    test.pass(test.backend.delivery_lease - test.margin).await;
    assert!(pull(&test.backend, &[normal()], 1, NOW).await.is_empty(), "one lease at a time");
    test.pass(test.margin).await;
    assert_holds(&test.backend, 1).await;
    assert_eq!(pull_again(&test.backend).await.deliveries, 2);
}

pub(crate) async fn a_waiting_pull_gets_what_a_lease_gives_up(test: &TestBackend) {
    publish(&test.backend, &normal(), &["a"]).await;
    pull_one(&test.backend).await;
    let backend = test.backend.clone();
    let waiting = tokio::spawn(async move { pull(&backend, &[normal()], 1, SOON).await });
    tokio::task::yield_now().await;
    test.pass(test.backend.delivery_lease).await;
    assert_eq!(bodies(&waiting.await.unwrap()), ["a"]);
}

pub(crate) async fn progress_starts_the_lease_anew(test: &TestBackend) {
    publish(&test.backend, &normal(), &["a"]).await;
    let delivery = pull_one(&test.backend).await;
    for _ in 0..3 {
        test.pass(test.backend.delivery_lease / 2).await;
        for _ in 0..2 {
            dispose(&test.backend, &delivery, Disposition::Progress).await.unwrap();
        }
        assert!(pull(&test.backend, &[normal()], 1, NOW).await.is_empty());
    }
}

pub(crate) async fn a_lost_lease_cannot_touch_the_next_holders_delivery(test: &TestBackend) {
    publish(&test.backend, &normal(), &["a"]).await;
    let lost = pull_one(&test.backend).await;
    test.pass(test.backend.delivery_lease).await;
    let held = pull_again(&test.backend).await;
    for disposition in [Disposition::Progress, Disposition::RetryLater(NOW), Disposition::DeadLetter("late".into())] {
        let outcome = dispose(&test.backend, &lost, disposition).await;
        assert!(matches!(outcome, Err(BackendError::LeaseLost { .. })), "{outcome:?}");
    }
    let late_ack = dispose(&test.backend, &lost, Disposition::Ack).await;
    assert!(matches!(late_ack, Ok(()) | Err(BackendError::LeaseLost { .. })), "{late_ack:?}");
    assert_depth(&test.backend, 0, 1).await;
    dispose(&test.backend, &held, Disposition::Progress).await.unwrap();
    dispose(&test.backend, &held, Disposition::Ack).await.unwrap();
    assert_depth(&test.backend, 0, 0).await;
}

pub(crate) async fn a_lost_delivery_is_reported_after_the_others_were_processed(test: &TestBackend) {
    publish(&test.backend, &normal(), &["a", "b"]).await;
    let lost = pull_one(&test.backend).await;
    dispose(&test.backend, &lost, Disposition::RetryLater(s(60))).await.unwrap();
    let held = pull_one(&test.backend).await;
    let both = vec![(lost.tag.clone(), Disposition::Progress), (held.tag.clone(), Disposition::Ack)];
    let outcome = test.backend.broker.dispose(both).await;
    assert!(matches!(outcome, Err(BackendError::LeaseLost { .. })), "{outcome:?}");
    assert_depth(&test.backend, 1, 0).await;
}

pub(crate) async fn a_retry_comes_back_after_its_delay(test: &TestBackend) {
    publish(&test.backend, &normal(), &["a"]).await;
    let first = pull_one(&test.backend).await;
    dispose(&test.backend, &first, Disposition::RetryLater(s(5))).await.unwrap();
    assert_depth(&test.backend, 1, 0).await;
    assert!(pull(&test.backend, &[normal()], 1, NOW).await.is_empty());
    dispose(&test.backend, &first, Disposition::Ack).await.unwrap();
    test.clock.advance(s(5));
    let second = pull_again(&test.backend).await;
    assert_eq!(second.deliveries, 2);
    dispose(&test.backend, &second, Disposition::RetryLater(NOW)).await.unwrap();
    dispose(&test.backend, &second, Disposition::Ack).await.unwrap();
    assert_eq!(pull_again(&test.backend).await.deliveries, 3, "an ack after giving back is nobody's");
}

pub(crate) async fn a_waiting_pull_gets_a_retry_when_its_time_comes(test: &TestBackend) {
    publish(&test.backend, &normal(), &["a"]).await;
    let first = pull_one(&test.backend).await;
    dispose(&test.backend, &first, Disposition::RetryLater(s(5))).await.unwrap();
    let backend = test.backend.clone();
    let waiting = tokio::spawn(async move { pull(&backend, &[normal()], 1, SOON).await });
    tokio::task::yield_now().await;
    test.clock.advance(s(5));
    assert_eq!(bodies(&waiting.await.unwrap()), ["a"]);
}

pub(crate) async fn dead_letters_are_kept_in_order_and_never_delivered(test: &TestBackend) {
    publish(&test.backend, &normal(), &["a", "b"]).await;
    for (id, reason) in [("a", "first"), ("b", "second")] {
        let delivery = pull_one(&test.backend).await;
        dispose(&test.backend, &delivery, Disposition::DeadLetter(reason.into())).await.unwrap();
        let replay = dispose(&test.backend, &delivery, Disposition::DeadLetter(reason.into())).await;
        assert!(matches!(replay, Err(BackendError::LeaseLost { .. })), "{id}: {replay:?}");
    }
    test.pass(test.backend.delivery_lease).await;
    assert_depth(&test.backend, 0, 0).await;
    let letters = test.backend.broker.dead_letters(0, 10).await.unwrap();
    let told: Vec<_> = letters.iter().map(|one| (one.dedupe.as_str(), one.reason.as_str(), &one.queue[..])).collect();
    assert_eq!(told, [("a", "first", "task.coder.normal"), ("b", "second", "task.coder.normal")]);
    assert_eq!(letters[0].body, "body of a");
    assert_eq!(test.backend.broker.dead_letters(letters[0].id, 1).await.unwrap(), letters[1..]);
}

pub(crate) async fn many_queues_are_as_full_as_each_of_them(test: &TestBackend) {
    let of = |name: &str| Priority::ALL.map(|priority| Queue::Task { agent: agent(name), priority });
    let queues: Vec<Queue> =
        [of("coder"), of("tester")].into_iter().flatten().chain([Queue::Result { shard: 0 }]).collect();
    publish(&test.backend, &normal(), &["a", "b", "c"]).await;
    publish(&test.backend, &Queue::Result { shard: 0 }, &["r"]).await;
    let held = pull_one(&test.backend).await;
    let put_away = pull_one(&test.backend).await;
    dispose(&test.backend, &put_away, Disposition::RetryLater(s(60))).await.unwrap();
    assert_depth(&test.backend, 2, 1).await;
    let depths = test.backend.broker.depths(&queues).await.unwrap();
    let found: Vec<(String, u64, u64)> = queues
        .iter()
        .zip(&depths)
        .filter(|(_, depth)| **depth != Depth::default())
        .map(|(queue, depth)| (queue.to_string(), depth.waiting, depth.in_flight))
        .collect();
    assert_eq!(depths.len(), queues.len());
    assert_eq!(found, [("task.coder.normal".into(), 2, 1), ("result.0".into(), 1, 0)]);
    dispose(&test.backend, &held, Disposition::Ack).await.unwrap();
    assert_eq!(test.backend.broker.depths(&[]).await.unwrap(), []);
}

pub(crate) async fn bodies_up_to_the_limit_arrive_unchanged(test: &TestBackend) {
    for (number, bytes) in [0, 1, 4_096, 4_097, MAX_MESSAGE_BYTES].into_iter().enumerate() {
        let body = Bytes::from(vec![u8::try_from(number).unwrap(); bytes]);
        let sent = Outgoing { queue: normal(), dedupe: bytes.to_string(), body: body.clone() };
        test.backend.broker.publish(vec![sent]).await.unwrap();
        let delivery = pull_one(&test.backend).await;
        assert!(delivery.body == body, "{bytes} bytes");
        let disposition = if bytes == 4_097 { Disposition::DeadLetter("kept".into()) } else { Disposition::Ack };
        dispose(&test.backend, &delivery, disposition).await.unwrap();
    }
    assert_eq!(test.backend.broker.dead_letters(0, 1).await.unwrap()[0].body.len(), 4_097);
    let large = Outgoing { queue: normal(), dedupe: "x".into(), body: Bytes::from(vec![0; MAX_MESSAGE_BYTES + 1]) };
    let outcome = test.backend.broker.publish(vec![message(&normal(), "fits"), large]).await;
    assert!(matches!(outcome, Err(BackendError::Invalid { .. })), "{outcome:?}");
    assert_depth(&test.backend, 0, 0).await;
}

pub(crate) async fn an_own_signal_arrives_exactly_once(test: &TestBackend) {
    let mut signals = test.backend.broker.signals();
    let sent = [Signal::Freeze, Signal::CancelJob { job: job("j") }, Signal::JobChanged { job: job("j") }];
    for signal in &sent {
        test.backend.broker.signal(signal.clone()).await.unwrap();
    }
    for signal in &sent {
        let got = tokio::time::timeout(SOON, signals.recv()).await.expect("in time").unwrap();
        assert_eq!(&got, signal);
    }
    assert!(pull(&test.backend, &[normal()], 1, Duration::from_millis(120)).await.is_empty());
    assert!(signals.try_recv().is_err(), "not again by polling");
}
