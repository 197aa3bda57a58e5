//! A sandbox around the real program: one directory, a clean environment, bounded time, and checks that hold for every run.
//!
//! Whatever a run is about, [`Sandbox::run`] itself asserts that nobody sees a panic, that the provider's key is in no
//! output and in no file, and that nothing outside `out` and `data` was touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use codeswarm::backend::embedded::{self, Durability};
use codeswarm::backend::{Backend, Balance, Scope};
use codeswarm::clock::Clock;
use codeswarm::protocol::{Event, InstanceId, MicroUsd};
use tokio::process::Command;

/// The key every run is given. It must never be seen anywhere.
pub(crate) const KEY: &str = "sk-ant-5ecret-0f-th1s-run";
/// What the proposal of every sandbox says.
pub(crate) const PROPOSAL: &str = "# A made-up program\n\nWrite a few files that each define one constant.\n";
/// No run may take longer, on however busy a machine: whatever takes so long hangs.
const BOUND: Duration = Duration::from_secs(120);
/// What a run may create or change.
const MAY_CHANGE: [&str; 3] = ["out", "data", "bill.jsonl"];
/// Settings that make faults quick; each row may add to them.
const QUICK: [(&str, &str); 6] = [
    ("CODESWARM_JOB_RETRY_FIRST_DELAY_MS", "1"),
    ("CODESWARM_JOB_RETRY_LONGEST_DELAY_MS", "5"),
    ("CODESWARM_LLM_RETRY_FIRST_DELAY_MS", "1"),
    ("CODESWARM_LLM_RETRY_LONGEST_DELAY_MS", "5"),
    ("CODESWARM_STORAGE_DURABILITY", "process"),
    ("CODESWARM_JOB_BUDGET_USD", "100"),
];

/// A directory with a proposal and a home, deleted when it goes out of scope.
pub(crate) struct Sandbox {
    root: tempfile::TempDir,
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// What the stores say about the one job in them.
pub(crate) struct Story {
    pub(crate) events: Vec<Event>,
    pub(crate) balance: Balance,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["home", "tmp"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        std::fs::write(root.path().join("proposal.md"), PROPOSAL).unwrap();
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        std::fs::write(&path, contents).unwrap();
        path
    }

    /// `program` with a clean environment, the data directory of the sandbox and quick settings.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.root())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.at("home"))
            .env("TMPDIR", self.at("tmp"))
            .env("RUST_BACKTRACE", "1")
            .env("ANTHROPIC_API_KEY", KEY)
            // Nobody answers there: a run that should not call anybody fails when it does.
            .env("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
            .env("CODESWARM_DATA", self.at("data"))
            .envs(QUICK)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs `codeswarm` with `arguments`; see [`Sandbox::finish`].
    pub(crate) async fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
        let mut command = self.command(env!("CARGO_BIN_EXE_codeswarm"));
        command.args(arguments).envs(environment.iter().copied());
        self.finish(command).await
    }

    /// Runs `codeswarm run proposal.md --out out --yes` and more arguments.
    pub(crate) async fn run_job(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
        let all = [&["run", "proposal.md", "--out", "out", "--yes"], arguments].concat();
        self.run(&all, environment).await
    }

    /// As [`Sandbox::run_job`], for runs that are told to log a great deal.
    pub(crate) async fn run_job_loudly(&self, environment: &[(&str, &str)]) -> Ran {
        let mut command = self.command(env!("CARGO_BIN_EXE_codeswarm"));
        command.args(["run", "proposal.md", "--out", "out", "--yes"]).envs(environment.iter().copied());
        self.complete(command).await
    }

    /// Runs a command to its end and checks what must hold for every run.
    pub(crate) async fn finish(&self, command: Command) -> Ran {
        let ran = self.complete(command).await;
        assert!(ran.stdout.len() + ran.stderr.len() < 100_000, "a wall of text was shown");
        ran
    }

    async fn complete(&self, mut command: Command) -> Ran {
        let before = self.untouchable();
        let child = command.spawn().unwrap();
        let output = tokio::time::timeout(BOUND, child.wait_with_output()).await.expect("a run hangs").unwrap();
        let ran = Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        ran.assert_calm();
        assert_eq!(self.untouchable(), before, "something outside changed: {ran:?}");
        self.assert_no_secret(&ran);
        ran
    }

    /// Names and sizes of everything that no run may change.
    fn untouchable(&self) -> BTreeMap<PathBuf, u64> {
        let mut files = listing(self.root());
        files.retain(|path, _| !MAY_CHANGE.iter().any(|name| path.starts_with(name)));
        files.into_iter().map(|(path, bytes)| (path, bytes.map_or(0, |bytes| bytes.len() as u64))).collect()
    }

    fn assert_no_secret(&self, ran: &Ran) {
        assert!(!ran.stdout.contains(KEY) && !ran.stderr.contains(KEY), "the key was printed: {ran:?}");
        for (path, bytes) in listing(self.root()) {
            let holds = bytes.is_some_and(|bytes| bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes()));
            assert!(!holds || path.ends_with("key-file"), "the key was written to {}", path.display());
        }
    }

    /// The files of the output by path, without the program's own marker; empty when there is no output.
    pub(crate) fn output(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = listing(&self.at("out")).into_iter().filter_map(|(path, bytes)| Some((path, bytes?)));
        files.filter(|(path, _)| !path.starts_with(".codeswarm-output.json")).collect()
    }

    /// Opens a copy of the stores, as another process would find them. A copy, because threads of an opened store end some
    /// time after it is dropped, and a test that meanwhile closes any file of the same database takes SQLite's locks away.
    pub(crate) async fn stores(&self) -> (Backend, tempfile::TempDir) {
        let copy = tempfile::tempdir().unwrap();
        std::fs::create_dir(copy.path().join("alive")).unwrap();
        for (path, bytes) in listing(&self.at("data")) {
            if let Some(bytes) = bytes.filter(|_| path.components().count() == 1 || path.starts_with("alive")) {
                std::fs::write(copy.path().join(path), bytes).unwrap();
            }
        }
        let instance = InstanceId::fresh("test");
        let backend = embedded::open(copy.path(), &instance, Durability::Process, Clock::system()).await.unwrap();
        (backend, copy)
    }

    /// Reads the only job there is.
    pub(crate) async fn story(&self) -> Story {
        let (backend, _copy) = self.stores().await;
        let jobs = backend.events.jobs().await.unwrap();
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        let job = jobs[0].job.clone();
        let events = backend.events.read(&job, 0, 10_000).await.unwrap();
        let balance = backend.ledger.balance(&Scope::Job(job.clone())).await.unwrap();
        Story { events: events.into_iter().map(|recorded| recorded.event).collect(), balance }
    }
}

/// Everything below `root`, relative to it: the contents of files, nothing for directories.
pub(crate) fn listing(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let bytes = if path.is_dir() && !path.is_symlink() {
                open.push(path.clone());
                None
            } else {
                std::fs::read(&path).ok()
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), bytes);
        }
    }
    found
}

impl Ran {
    fn assert_calm(&self) {
        let text = format!("{}{}", self.stdout, self.stderr);
        for sign in ["panicked", "stack backtrace", "RUST_BACKTRACE", "unwrap()"] {
            assert!(!text.contains(sign), "{sign:?} was shown: {self:?}");
        }
        let is_control = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
        assert!(!text.contains(is_control), "control characters were shown: {self:?}");
    }

    /// The run was refused: `exit`, one error with `code`, a remedy below it, and every one of `parts` in the text.
    #[track_caller]
    pub(crate) fn assert_refused(&self, exit: i32, code: &str, parts: &[&str]) {
        assert_eq!(self.code, Some(exit), "{self:?}");
        let errors: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("error")).collect();
        assert_eq!(errors.len(), 1, "not one error: {self:?}");
        assert!(errors[0].starts_with(&format!("error[{code}]: ")), "another error than {code}: {self:?}");
        let remedies = self.stderr.lines().filter_map(|line| line.trim_start().strip_prefix("remedy: "));
        assert_eq!(remedies.filter(|remedy| remedy.len() > 10).count(), 1, "not one remedy: {self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not named: {self:?}");
        }
    }

    /// The run ended with `exit`, and every one of `parts` can be read somewhere.
    #[track_caller]
    pub(crate) fn assert_ended(&self, exit: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(exit), "{}\n{}", self.stderr, self.stdout);
        for part in parts {
            let text = [&self.stdout, &self.stderr];
            assert!(text.iter().any(|text| text.contains(part)), "{part:?} is not named: {self:?}");
        }
    }
}

impl Story {
    /// Attempts of `task` that failed: code, message and cost of each.
    pub(crate) fn failures(&self, task: &str) -> Vec<(&str, &str, MicroUsd)> {
        let of = |event| match event {
            &Event::TaskFailed { task: ref of, ref failure, cost, .. } if of.as_str() == task => {
                Some((failure.code.as_str(), failure.message.as_str(), cost))
            }
            _ => None,
        };
        self.events.iter().filter_map(of).collect()
    }

    pub(crate) fn is_dead(&self, task: &str) -> bool {
        self.events.iter().any(|event| matches!(event, Event::TaskDead { task: of, .. } if of.as_str() == task))
    }

    /// What all attempts together cost, as the log tells it.
    pub(crate) fn cost(&self) -> MicroUsd {
        let of = |event: &Event| match event {
            Event::TaskSucceeded { cost, .. } | Event::TaskFailed { cost, .. } => cost.0,
            _ => 0,
        };
        MicroUsd(self.events.iter().map(of).sum())
    }

    /// Log and ledger agree, and [`Story::assert_covers`].
    #[track_caller]
    pub(crate) fn assert_sound_money(&self, billed: MicroUsd) {
        assert_eq!(self.cost(), self.balance.spent, "log and ledger disagree");
        self.assert_covers(billed);
    }

    /// Nothing is reserved any more, and billed <= spent <= limit. The log may know of less than was spent: calls whose
    /// process died are charged without a result.
    #[track_caller]
    pub(crate) fn assert_covers(&self, billed: MicroUsd) {
        assert_eq!(self.balance.reserved, MicroUsd::ZERO);
        assert!(billed <= self.balance.spent, "billed {billed}, spent {}", self.balance.spent);
        assert!(self.cost() <= self.balance.spent, "{} in the log, spent {}", self.cost(), self.balance.spent);
        assert!(self.balance.limit.is_some_and(|limit| self.balance.spent <= limit), "{:?}", self.balance);
    }
}
