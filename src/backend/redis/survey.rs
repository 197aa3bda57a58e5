//! What a Redis server says about itself, and whether that is enough for the promises made on top of it.
//!
//! Looked at once when the stores are opened and by whoever wants to know what is wrong. Settings may be forbidden to this
//! program's login; then what the server tells everybody has to do, and the rest is named as unknown rather than guessed.
//! Nothing here writes to the server or changes its settings: it says which command would.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, ConnectionInfo, IntoConnectionInfo, RedisError, Value, cmd};
use tokio::time::{Instant, sleep, timeout};

use super::fault::{STORE, Verdict, classify, verdict};
use super::link::config;
use super::{RedisOptions, Space};
use crate::backend::BackendError;
use crate::backend::distributed::{DistributedOptions, OPEN_TIMEOUT};

/// Oldest version that has every command in use (`ZADD … LT`, exclusive ranges).
const OLDEST_VERSION: (u32, u32) = (6, 2);

/// Pause between questions to a server that cannot answer yet.
const LOADING_PAUSE: Duration = Duration::from_millis(50);

/// Requests from which the latency is taken.
const PROBES: usize = 5;

/// What a Redis server says about itself. `None` is what it did not want to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisFacts {
    /// Host and port.
    pub address: String,
    /// Version of the server.
    pub version: Option<String>,
    /// `master`, or `slave` for a replica.
    pub role: Option<String>,
    /// Whether every write goes to a log on the disk.
    pub append_only: Option<bool>,
    /// When that log is flushed: `always`, `everysec` or `no`.
    pub append_fsync: Option<String>,
    /// What happens to keys when the memory is full.
    pub eviction_policy: Option<String>,
    /// Memory in use, in bytes.
    pub used_memory: Option<u64>,
    /// Memory it may use, in bytes; 0 for as much as there is.
    pub max_memory: Option<u64>,
    /// Median time of a request and its answer.
    pub latency: Duration,
    /// Names the budget's data; `None` before the first use of the namespace, and after all data was lost.
    pub epoch: Option<String>,
}

impl RedisFacts {
    /// Settings under which the server may lose what it has acknowledged, each with the command that changes it.
    #[must_use]
    pub fn risks(&self) -> Vec<String> {
        let mut risks = Vec::new();
        let mut risk = |is_risk: bool, what: &str, set: &str| {
            if is_risk {
                risks.push(format!("{what}: run `CONFIG SET {set}` and put it into redis.conf"));
            }
        };
        risk(self.append_only == Some(false), "it keeps its data in memory only (appendonly no)", "appendonly yes");
        let fsync = self.append_fsync.as_deref().filter(|_| self.append_only == Some(true));
        risk(
            fsync.is_some_and(|fsync| fsync != "always"),
            &format!("loss of power may undo money set aside (appendfsync {})", fsync.unwrap_or_default()),
            "appendfsync always",
        );
        let policy = self.eviction_policy.as_deref();
        risk(
            policy.is_some_and(|policy| policy != "noeviction"),
            &format!("it throws keys away when its memory is full (maxmemory-policy {})", policy.unwrap_or_default()),
            "maxmemory-policy noeviction",
        );
        risks
    }

    /// Settings that the server did not want to tell.
    #[must_use]
    pub fn unknown(&self) -> Vec<&'static str> {
        let mut unknown = Vec::new();
        let mut note = |is_known: bool, name| {
            if !is_known {
                unknown.push(name);
            }
        };
        note(self.version.is_some(), "the version");
        note(self.append_only.is_some(), "appendonly");
        note(self.append_fsync.is_some(), "appendfsync");
        note(self.eviction_policy.is_some(), "maxmemory-policy");
        unknown
    }

    /// Refuses a server that cannot keep the promises; with `require_durable` also one that may lose what it acknowledged.
    pub(super) fn check(&self, require_durable: bool) -> Result<(), BackendError> {
        let address = &self.address;
        let refused = |why| Err(BackendError::Invalid { field: "redis.url", why });
        if let Some(version) = &self.version
            && is_too_old(version)
        {
            let (major, minor) = OLDEST_VERSION;
            return refused(format!("the server at {address} is Redis {version}; {major}.{minor} or newer is needed"));
        }
        if self.role.as_deref() == Some("slave") {
            return refused(format!("the server at {address} is a read-only replica; name the primary"));
        }
        let risks = self.risks();
        if require_durable && !risks.is_empty() {
            return Err(BackendError::Refused {
                server: format!("the Redis server at {address}"),
                why: format!("it may lose what it has acknowledged: {}", risks.join("; ")),
                remedy: "change these settings of the server as it says, or accept the risk with storage.durability = \"process\"".into(),
            });
        }
        for risk in risks {
            tracing::warn!(address, "Redis may lose data: {risk}");
        }
        let unknown = self.unknown();
        if !unknown.is_empty() {
            tracing::warn!(
                address,
                unknown = unknown.join(", "),
                "Redis does not tell some of its settings to this login"
            );
        }
        Ok(())
    }
}

fn is_too_old(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < OLDEST_VERSION
}

/// Asks the server of `options` about itself.
///
/// # Errors
/// [`BackendError::Unavailable`] when it cannot be reached, [`BackendError::Invalid`] when the address, login or certificates
/// are wrong.
pub async fn survey(options: &DistributedOptions) -> Result<RedisFacts, BackendError> {
    let info = connection_info(&options.redis)?;
    let address = info.addr().to_string();
    let space = Space::new(&options.namespace);
    let inspecting = timeout(OPEN_TIMEOUT, inspect(info, options.redis.request_timeout, &space));
    inspecting.await.unwrap_or_else(|_| Err(not_ready(&address)))
}

/// The server is there but has not got ready to answer in time.
pub(super) fn not_ready(address: &str) -> BackendError {
    let reason = format!("{address} did not get ready within {} s", OPEN_TIMEOUT.as_secs());
    BackendError::Unavailable { store: STORE, reason }
}

/// Connects once, without patience for a server that is not there, and asks.
pub(super) async fn inspect(
    info: ConnectionInfo,
    patience: Duration,
    space: &Space,
) -> Result<RedisFacts, BackendError> {
    let address = info.addr().to_string();
    let fault = |error: RedisError| classify(&error, &address);
    let client = Client::open(info).map_err(fault)?;
    let connecting = client.get_multiplexed_async_connection_with_config(&config(patience)).await;
    let mut connection = connecting.map_err(fault)?;
    let latency = latency(&mut connection).await.map_err(fault)?;
    let info = permitted(ask::<String>(&mut connection, cmd("INFO")).await).map_err(fault)?.unwrap_or_default();
    let told: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    let tells = |name: &str| told.get(name).map(|value| (*value).to_owned());
    let mut settings = HashMap::new();
    for pattern in ["append*", "maxmemory*"] {
        let mut get = cmd("CONFIG");
        get.arg("GET").arg(pattern);
        let found = permitted(ask::<HashMap<String, String>>(&mut connection, get).await).map_err(fault)?;
        settings.extend(found.unwrap_or_default());
    }
    let mut get = cmd("GET");
    get.arg(format!("{}:epoch", space.budget));
    let epoch = ask(&mut connection, get).await.map_err(fault)?;
    let append_only = settings.get("appendonly").map(|value| value == "yes");
    Ok(RedisFacts {
        version: tells("redis_version"),
        role: tells("role"),
        append_only: append_only.or_else(|| tells("aof_enabled").map(|value| value == "1")),
        append_fsync: settings.remove("appendfsync"),
        eviction_policy: settings.remove("maxmemory-policy").or_else(|| tells("maxmemory_policy")),
        used_memory: tells("used_memory").and_then(|value| value.parse().ok()),
        max_memory: tells("maxmemory").and_then(|value| value.parse().ok()),
        latency,
        epoch,
        address,
    })
}

/// Asks until the server can answer: one that has just been started reads its data first.
async fn ask<T: redis::FromRedisValue>(connection: &mut MultiplexedConnection, command: Cmd) -> Result<T, RedisError> {
    loop {
        match command.query_async(connection).await {
            Err(error) if verdict(&error) == Verdict::Wait => sleep(LOADING_PAUSE).await,
            outcome => return outcome,
        }
    }
}

async fn latency(connection: &mut MultiplexedConnection) -> Result<Duration, RedisError> {
    let mut times = Vec::with_capacity(PROBES);
    for _ in 0..PROBES {
        let start = Instant::now();
        ask::<Value>(connection, cmd("TIME")).await?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[PROBES / 2])
}

/// `None` when the login may not ask this, or the server does not know the command (it can be renamed away).
fn permitted<T>(outcome: Result<T, RedisError>) -> Result<Option<T>, RedisError> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.code(), Some("NOPERM" | "ERR")) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Address, login and certificates as the client wants them.
pub(super) fn connection_info(options: &RedisOptions) -> Result<ConnectionInfo, BackendError> {
    let invalid = |field, why: String| BackendError::Invalid { field, why };
    let info = options.url.expose().into_connection_info();
    let info = info.map_err(|error| invalid("redis.url", error.to_string()))?;
    let mut login = info.redis_settings().clone().set_lib_name("codeswarm", env!("CARGO_PKG_VERSION"));
    if let Some(user) = &options.user {
        login = login.set_username(user);
    }
    if let Some(password) = &options.password {
        login = login.set_password(password.expose());
    }
    let is_tls = matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. });
    let info = info.set_redis_settings(login);
    let certificates = &options.certificates;
    if !is_tls {
        return match (&certificates.ca_file, &certificates.identity_files) {
            (None, None) => Ok(info),
            _ => Err(invalid("redis.url", "certificates need a URL that starts with rediss://".into())),
        };
    }
    // Fails when there is one already, which is then as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let read = |field, path: &std::path::Path| {
        std::fs::read(path).map_err(|error| invalid(field, format!("cannot read {}: {error}", path.display())))
    };
    let root_cert = certificates.ca_file.as_deref().map(|path| read("redis.ca_file", path)).transpose()?;
    let client_tls = match &certificates.identity_files {
        None => None,
        Some((certificate, key)) => Some(redis::ClientTlsConfig {
            client_cert: read("redis.certificate_file", certificate)?,
            client_key: read("redis.key_file", key)?,
        }),
    };
    if root_cert.is_none() && client_tls.is_none() {
        return Ok(info);
    }
    let client = Client::build_with_tls(info, redis::TlsCertificates { client_tls, root_cert });
    let client = client.map_err(|error| invalid("redis.ca_file, certificate_file or key_file", error.to_string()))?;
    Ok(client.get_connection_info().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> RedisFacts {
        RedisFacts {
            address: "host:6379".into(),
            version: Some("7.0.15".into()),
            role: Some("master".into()),
            append_only: Some(true),
            append_fsync: Some("always".into()),
            eviction_policy: Some("noeviction".into()),
            used_memory: Some(1),
            max_memory: Some(0),
            latency: Duration::from_micros(100),
            epoch: None,
        }
    }

    #[test]
    fn a_server_is_too_old_below_6_2() {
        for (version, old) in [("6.0.16", true), ("5.9", true), ("6.2.0", false), ("7.0.15", false), ("10.0", false)] {
            assert_eq!(is_too_old(version), old, "{version}");
        }
    }

    #[test]
    fn what_may_lose_data_is_refused_with_the_command_that_changes_it_or_only_warned_about() {
        sound().check(true).expect("sound");
        let risky = [
            (RedisFacts { append_only: Some(false), ..sound() }, "CONFIG SET appendonly yes"),
            (RedisFacts { append_fsync: Some("everysec".into()), ..sound() }, "CONFIG SET appendfsync always"),
            (
                RedisFacts { eviction_policy: Some("allkeys-lru".into()), ..sound() },
                "CONFIG SET maxmemory-policy noeviction",
            ),
        ];
        for (facts, command) in risky {
            let error = facts.check(true).expect_err("risky");
            assert!(matches!(error, BackendError::Refused { .. }), "not the fault of its address: {error}");
            let refused = error.to_string();
            assert!(refused.contains(command) && refused.contains("host:6379"), "{refused}");
            facts.check(false).expect("a warning");
        }
    }

    #[test]
    fn what_the_server_does_not_tell_is_no_reason_to_refuse_it() {
        let silent = RedisFacts { append_only: None, append_fsync: None, eviction_policy: None, ..sound() };
        silent.check(true).expect("unknown is not wrong");
        assert_eq!(silent.unknown(), ["appendonly", "appendfsync", "maxmemory-policy"]);
    }
}
