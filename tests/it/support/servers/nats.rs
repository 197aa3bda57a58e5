//! A NATS server of one's own, which can be killed, started again, and stopped.
//!
//! It is the one that Debian installs, 2.9, which is also the oldest that is promised to work. It keeps its streams in a
//! directory of its own, so that a restart shows what a crash would leave.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a failed test shows what its server said")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest wait for the server to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause before a server is started again whose port somebody else has taken for a moment.
const TAKEN: Duration = Duration::from_millis(50);

/// Attempts at finding a port that nobody else takes meanwhile.
const PORTS: usize = 10;

/// A running server. Dropping it kills it.
pub(crate) struct NatsServer {
    child: Child,
    /// What it greets with, and no other server does.
    name: String,
    port: u16,
    directory: TempDir,
}

/// A name that no server has but one of this process's.
fn fresh_name() -> String {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    format!("test-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed))
}

fn spawn(directory: &Path, port: u16) -> Child {
    let mut command = Command::new("nats-server");
    command.arg("--config").arg(directory.join("config")).args(["--port", &port.to_string()]);
    command.arg("--log").arg(directory.join("log"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start nats-server: {error}; run .ci/setup, which installs it"))
}

impl NatsServer {
    /// A server with JetStream that lets everybody in.
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// The same with more configuration.
    pub(crate) fn with(configuration: &str) -> Self {
        Self::begin(configuration, true)
    }

    /// A server without JetStream.
    pub(crate) fn without_jetstream() -> Self {
        Self::begin("", false)
    }

    /// Three servers with JetStream that form a cluster.
    pub(crate) fn cluster() -> [Self; 3] {
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let ports = listeners.map(|listener| listener.local_addr().expect("an address").port());
        let routes = ports.map(|port| format!("nats://127.0.0.1:{port}")).join(", ");
        ports.map(|port| {
            let cluster = format!("cluster {{ name: c, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}");
            Self::with(&cluster)
        })
    }

    fn begin(configuration: &str, jetstream: bool) -> Self {
        let (name, mut log) = (fresh_name(), String::new());
        for _ in 0..PORTS {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let mut text = format!("server_name: {name}\nhost: 127.0.0.1\n{configuration}\n");
            if jetstream {
                let store = directory.path().join("streams");
                // Streams reserve their largest size; how much this disk has left is not what is tested.
                let store = store.display().to_string();
                writeln!(text, "jetstream {{ store_dir: {store:?}, max_file_store: 1TB }}").expect("can be written");
            }
            std::fs::write(directory.path().join("config"), text).expect("can be written");
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = listener.local_addr().expect("an address").port();
            drop(listener);
            let child = spawn(directory.path(), port);
            let mut server = Self { child, name: name.clone(), port, directory };
            if server.is_ready() {
                return server;
            }
            log = server.log();
        }
        panic!("nats-server does not start: {log}");
    }

    /// Waits until it greets; false when it has ended.
    fn is_ready(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if self.child.try_wait().expect("a child can be asked").is_some() {
                return false;
            }
            if self.greets() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("nats-server is not ready after {PATIENCE:?}: {}", self.log());
    }

    /// Whether this very server greets, and not another one that was faster on the port, in clear text as NATS servers do even
    /// where TLS follows.
    fn greets(&self) -> bool {
        let Ok(connection) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        connection.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let mut greeting = String::new();
        BufReader::new(connection).read_line(&mut greeting).is_ok()
            && greeting.starts_with("INFO {")
            && greeting.contains(&format!("\"server_name\":\"{}\"", self.name))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills it so that it cannot do anything about it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Starts it again on its port and directory, after a [`kill`](Self::kill).
    pub(crate) fn start_again(&mut self) {
        let start = Instant::now();
        self.child = spawn(self.directory.path(), self.port);
        while !self.is_ready() {
            assert!(start.elapsed() < PATIENCE, "nats-server does not start again: {}", self.log());
            std::thread::sleep(TAKEN);
            self.child = spawn(self.directory.path(), self.port);
        }
    }

    /// Kills it and starts it again.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Starts it again with nothing in it: its disk was lost.
    pub(crate) fn forget(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.directory.path().join("streams")).expect("can be removed");
        self.start_again();
    }

    /// Sends a signal by its name without SIG, for example `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        // The shell's own `kill` is the one that is always there.
        let script = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &script]).status().expect("sh runs");
        assert!(status.success(), "{script}");
        // Threads stop one after the other, and until the last has, the server may still answer.
        while name == "STOP" && !self.is_stopped() {
            std::thread::yield_now();
        }
    }

    fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("a process has threads");
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        })
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (log, ended) = (self.log(), self.child.try_wait());
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!(
                "nats-server {} at {} ({ended:?}) says last, newest first:\n{}",
                self.name,
                self.port,
                last.join("\n")
            );
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
