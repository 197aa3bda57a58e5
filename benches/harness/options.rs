//! How the benchmarks reach servers of their own: with the timings and connections of the shipped configuration.
//!
//! One place for all of them, so that what one measures can be set beside what another does.

use std::time::Duration;

use codeswarm::backend::distributed::{Certificates, DistributedOptions};
use codeswarm::backend::nats::{NatsLogin, NatsOptions};
use codeswarm::backend::redis::RedisOptions;
use codeswarm::config::Secret;

/// Connections of a process to Redis, as `redis.connections` has it.
pub(crate) const CONNECTIONS: usize = 4;

/// The stores below `namespace` on the servers at these URLs.
pub(crate) fn options(namespace: &str, nats: &str, redis: &str) -> DistributedOptions {
    let second = Duration::from_secs(1);
    DistributedOptions {
        namespace: namespace.into(),
        nats: NatsOptions {
            servers: Secret::new(nats),
            login: NatsLogin::None,
            certificates: Certificates::default(),
            replicas: 1,
            max_queue_bytes: 1 << 30,
            ack_wait: second * 30,
            request_timeout: second * 5,
        },
        redis: RedisOptions {
            url: Secret::new(redis),
            user: None,
            password: None,
            certificates: Certificates::default(),
            connections: CONNECTIONS,
            request_timeout: second * 5,
            beat: second * 4 / 5,
            dead_after: second * 16 / 5,
        },
        require_durable: true,
    }
}
