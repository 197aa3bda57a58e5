//! Queues, job logs, artifacts and hints on NATS JetStream.
//!
//! To be filled.

use std::sync::Arc;
use std::time::Duration;

use super::delay::DelayStore;
use super::distributed::{Certificates, DistributedOptions};
use super::{Artifacts, BackendError, Broker, EventLog};
use crate::clock::Clock;
use crate::config::Secret;
use crate::protocol::InstanceId;

/// How a process proves who it is.
#[derive(Debug, Clone, Default)]
pub enum NatsLogin {
    /// Not at all.
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
    /// Most bytes of queued tasks.
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
}

/// Connects, and reconciles streams and consumers.
pub(super) async fn open(
    _options: &DistributedOptions,
    _instance: &InstanceId,
    _delays: Arc<dyn DelayStore>,
    _clock: Clock,
) -> Result<NatsStores, BackendError> {
    Err(BackendError::Unavailable { store: "NATS", reason: "not built yet".into() })
}
