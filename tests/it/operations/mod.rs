//! Running a fleet day by day: health, metrics, draining, dead letters, fetching, fairness.
//!
//! Processes are real wherever a process is what the promise is about; the rest runs the same parts in this one.

mod dead_letters;
mod fetching;
mod health;
mod poison;
mod serving;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Example, PATIENCE, Running, Sandbox, program};

const EXAMPLE: Example = Example::LINK_SHORTENER;

/// A process that answers over HTTP, and where.
struct Watched {
    running: Running,
    address: String,
}

impl Watched {
    /// Starts `command` with health on a free port and waits for the line that `says` how it goes on.
    fn start(command: &mut Command, says: &str) -> Self {
        let mut running = Running::start(command.env("CODESWARM_HTTP_LISTEN", "127.0.0.1:0"));
        let line = running.wait_for(|line| line.contains("health and metrics on")).expect("it says where it listens");
        let address = line.split("http://").nth(1).expect("an address").trim_end_matches(['"', '}']).to_owned();
        let address = address.split('"').next().unwrap_or_default().to_owned();
        assert!(running.wait_for(|line| line.contains(says)).is_some(), "it never says {says:?}");
        Self { running, address }
    }

    fn coordinator(sandbox: &Sandbox) -> Self {
        Self::start(program(sandbox, "coordinator", EXAMPLE).arg("serve"), "serving")
    }

    /// A worker of all types, billed.
    fn worker(sandbox: &Sandbox, more: &[&str]) -> Self {
        let mut command = program(sandbox, "worker", EXAMPLE);
        command.arg("--all").arg("--replay-bill").arg(sandbox.bill()).args(more);
        Self::start(&mut command, "slots for")
    }

    fn get(&self, path: &str) -> (u16, String) {
        ask(&self.address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }

    /// Asks until the metrics hold `line`.
    #[track_caller]
    fn until_metric(&self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, metrics) = self.get("/metrics");
            if metrics.lines().any(|found| found == line) {
                return;
            }
            assert!(Instant::now() < deadline, "{line} is missing in\n{metrics}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks until the answer has `status`; answers its body.
    #[track_caller]
    fn until(&self, path: &str, status: u16) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (found, body) = self.get(path);
            if found == status {
                return body;
            }
            assert!(Instant::now() < deadline, "{path} is {found} after {PATIENCE:?}: {body}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Sends raw bytes and reads the answer to its end: status (0 for none) and body.
fn ask(address: &str, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The server may have refused already and closed; what it said is read all the same.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
