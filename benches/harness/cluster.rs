//! A NATS and a Redis server of one's own, and what they have done so far.
//!
//! Everything is counted by the servers themselves (`/varz` and `/jsz` of NATS, `INFO` of Redis, procfs), so that no
//! operation is missed because our own code forgot to count it. Asking costs the servers a few operations, too few to show.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Sub;
use std::time::Duration;

use codeswarm::backend::Backend;
use codeswarm::backend::distributed::{self, DistributedOptions};
use codeswarm::protocol::InstanceId;
use redis::Value;
use serde_json::Value as Json;

use crate::nats_server::NatsServer;
use crate::options::options;
use crate::process;
use crate::redis_server::RedisServer;

/// Both servers.
pub(crate) struct Cluster {
    pub(crate) nats: NatsServer,
    pub(crate) redis: RedisServer,
    monitor: u16,
    processes: [String; 2],
}

/// What has been done since the start of the servers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Work {
    /// Messages that NATS took in and sent out.
    pub(crate) nats_in: u64,
    pub(crate) nats_out: u64,
    /// Messages that its streams stored.
    pub(crate) stored: u64,
    /// Requests that Redis answered, and commands it ran, those inside of scripts included.
    pub(crate) requests: u64,
    pub(crate) commands: u64,
    /// Processor time of this process, of NATS, of Redis.
    pub(crate) cpu: [Duration; 3],
}

impl Sub for Work {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            nats_in: self.nats_in - before.nats_in,
            nats_out: self.nats_out - before.nats_out,
            stored: self.stored - before.stored,
            requests: self.requests - before.requests,
            commands: self.commands - before.commands,
            cpu: [0, 1, 2].map(|part| self.cpu[part] - before.cpu[part]),
        }
    }
}

impl Cluster {
    /// Starts both, set up as the shipped configuration has them.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let monitor = listener.local_addr().expect("an address").port();
        drop(listener);
        let (nats, redis) = (NatsServer::with(&format!("http: 127.0.0.1:{monitor}")), RedisServer::start());
        Self { nats, redis, monitor, processes: ["nats-server", "redis-server"].map(process::child) }
    }

    /// How to reach them.
    pub(crate) fn options(&self) -> DistributedOptions {
        options("bench", &self.nats.url(), &self.redis.url())
    }

    /// The stores as a process of their own would open them.
    pub(crate) async fn open(&self, name: &str) -> (Backend, InstanceId) {
        let instance = InstanceId::fresh(name);
        let backend = distributed::open(&self.options(), &instance, None).await.expect("stores");
        (backend, instance)
    }

    /// What was done so far.
    pub(crate) fn work(&self) -> Work {
        let (varz, jsz) = (self.ask_nats("/varz"), self.ask_nats("/jsz?streams=1"));
        let number = |json: &Json| json.as_u64().expect("a number");
        let streams = jsz["account_details"][0]["stream_detail"].as_array().map_or(&[][..], Vec::as_slice);
        let info = self.ask_redis("INFO everything");
        let line = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        let calls = |command: &str| {
            let counts = line(&format!("cmdstat_{command}:calls="));
            counts.split(',').next().and_then(|calls| calls.parse::<u64>().ok()).expect("a number")
        };
        Work {
            nats_in: number(&varz["in_msgs"]),
            nats_out: number(&varz["out_msgs"]),
            stored: streams.iter().map(|stream| number(&stream["state"]["last_seq"])).sum(),
            requests: calls("evalsha") + calls("eval"),
            commands: line("total_commands_processed:").parse().expect("a number"),
            cpu: [process::own_cpu(), process::cpu(&self.processes[0]), process::cpu(&self.processes[1])],
        }
    }

    /// What each command of Redis was called and how long it took, for a closer look.
    pub(crate) fn commands(&self) -> String {
        self.ask_redis("INFO commandstats")
    }

    fn ask_redis(&self, line: &str) -> String {
        match self.redis.command(line) {
            Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Value::VerbatimString { text, .. } | Value::SimpleString(text) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn ask_nats(&self, path: &str) -> Json {
        let mut connection = TcpStream::connect(("127.0.0.1", self.monitor)).expect("the monitor answers");
        write!(connection, "GET {path} HTTP/1.0\r\n\r\n").expect("asked");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("an answer");
        let body = answer.split_once("\r\n\r\n").expect("a body").1;
        serde_json::from_str(body).expect("JSON")
    }
}
