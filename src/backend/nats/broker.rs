//! [`Broker`] on JetStream.
//!
//! A message is published with an id that the server remembers for two minutes, pulled by the process's one
//! [puller](super::puller), held in a table until its lease ends, and disposed of with a plain message, after which the
//! connection is flushed. Whatever must come later (a retry, a dead letter) is stored elsewhere first and acknowledged then,
//! so a crash in between repeats a message and never loses one.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::artifacts::ObjectStore;
use super::carry;
use super::caught::Caught;
use super::held::{Hand, Held};
use super::letters::Letters;
use super::link::{Link, Post, headers};
use super::mover;
use super::names::MESSAGE_ID;
use super::puller::NAK;
use super::signals::Signals;
use super::sources::Sources;
use super::waiter::{Command, Handover, Pull};
use crate::backend::bound::check_message;
use crate::backend::delay::DelayStore;
use crate::backend::{
    BackendError, Broker, DeadLetter, Delivery, DeliveryTag, Depth, Disposition, Outgoing, Queue, Signal,
};
use crate::protocol::InstanceId;

const ACK: Bytes = Bytes::from_static(b"+ACK");
const PROGRESS: Bytes = Bytes::from_static(b"+WPI");
const TERM: Bytes = Bytes::from_static(b"+TERM");

/// Longest wait for messages; a longer one is cut to it.
const MAX_WAIT: Duration = Duration::from_secs(3_600);

/// The queues of a namespace.
pub(super) struct NatsBroker {
    pub(super) link: Link,
    pub(super) sources: Arc<Sources>,
    pub(super) puller: mpsc::UnboundedSender<Command>,
    pub(super) hand: Arc<Hand>,
    pub(super) objects: ObjectStore,
    pub(super) letters: Letters,
    pub(super) signals: Signals,
    pub(super) delays: Arc<dyn DelayStore>,
}

/// What is to be stored before its delivery is let go of.
#[derive(Default)]
struct Later {
    retries: Vec<(DeliveryTag, Held, Duration)>,
    letters: Vec<(DeliveryTag, Held, String)>,
}

impl NatsBroker {
    fn closed(&self) -> BackendError {
        self.link.unavailable("the stores are closed")
    }

    /// Turns caught messages into deliveries. Ones whose bodies cannot be had are put among the dead letters.
    async fn deliver(&self, handover: Handover) -> Result<Vec<Delivery>, BackendError> {
        let mut bodies = Vec::with_capacity(handover.peek().len());
        for caught in handover.peek() {
            // Dropping the handover, here or by an error, returns the messages.
            match carry::unwrap(&self.objects, caught.headers.as_ref(), &caught.payload).await {
                Err(error @ BackendError::Unavailable { .. }) => return Err(error),
                body => bodies.push(body),
            }
        }
        let (mut deliveries, mut unreadable) = (Vec::with_capacity(bodies.len()), Vec::new());
        for (caught, body) in handover.keep().into_iter().zip(bodies) {
            let Caught { source, deliveries: count, .. } = &caught;
            let (queue, count) = (source.queue.clone(), *count);
            let tag = self.hand.hold(caught);
            match body {
                Ok(body) => deliveries.push(Delivery { tag, queue, body, deliveries: count }),
                Err(error) => unreadable.push((tag, Disposition::DeadLetter(error.to_string()))),
            }
        }
        if !unreadable.is_empty() {
            tracing::error!(count = unreadable.len(), "messages whose bodies are lost go to the dead letters");
            if let Err(error) = self.dispose(unreadable).await {
                tracing::warn!(%error, "they come again");
            }
        }
        Ok(deliveries)
    }

    /// Stores retries and dead letters; answers what to tell the server then.
    async fn store(&self, later: &Later) -> Result<Vec<(Subject, Bytes)>, BackendError> {
        let mut told = Vec::new();
        if !later.retries.is_empty() {
            let retries = later.retries.iter().map(|(_, held, delay)| (mover::delayed(held), *delay));
            self.delays.put(retries.collect()).await?;
            told.extend(later.retries.iter().filter_map(|(tag, ..)| Some((self.hand.release(tag)?, ACK))));
        }
        if !later.letters.is_empty() {
            let letters: Vec<_> = later.letters.iter().map(|(_, held, reason)| (held, &reason[..])).collect();
            self.letters.bury(&letters).await?;
            told.extend(later.letters.iter().filter_map(|(tag, ..)| Some((self.hand.release(tag)?, TERM))));
        }
        Ok(told)
    }

    async fn tell(&self, told: Vec<(Subject, Bytes)>) -> Result<(), BackendError> {
        if told.is_empty() {
            return Ok(());
        }
        let telling = async {
            for (reply, word) in told {
                self.link.send(reply, word).await?;
            }
            // A process may end right after this.
            self.link.flush().await
        };
        self.link.within("an acknowledgement", telling).await
    }
}

#[async_trait]
impl Broker for NatsBroker {
    async fn publish(&self, messages: Vec<Outgoing>) -> Result<(), BackendError> {
        for message in &messages {
            check_message(message)?;
        }
        // Bodies that do not fit are stored first, so that the messages themselves stay in order.
        let posts = try_join_all(messages.into_iter().map(async |message| {
            let source = self.sources.one(&message.queue).await?;
            let mut headers = headers([(MESSAGE_ID, format!("{}/{}", message.queue, message.dedupe))]);
            let payload = carry::wrap(&self.link, &self.objects, &mut headers, message.body).await?;
            Ok::<_, BackendError>(Post { subject: source.subject.clone(), headers, payload })
        }));
        self.link.publish(posts.await?).await.map(drop)
    }

    async fn pull(
        &self,
        _consumer: &InstanceId,
        queues: &[Queue],
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>, BackendError> {
        if max == 0 || queues.is_empty() {
            return Ok(Vec::new());
        }
        let sources = self.sources.all(queues).await?;
        let wait = wait.min(MAX_WAIT);
        let (answer, outcome) = oneshot::channel();
        let pull = Pull { sources, max, wait, answer };
        self.puller.send(Command::Pull(pull)).map_err(|_| self.closed())?;
        // The puller answers in time unless it is stuck in a connection that is.
        let outcome = tokio::time::timeout(wait + self.link.timeout * 2, outcome).await;
        let handover = outcome.map_err(|_| self.link.late("a pull"))?.map_err(|_| self.closed())?;
        self.deliver(handover.map_err(|refusal| refusal.error(&self.link))?).await
    }

    async fn dispose(&self, deliveries: Vec<(DeliveryTag, Disposition)>) -> Result<(), BackendError> {
        let (mut told, mut later, mut lost) = (Vec::with_capacity(deliveries.len()), Later::default(), None);
        for (tag, disposition) in deliveries {
            let is_held = match disposition {
                Disposition::Ack => {
                    told.extend(self.hand.release(&tag).map(|reply| (reply, ACK)));
                    true
                }
                Disposition::Progress => {
                    let reply = self.hand.renew(&tag);
                    told.extend(reply.iter().cloned().map(|reply| (reply, PROGRESS)));
                    reply.is_some()
                }
                Disposition::RetryLater(delay) if delay.is_zero() => {
                    let reply = self.hand.release(&tag);
                    told.extend(reply.iter().cloned().map(|reply| (reply, NAK)));
                    reply.is_some()
                }
                Disposition::RetryLater(delay) => {
                    let held = self.hand.get(&tag);
                    later.retries.extend(held.iter().cloned().map(|held| (tag.clone(), held, delay)));
                    held.is_some()
                }
                Disposition::DeadLetter(reason) => {
                    let held = self.hand.get(&tag);
                    later.letters.extend(held.iter().cloned().map(|held| (tag.clone(), held, reason.clone())));
                    held.is_some()
                }
            };
            if !is_held {
                lost.get_or_insert_with(|| format!("delivery {}", tag.0));
            }
        }
        let stored = self.store(&later).await;
        if let Ok(more) = &stored {
            told.extend(more.iter().cloned());
        }
        self.tell(told).await?;
        stored?;
        lost.map_or(Ok(()), |what| Err(BackendError::LeaseLost { what }))
    }

    async fn depth(&self, queue: &Queue) -> Result<Depth, BackendError> {
        let (delayed, depth) =
            tokio::try_join!(async { self.delays.waiting(&queue.to_string()).await }, self.sources.depth(queue))?;
        Ok(Depth { waiting: depth.waiting + delayed, in_flight: depth.in_flight })
    }

    async fn depths(&self, queues: &[Queue]) -> Result<Vec<Depth>, BackendError> {
        let (delayed, mut depths) = tokio::try_join!(self.delays.all_waiting(), self.sources.depths(queues))?;
        for (queue, depth) in queues.iter().zip(&mut depths) {
            depth.waiting += delayed.get(&queue.to_string()).copied().unwrap_or(0);
        }
        Ok(depths)
    }

    async fn dead_letters(&self, after: u64, limit: usize) -> Result<Vec<DeadLetter>, BackendError> {
        self.letters.list(after, limit).await
    }

    async fn dead_letter(&self, letters: Vec<(Outgoing, String)>) -> Result<(), BackendError> {
        for (message, _) in &letters {
            check_message(message)?;
        }
        self.letters.add(letters).await
    }

    async fn purge_dead_letters(&self, ids: &[u64]) -> Result<u64, BackendError> {
        self.letters.purge(ids).await
    }

    async fn signal(&self, signal: Signal) -> Result<(), BackendError> {
        self.signals.send(&signal).await
    }

    fn signals(&self) -> broadcast::Receiver<Signal> {
        self.signals.subscribe()
    }
}
