//! The rules of the house (DESIGN §2), enforced on every Rust file of the package.
//!
//! Rules are read from the tokens, not from the text, so that comments and strings neither count nor hide anything. Each
//! fault names file, line and remedy. A rule that cannot fail protects nothing: every rule is also shown to bite, on
//! small bad sources of its own.

mod bound;
mod cases;
mod names;
mod rooms;
mod size;
mod source;

use std::path::PathBuf;

use source::Source;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files of the package.
fn sources() -> Vec<Source> {
    let files = source::files(&root(), &["src", "bin", "tests", "benches"]);
    let rust = files.iter().filter(|path| path.extension().is_some_and(|end| end == "rs"));
    rust.map(|path| Source::read(&root(), path)).collect()
}

#[track_caller]
fn no_faults(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn files_and_functions_are_short() {
    let faults: Vec<String> = sources().iter().flat_map(size::faults).collect();
    no_faults(&faults);
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let faults: Vec<String> = sources().iter().filter_map(names::undescribed).collect();
    no_faults(&faults);
}

#[test]
fn rooms_import_only_rooms_above_them() {
    let faults: Vec<String> = sources().iter().flat_map(rooms::faults).collect();
    no_faults(&faults);
}

#[test]
fn nothing_is_named_after_a_junk_drawer() {
    let faults: Vec<String> = sources().iter().flat_map(names::junk_drawers).collect();
    no_faults(&faults);
}

#[test]
fn queries_scripts_and_prompts_are_files_and_every_such_file_is_used() {
    let sources = sources();
    let texts = source::files(&root(), &["src", "prompts"]);
    let texts = texts.into_iter().filter(|path| bound::is_text(path)).collect();
    let mut faults = bound::unbound(&root(), texts, &sources);
    faults.extend(sources.iter().flat_map(bound::queries_in_code));
    no_faults(&faults);
}

#[test]
fn every_case_of_the_budget_is_shown_by_a_test_and_the_committed_table_names_them() {
    let sources = sources();
    no_faults(&cases::faults(&sources));
    let (path, table) = (root().join("docs/cases.md"), cases::table(&sources));
    if std::env::var_os("CODESWARM_CASES").is_some_and(|value| value == "write") {
        std::fs::write(&path, &table).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differing: Vec<_> = table.lines().filter(|line| !committed.lines().any(|other| other == *line)).collect();
    assert!(committed == table, "docs/cases.md is out of date; it should say:\n{}", differing.join("\n"));
}
