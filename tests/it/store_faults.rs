//! Stores and disks that fail: said at once, left as they are, and nothing that was paid for is lost.
//!
//! Full and read-only disks are real ones, mounted in a name space that ends with the run; where the system allows none, a
//! limit on the size of files stands in. Nothing may be mounted, or limited, outside the process that is tested.

use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use codeswarm::llm::replay::{Bill, Reply, Script};
use rusqlite::Connection;
use tokio::process::Command;

use crate::faults::{Provider, Wrong, job, script};
use crate::rig::{Ran, Sandbox, listing};

/// A sandbox with a recording of a job of ten files.
fn recorded() -> Sandbox {
    let sandbox = Sandbox::new();
    record(&sandbox, &script(&job(5, 2), Wrong::new(), false));
    sandbox
}

fn record(sandbox: &Sandbox, script: &Script) {
    sandbox.write("replay.jsonl", script.to_json_lines("2026-11-21", "made up").unwrap());
}

const REPLAY: [&str; 4] = ["--replay", "replay.jsonl", "--replay-bill", "bill.jsonl"];

/// Runs the recorded job in `sandbox` to its end and leaves one complete database file behind.
async fn finished() -> Sandbox {
    let sandbox = recorded();
    sandbox.run_job(&REPLAY, &[]).await.assert_ended(0, &["completed"]);
    let db = open(&sandbox);
    db.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(())).unwrap();
    drop(db);
    std::fs::rename(sandbox.at("out"), sandbox.at("data/first-out")).unwrap();
    sandbox
}

fn open(sandbox: &Sandbox) -> Connection {
    Connection::open(sandbox.at("data/codeswarm.db")).unwrap()
}

/// Whatever was interrupted goes on: all files arrive, and the bill is covered.
async fn goes_on(sandbox: &Sandbox) {
    let exists =
        sandbox.at("data/codeswarm.db").exists() && !sandbox.stores().await.0.events.jobs().await.unwrap().is_empty();
    let ran = match exists {
        true => sandbox.run(&[&["resume", "--yes"], &REPLAY[..]].concat(), &[]).await,
        false => sandbox.run_job(&REPLAY, &[]).await,
    };
    if !(ran.code == Some(1) && ran.stderr.contains("already completed")) {
        ran.assert_ended(0, &["completed", "10 of 10"]);
    }
    assert_eq!(sandbox.output().len(), 10);
    sandbox.story().await.assert_covers(Bill::load(&sandbox.at("bill.jsonl")).unwrap().cost_micros);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_use_is_refused_with_the_name_of_its_user_who_is_not_disturbed() {
    let slow = Wrong::from([("plan".to_owned(), vec![Reply::new("late").delay(Duration::from_secs(300))])]);
    let job = job(5, 2);
    let (sandbox, provider) = (Sandbox::new(), Provider::start(script(&job, slow, false)).await);
    let url = provider.base_url();
    let mut first = sandbox.command(env!("CARGO_BIN_EXE_codeswarm"));
    first.args(["run", "proposal.md", "--out", "out", "--yes"]).env("ANTHROPIC_BASE_URL", &url);
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // The first run leads once it has called the provider.
    let called = async {
        while provider.requests() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), called).await.expect("the first run never called");
    let ran = sandbox.run_job(&[], &[("ANTHROPIC_BASE_URL", &url)]).await;
    ran.assert_refused(1, "CS-COORD-001", &["another coordinator leads", "run-", "--data"]);
    let ran = sandbox.run(&["resume", "--yes"], &[("ANTHROPIC_BASE_URL", &url)]).await;
    ran.assert_refused(1, "CS-CLI-023", &["another process is working on job", "codeswarm watch"]);
    assert!(first.try_wait().unwrap().is_none(), "the first run was disturbed");
    assert_eq!(provider.requests(), 1);
    first.kill().await.unwrap();
    let ran = sandbox.run(&["resume", "--yes"], &[("ANTHROPIC_BASE_URL", &url)]).await;
    ran.assert_ended(0, &["completed", "10 of 10"]);
    sandbox.story().await.assert_covers(provider.billed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_none_of_ours_is_refused_and_left_as_it_is() {
    let fill = |path: &Path, damage: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = std::fs::read(path).unwrap();
        damage(&mut bytes);
        std::fs::write(path, bytes).unwrap();
    };
    let sql = |sandbox: &Sandbox, text: &str| open(sandbox).execute_batch(text).unwrap();
    type Damage<'a> = &'a dyn Fn(&Sandbox, &Path);
    let rows: [(&str, &str, Damage<'_>); 7] = [
        ("CS-STORE-006", "damaged", &|_, path| fill(path, &|bytes| bytes[..100].fill(0xa5))),
        ("CS-STORE-006", "damaged", &|_, path| fill(path, &|bytes| bytes.fill(0x5a))),
        ("CS-STORE-006", "damaged", &|_, path| fill(path, &|bytes| bytes[100..].fill(0))),
        ("CS-STORE-006", "damaged", &|_, path| fill(path, &|bytes| bytes.truncate(5_000))),
        ("CS-STORE-006", "another program", &|sandbox, _| sql(sandbox, "PRAGMA application_id = 7")),
        ("CS-STORE-007", "schema version 99; this program knows up to", &|sandbox, _| {
            sql(sandbox, "PRAGMA user_version = 99");
        }),
        ("CS-STORE-006", "another program", &|_, path| {
            std::fs::remove_file(path).unwrap();
            Connection::open(path)
                .unwrap()
                .execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
                .unwrap();
        }),
    ];
    let sandbox = finished().await;
    let path = sandbox.at("data/codeswarm.db");
    let sound = std::fs::read(&path).unwrap();
    for (at, (code, part, damage)) in rows.into_iter().enumerate() {
        std::fs::write(&path, &sound).unwrap();
        damage(&sandbox, &path);
        let damaged = std::fs::read(&path).unwrap();
        for arguments in
            [&["resume", "--yes"][..], &["run", "proposal.md", "--out", "out", "--yes", "--replay", "replay.jsonl"]]
        {
            let ran = sandbox.run(arguments, &[]).await;
            ran.assert_refused(1, code, &["codeswarm.db", part, "--data"]);
            assert!(std::fs::read(&path).unwrap() == damaged, "row {at} was written to");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_anywhere_in_the_database_is_said_and_never_a_panic() {
    let sandbox = finished().await;
    let path = sandbox.at("data/codeswarm.db");
    let sound = std::fs::read(&path).unwrap();
    let pages = sound.len() / 4_096;
    assert!(pages > 20, "{pages} pages");
    let mut said = 0;
    for page in (1..pages).step_by(pages / 12) {
        let mut bytes = sound.clone();
        bytes[page * 4_096..(page + 1) * 4_096].fill(0xff);
        std::fs::write(&path, bytes).unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(sandbox.at(&format!("data/codeswarm.db{suffix}")));
        }
        let _ = std::fs::remove_dir_all(sandbox.at("out"));
        let ran = sandbox.run_job(&REPLAY[..2], &[]).await;
        // A page that a new job has no use for does no harm.
        match ran.code {
            Some(0) => assert_eq!(sandbox.output().len(), 10),
            Some(1) if ran.stderr.contains("error[") => {
                ran.assert_refused(1, "CS-STORE-006", &["codeswarm.db", "damaged"]);
            }
            // Under the code of whoever met it first: a store, or the budget that asked one.
            Some(1) => ran.assert_ended(1, &["failed", "CS-", "codeswarm.db is damaged"]),
            // Damage that only some steps meet costs the files of those.
            Some(3) => ran.assert_ended(3, &["completed with warnings", "codeswarm.db is damaged"]),
            code => panic!("{code:?}: {ran:?}"),
        }
        said += usize::from(ran.code != Some(0));
    }
    assert!(said > 0, "no damage was noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_text_that_was_changed_is_never_taken_for_the_original() {
    let job = job(5, 2);
    let sandbox = Sandbox::new();
    let no = || Reply::new("no");
    let wrong = Wrong::from([(format!("file {}", job.tasks[0].path), vec![no(), no(), no()])]);
    record(&sandbox, &script(&job, wrong, false));
    sandbox.run_job(&REPLAY, &[]).await.assert_ended(3, &["9 of 10"]);
    let changed = open(&sandbox).execute(
        "UPDATE artifacts SET bytes = CAST('# Something else' AS BLOB) WHERE bytes = ?1",
        [crate::rig::PROPOSAL.as_bytes()],
    );
    assert_eq!(changed.unwrap(), 1);
    let ran = sandbox.run(&[&["resume", "--yes"], &REPLAY[..]].concat(), &[]).await;
    ran.assert_ended(3, &["CS-STORE-006", "damaged", "9 of 10"]);
    assert_eq!(sandbox.output().len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_cannot_be_made_is_named() {
    let sandbox = recorded();
    sandbox.write("data", "a file");
    std::fs::create_dir_all(sandbox.at("home/odd/codeswarm.db")).unwrap();
    let long = "x".repeat(300);
    for (data, part) in [
        ("data", "data"),
        ("proposal.md/data", "proposal.md/data"),
        ("/proc/sys/codeswarm-data", "/proc/sys/codeswarm-data"),
        (&long, "too long"),
        ("home/odd", "home/odd/codeswarm.db"),
    ] {
        let mut command = sandbox.command(env!("CARGO_BIN_EXE_codeswarm"));
        command.args(["run", "proposal.md", "--out", "out", "--yes", "--replay", "replay.jsonl", "--data", data]);
        if data == "home/odd" {
            // The lock directory beside the database is made before the database is found to be none.
            std::fs::create_dir_all(sandbox.at("home/odd/alive")).unwrap();
            std::fs::write(sandbox.at("home/odd/alive/guard"), "").unwrap();
        }
        let ran = sandbox.finish(command).await;
        ran.assert_refused(1, "CS-STORE-008", &["cannot write", part, "remedy"]);
        assert!(sandbox.output().is_empty());
    }
    assert_eq!(std::fs::read(sandbox.at("data")).unwrap(), b"a file");
}

/// `codeswarm run` of the recorded job, below a shell that has run `before`.
fn below_shell(sandbox: &Sandbox, before: &str) -> Command {
    let mut command = sandbox.command("sh");
    let run = "run proposal.md --out out --yes --replay replay.jsonl --replay-bill bill.jsonl";
    command.arg("-c").arg(format!("{before}\nexec {} {run}", env!("CARGO_BIN_EXE_codeswarm")));
    command
}

fn assert_disk_error(ran: &Ran) {
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.assert_refused(1, "CS-STORE-008", &["cannot write", "codeswarm.db", "free space"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_cannot_grow_ends_the_run_and_nothing_is_lost() {
    // In blocks of 512 bytes: from "not even a header" to "in the middle of the files". The signal is ignored, as a full
    // disk sends none; writes then fail as they do there.
    let runs = [1, 16, 100, 200, 300, 400, 500, 700, 900, 1_200].map(|blocks| async move {
        let sandbox = recorded();
        let ran = sandbox.finish(below_shell(&sandbox, &format!("trap '' XFSZ; ulimit -f {blocks} || exit 99"))).await;
        if ran.code != Some(0) {
            assert_disk_error(&ran);
        }
        goes_on(&sandbox).await;
        ran.code != Some(0)
    });
    let failed = futures_util::future::join_all(runs).await;
    assert!(failed.iter().filter(|failed| **failed).count() >= 5, "{failed:?}");
}

/// How to get a mount namespace of one's own here, if there is a way.
fn namespace() -> Option<&'static [&'static str]> {
    static WAY: OnceLock<Option<&'static [&'static str]>> = OnceLock::new();
    const WAYS: [&[&str]; 2] = [&["unshare", "-m"], &["unshare", "-Urm"]];
    *WAY.get_or_init(|| {
        let works = |way: &&&[&str]| {
            let script = "mount -t tmpfs -o size=64k tmpfs /mnt";
            let mut command = std::process::Command::new(way[0]);
            command.args(&way[1..]).args(["sh", "-c", script]).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        WAYS.iter().find(works).copied()
    })
}

/// Runs `script` (`$1` is the program) in a mount namespace that ends with it; nothing when the system allows none.
#[expect(clippy::print_stderr, reason = "what is left out has to be said")]
async fn in_namespace(sandbox: &Sandbox, script: &str) -> Option<Ran> {
    let Some(way) = namespace() else {
        eprintln!("this system allows no mount namespaces: the variant with a real full disk is left out");
        return None;
    };
    let mut command = sandbox.command(way[0]);
    command.args(&way[1..]).args(["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_codeswarm")]);
    Some(sandbox.finish(command).await)
}

/// Big enough that a few files fill a small disk.
fn big_files(sandbox: &Sandbox) {
    let job = job(5, 2);
    let big = |path: &str| {
        let body = format!("NAME = \"{path}\"\n").repeat(20_000 / (path.len() + 10));
        Reply::new(format!("<file path=\"{path}\" id=\"{{{{id}}}}\">\n{body}</file-{{{{id}}}}>\n")).output_tokens(50)
    };
    let files = job.tasks.iter().map(|task| (format!("file {}", task.path), vec![big(&task.path)])).collect();
    record(sandbox, &script(&job, files, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_disk_that_is_full_keeps_what_is_paid_for_and_goes_on_when_there_is_room() {
    let sandbox = Sandbox::new();
    big_files(&sandbox);
    std::fs::create_dir(sandbox.at("out")).unwrap();
    let script = "mount -t tmpfs -o size=150k tmpfs out || exit 99
        \"$1\" run proposal.md --out out --yes --replay replay.jsonl --replay-bill bill.jsonl; echo \"first: $?\"
        find out -name '*.py' -size -19k; wc -l < bill.jsonl
        mount -o remount,size=16m tmpfs out
        \"$1\" resume --yes --replay replay.jsonl --replay-bill bill.jsonl; echo \"second: $?\"
        wc -l < bill.jsonl; find out -name '*.py' -size +18k | wc -l; ls -A out";
    let Some(ran) = in_namespace(&sandbox, script).await else { return };
    ran.assert_ended(
        0,
        &[
            "first: 1",
            "could not be written: error[CS-OUTPUT-010]",
            "No space left",
            "second: 0",
            "completed",
            "10 of 10",
        ],
    );
    let lines: Vec<&str> = ran
        .stdout
        .lines()
        .filter(|line| line.trim().bytes().all(|byte| byte.is_ascii_digit()) && !line.is_empty())
        .collect();
    assert_eq!(lines.last(), Some(&"10"), "{ran:?}");
    assert!(!ran.stdout.lines().any(|line| line.starts_with("out/")), "a file was written in part: {ran:?}");
    assert_eq!(
        Bill::load(&sandbox.at("bill.jsonl")).unwrap().calls_by_key().values().max(),
        Some(&1),
        "something was paid for twice"
    );
    sandbox.story().await.assert_sound_money(Bill::load(&sandbox.at("bill.jsonl")).unwrap().cost_micros);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_disk_that_is_full_or_read_only_is_said_and_nothing_is_lost() {
    let sandbox = recorded();
    std::fs::create_dir(sandbox.at("data")).unwrap();
    std::fs::create_dir(sandbox.at("out")).unwrap();
    let script = "mount -t tmpfs -o size=420k tmpfs data || exit 99
        \"$1\" run proposal.md --out out --yes --replay replay.jsonl --replay-bill bill.jsonl; echo \"full: $?\"
        mount -o remount,ro tmpfs data
        \"$1\" resume --yes --replay replay.jsonl --replay-bill bill.jsonl; echo \"read-only: $?\"
        mount -o remount,rw,size=64m tmpfs data
        \"$1\" resume --yes --replay replay.jsonl --replay-bill bill.jsonl || \"$1\" run proposal.md --out out --yes --replay replay.jsonl --replay-bill bill.jsonl
        echo \"room: $?\"";
    let Some(ran) = in_namespace(&sandbox, script).await else { return };
    ran.assert_ended(0, &["full: 1", "read-only: 1", "room: 0", "10 of 10", "error[CS-STORE-008]"]);
    assert_eq!(ran.stderr.lines().filter(|line| line.starts_with("error[CS-STORE-008]")).count(), 2, "{ran:?}");
    assert_eq!(sandbox.output().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_on_a_read_only_disk_is_refused_before_anything_is_paid() {
    let sandbox = recorded();
    std::fs::create_dir(sandbox.at("out")).unwrap();
    let script = "mount -t tmpfs -o ro tmpfs out || exit 99
        exec \"$1\" run proposal.md --out out --yes --replay replay.jsonl --replay-bill bill.jsonl";
    let Some(ran) = in_namespace(&sandbox, script).await else { return };
    ran.assert_refused(1, "CS-OUTPUT-005", &["out", "Read-only file system", "permissions"]);
    assert!(!sandbox.at("data").exists() && listing(&sandbox.at("out")).is_empty());
    assert_eq!(std::fs::read(sandbox.at("bill.jsonl")).unwrap_or_default(), b"");
}
