//! A Redis server of one's own, which can be killed, started again, stopped and asked.
//!
//! It keeps its data as the shipped configuration does, every write flushed before it is acknowledged, so that a kill shows
//! what a crash would. This file is also part of the library's own tests and so must not name anything of this binary.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::Value;
use tempfile::TempDir;

/// Longest wait for the server to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause before a server is started again whose port somebody else has taken for a moment.
const TAKEN: Duration = Duration::from_millis(50);

/// Attempts at finding a port that nobody else takes meanwhile.
const PORTS: usize = 10;

/// A running server. Dropping it kills it.
pub(crate) struct RedisServer {
    child: Child,
    port: u16,
    directory: TempDir,
    arguments: Vec<String>,
    login: String,
    is_tls: bool,
}

/// Where the server keeps its data.
const LOG_FILES: &str = "appendonlydir";

/// Makes the files of a directory those of another one.
fn replace_files(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).expect("can be removed");
    }
    std::fs::create_dir_all(to).expect("can be made");
    for file in std::fs::read_dir(from).expect("a directory") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("can be copied");
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

fn spawn(directory: &Path, port: u16, is_tls: bool, arguments: &[String]) -> Child {
    let ports = if is_tls { ["0".to_owned(), port.to_string()] } else { [port.to_string(), "0".to_owned()] };
    let mut command = Command::new("redis-server");
    command.args(["--port", &ports[0], "--tls-port", &ports[1], "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]);
    command.arg("--dir").arg(directory).arg("--logfile").arg(directory.join("log"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start redis-server: {error}; run .ci/setup, which installs it"))
}

impl RedisServer {
    /// A server without a password.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// A server with more command line options.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        Self::begin(arguments, "", false)
    }

    /// A server with more options that lets in whoever says `login`, as `user:password`.
    pub(crate) fn with_login(arguments: &[&str], login: &str) -> Self {
        Self::begin(arguments, &format!("{login}@"), false)
    }

    /// A server that speaks nothing but TLS, with these options for it.
    pub(crate) fn with_tls(arguments: &[&str]) -> Self {
        Self::begin(arguments, "", true)
    }

    fn begin(arguments: &[&str], login: &str, is_tls: bool) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut log = String::new();
        for _ in 0..PORTS {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let port = free_port();
            let child = spawn(directory.path(), port, is_tls, &arguments);
            let mut server =
                Self { child, port, directory, arguments: arguments.clone(), login: login.to_owned(), is_tls };
            if server.is_ready() {
                return server;
            }
            log = server.log();
        }
        panic!("redis-server does not start: {log}");
    }

    /// Waits until it answers; false when it has ended.
    fn is_ready(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if self.child.try_wait().expect("a child can be asked").is_some() {
                return false;
            }
            if self.answers() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("redis-server is not ready after {PATIENCE:?}: {}", self.log());
    }

    /// Whether this very process answers, and not another one that was faster on the port, with all its data loaded.
    fn answers(&self) -> bool {
        if self.is_tls {
            return TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        }
        let client = redis::Client::open(self.url()).expect("a URL");
        let Ok(mut connection) = client.get_connection() else { return false };
        let Ok(info) = redis::cmd("INFO").query::<String>(&mut connection) else { return false };
        let says = |wanted: &str| info.lines().any(|line| line == wanted);
        says(&format!("process_id:{}", self.child.id())) && says("loading:0")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its URL, with the login if there is one.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.is_tls { "rediss" } else { "redis" };
        format!("{scheme}://{}127.0.0.1:{}/0", self.login, self.port)
    }

    /// Runs a command on a connection of its own and answers what the server says.
    #[track_caller]
    pub(crate) fn command(&self, line: &str) -> Value {
        let client = redis::Client::open(self.url()).expect("a URL");
        let mut connection = client.get_connection().unwrap_or_else(|error| panic!("{line}: {error}"));
        let mut words = line.split(' ');
        let mut command = redis::cmd(words.next().expect("a command"));
        command.arg(words.collect::<Vec<_>>());
        command.query(&mut connection).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Kills it so that it cannot do anything about it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Starts it again on its port and directory, after a [`kill`](Self::kill).
    pub(crate) fn start_again(&mut self) {
        let start = Instant::now();
        self.child = spawn(self.directory.path(), self.port, self.is_tls, &self.arguments);
        while !self.is_ready() {
            assert!(start.elapsed() < PATIENCE, "redis-server does not start again: {}", self.log());
            std::thread::sleep(TAKEN);
            self.child = spawn(self.directory.path(), self.port, self.is_tls, &self.arguments);
        }
    }

    /// The same with more options from now on.
    pub(crate) fn start_again_with(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self.start_again();
    }

    /// A copy of everything it holds now, as a backup would have it; it is down for a moment.
    pub(crate) fn back_up(&mut self) -> TempDir {
        let copy = tempfile::tempdir().expect("a temporary directory");
        self.kill();
        replace_files(&self.directory.path().join(LOG_FILES), &copy.path().join(LOG_FILES));
        self.start_again();
        copy
    }

    /// Goes back to what such a copy holds.
    pub(crate) fn restore(&mut self, copy: &TempDir) {
        self.kill();
        replace_files(&copy.path().join(LOG_FILES), &self.directory.path().join(LOG_FILES));
        self.start_again();
    }

    /// Sends a signal by its name without SIG, for example `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        // The shell's own `kill` is the one that is always there.
        let script = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &script]).status().expect("sh runs");
        assert!(status.success(), "{script}");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
