//! What a server says about itself, for `doctor`.
//!
//! Asked of a plain connection, so only what the server tells every client: how often it flushes to the disk is not among
//! that. Nothing is created or changed by asking.

use std::time::{Duration, Instant};

use super::connect::{Address, connect};
use super::streams::check_server;
use super::{NatsOptions, link_to};
use crate::backend::BackendError;
use crate::protocol::InstanceId;

/// A server and what this account may use of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsFacts {
    /// Host and port of the servers asked for.
    pub address: String,
    /// Name of the server that answered.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Name of its cluster, if it is part of one.
    pub cluster: Option<String>,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Largest message it takes, in bytes.
    pub max_payload: usize,
    /// Bytes that JetStream holds on disk for this account.
    pub storage: u64,
    /// Most bytes it may hold; `None` without a limit.
    pub max_storage: Option<u64>,
    /// Streams of this account.
    pub streams: usize,
    /// Most streams; `None` without a limit.
    pub max_streams: Option<u64>,
    /// Time of one request and its answer.
    pub round_trip: Duration,
}

/// Asks the server that `options` name as the process `instance`.
///
/// # Errors
/// [`BackendError`] when it cannot be reached, refuses us, is too old or has no JetStream.
pub async fn facts(options: &NatsOptions, namespace: &str, instance: &InstanceId) -> Result<NatsFacts, BackendError> {
    let address = Address::parse(options.servers.expose())?;
    let (client, epoch) = connect(options, &address, instance).await?;
    let link = link_to(options, namespace, &address, client, epoch);
    let account = check_server(&link).await?;
    let asked = Instant::now();
    check_server(&link).await?;
    let info = link.client.server_info();
    let limit = |value: i64| u64::try_from(value).ok();
    Ok(NatsFacts {
        address: link.at,
        name: info.server_name,
        version: info.version,
        cluster: info.cluster,
        tls: info.tls_required,
        max_payload: info.max_payload,
        storage: account.storage,
        max_storage: limit(account.limits.max_storage),
        streams: account.streams,
        max_streams: limit(account.limits.max_streams),
        round_trip: asked.elapsed(),
    })
}
