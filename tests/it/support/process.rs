//! A running program of ours: its lines as they come, signals, and its end.
//!
//! Output is read by threads all the time, so that no pipe fills up; no wait is longer than [`PATIENCE`].

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use super::PATIENCE;

/// Where a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// A process whose output is being read. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
    name: String,
    lines: Receiver<(Stream, String)>,
    seen: Vec<(Stream, String)>,
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) name: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

fn read_lines(stream: Stream, pipe: impl Read + Send + 'static, lines: Sender<(Stream, String)>) {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(pipe.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            line.clear();
            if lines.send((stream, text)).is_err() {
                return;
            }
        }
    });
}

impl Running {
    /// Starts `command` with its output piped to us and no input.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::spawn(command.stdin(Stdio::null()))
    }

    /// The same with input that [`Running::say`] writes.
    pub(crate) fn listening(command: &mut Command) -> Self {
        Self::spawn(command.stdin(Stdio::piped()))
    }

    fn spawn(command: &mut Command) -> Self {
        let name = format!("{command:?}");
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let (sender, lines) = channel();
        read_lines(Stream::Out, child.stdout.take().expect("piped"), sender.clone());
        read_lines(Stream::Err, child.stderr.take().expect("piped"), sender);
        Self { child, name, lines, seen: Vec::new() }
    }

    /// Writes a line to the process.
    pub(crate) fn say(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("started listening");
        writeln!(input, "{line}").expect("the process reads");
    }

    /// The next line, or `None` when the process has closed its outputs.
    pub(crate) fn next_line(&mut self) -> Option<(Stream, String)> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.seen.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                let _ = self.child.kill();
                panic!("{} said nothing for {PATIENCE:?}; so far:\n{}", self.name, self.transcript());
            }
        }
    }

    /// Waits for a line that `wanted` accepts and answers it; `None` when the process ends without one.
    pub(crate) fn wait_for(&mut self, mut wanted: impl FnMut(&str) -> bool) -> Option<String> {
        while let Some((_, line)) = self.next_line() {
            if wanted(&line) {
                return Some(line);
            }
        }
        None
    }

    /// Reads output until `deadline` or the end of the process, whichever comes first; true when it has ended.
    pub(crate) fn read_until(&mut self, deadline: Instant) -> bool {
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
    }

    /// Kills the process so that it cannot do anything about it, and waits until it is gone.
    pub(crate) fn kill(mut self) -> Ended {
        self.child.kill().expect("a child can be killed");
        self.end()
    }

    /// Sends a signal by its name without SIG, for example `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        // The shell's own `kill` is the one that is always there.
        let script = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status().expect("sh runs");
        // A process that has just ended cannot be signalled, and its end is what the caller looks at next.
        let _ = status;
    }

    /// Waits for the end of the process.
    pub(crate) fn end(mut self) -> Ended {
        while self.next_line().is_some() {}
        let status = self.child.wait().expect("a child can be waited for");
        let text = |wanted| {
            let lines = self.seen.iter().filter(|(stream, _)| *stream == wanted);
            lines.map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
        };
        Ended { stdout: text(Stream::Out), stderr: text(Stream::Err), status, name: std::mem::take(&mut self.name) }
    }

    fn transcript(&self) -> String {
        self.seen.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The exit code; a process that a signal ended has none.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Fails the test with everything the process said unless it ended with `code`.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code(),
            Some(code),
            "{}\nended with {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.name,
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.stdout.trim()).unwrap_or_else(|error| panic!("{error}: {:?}", self.stdout))
    }
}
