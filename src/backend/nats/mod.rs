//! Queues, job logs, artifacts and hints on NATS JetStream (2.9 or newer).
//!
//! One connection per process carries everything. Streams hold what must not be lost, a consumer per queue hands it out, and
//! core messages carry the hints; names and settings are those of DESIGN §4. What JetStream does badly is done here instead:
//! waiting for messages of many queues in order of urgency (`room`), retries (`mover`), bodies larger than a message
//! (`carry`), and knowing whose a delivery is (`held`). Nothing in here may be relied on beyond the traits.

mod artifacts;
mod broker;
mod carry;
mod caught;
mod connect;
mod entry;
mod events;
mod facts;
mod get;
mod held;
mod journal;
mod letters;
mod line;
mod link;
mod mover;
mod names;
mod puller;
mod quarantine;
mod room;
#[cfg(test)]
mod room_tests;
mod service;
mod signals;
mod sources;
mod stored;
mod streams;
mod tails;
mod waiter;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::jetstream::context::ContextBuilder;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use facts::{NatsFacts, facts};

use self::artifacts::ObjectStore;
use self::broker::NatsBroker;
use self::connect::{Address, connect};
use self::events::Log;
use self::held::Hand;
use self::journal::StreamJournal;
use self::letters::{LetterWriter, Letters};
use self::link::Link;
use self::names::Names;
use self::quarantine::Quarantine;
use self::service::Registration;
use self::signals::Signals;
use self::sources::Sources;
use super::delay::DelayStore;
use super::distributed::{Certificates, DistributedOptions, OPEN_TIMEOUT};
use super::journal::Journal;
use super::{Artifacts, BackendError, Broker, EventLog};
use crate::clock::Clock;
use crate::config::Secret;
use crate::error::Coded;
use crate::protocol::InstanceId;

/// How long a cluster may take to form, and how often to look.
const FORMING: Duration = Duration::from_secs(7);
const FORMING_PAUSE: Duration = Duration::from_millis(200);

/// How a process proves who it is.
#[derive(Debug, Clone, Default)]
pub enum NatsLogin {
    /// Not at all, or with the credentials in the server's URL.
    #[default]
    None,
    /// With a user name and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// With a token.
    Token(Secret),
    /// With an NKey: the seed.
    NKey(Secret),
    /// With a decentralised JWT: the text of a credentials file.
    Credentials(Secret),
}

/// How to reach the NATS servers.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// Server URLs, separated by commas. May hold credentials and must not be printed.
    pub servers: Secret,
    /// As whom.
    pub login: NatsLogin,
    /// With which certificates.
    pub certificates: Certificates,
    /// Copies of every stream.
    pub replicas: usize,
    /// Most bytes of queued tasks; a quarter of it for results, which are small. The server sets that much of its disk aside.
    pub max_queue_bytes: u64,
    /// How long a message stays with a consumer that does not say it is still at work.
    pub ack_wait: Duration,
    /// How long a request may take.
    pub request_timeout: Duration,
}

/// What NATS holds.
pub(super) struct NatsStores {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) events: Arc<dyn EventLog>,
    pub(super) artifacts: Arc<dyn Artifacts>,
    pub(super) journal: Arc<dyn Journal>,
}

/// Ends what this process does in the background when the last of its stores is dropped.
#[derive(Debug)]
struct Lifeline {
    _registration: Registration,
    _stop: DropGuard,
}

/// Connects as the process `instance`, sees to it that the streams are there, and starts what this process does for them.
///
/// Retries wait in `delays`; times are those of `clock`. Everything ends when the last of the stores is dropped.
///
/// # Errors
/// [`BackendError::Unavailable`] when no server can be reached, [`BackendError::Refused`] when one was and cannot be used:
/// it refuses the login, is too old, has no JetStream, or holds streams that are not ours.
pub(super) async fn open(
    options: &DistributedOptions,
    instance: &InstanceId,
    delays: Arc<dyn DelayStore>,
    clock: Clock,
) -> Result<NatsStores, BackendError> {
    let address = Address::parse(options.nats.servers.expose())?;
    let opening = start(options, &address, instance, delays, clock);
    let opened = tokio::time::timeout(OPEN_TIMEOUT, opening).await;
    opened.map_err(|_| BackendError::Unavailable {
        store: link::STORE,
        reason: format!("{} did not let itself be opened within {} s", address.at, OPEN_TIMEOUT.as_secs()),
    })?
}

async fn start(
    options: &DistributedOptions,
    address: &Address,
    instance: &InstanceId,
    delays: Arc<dyn DelayStore>,
    clock: Clock,
) -> Result<NatsStores, BackendError> {
    let (client, epoch) = connect(&options.nats, address, instance).await?;
    let mut link = link_to(&options.nats, &options.namespace, address, client, epoch);
    link.replicas = prepare(&link, options.nats.max_queue_bytes).await?;
    let stop = CancellationToken::new();
    let registration = Registration::new(&link.client, instance, &options.namespace).await;
    let lifeline = Lifeline { _registration: registration, _stop: stop.clone().drop_guard() };
    let hand = Arc::new(Hand::new(options.nats.ack_wait));
    let objects = ObjectStore::new(&link, lifeline).await?;
    let log = Log::new(&link, &objects, clock.clone(), stop.clone()).await?;
    let journal = StreamJournal::start(&link).await?;
    let writer = LetterWriter::new(&link, clock);
    let letters = Letters::new(&link, &objects, writer.clone()).await?;
    let quarantine = Quarantine::new(&link, writer);
    let sources = Arc::new(Sources::new(link.clone(), options.nats.ack_wait, quarantine));
    let signals = Signals::start(&link, stop.clone()).await?;
    let puller = puller::start(&link, &sources, stop.clone()).await?;
    mover::start(&link, Arc::clone(&delays), Arc::clone(&hand), stop);
    let broker = NatsBroker { link, sources, puller, hand, objects: objects.clone(), letters, signals, delays };
    let journal = Arc::new(journal);
    Ok(NatsStores { broker: Arc::new(broker), events: Arc::new(log), artifacts: Arc::new(objects), journal })
}

/// Sees to it that the streams are there; answers how many copies of them. A cluster that is only forming is waited for.
async fn prepare(link: &Link, max_queue_bytes: u64) -> Result<usize, BackendError> {
    let started = Instant::now();
    loop {
        let preparing = async {
            streams::check_server(link).await?;
            streams::reconcile(link, max_queue_bytes).await
        };
        match preparing.await {
            Err(error) if error.retry().is_retryable() && started.elapsed() < FORMING => {
                tracing::debug!(%error, "JetStream is not ready");
                tokio::time::sleep(FORMING_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

fn link_to(
    options: &NatsOptions,
    namespace: &str,
    address: &Address,
    client: Client,
    epoch: watch::Receiver<u64>,
) -> Link {
    let timeout = options.request_timeout;
    let context = ContextBuilder::new().timeout(timeout).ack_timeout(timeout).build(client.clone());
    let (names, at) = (Names::new(namespace), address.at.clone());
    Link { client, context, names, at, timeout, replicas: options.replicas, epoch }
}
