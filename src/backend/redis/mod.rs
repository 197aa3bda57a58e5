//! State, money, leases, delays and presence on Redis: everything that is compared and counted.
//!
//! Each mutation is one Lua script, which runs alone on the server and so needs no lock and no second look; six domains
//! with a hash tag each (`{state}`, `{budget}`, `{locks}`, `{delay}`, `{presence}`, `{rates}`) keep a script's keys together. Keys are hashes,
//! sorted sets and streams rather than blobs, so that `redis-cli` shows what is going on; each file says which. The
//! server's clock is the one that counts. Nothing here may depend on a connection living, an answer arriving, or a key
//! expiring, and nothing may run against a server that forgets what it has acknowledged without saying so.

mod delay;
mod fault;
mod feed;
mod known;
mod ledger;
mod link;
mod locks;
mod presence;
mod rates;
mod reply;
mod restore;
mod script;
mod state;
mod steps;
mod survey;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use redis::{Client, Script, ScriptInvocation};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::survey::{RedisFacts, survey};

use self::feed::Hints;
use self::known::Known;
use self::link::Links;
use self::steps::Steps;
use super::delay::DelayStore;
use super::distributed::{Certificates, DistributedOptions, OPEN_TIMEOUT};
use super::journal::{Counters, is_mark};
use super::{BackendError, Ledger, LockTable, RateTable, StateStore};
use crate::clock::{Clock, ClockSetter};
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
    /// With which certificates. An authority named here is trusted instead of the system's.
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
pub struct RedisStores {
    /// Versioned keys.
    pub state: Arc<dyn StateStore>,
    /// Money.
    pub ledger: Arc<dyn Ledger>,
    /// The same, for the journal beside.
    pub(super) counters: Arc<dyn Counters>,
    /// Leases.
    pub locks: Arc<dyn LockTable>,
    /// Allowances and breakers of providers.
    pub rates: Arc<dyn RateTable>,
    /// Messages that wait, for the broker beside.
    pub(super) delays: Arc<dyn DelayStore>,
    /// The server's clock.
    pub clock: Clock,
}

/// Prefixes of the keys, one per domain.
struct Space {
    state: String,
    budget: String,
    locks: String,
    delay: String,
    presence: String,
    rates: String,
}

impl Space {
    fn new(namespace: &str) -> Self {
        let prefix = |domain: &str| format!("{namespace}:{{{domain}}}");
        Self {
            state: prefix("state"),
            budget: prefix("budget"),
            locks: prefix("locks"),
            delay: prefix("delay"),
            presence: prefix("presence"),
            rates: prefix("rates"),
        }
    }
}

/// One process' handle on the server. Its tasks end when the last clone of the stores is dropped.
struct Store {
    links: Links,
    space: Space,
    clock: Clock,
    /// Sets the clock, unless a test does.
    setter: Option<ClockSetter>,
    /// Whether it was ever set.
    is_set: AtomicBool,
    process: InstanceId,
    /// The budget's data that this process goes by.
    known: Known,
    hints: Hints,
    steps: Steps,
    _ending: DropGuard,
}

impl Store {
    /// A call of `script` on the keys below `prefix`.
    fn call(&self, script: &'static Script, prefix: &str) -> ScriptInvocation<'static> {
        script::call(script, prefix, &self.clock)
    }
}

/// Connects, checks the server, and enters this process among the living. `clock` is `None` in production.
///
/// # Errors
/// [`BackendError::Unavailable`] when the server cannot be reached, [`BackendError::Invalid`] when it is not what it has to be
/// or refuses the login, each naming its address.
pub async fn open(
    options: &DistributedOptions,
    instance: &InstanceId,
    clock: Option<Clock>,
) -> Result<RedisStores, BackendError> {
    let stores = connect(options, instance, clock).await?;
    let name = stores.counters.first_name().await?;
    // What is marked is nobody's, and no name either.
    stores.counters.go_by(if is_mark(&name) { "" } else { &name }, 0);
    Ok(stores)
}

/// The same, without settling which of the budget's data to go by: until then the ledger refuses everything.
pub(super) async fn connect(
    options: &DistributedOptions,
    instance: &InstanceId,
    clock: Option<Clock>,
) -> Result<RedisStores, BackendError> {
    let address = survey::connection_info(&options.redis)?.addr().to_string();
    let starting = tokio::time::timeout(OPEN_TIMEOUT, start(options, instance, clock));
    starting.await.unwrap_or_else(|_| Err(survey::not_ready(&address)))
}

async fn start(
    options: &DistributedOptions,
    instance: &InstanceId,
    clock: Option<Clock>,
) -> Result<RedisStores, BackendError> {
    let redis = &options.redis;
    let info = survey::connection_info(redis)?;
    let space = Space::new(&options.namespace);
    survey::inspect(info.clone(), redis.request_timeout, &space).await?.check(options.require_durable)?;
    let client = Client::open(info.clone()).map_err(|error| fault::classify(&error, &info.addr().to_string()))?;
    let links =
        Links::new(info, redis.connections, redis.request_timeout, format!("{}-{instance}", options.namespace))?;
    let (clock, setter) = match clock {
        Some(clock) => (clock, None),
        None => {
            let (clock, setter) = Clock::following();
            (clock, Some(setter))
        }
    };
    let ending = CancellationToken::new();
    let channel = format!("{}:changed", space.state);
    let (steps, gathered) = Steps::new();
    let store = Arc::new(Store {
        links,
        space,
        clock: clock.clone(),
        setter,
        is_set: AtomicBool::new(false),
        process: instance.clone(),
        known: Known::default(),
        hints: Hints::new(client, channel, redis.request_timeout, ending.clone()),
        steps,
        _ending: ending.clone().drop_guard(),
    });
    store.enter(redis.dead_after).await?;
    tokio::spawn(steps::run(Arc::downgrade(&store), gathered));
    tokio::spawn(presence::run(Arc::downgrade(&store), redis.beat, redis.dead_after, ending));
    Ok(RedisStores {
        state: store.clone(),
        ledger: store.clone(),
        counters: store.clone(),
        locks: store.clone(),
        rates: store.clone(),
        delays: store,
        clock,
    })
}
