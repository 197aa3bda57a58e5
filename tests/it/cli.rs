//! The command line as people and scripts meet it: real processes on real directories, exit codes included.
//!
//! Every wait ends with a process, a line or a deadline that is far beyond what a slow machine needs.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
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

#[test]
fn an_empty_directory_gets_friendly_answers_and_stays_empty() {
    let room = Room::new();
    let list = room.run(&["list"]).expect(0);
    assert!(list.out.contains("no jobs yet") && list.out.contains("codeswarm run"), "{}", list.out);
    assert_eq!(room.run(&["list", "--json"]).expect(0).json(), serde_json::json!({"jobs": []}));
    for args in [
        &["status"][..],
        &["events"],
        &["watch"],
        &["resume"],
        &["cancel", "0"],
        &["pause", "0"],
        &["budget", "show"],
        &["budget", "entries"],
        &["budget", "top-up", "0", "1"],
        &["budget", "freeze"],
    ] {
        let ended = room.run(args).expect(1);
        assert!(ended.err.starts_with("error[CS-CLI-011]"), "{args:?}: {}", ended.err);
        assert!(ended.err.contains("remedy: "), "{args:?}: {}", ended.err);
        assert!(ended.out.is_empty(), "{args:?}: {}", ended.out);
    }
    room.run(&["doctor"]).expect(0);
    room.run(&["models"]).expect(0);
    room.run(&["config", "show"]).expect(0);
    assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_of_somebody_else_is_not_turned_into_a_data_directory() {
    let room = Room::new();
    room.run(&["status", "--data", "."]).expect(1);
    assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 0);
}

#[test]
fn a_finished_job_is_shown_by_every_reading_command() {
    let room = finished();
    let list = room.run(&["list"]).expect(0).out;
    assert_eq!(list.lines().count(), 3, "{list}");
    assert!(list.lines().skip(1).all(|line| line.contains("completed") && line.contains("20/20")), "{list}");
    let status = room.run(&["status"]).expect(0).out;
    assert!(status.contains("completed") && status.contains("20 of 20") && status.contains("http-api"), "{status}");
    let events = room.run(&["events"]).expect(0).out;
    assert!(events.lines().next().unwrap().contains("submitted: "), "{events}");
    assert!(events.lines().last().unwrap().contains("ended: completed"), "{events}");
    let watched = room.run(&["watch"]).expect(0).out;
    assert!(watched.contains("completed"), "{watched}");
    assert!(room.run(&["budget", "show"]).expect(0).out.contains("everything"));
    assert!(room.run(&["budget", "entries"]).expect(0).out.contains("settle"));
    assert!(room.run(&["config", "show", "--origin"]).expect(0).out.contains("default"));
    room.run(&["config", "check"]).expect(0);
}

#[test]
fn json_has_exact_amounts_and_times_for_programs() {
    let room = finished();
    let jobs = room.run(&["list", "--json"]).expect(0).json();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 2);
    let status = room.status();
    assert_eq!(status["status"], "completed");
    assert_eq!(status["active"], false);
    assert_eq!(status["files"]["finished"], 20);
    assert!(status["spent_micro_usd"].is_u64() && status["budget_micro_usd"].is_u64());
    assert!(status["submitted_at"].as_str().unwrap().ends_with('Z'));
    let shown = room.run(&["budget", "show", status["job"].as_str().unwrap(), "--json"]).expect(0).json();
    assert_eq!(shown["balance"]["spent_micro_usd"], status["spent_micro_usd"]);
    let entries = room.run(&["budget", "entries", status["job"].as_str().unwrap(), "--json"]).expect(0).json();
    let charged =
        entries["entries"].as_array().unwrap().iter().map(|entry| entry["charged_micro_usd"].as_u64().unwrap());
    assert_eq!(charged.sum::<u64>(), status["spent_micro_usd"].as_u64().unwrap());
    let events = room.run(&["events", "--json"]).expect(0).out;
    let seqs = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap());
    assert!(seqs.eq(1..=events.lines().count() as u64));
    for args in [&["watch", "--json"][..], &["doctor", "--json"], &["models", "--json"], &["config", "show", "--json"]]
    {
        room.run(args).expect(0).json();
    }
}

#[test]
fn ids_may_be_abbreviated_as_long_as_they_are_unique() {
    let room = finished();
    let jobs = room.run(&["list", "--json"]).expect(0).json();
    let id = |at: usize| jobs["jobs"][at]["job"].as_str().unwrap().to_owned();
    let (a, b) = (id(0), id(1));
    let shared = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let ambiguous = room.run(&["status", &a[..shared]]).expect(2).err;
    assert!(ambiguous.contains("CS-CLI-013") && ambiguous.contains(&a) && ambiguous.contains(&b), "{ambiguous}");
    assert!(room.run(&["status", &b[..=shared]]).expect(0).out.contains(&b));
    assert!(room.run(&["status", "nothing"]).expect(2).err.contains("CS-CLI-014"));
    assert!(room.run(&["cancel", "nothing"]).expect(2).err.contains("CS-CLI-014"));
    let narrow = room.narrow(&["list"]).expect(0).out;
    assert!(narrow.contains(&b[..8]), "{narrow}");
}

#[test]
fn forty_columns_are_enough() {
    let room = finished();
    for args in [
        &["list"][..],
        &["status"],
        &["watch"],
        &["events"],
        &["budget", "show"],
        &["budget", "entries"],
        &["doctor"],
        &["models"],
        &["config", "show", "--origin"],
    ] {
        let ended = room.narrow(args).expect(0);
        for line in ended.out.lines() {
            assert!(line.chars().count() <= 40, "{args:?}: {line:?}");
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let room = finished();
    let mut child = room.command(&["events"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let errors = drain(child.stderr.take().unwrap());
    let mut first = String::new();
    let mut out: BufReader<ChildStdout> = BufReader::with_capacity(16, child.stdout.take().unwrap());
    out.read_line(&mut first).unwrap();
    drop(out);
    assert!(first.contains("submitted"));
    assert_eq!(errors.iter().collect::<Vec<_>>(), Vec::<String>::new());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn completed_jobs_have_no_use_for_commands() {
    let room = finished();
    let job = room.status()["job"].as_str().unwrap().to_owned();
    for args in
        [&["cancel", &job][..], &["pause", &job], &["budget", "top-up", &job, "1"], &["budget", "set", &job, "1"]]
    {
        let ended = room.run(args).expect(1);
        assert!(ended.err.contains("CS-JOB-013"), "{args:?}: {}", ended.err);
    }
    assert!(room.run(&["approve", &job]).expect(1).err.contains("CS-JOB-0"));
    assert!(room.run(&["retry", &job, "file/cli/commands"]).expect(1).err.contains("CS-JOB-016"));
    assert!(room.run(&["resume"]).expect(1).err.contains("CS-CLI-002"));
    assert_eq!(room.status()["budget_micro_usd"], 5_000_000);
}

#[test]
fn wrong_arguments_are_usage_errors() {
    let room = Room::new();
    for args in [
        &[][..],
        &["fly"],
        &["run"],
        &["run", "missing.md", "--yes"],
        &["list", "--fast"],
        &["budget", "top-up", "0", "-1"],
        &["budget", "set", "0", "0"],
        &["budget", "set", "0", "NaN"],
    ] {
        room.run(args).expect(2);
    }
    let proposal = room.path().join("p.md");
    std::fs::write(&proposal, "# P\n").unwrap();
    for budget in ["0", "-1", "NaN", "1e3"] {
        let ended = room.run(&["run", "p.md", "--yes", "--budget", budget]).expect(2);
        assert!(ended.err.contains("CS-CLI-003") && ended.err.contains("remedy"), "{}", ended.err);
    }
    // Nobody can be asked: said before anything is made.
    assert!(room.run(&["run", "p.md"]).expect(2).err.contains("CS-CLI-001"));
    assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 1);
}

#[test]
fn plain_progress_counts_every_file_once() {
    let room = Room::new();
    let err = room.finish_job(&["--out", "out"]).expect(0).err;
    let counted = err.lines().filter_map(|line| line.strip_prefix('[')?.split_once("/20] "));
    let counted: Vec<u32> = counted.map(|(n, _)| n.parse().unwrap()).collect();
    assert_eq!(counted, (1..=20).collect::<Vec<_>>());
}

#[test]
fn doctor_names_what_is_wrong_and_fails() {
    let room = Room::new();
    room.finish_job(&["--out", "out"]).expect(0);
    let with_key =
        Active::start(room.command(&["doctor"]).env("ANTHROPIC_API_KEY", "sk-very-secret")).finish().expect(0);
    assert!(!with_key.out.contains("secret") && with_key.out.contains("key: present"), "{}", with_key.out);
    let both =
        room.command(&["doctor"]).env("ANTHROPIC_API_KEY", "a").env("ANTHROPIC_API_KEY_FILE", "b").output().unwrap();
    assert_eq!(both.status.code(), Some(1));
    std::fs::write(room.path().join("codeswarm.toml"), "[fleet]\nconcurrency = 0\n").unwrap();
    let wrong = room.run(&["doctor", "--json"]).expect(1).json();
    assert_eq!(wrong["level"], "fail");
    room.run(&["config", "check"]).expect(2);
    std::fs::remove_file(room.path().join("codeswarm.toml")).unwrap();
    std::fs::write(room.path().join(".codeswarm/codeswarm.db"), "not a database, but long enough to look like one")
        .unwrap();
    let _ = std::fs::remove_file(room.path().join(".codeswarm/codeswarm.db-wal"));
    let damaged = room.run(&["doctor"]).expect(1).out;
    assert!(damaged.contains("fail  data directory") && damaged.contains("remedy: "), "{damaged}");
    assert!(room.run(&["list"]).expect(1).err.contains("CS-STORE-006"));
}

#[test]
fn a_second_process_sees_an_active_run_and_ends_with_it() {
    let room = Room::new();
    let mut run = room.start_job(&["--out", "out", "--replay-latency", "300"]);
    run.until("[1/20]");
    let status = room.status();
    assert_eq!((&status["status"], &status["active"]), (&"running".into(), &true.into()));
    let watch = Active::start(&mut room.command(&["watch"]));
    let follow = Active::start(&mut room.command(&["events", "--follow", "--json"]));
    let second = room.finish_job(&["--out", "out2"]).expect(1).err;
    assert!(second.contains("CS-COORD-001"), "{second}");
    assert!(room.run(&["resume"]).expect(1).err.contains("codeswarm watch"));
    let watched = watch.finish().expect(0);
    assert!(watched.out.contains("[20/20]") && watched.out.contains("completed"), "{}", watched.out);
    let last: Value = serde_json::from_str(follow.finish().expect(0).out.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "job-ended");
    run.finish().expect(0);
    assert_eq!(room.run(&["list", "--json"]).expect(0).json()["jobs"].as_array().unwrap().len(), 1);
}

#[test]
fn a_run_is_cancelled_from_a_second_process() {
    let room = Room::new();
    let mut run = room.start_job(&["--out", "out", "--replay-latency", "300"]);
    run.until("[1/20]");
    let job = room.status()["job"].as_str().unwrap().to_owned();
    let watch = Active::start(&mut room.command(&["watch"]));
    let said = room.run(&["cancel", &job, "--reason", "no longer wanted"]).expect(0).out;
    assert!(said.contains("is cancelled"), "{said}");
    let summary = run.finish().expect(5).out;
    assert!(summary.contains("no longer wanted"), "{summary}");
    watch.finish().expect(5);
    assert!(room.run(&["cancel", &job]).expect(0).out.contains("already cancelled"));
    // To resume it by name or as the newest is to change one's mind.
    let resumed = room.run(&["resume", "--yes"]).expect(0).out;
    assert!(resumed.contains("completed"), "{resumed}");
}

#[test]
fn a_run_is_paused_and_goes_on_from_a_second_process() {
    let room = Room::new();
    let mut run = room.start_job(&["--out", "out", "--replay-latency", "300"]);
    run.until("[1/20]");
    let job = room.status()["job"].as_str().unwrap().to_owned();
    assert!(room.run(&["pause", &job]).expect(0).out.contains("is paused"));
    assert!(room.run(&["pause", &job]).expect(0).out.contains("already paused"));
    run.until("paused");
    assert!(room.run(&["resume", &job]).expect(0).out.contains("completed"));
    run.finish().expect(0);
}

#[test]
fn a_job_that_no_process_works_on_is_cancelled_all_the_same() {
    let room = Room::new();
    let mut run = room.start_job(&["--out", "out", "--replay-latency", "300"]);
    run.until("[3/20]");
    run.child.kill().unwrap();
    run.finish();
    let status = room.run(&["status"]).expect(0).out;
    assert!(status.contains("interrupted") && status.contains("codeswarm resume"), "{status}");
    let watched = room.run(&["watch"]).expect(5).out;
    assert!(watched.contains("interrupted"), "{watched}");
    let job = room.status()["job"].as_str().unwrap().to_owned();
    let said = room.run(&["cancel", &job]).expect(0).out;
    assert!(said.contains("no process was working on it"), "{said}");
    let status = room.status();
    assert_eq!(status["status"], "cancelled");
    // What was finished is delivered.
    let written = status["features"].as_array().unwrap().iter();
    let written: u64 = written.filter_map(|feature| feature["committed"]["files"].as_u64()).sum();
    assert_eq!(written, status["files"]["finished"].as_u64().unwrap());
    room.run(&["events", "--follow"]).expect(0);
    room.run(&["doctor"]).expect(0);
}

#[test]
fn a_job_without_money_is_topped_up_and_resumed() {
    let room = Room::new();
    let stopped = room.finish_job(&["--out", "out", "--budget", "0.45"]).expect(4);
    assert!(stopped.out.contains("codeswarm budget top-up"), "{}", stopped.out);
    let again = room.run(&["resume"]).expect(4);
    assert!(again.err.contains("has not been raised"), "{}", again.err);
    room.run(&["watch"]).expect(4);
    let job = room.status()["job"].as_str().unwrap().to_owned();
    let topped = room.run(&["budget", "top-up", &job, "2"]).expect(0);
    assert!(topped.out.contains("$2.45"), "{}", topped.out);
    let resumed = room.run(&["resume"]).expect(0);
    assert!(!resumed.err.contains("has not been raised"), "{}", resumed.err);
    let status = room.status();
    assert_eq!(status["budget_micro_usd"], 2_450_000);
    assert!(status["spent_micro_usd"].as_u64().unwrap() <= 2_450_000);
}

#[test]
fn frozen_spending_stops_a_run_and_thawing_lets_it_finish() {
    let room = Room::new();
    let mut run = room.start_job(&["--out", "out", "--replay-latency", "300"]);
    run.until("[1/20]");
    room.run(&["budget", "freeze"]).expect(0);
    assert!(room.run(&["budget", "show"]).expect(0).out.contains("frozen"));
    let stopped = run.finish().expect(4);
    assert!(stopped.out.contains("codeswarm budget thaw"), "{}", stopped.out);
    room.run(&["budget", "thaw"]).expect(0);
    room.run(&["resume"]).expect(0);
}

#[test]
fn output_becomes_a_repository_with_one_commit_per_feature() {
    let room = Room::new();
    room.finish_job(&["--out", "out", "--git"]).expect(0);
    let log = Command::new("git").args(["log", "--format=%s"]).current_dir(room.path().join("out")).output().unwrap();
    let log = String::from_utf8(log.stdout).unwrap();
    assert!(log.lines().count() >= 6, "{log}");
}
