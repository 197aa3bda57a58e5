//! The command line as people and scripts meet it: real processes on real directories, exit codes included.
//!
//! Every wait ends with a process, a line or a deadline that is far beyond what a slow machine needs.

mod money;
mod reading;
mod steering;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde_json::Value;

/// Far longer than any step takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a finished process left behind.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

/// Reads `pipe` to its end on a thread; each line also goes to the answered channel.
fn drain(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // Whoever stopped listening still wants the pipe emptied.
            let _ = sender.send(line);
        }
    });
    lines
}

/// A process at work.
struct Active {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
    seen: Vec<String>,
}

impl Active {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (drain(child.stdout.take().unwrap()), drain(child.stderr.take().unwrap()));
        Self { child, out, err, seen: Vec::new() }
    }

    /// Waits for a line of progress that contains `text`.
    #[track_caller]
    fn until(&mut self, text: &str) {
        loop {
            match self.err.recv_timeout(PATIENCE) {
                Ok(line) => {
                    let found = line.contains(text);
                    self.seen.push(line);
                    if found {
                        return;
                    }
                }
                Err(error) => panic!("no line with {text:?} ({error}); seen: {:#?}", self.seen),
            }
        }
    }

    #[track_caller]
    fn finish(mut self) -> Ended {
        let mut rest = |lines: &Receiver<String>| {
            let mut text = String::new();
            loop {
                match lines.recv_timeout(PATIENCE) {
                    Ok(line) => text.extend([line.as_str(), "\n"]),
                    Err(mpsc::RecvTimeoutError::Disconnected) => return text,
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        let _ = self.child.kill();
                        panic!("the process hangs; it said: {text}");
                    }
                }
            }
        };
        let (out, late) = (rest(&self.out), rest(&self.err));
        let early: String = self.seen.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        Ended { code: self.child.wait().unwrap().code(), out, err: early + &late }
    }
}

/// A directory in which commands run.
struct Room(tempfile::TempDir);

impl Room {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// The program with nothing of this machine's own settings.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_codeswarm"));
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("CODESWARM_") || name.starts_with("ANTHROPIC_") || name == "COLUMNS" {
                command.env_remove(name);
            }
        }
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        Active::start(&mut self.command(args)).finish()
    }

    fn narrow(&self, args: &[&str]) -> Ended {
        Active::start(self.command(args).env("COLUMNS", "40")).finish()
    }

    /// `codeswarm run` on the worked example.
    fn job(&self, more: &[&str]) -> Vec<String> {
        let example = example();
        let proposal = example.join("proposal.md").display().to_string();
        let replay = example.join("replay.jsonl").display().to_string();
        let fixed = ["run", &proposal, "--replay", &replay, "--yes"].map(str::to_owned);
        fixed.into_iter().chain(more.iter().map(|text| (*text).to_owned())).collect()
    }

    fn finish_job(&self, more: &[&str]) -> Ended {
        let args = self.job(more);
        self.run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn start_job(&self, more: &[&str]) -> Active {
        let args = self.job(more);
        Active::start(&mut self.command(&args.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    /// The newest job as `status --json` shows it.
    #[track_caller]
    fn status(&self) -> Value {
        self.run(&["status", "--json"]).expect(0).json()
    }
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/link-shortener")
}

/// A room with two finished jobs, for commands that only read.
fn finished() -> &'static Room {
    static ROOM: OnceLock<Room> = OnceLock::new();
    ROOM.get_or_init(|| {
        let room = Room::new();
        room.finish_job(&["--out", "one"]).expect(0);
        room.finish_job(&["--out", "two"]).expect(0);
        room
    })
}
