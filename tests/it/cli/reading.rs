//! Commands that only read: friendly on empty directories, exact in JSON, whole on narrow terminals and in pipes.
//!
//! None of them may change anything, not even make a directory.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Command, Stdio};

use serde_json::Value;

use super::{Active, Room, drain, finished};

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
fn a_misspelt_variable_is_told_by_commands_and_by_doctor_without_its_value() {
    let room = Room::new();
    let told = "CODESWARM_FLEET_CONCURENCY means nothing; did you mean CODESWARM_FLEET_CONCURRENCY?";
    let run = |args: &[&str]| {
        Active::start(room.command(args).env("CODESWARM_FLEET_CONCURENCY", "hidden")).finish().expect(0)
    };
    let checked = run(&["config", "check"]);
    assert!(checked.err.contains(told) && !checked.err.contains("hidden"), "{}", checked.err);
    let doctor = run(&["doctor", "--json"]);
    let is_told = |check: &Value| check["level"] == "warn" && check["found"].as_str().unwrap().contains(told);
    assert!(doctor.json()["checks"].as_array().unwrap().iter().any(is_told), "no warning");
}

#[test]
fn output_becomes_a_repository_with_one_commit_per_feature() {
    let room = Room::new();
    room.finish_job(&["--out", "out", "--git"]).expect(0);
    let log = Command::new("git").args(["log", "--format=%s"]).current_dir(room.path().join("out")).output().unwrap();
    let log = String::from_utf8(log.stdout).unwrap();
    assert!(log.lines().count() >= 6, "{log}");
}

#[test]
fn models_are_shown_with_all_their_prices_and_fit_a_terminal() {
    let room = finished();
    let listed = room.run(&["models", "--json"]).expect(0).json();
    let of = |name: &str| {
        let models = listed["models"].as_array().unwrap().iter();
        models.clone().find(|model| model["model"] == name).unwrap().clone()
    };
    let input = "input_micro_usd_per_million";
    let gemini = of("gemini-3.8-flash");
    let when = |season: &Value| (season["when"].as_str().unwrap().to_owned(), season[input].as_u64().unwrap());
    let seasons: Vec<_> = gemini["seasons"].as_array().unwrap().iter().map(when).collect();
    assert_eq!(seasons, [("before 2027-01-01".to_owned(), 750_000), ("from 2027-01-01 on".to_owned(), 1_500_000)]);
    assert_eq!(of("deepseek-flash")["seasons"].as_array().unwrap().len(), 2);
    assert!(gemini["max_output_tokens"] == 65_536 && gemini["now"][input].as_u64().is_some());
    let one = room.run(&["models", "deepseek-flash"]).expect(0).out;
    for part in ["at peak, 1-4 and 6-10 h UTC, Monday to Friday", "off peak", "1 h", "most output", "cached from"] {
        assert!(one.contains(part), "{part}: {one}");
    }
    assert!(room.run(&["models", "nobody"]).expect(2).err.contains("CS-CLI-015"));
    let other = Room::new();
    std::fs::write(other.path().join("codeswarm.toml"), "[providers.ollama]\nprice = 0\n").unwrap();
    let free = other.run(&["models", "ollama/qwen", "--config", "codeswarm.toml"]).expect(0).out;
    assert!(free.contains("declared free"), "{free}");
    let all = other.run(&["models", "--json", "--config", "codeswarm.toml"]).expect(0).json();
    assert!(
        all["endpoints"].as_array().unwrap().contains(&serde_json::json!({"endpoint": "ollama", "prices": "free"}))
    );
    let narrow = Active::start(room.command(&["models"]).env("COLUMNS", "80")).finish().expect(0);
    let lines: Vec<&str> = narrow.out.lines().collect();
    assert!(
        lines[0].starts_with("model ") && lines[0].contains(" in ") && lines.len() < 100,
        "one table: {}",
        narrow.out
    );
    assert!(lines.iter().chain(&narrow.err.lines().collect::<Vec<_>>()).all(|line| line.chars().count() <= 80));
}
