//! What the waiting room asks and whom it serves, without a server.
//!
//! The answers of the server are played here, including those it does not give, at times the test sets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Message;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::caught::Caught;
use super::line::{ALERT, GRACE, Kind};
use super::room::{Action, Room};
use super::sources::Source;
use super::waiter::{Command, Handover, Pull, Refusal};
use crate::backend::Queue;

type Answer = oneshot::Receiver<Result<Handover, Refusal>>;

struct Play {
    room: Room,
    back: mpsc::UnboundedReceiver<Command>,
    now: Instant,
    sent: u64,
}

fn source(shard: u16) -> Arc<Source> {
    let queue = Queue::Result { shard };
    Arc::new(Source { subject: queue.to_string(), next: format!("next.{shard}"), letter: 'r', queue })
}

impl Play {
    fn new() -> Self {
        let (sender, back) = mpsc::unbounded_channel();
        let now = Instant::now();
        Self { room: Room::new(sender, Duration::from_secs(5), now), back, now, sent: 0 }
    }

    fn pull(&mut self, shards: &[u16], max: usize, wait: u64) -> Answer {
        let (answer, receiver) = oneshot::channel();
        let sources = shards.iter().copied().map(source).collect();
        self.room.enter(Pull { sources, max, wait: Duration::from_secs(wait), answer }, self.now);
        receiver
    }

    /// What is done on the wire now, in short: `probe 0 x1`, `alert 2 x256`, `back`, `recreate 1`.
    fn acts(&mut self) -> Vec<String> {
        let acts = self.room.settle(self.now);
        let told = acts.into_iter().map(|act| match act {
            Action::Ask { line, kind: Kind::Probe, batch, .. } => format!("probe {line} x{batch}"),
            Action::Ask { line, kind: Kind::Alert, batch, .. } => format!("alert {line} x{batch}"),
            Action::GiveBack(_) => "back".to_owned(),
            Action::Recreate(line) => format!("recreate {line}"),
        });
        told.collect()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.room.sweep(self.now);
    }

    /// Message number `id` of a queue comes, with `pending` more behind it.
    fn comes(&mut self, kind: Kind, shard: u16, id: u64, pending: u64) {
        self.sent += 1;
        let reply = format!("$JS.ACK.S.C.{}.{id}.{}.1.{pending}", self.sent, self.sent);
        let message = Message {
            subject: format!("result.{shard}").into(),
            reply: Some(reply.into()),
            payload: Bytes::from(id.to_string()),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        let (line, source) = self.room.line_of(&message.subject).map(|(line, one)| (line, Arc::clone(one))).unwrap();
        self.room.caught(kind, line, Caught::read(&source, message, self.now).unwrap(), self.now);
    }

    fn says(&mut self, kind: Kind, line: usize, id: u64, code: u16) {
        self.room.status(kind, line, id, code, "", self.now);
    }
}

/// The bodies a pull got; `None` while it waits.
fn got(answer: &mut Answer) -> Option<Vec<String>> {
    let handover = answer.try_recv().ok()?.expect("no refusal");
    Some(handover.keep().into_iter().map(|one| String::from_utf8(one.payload.to_vec()).unwrap()).collect())
}

#[test]
fn queues_are_asked_in_order_and_alerts_are_set_when_all_are_empty() {
    let mut play = Play::new();
    let mut pull = play.pull(&[0, 1, 2], 1, 30);
    assert_eq!(play.acts(), ["probe 0 x1"]);
    play.says(Kind::Probe, 0, 1, 404);
    assert_eq!(play.acts(), ["probe 1 x1"]);
    play.says(Kind::Probe, 1, 2, 404);
    assert_eq!(play.acts(), ["probe 2 x1"], "nothing attracts messages before everything was looked at");
    play.says(Kind::Probe, 2, 3, 404);
    assert_eq!(play.acts(), ["alert 0 x1", "alert 1 x1", "alert 2 x1"]);
    play.comes(Kind::Alert, 1, 7, 0);
    assert_eq!(play.acts(), [""; 0]);
    assert_eq!(got(&mut pull).unwrap(), ["7"]);
    let _next = play.pull(&[0, 1, 2], 1, 30);
    assert_eq!(play.acts(), ["probe 1 x1"], "queues with a silent alert are known to be empty");
}

#[test]
fn pulls_that_come_together_share_a_question_and_each_gets_one_message() {
    let mut play = Play::new();
    let mut pulls: Vec<Answer> = (0..3).map(|_| play.pull(&[0], 1, 30)).collect();
    assert_eq!(play.acts(), ["probe 0 x3"]);
    play.comes(Kind::Probe, 0, 1, 1);
    play.comes(Kind::Probe, 0, 2, 0);
    play.says(Kind::Probe, 0, 1, 408);
    assert_eq!(play.acts(), ["alert 0 x1"]);
    assert_eq!(got(&mut pulls[0]).unwrap(), ["1"]);
    assert_eq!(got(&mut pulls[1]).unwrap(), ["2"]);
    assert_eq!(got(&mut pulls[2]), None);
    let _more: Vec<Answer> = (0..3).map(|_| play.pull(&[0], 1, 30)).collect();
    assert_eq!(play.acts(), [""; 0]);
    play.comes(Kind::Alert, 0, 3, 9);
    assert_eq!(play.acts(), ["probe 0 x3"], "what is known to be there is asked for at once, no more than is wanted");
}

#[test]
fn a_pull_of_many_takes_what_one_answer_brings() {
    let mut play = Play::new();
    let mut pull = play.pull(&[0], 256, 30);
    assert_eq!(play.acts(), ["probe 0 x256"]);
    play.says(Kind::Probe, 0, 1, 404);
    assert_eq!(play.acts(), ["alert 0 x256"]);
    play.comes(Kind::Alert, 0, 1, 1);
    assert_eq!((play.acts(), got(&mut pull)), (vec![], None), "more of the same answer is on its way");
    play.comes(Kind::Alert, 0, 2, 0);
    play.says(Kind::Alert, 0, 2, 408);
    play.acts();
    assert_eq!(got(&mut pull).unwrap(), ["1", "2"]);
}

#[test]
fn a_pull_at_once_is_answered_when_all_its_queues_have_answered() {
    let mut play = Play::new();
    let _parked = play.pull(&[0], 1, 30);
    play.acts();
    play.says(Kind::Probe, 0, 1, 404);
    assert_eq!(play.acts(), ["alert 0 x1"]);
    let mut pull = play.pull(&[0, 1], 4, 0);
    assert_eq!(play.acts(), ["probe 0 x4"], "a silent alert may have been overtaken");
    play.says(Kind::Probe, 0, 3, 408);
    assert_eq!(play.acts(), ["probe 0 x4"], "what is promised to the alert is on its way");
    play.comes(Kind::Alert, 0, 1, 0);
    play.says(Kind::Probe, 0, 4, 404);
    assert_eq!(play.acts()[..], ["probe 1 x4"]);
    play.comes(Kind::Probe, 1, 2, 0);
    play.says(Kind::Probe, 1, 5, 408);
    play.acts();
    assert_eq!(got(&mut pull).unwrap(), ["2"], "the first message was for the one who waited longer");
}

#[test]
fn what_comes_for_nobody_is_offered_for_a_moment_then_given_back_and_does_not_count() {
    let mut play = Play::new();
    let pull = play.pull(&[0], 1, 30);
    play.acts();
    play.says(Kind::Probe, 0, 1, 404);
    play.acts();
    drop(pull);
    play.comes(Kind::Alert, 0, 1, 0);
    let mut next = play.pull(&[0], 1, 30);
    play.acts();
    assert_eq!(got(&mut next).unwrap(), ["1"]);
    let gone = play.pull(&[0], 1, 30);
    play.acts();
    drop(gone);
    play.comes(Kind::Probe, 0, 5, 0);
    play.pass(GRACE);
    assert_eq!(play.acts(), ["back"]);
    let mut last = play.pull(&[0], 1, 30);
    play.acts();
    play.sent = 1;
    play.comes(Kind::Probe, 0, 5, 0);
    play.acts();
    let handover = last.try_recv().unwrap().unwrap();
    assert_eq!(handover.peek()[0].deliveries, 1, "delivered twice, seen once");
}

#[test]
fn messages_of_a_pull_that_is_dropped_on_the_way_go_to_the_next() {
    let mut play = Play::new();
    let pull = play.pull(&[0], 2, 30);
    play.acts();
    play.comes(Kind::Probe, 0, 1, 1);
    play.comes(Kind::Probe, 0, 2, 0);
    play.acts();
    drop(pull);
    let Ok(Command::Return(caught)) = play.back.try_recv() else { panic!("nothing came back") };
    play.room.returned(caught, play.now);
    let mut next = play.pull(&[0], 2, 30);
    assert_eq!(play.acts(), [""; 0]);
    assert_eq!(got(&mut next).unwrap(), ["1", "2"]);
}

#[test]
fn a_silent_server_is_asked_again_after_making_sure_of_the_consumer() {
    let mut play = Play::new();
    let mut pull = play.pull(&[0, 1], 1, 30);
    assert_eq!(play.acts(), ["probe 0 x1"]);
    play.pass(Duration::from_millis(250));
    assert_eq!(play.acts(), ["recreate 0", "probe 1 x1"], "the other queues are served meanwhile");
    play.says(Kind::Probe, 1, 2, 404);
    assert_eq!(play.acts(), ["alert 1 x1"]);
    play.room.ready(0);
    assert_eq!(play.acts(), ["probe 0 x1"]);
    play.says(Kind::Probe, 0, 4, 404);
    assert_eq!(play.acts(), ["alert 0 x1"]);
    play.pass(ALERT + Duration::from_secs(1));
    assert_eq!(play.acts(), ["recreate 0", "recreate 1"], "an alert is answered at its end at least");
    play.pass(Duration::from_secs(30));
    play.acts();
    let refusal = pull.try_recv().unwrap().unwrap_err();
    assert!(refusal.0.contains("does not answer"), "{refusal:?}");
}

#[test]
fn a_new_connection_asks_everything_anew_at_once() {
    let mut play = Play::new();
    let mut pull = play.pull(&[0, 1], 1, 30);
    play.acts();
    play.says(Kind::Probe, 0, 1, 404);
    play.acts();
    play.says(Kind::Probe, 1, 2, 404);
    assert_eq!(play.acts(), ["alert 0 x1", "alert 1 x1"]);
    play.room.disconnected(play.now);
    play.pass(Duration::from_secs(4));
    assert_eq!(play.acts(), [""; 0], "nothing is asked without a connection");
    play.room.connected();
    assert_eq!(play.acts(), ["probe 0 x1"]);
    play.comes(Kind::Probe, 0, 1, 0);
    play.acts();
    assert_eq!(got(&mut pull).unwrap(), ["1"]);
}

#[test]
fn a_pull_is_told_that_the_server_is_away_long_before_its_time_is_up_and_not_at_once() {
    let mut play = Play::new();
    let mut early = play.pull(&[0], 1, 30);
    play.acts();
    play.says(Kind::Probe, 0, 1, 404);
    play.acts();
    play.pass(Duration::from_secs(3));
    play.room.disconnected(play.now);
    play.pass(Duration::from_secs(2));
    let mut late = play.pull(&[0], 1, 30);
    play.room.disconnected(play.now);
    play.pass(Duration::from_secs(3));
    assert!(early.try_recv().unwrap().is_err_and(|refusal| refusal.0 == "not connected"));
    assert!(late.try_recv().is_err(), "it came a moment ago");
    play.pass(Duration::from_secs(2));
    assert!(late.try_recv().unwrap().is_err_and(|refusal| refusal.0 == "not connected"));
}

#[test]
fn an_alert_that_ends_too_early_is_not_set_again_in_a_hurry() {
    let mut play = Play::new();
    let _pull = play.pull(&[0], 256, 30);
    play.acts();
    play.says(Kind::Probe, 0, 1, 404);
    assert_eq!(play.acts(), ["alert 0 x256"]);
    play.says(Kind::Alert, 0, 2, 408);
    assert_eq!(play.acts(), [""; 0]);
    play.pass(Duration::from_millis(20));
    assert_eq!(play.acts(), ["alert 0 x256"]);
    play.pass(ALERT);
    play.says(Kind::Alert, 0, 3, 408);
    assert_eq!(play.acts(), ["alert 0 x256"], "its end is no reason to wait");
}
