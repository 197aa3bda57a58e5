//! From settings to opened stores, whichever backend they name.
//!
//! The one place that decides between the two, so that no room above knows which it has. Secrets are read from their files
//! here and go nowhere else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::distributed::{self, Certificates, DistributedOptions};
use super::embedded::{self, Durability};
use super::nats::{NatsLogin, NatsOptions};
use super::redis::{self, RedisOptions};
use super::{Backend, BackendError, Ledger};
use crate::clock::Clock;
use crate::config::{Secret, Settings};
use crate::error::Coded;
use crate::protocol::InstanceId;

/// True when `settings` name servers instead of a data directory.
#[must_use]
pub fn is_distributed(settings: &Settings) -> bool {
    settings.storage.backend == "nats"
}

/// Opens the stores that `settings` name for the process `instance`: the servers, or the file in the directory `data`.
/// Paths in the settings are relative to `base`.
///
/// # Errors
/// [`BackendError`] naming the store, file or setting that cannot be used.
pub async fn open(
    settings: &Settings,
    base: &Path,
    data: &Path,
    instance: &InstanceId,
) -> Result<Backend, BackendError> {
    if is_distributed(settings) {
        return distributed::open(&distributed_options(settings, base)?, instance, None).await;
    }
    let durability = if is_durable(settings) { Durability::Full } else { Durability::Process };
    embedded::open(data, instance, durability, Clock::system()).await
}

/// The money alone of the servers that `settings` name, for the process `instance`: for a freeze that cannot wait until NATS
/// answers. Its steps are in no journal, so a rebuild forgets them.
///
/// # Errors
/// [`BackendError`] naming what is wrong with the Redis server or its settings.
pub async fn counters(
    settings: &Settings,
    base: &Path,
    instance: &InstanceId,
) -> Result<Arc<dyn Ledger>, BackendError> {
    Ok(redis::open(&distributed_options(settings, base)?, instance, None).await?.ledger)
}

fn is_durable(settings: &Settings) -> bool {
    settings.storage.durability != "process"
}

/// How to reach the servers that `settings` name.
///
/// # Errors
/// [`BackendError::Invalid`] naming the setting whose file cannot be read.
pub fn distributed_options(settings: &Settings, base: &Path) -> Result<DistributedOptions, BackendError> {
    let (nats, redis) = (&settings.nats, &settings.redis);
    let millis = Duration::from_millis;
    Ok(DistributedOptions {
        namespace: settings.storage.namespace.clone(),
        require_durable: is_durable(settings),
        nats: NatsOptions {
            servers: Secret::new(&nats.url),
            login: login(settings, base)?,
            certificates: certificates(base, &nats.ca_file, &nats.certificate_file, &nats.key_file),
            replicas: usize::try_from(nats.replicas).unwrap_or(usize::MAX),
            max_queue_bytes: nats.max_queue_bytes,
            ack_wait: millis(nats.ack_wait_ms),
            request_timeout: millis(nats.request_timeout_ms),
        },
        redis: RedisOptions {
            url: Secret::new(&redis.url),
            user: Some(redis.user.clone()).filter(|user| !user.is_empty()),
            password: secret("redis.password_file", base, &redis.password_file)?,
            certificates: certificates(base, &redis.ca_file, &redis.certificate_file, &redis.key_file),
            connections: usize::try_from(redis.connections).unwrap_or(usize::MAX),
            request_timeout: millis(redis.request_timeout_ms),
            beat: millis(settings.presence.beat_ms),
            dead_after: millis(settings.presence.dead_after_ms),
        },
    })
}

/// The one way to log in that the settings choose; they have been checked for choosing only one.
fn login(settings: &Settings, base: &Path) -> Result<NatsLogin, BackendError> {
    let nats = &settings.nats;
    if let Some(password) = secret("nats.password_file", base, &nats.password_file)? {
        return Ok(NatsLogin::Password { user: nats.user.clone(), password });
    }
    if let Some(token) = secret("nats.token_file", base, &nats.token_file)? {
        return Ok(NatsLogin::Token(token));
    }
    if let Some(seed) = secret("nats.nkey_file", base, &nats.nkey_file)? {
        return Ok(NatsLogin::NKey(seed));
    }
    let credentials = secret("nats.credentials_file", base, &nats.credentials_file)?;
    Ok(credentials.map_or(NatsLogin::None, NatsLogin::Credentials))
}

/// The text of a secret's file; `None` when the setting names none.
fn secret(field: &'static str, base: &Path, file: &str) -> Result<Option<Secret>, BackendError> {
    if file.is_empty() {
        return Ok(None);
    }
    let read = Secret::from_file(field, &base.join(file));
    read.map(Some).map_err(|error| BackendError::Invalid { field, why: format!("{error}; {}", error.remedy()) })
}

fn certificates(base: &Path, ca: &str, certificate: &str, key: &str) -> Certificates {
    let path = |file: &str| -> Option<PathBuf> { (!file.is_empty()).then(|| base.join(file)) };
    Certificates { ca_file: path(ca), identity_files: path(certificate).zip(path(key)) }
}
