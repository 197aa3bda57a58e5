//! Where pulls go: the durable consumer of each queue, created by whoever needs it first.
//!
//! One consumer per queue with a subject of its own, because a work queue refuses overlapping ones. Publishing creates it,
//! too, so that scalers see the backlog before the first worker has started. Nothing here may set a backoff or a limit of
//! deliveries: both lose messages in ways nobody sees (research: engines §3a, 6 and 8).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, PullConsumer, ReplayPolicy, pull};
use async_nats::jetstream::stream::ConsumerErrorKind;
use futures_util::future::try_join_all;

use super::connect::server;
use super::link::Link;
use super::names::{StreamKind, consumer as consumer_name, description};
use super::quarantine::Quarantine;
use super::stored::Reader;
use crate::backend::{BackendError, Depth, Queue};

/// Pulls of all processes that may wait on one consumer.
const MAX_WAITING: i64 = 8_192;

/// Deliveries of all processes that may be unacknowledged on one consumer.
const MAX_ACK_PENDING: i64 = 100_000;

/// A queue as pulls see it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) queue: Queue,
    /// Subject of its messages.
    pub(super) subject: String,
    /// Subject of requests for the next ones.
    pub(super) next: String,
    /// Tells its stream from the others in a tag.
    pub(super) letter: char,
}

/// The consumers this process knows to exist.
pub(super) struct Sources {
    link: Link,
    ack_wait: Duration,
    quarantine: Quarantine,
    known: Mutex<HashMap<Queue, Arc<Source>>>,
}

impl Sources {
    pub(super) fn new(link: Link, ack_wait: Duration, quarantine: Quarantine) -> Self {
        Self { link, ack_wait, quarantine, known: Mutex::default() }
    }

    /// The sources of `queues`, in their order.
    pub(super) async fn all(&self, queues: &[Queue]) -> Result<Vec<Arc<Source>>, BackendError> {
        let known = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            queues.iter().map(|queue| known.get(queue).cloned()).collect::<Option<Vec<_>>>()
        };
        match known {
            Some(known) => Ok(known),
            None => try_join_all(queues.iter().map(|queue| self.one(queue))).await,
        }
    }

    /// The source of `queue`.
    pub(super) async fn one(&self, queue: &Queue) -> Result<Arc<Source>, BackendError> {
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(queue) {
            return Ok(Arc::clone(known));
        }
        self.create(queue).await
    }

    /// Creates the consumer of `queue`, or brings it up to date.
    pub(super) async fn create(&self, queue: &Queue) -> Result<Arc<Source>, BackendError> {
        let kind = StreamKind::of(queue);
        let (stream, durable) = (self.link.names.stream(kind), consumer_name(queue));
        let subject = self.link.names.queue(queue);
        let config = pull::Config {
            durable_name: Some(durable.clone()),
            name: Some(durable.clone()),
            description: Some(description(queue)),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            replay_policy: ReplayPolicy::Instant,
            filter_subject: subject.clone(),
            ack_wait: self.ack_wait,
            max_deliver: -1,
            max_waiting: MAX_WAITING,
            max_ack_pending: MAX_ACK_PENDING,
            // For exporters that make labels of it; servers before 2.10 ignore it.
            metadata: metadata(queue),
            ..pull::Config::default()
        };
        let creating = async {
            let created = self.link.context.create_consumer_on_stream(config, &stream).await;
            created.map_err(|error| match error.kind() {
                ConsumerErrorKind::JetStream(inner) if (400..500).contains(&inner.code()) && inner.code() != 404 => {
                    BackendError::Refused {
                        server: server(&self.link.at),
                        why: format!("consumer {durable} of stream {stream} is not what it has to be: {inner}"),
                        remedy: format!("remove it, it is made anew: nats consumer rm {stream} {durable}"),
                    }
                }
                _ => self.link.unavailable(format!("consumer {durable} of stream {stream}: {error}")),
            })
        };
        let created: PullConsumer = self.link.within("creating a consumer", creating).await?;
        if created.cached_info().num_redelivered > 0 {
            self.quarantine.inspect(queue, created.cached_info()).await?;
        }
        let letter = match kind {
            StreamKind::Results => 'r',
            StreamKind::Commands => 'c',
            _ => 't',
        };
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}");
        let source = Arc::new(Source { queue: queue.clone(), subject, next, letter });
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.clone(), Arc::clone(&source));
        Ok(source)
    }

    /// Looks at what is in flight in all queues this process uses.
    pub(super) async fn inspect(&self) {
        let queues: Vec<Queue> = self.known.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        for queue in queues {
            let inspecting = async { self.quarantine.inspect(&queue, &self.info(&queue).await?).await };
            if let Err(error) = inspecting.await {
                tracing::debug!(%error, %queue, "not looked at");
            }
        }
    }

    async fn info(&self, queue: &Queue) -> Result<consumer::Info, BackendError> {
        let (stream, durable) = (self.link.names.stream(StreamKind::of(queue)), consumer_name(queue));
        let asking = async {
            let stream = self.link.context.get_stream_no_info(&stream).await;
            let stream = stream.map_err(|error| self.link.unavailable(error))?;
            stream.consumer_info(&durable).await.map_err(|error| self.link.unavailable(error))
        };
        self.link.within("asking about a queue", asking).await
    }

    /// How full `queue` is, as the server tells. What waits to be delivered again counts as in flight.
    pub(super) async fn depth(&self, queue: &Queue) -> Result<Depth, BackendError> {
        self.one(queue).await?;
        let info = self.info(queue).await?;
        Ok(Depth { waiting: info.num_pending, in_flight: info.num_ack_pending as u64 })
    }

    /// How full each of `queues` is, in their order. A message stays in its stream until it is acknowledged, so one question
    /// per stream tells which queues are empty, and only the others are asked.
    pub(super) async fn depths(&self, queues: &[Queue]) -> Result<Vec<Depth>, BackendError> {
        // Scalers ask the consumers themselves, which must be there.
        let sources = self.all(queues).await?;
        let mut kinds: Vec<StreamKind> = queues.iter().map(StreamKind::of).collect();
        kinds.dedup();
        let counting = kinds.into_iter().map(async |kind| {
            let reader = Reader::new(&self.link, kind).await?;
            reader.subjects(&self.link.names.subjects(kind).remove(0)).await
        });
        let used: HashSet<String> =
            try_join_all(counting).await?.into_iter().flatten().map(|(subject, _)| subject).collect();
        let depths = sources.iter().map(async |source| {
            if used.contains(&source.subject) { self.depth(&source.queue).await } else { Ok(Depth::default()) }
        });
        try_join_all(depths).await
    }
}

fn metadata(queue: &Queue) -> HashMap<String, String> {
    match queue {
        Queue::Task { agent, priority } => HashMap::from([
            ("agent_type".to_owned(), agent.to_string()),
            ("priority".to_owned(), priority.as_str().to_owned()),
        ]),
        Queue::Result { .. } | Queue::Command { .. } => HashMap::new(),
    }
}
