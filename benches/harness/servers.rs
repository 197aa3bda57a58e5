//! A Redis and a NATS server of the benchmark's own, set up as the shipped configuration sets them up, and what is measured
//! on them: the ledger on Redis, the same with its journal, and the least that a script on the same server can do.
//!
//! All of them ask over as many connections, so that the ratio says what the scripts cost and nothing else.

#[path = "../../tests/it/support/servers/nats.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod nats_server;
#[path = "../../tests/it/support/servers/redis.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod redis_server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use codeswarm::backend::{Backend, Ledger, distributed, redis as stores};
use codeswarm::protocol::InstanceId;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Script};

use crate::options::{CONNECTIONS, options};
use nats_server::NatsServer;
use redis_server::RedisServer;

/// Running servers and everything on them.
pub(crate) struct Servers {
    /// The least that a script can do.
    pub(crate) bare: Bare,
    /// The ledger on Redis alone.
    pub(crate) counters: Arc<dyn Ledger>,
    /// The ledger with its journal.
    pub(crate) journaled: Arc<dyn Ledger>,
    /// Who asks.
    pub(crate) instance: InstanceId,
    _backend: Backend,
    _servers: (NatsServer, RedisServer),
}

impl Servers {
    /// Starts them on free ports.
    pub(crate) async fn start() -> Self {
        let (nats, redis) = (NatsServer::start(), RedisServer::start());
        let instance = InstanceId::fresh("bench");
        let alone = options("counters", &nats.url(), &redis.url());
        let counters = stores::open(&alone, &instance, None).await.expect("opens").ledger;
        let together = options("together", &nats.url(), &redis.url());
        let backend = distributed::open(&together, &InstanceId::fresh("bench"), None).await.expect("opens");
        let bare = Bare::connect(&redis.url()).await;
        let journaled = backend.ledger.clone();
        Self { bare, counters, journaled, instance, _backend: backend, _servers: (nats, redis) }
    }
}

/// A script of two increments on connections of its own.
#[derive(Clone)]
pub(crate) struct Bare {
    connections: Arc<[MultiplexedConnection]>,
    next: Arc<AtomicUsize>,
    script: Arc<Script>,
}

impl Bare {
    async fn connect(url: &str) -> Self {
        let client = redis::Client::open(url).expect("a URL");
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(5)));
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let made = client.get_multiplexed_async_connection_with_config(&config).await;
            connections.push(made.expect("connects"));
        }
        let script = Arc::new(Script::new(include_str!("bare.lua")));
        Self { connections: connections.into(), next: Arc::default(), script }
    }

    /// Adds to both counters of the caller's job.
    pub(crate) async fn step(&self, caller: usize, reserved: i64, spent: i64) {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        let mut connection = self.connections[next].clone();
        let mut call = self.script.key("bench:{bare}:reserved");
        call.key("bench:{bare}:spent").arg(format!("job:{caller}")).arg(reserved).arg(spent);
        let answer: i64 = call.invoke_async(&mut connection).await.expect("an answer");
        assert_eq!(answer, 1);
    }
}
