//! The one task of a process that asks the server for messages and hands them to the waiting pulls.
//!
//! It only moves bytes; what to ask and whom to serve is decided in [`room`](super::room). All its requests share two inboxes,
//! one per kind of question. Alerts are read first, so that a message is never overtaken by the news that there is none. A
//! lost connection is noticed by its replacement, upon which everything is asked anew at once (research: engines §3a, 3).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::caught::Caught;
use super::line::{ALERT, Kind};
use super::link::Link;
use super::room::{Action, Room};
use super::sources::Sources;
use super::waiter::Command;
use crate::backend::BackendError;
use crate::metric;

/// Pause before a missing consumer is created (again): the server says that it is going a moment before it is gone.
const RECREATE_PAUSE: Duration = Duration::from_millis(50);

/// Longest time that sending may block; it only does while the connection is stuck.
const SEND_PATIENCE: Duration = Duration::from_secs(1);

/// Gives a message back at once.
pub(super) const NAK: Bytes = Bytes::from_static(b"-NAK");

/// Commands handled in one go.
const COMMANDS: usize = 256;

struct Puller {
    link: Link,
    sources: Arc<Sources>,
    room: Room,
    commands: mpsc::UnboundedSender<Command>,
    inbox: String,
    alerts: Subscriber,
    probes: Subscriber,
    /// Servers this process was connected to; one that was restarted has a new id.
    servers: HashSet<String>,
}

/// Starts the task; it ends with `stop`.
pub(super) async fn start(
    link: &Link,
    sources: &Arc<Sources>,
    stop: CancellationToken,
) -> Result<mpsc::UnboundedSender<Command>, BackendError> {
    let (commands, queue) = mpsc::unbounded_channel();
    let inbox = link.client.new_inbox();
    let subscribe = async |letter: char| {
        let subscribed = link.client.subscribe(format!("{inbox}.{letter}.>")).await;
        subscribed.map_err(|error| link.unavailable(error))
    };
    let puller = Puller {
        alerts: subscribe('a').await?,
        probes: subscribe('p').await?,
        link: link.clone(),
        sources: Arc::clone(sources),
        room: Room::new(commands.clone(), link.timeout, Instant::now()),
        commands: commands.clone(),
        inbox,
        servers: HashSet::from([link.client.server_info().server_id]),
    };
    tokio::spawn(puller.run(queue, stop));
    Ok(commands)
}

impl Puller {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Command>, stop: CancellationToken) {
        let mut epoch = self.link.epoch.clone();
        epoch.mark_unchanged();
        let mut commands = Vec::with_capacity(COMMANDS);
        loop {
            let wake = tokio::time::Instant::from_std(self.room.wake());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(message) = self.alerts.next() => self.receive(Kind::Alert, message),
                Some(message) = self.probes.next() => self.receive(Kind::Probe, message),
                _ = queue.recv_many(&mut commands, COMMANDS) => {}
                changed = epoch.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.reconnected();
                }
                () = tokio::time::sleep_until(wake) => {
                    let now = Instant::now();
                    if !self.link.is_connected() {
                        self.room.disconnected(now);
                    }
                    self.room.sweep(now);
                }
            }
            self.receive_ready();
            // Everything that has been asked for by now can share one request.
            while let Ok(command) = queue.try_recv() {
                commands.push(command);
            }
            let now = Instant::now();
            for command in commands.drain(..) {
                match command {
                    Command::Pull(pull) => self.room.enter(pull, now),
                    Command::Return(caught) => self.room.returned(caught, now),
                    Command::Ready(line) => self.room.ready(line),
                    Command::Connected => self.room.connected(),
                }
            }
            for action in self.room.settle(now) {
                self.act(action).await;
            }
        }
        self.give_all_back().await;
    }

    /// Asks everything anew. A connection that a known server has ended may have been ended by a message, which is looked for
    /// first.
    fn reconnected(&mut self) {
        let server = self.link.client.server_info().server_id;
        if self.servers.insert(server) {
            self.room.connected();
            return;
        }
        self.room.disconnected(Instant::now());
        let (sources, commands) = (Arc::clone(&self.sources), self.commands.clone());
        tokio::spawn(async move {
            sources.inspect().await;
            // Without a puller the process is ending.
            let _ = commands.send(Command::Connected);
        });
    }

    /// Takes in what has arrived meanwhile, alerts first.
    fn receive_ready(&mut self) {
        loop {
            if let Some(Some(message)) = self.alerts.next().now_or_never() {
                self.receive(Kind::Alert, message);
            } else if let Some(Some(message)) = self.probes.next().now_or_never() {
                self.receive(Kind::Probe, message);
            } else {
                return;
            }
        }
    }

    fn receive(&mut self, kind: Kind, message: Message) {
        let now = Instant::now();
        let line = self.room.line_of(&message.subject).map(|(line, source)| (line, Arc::clone(source)));
        if let Some((line, source)) = line {
            if let Some(caught) = Caught::read(&source, message, now) {
                self.room.caught(kind, line, caught, now);
            }
            return;
        }
        // Not a message of a queue, so the answer to a question: its subject ends with line and number of the question.
        let Some(status) = message.status else { return };
        let mut tail = message.subject.rsplit('.').map(str::parse::<u64>);
        if let (Some(Ok(id)), Some(Ok(line))) = (tail.next(), tail.next()) {
            let text = message.description.as_deref().unwrap_or_default();
            self.room.status(kind, usize::try_from(line).unwrap_or(usize::MAX), id, status.as_u16(), text, now);
        }
    }

    async fn act(&mut self, action: Action) {
        let sending = async {
            match action {
                Action::Ask { line, id, kind, batch } => self.ask(line, id, kind, batch).await,
                Action::GiveBack(reply) => {
                    metric::nats_given_back();
                    self.link.send(reply, NAK).await
                }
                Action::Recreate(line) => {
                    self.recreate(line);
                    Ok(())
                }
            }
        };
        match tokio::time::timeout(SEND_PATIENCE, sending).await {
            Ok(Ok(())) => {}
            // Nothing is lost: questions are asked again, and leases end.
            Ok(Err(error)) => tracing::debug!(%error, "a request of the puller was not sent"),
            Err(_) => tracing::debug!("the connection is stuck"),
        }
    }

    async fn ask(&self, line: usize, id: u64, kind: Kind, batch: usize) -> Result<(), BackendError> {
        let Some(source) = self.room.source(line) else { return Ok(()) };
        let (letter, body) = match kind {
            Kind::Probe => ('p', format!(r#"{{"batch":{batch},"no_wait":true}}"#)),
            Kind::Alert if batch == 1 => ('a', format!(r#"{{"batch":1,"expires":{}}}"#, ALERT.as_nanos())),
            // With both, the request ends as soon as there was something and there is no more.
            Kind::Alert => ('a', format!(r#"{{"batch":{batch},"no_wait":true,"expires":{}}}"#, ALERT.as_nanos())),
        };
        let reply = format!("{}.{letter}.{line}.{id}", self.inbox);
        let asked = self.link.client.publish_with_reply(source.next.clone(), reply, body.into()).await;
        asked.map_err(|error| self.link.unavailable(error))
    }

    /// Creates the consumer of a line again: somebody removed it, or the server is only just starting.
    fn recreate(&self, line: usize) {
        let Some(queue) = self.room.source(line).map(|source| source.queue.clone()) else { return };
        let (sources, commands) = (Arc::clone(&self.sources), self.commands.clone());
        tokio::spawn(async move {
            tokio::time::sleep(RECREATE_PAUSE).await;
            while let Err(error) = sources.create(&queue).await {
                if commands.is_closed() {
                    return;
                }
                tracing::warn!(%error, %queue, "the queue cannot be pulled from; trying again");
                tokio::time::sleep(RECREATE_PAUSE).await;
            }
            // Without a puller the process is ending.
            let _ = commands.send(Command::Ready(line));
        });
    }

    /// For the end: what nobody will take any more goes to the other processes now, not when its lease ends.
    async fn give_all_back(mut self) {
        self.receive_ready();
        let giving_back = async {
            for reply in self.room.clear() {
                self.link.send(reply, NAK).await?;
            }
            self.link.flush().await
        };
        // The leases end in any case.
        drop(tokio::time::timeout(SEND_PATIENCE, giving_back).await);
    }
}
