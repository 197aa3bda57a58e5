//! A worker program with nothing to do: what it weighs, and how soon it asks for work.
//!
//! The release binary itself is started, with the settings a user would give it. Its first pull is seen on the wire: requests
//! to JetStream are messages like any other, and whoever subscribes to their subject sees them.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use crate::cluster::Cluster;
use crate::process;

/// How long it is left alone before it is weighed.
const REST: Duration = Duration::from_secs(3);

/// A process as it was found.
pub(crate) struct Idle {
    pub(crate) resident_mib: f64,
    pub(crate) own_mib: f64,
    pub(crate) first_pull: Duration,
    /// Processor time in a second of doing nothing.
    pub(crate) cpu_a_second: Duration,
}

/// Ends the program, however this ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `program` and watches it. The second start is measured: the first finds no streams and makes them.
pub(crate) async fn run(program: &str, arguments: &[&str]) -> Idle {
    let cluster = Cluster::start();
    let client = async_nats::connect(cluster.nats.url()).await.expect("connected");
    let mut pulls = client.subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.expect("subscribed");
    client.flush().await.expect("sent");
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory.path()).env_clear();
    command.env("CODESWARM_BACKEND", "nats").env("CODESWARM_STORAGE_DURABILITY", "process");
    command.env("NATS_URL", cluster.nats.url()).env("REDIS_URL", cluster.redis.url());
    command.env("ANTHROPIC_API_KEY", "bench").env("HOME", directory.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let first = Running(command.spawn().expect("it starts"));
    pulls.next().await.expect("a pull");
    drop(first);
    // What the first one has still sent is not the second one's.
    while tokio::time::timeout(Duration::from_millis(200), pulls.next()).await.is_ok() {}
    let started = Instant::now();
    let running = Running(command.spawn().expect("it starts"));
    pulls.next().await.expect("a pull");
    let first_pull = started.elapsed();
    tokio::time::sleep(REST).await;
    let process = running.0.id().to_string();
    let before = process::cpu(&process);
    tokio::time::sleep(REST).await;
    Idle {
        resident_mib: process::memory_mib(&process, "VmRSS:"),
        own_mib: process::memory_mib(&process, "RssAnon:"),
        first_pull,
        cpu_a_second: (process::cpu(&process) - before) / 3,
    }
}
