//! Commits that die at any step leave all of a feature's files or none.
//!
//! A fault is struck at each single step of a commit in turn, and of the recovery after it; then the directory is compared
//! with what it was before and what it was to become. There is no third answer.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bytes::Bytes;
use cap_std::ambient_authority;

use super::*;

fn open(root: &Path) -> Dir {
    Dir::open_ambient_dir(root, ambient_authority()).unwrap()
}

fn job() -> JobId {
    JobId::new("j1").unwrap()
}

fn commit() -> FeatureCommit {
    let feature = FeatureId::new("core").unwrap();
    let file = |path: &str, text: &'static str| {
        (path.to_owned(), Bytes::from_static(text.as_bytes()), TaskId::file(&feature, "t").unwrap())
    };
    FeatureCommit {
        files: vec![
            file("a.py", "a = 1\n"),
            file("pkg/deep/b.py", "b = 2\n"),
            file("pkg/c.py", "c = 3\n"),
            file("same.py", "same\n"),
        ],
        feature,
        title: "Core".into(),
        complete: true,
    }
}

/// The committed files that are there, with their contents checked.
fn present(root: &Path) -> usize {
    let there = |(path, bytes, _): &&(String, Bytes, TaskId)| match std::fs::read(root.join(path)) {
        Ok(found) => {
            assert_eq!(found, bytes[..], "{path} is half-written");
            true
        }
        Err(_) => false,
    };
    commit().files.iter().filter(there).count()
}

fn run(dir: &Dir, observer: Observer<'_>) -> Result<(), WorkspaceError> {
    let journal = prepare(dir, &job(), &commit(), observer)?;
    place(dir, &journal, observer)?;
    clear(dir, &journal.feature, observer)
}

fn recover(dir: &Dir) -> usize {
    let journals = pending(dir).unwrap();
    for journal in &journals {
        place(dir, journal, &unobserved).unwrap();
        clear(dir, &journal.feature, &unobserved).unwrap();
    }
    journals.len()
}

#[test]
fn whichever_step_the_process_dies_at_recovery_leaves_all_files_or_none() {
    let mut outcomes = Vec::new();
    for death in 0.. {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("same.py"), "same\n").unwrap();
        let count = Cell::new(0);
        let die = |step: Step| {
            // A panic unwinds past all clean-up code, which is as close to SIGKILL as one process gets.
            assert!(count.replace(count.get() + 1) != death, "dies at {step:?}");
            Ok(())
        };
        let finished = catch_unwind(AssertUnwindSafe(|| run(&open(root.path()), &die))).is_ok();

        let dir = open(root.path());
        let rolled = recover(&dir);
        let files = present(root.path());
        assert!(files == 4 || files == 1, "step {death}: {files} files");
        assert_eq!(recover(&dir), 0, "recovery is done once");
        assert_eq!(std::fs::read_dir(root.path().join(STAGE)).map_or(0, Iterator::count), 0, "step {death}: leftovers");
        outcomes.push((files, rolled));
        if finished {
            break;
        }
    }
    // Three files to stage, the journal written and published: five deaths leave nothing. Three placings and the clearing:
    // four deaths are rolled forward. Then the sweep, and the undisturbed run.
    let expected = [vec![(1, 0); 5], vec![(4, 1); 4], vec![(4, 0); 2]].concat();
    assert_eq!(outcomes, expected);
}

#[test]
fn recovery_may_die_as_well_and_is_taken_up_again() {
    let root = tempfile::tempdir().unwrap();
    let dir = open(root.path());
    prepare(&dir, &job(), &commit(), &unobserved).unwrap();
    for death in 0..4 {
        let journal = pending(&dir).unwrap().remove(0);
        let count = Cell::new(0);
        let die = |_: Step| {
            assert!(count.replace(count.get() + 1) != 1, "dies in recovery {death}");
            Ok(())
        };
        // One file more is in place after each death.
        let died = catch_unwind(AssertUnwindSafe(|| place(&dir, &journal, &die))).is_err();
        assert_eq!(died, death < 3);
        assert_eq!(present(root.path()), death + 1);
    }
    assert_eq!(recover(&dir), 1);
    assert_eq!(present(root.path()), 4);
}

#[test]
fn a_full_disk_while_staging_leaves_no_trace() {
    for step in [Step::Stage, Step::Journal, Step::Publish] {
        let root = tempfile::tempdir().unwrap();
        let dir = open(root.path());
        let full = |now: Step| if now == step { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) };
        let error = run(&dir, &full).unwrap_err();
        assert!(matches!(error, WorkspaceError::Io { .. }), "{error:?}");
        assert!(!root.path().join(STAGE).join("core").exists());
        assert_eq!(present(root.path()), 0);
        assert_eq!(recover(&dir), 0);
        run(&dir, &unobserved).unwrap();
        assert_eq!(present(root.path()), 4);
    }
}

#[test]
fn a_full_disk_while_placing_is_completed_later() {
    let root = tempfile::tempdir().unwrap();
    let dir = open(root.path());
    let count = Cell::new(0);
    let full = |now: Step| match now {
        Step::Place if count.replace(count.get() + 1) == 2 => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    };
    run(&dir, &full).unwrap_err();
    assert_eq!(present(root.path()), 2);
    assert_eq!(recover(&dir), 1);
    assert_eq!(present(root.path()), 4);
}

#[test]
fn what_is_there_already_is_not_written_again() {
    let root = tempfile::tempdir().unwrap();
    let dir = open(root.path());
    run(&dir, &unobserved).unwrap();
    let before = std::fs::metadata(root.path().join("a.py")).unwrap().modified().unwrap();
    let forbid = |step: Step| {
        assert!(!matches!(step, Step::Stage | Step::Place), "nothing to write");
        Ok(())
    };
    run(&dir, &forbid).unwrap();
    assert_eq!(std::fs::metadata(root.path().join("a.py")).unwrap().modified().unwrap(), before);
}

#[test]
fn a_stage_that_does_not_match_its_journal_is_never_placed() {
    let root = tempfile::tempdir().unwrap();
    let dir = open(root.path());
    let journal = prepare(&dir, &job(), &commit(), &unobserved).unwrap();
    std::fs::write(root.path().join(".codeswarm-stage/core/0"), "evil").unwrap();
    let error = place(&dir, &journal, &unobserved).unwrap_err();
    assert!(matches!(error, WorkspaceError::Damaged { .. }), "{error:?}");
    assert_eq!(present(root.path()), 0);

    std::fs::write(root.path().join(".codeswarm-stage/core.journal"), "{").unwrap();
    assert!(matches!(pending(&dir).unwrap_err(), WorkspaceError::Damaged { .. }));
    let evil = Journal { files: vec![Entry { path: "../x".into(), ..journal.files[0].clone() }], ..journal };
    assert!(matches!(place(&dir, &evil, &unobserved).unwrap_err(), WorkspaceError::Path(_)));
}

#[cfg(unix)]
#[test]
fn scripts_are_executable_and_other_files_are_not() {
    use std::os::unix::fs::PermissionsExt as _;
    let root = tempfile::tempdir().unwrap();
    let dir = open(root.path());
    let mut commit = commit();
    commit.files[0].1 = Bytes::from_static(b"#!/bin/sh\nexit 0\n");
    let journal = prepare(&dir, &job(), &commit, &unobserved).unwrap();
    place(&dir, &journal, &unobserved).unwrap();
    let mode = |path: &str| std::fs::metadata(root.path().join(path)).unwrap().permissions().mode();
    assert_eq!(mode("a.py") & 0o777, 0o755);
    assert_eq!(mode("pkg/c.py") & 0o111, 0);
}
