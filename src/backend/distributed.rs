//! The seven stores over JetStream and Redis, shared by any number of machines.
//!
//! NATS carries what flows (queues, logs, artifacts, hints), Redis what is compared and counted (state, money, leases,
//! delays, presence, rates). Each half keeps its own promises; nothing here spans both. All processes of a deployment go by the
//! clock of the Redis server, so that skewed hosts agree on when a lease ends.

use std::sync::Arc;
use std::time::Duration;

use super::journal::Journaled;
use super::nats::{self, NatsOptions};
use super::redis::{self, RedisOptions};
use super::{Backend, BackendError};
use crate::clock::Clock;
use crate::protocol::InstanceId;

/// How to reach the servers, and as whom.
#[derive(Debug, Clone)]
pub struct DistributedOptions {
    /// Beginning of every stream, subject and key; 1 to 20 letters, digits, `-` or `_`.
    pub namespace: String,
    /// The NATS servers.
    pub nats: NatsOptions,
    /// The Redis server.
    pub redis: RedisOptions,
    /// True refuses servers whose settings may lose what they acknowledged; false only warns.
    pub require_durable: bool,
}

/// TLS certificates as PEM texts.
#[derive(Debug, Clone, Default)]
pub struct Certificates {
    /// The authority to trust besides the system's, as a file.
    pub ca_file: Option<std::path::PathBuf>,
    /// This program's own certificate and its key, as files.
    pub identity_files: Option<(std::path::PathBuf, std::path::PathBuf)>,
}

/// Longest time that opening may take.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the servers for the process `instance` and checks that they are what they have to be.
///
/// `clock` is `None` in production: then all processes follow the Redis server's clock. Tests hand in one they move.
///
/// # Errors
/// [`BackendError`] naming the server and what is wrong with it.
pub async fn open(
    options: &DistributedOptions,
    instance: &InstanceId,
    clock: Option<Clock>,
) -> Result<Backend, BackendError> {
    let redis = redis::connect(options, instance, clock).await?;
    let nats = nats::open(options, instance, redis.delays, redis.clock.clone()).await?;
    let ledger = Journaled::join(redis.counters, nats.journal, redis.clock.clone()).await?;
    Ok(Backend {
        broker: nats.broker,
        events: nats.events,
        artifacts: nats.artifacts,
        state: redis.state,
        ledger: Arc::new(ledger),
        locks: redis.locks,
        rates: redis.rates,
        clock: redis.clock,
        delivery_lease: options.nats.ack_wait,
    })
}
