//! State, money, leases, delays and presence on Redis.
//!
//! To be filled.

use std::sync::Arc;
use std::time::Duration;

use super::delay::DelayStore;
use super::distributed::{Certificates, DistributedOptions};
use super::{BackendError, Ledger, LockTable, RateTable, StateStore};
use crate::clock::Clock;
use crate::config::Secret;
use crate::protocol::InstanceId;

/// How to reach the Redis server.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// Server URL. May hold credentials and must not be printed.
    pub url: Secret,
    /// ACL user, if not in the URL.
    pub user: Option<String>,
    /// Password, if not in the URL.
    pub password: Option<Secret>,
    /// With which certificates.
    pub certificates: Certificates,
    /// Connections of this process.
    pub connections: usize,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How often this process says that it lives.
    pub beat: Duration,
    /// After which silence a process is dead.
    pub dead_after: Duration,
}

/// What Redis holds.
pub(super) struct RedisStores {
    pub(super) state: Arc<dyn StateStore>,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) locks: Arc<dyn LockTable>,
    pub(super) rates: Arc<dyn RateTable>,
    pub(super) delays: Arc<dyn DelayStore>,
    pub(super) clock: Clock,
}

/// Connects and checks the server.
pub(super) async fn open(
    _options: &DistributedOptions,
    _instance: &InstanceId,
    _clock: Option<Clock>,
) -> Result<RedisStores, BackendError> {
    Err(BackendError::Unavailable { store: "Redis", reason: "not built yet".into() })
}
