//! The order of rooms: a room may import only rooms above it, tests included.
//!
//! Found in the tokens, so that paths inside macros count, however they are written: `crate::room`, `crate::{room, …}`
//! and chains of `super` that leave the room.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::source::Source;

/// The rooms from top to bottom (DESIGN §2).
const ROOMS: [&str; 25] = [
    "error",
    "clock",
    "metric",
    "protocol",
    "config",
    "graph",
    "job",
    "schedule",
    "backend",
    "budget",
    "state",
    "sync",
    "resilience",
    "llm",
    "agent",
    "workspace",
    "verify",
    "worker",
    "workflow",
    "consensus",
    "coordinator",
    "fleet",
    "telemetry",
    "api",
    "cli",
];

fn place(room: &str) -> Option<usize> {
    ROOMS.iter().position(|other| *other == room)
}

/// Imports of rooms below, and rooms that the order does not know.
pub(super) fn faults(source: &Source) -> Vec<String> {
    let Some(inner) = source.path.strip_prefix("src/").filter(|path| *path != "lib.rs") else { return Vec::new() };
    let modules: Vec<&str> = inner.trim_end_matches(".rs").split('/').filter(|name| *name != "mod").collect();
    let room = modules[0];
    let Some(own) = place(room) else {
        return vec![
            source.fault(1, &format!("{room} is not a room: put it into one, or add it to DESIGN §2 and here")),
        ];
    };
    let mut imports = Vec::new();
    scan(&source.tokens, modules.len(), &mut imports);
    let mut faults = Vec::new();
    for (line, name) in imports {
        match place(&name) {
            Some(other) if other > own => {
                let what = format!("{room} imports {name}, which stands below it: pass what it needs, or move it up");
                faults.push(source.fault(line, &what));
            }
            _ => {}
        }
    }
    faults
}

/// Collects what is named right below the crate's root; `depth` is the number of modules around `tokens`.
fn scan(tokens: &TokenStream, depth: usize, found: &mut Vec<(usize, String)>) {
    let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        let mut supers = 0;
        let mut next = at;
        while is_ident(tokens.get(next), "super") && is_path_separator(&tokens, next + 1) {
            supers += 1;
            next += 3;
        }
        let is_root = is_ident(tokens.get(at), "crate") && is_path_separator(&tokens, at + 1);
        if is_root {
            first_names(tokens.get(at + 3), found);
            at += 3;
        } else if supers >= depth && supers > 0 {
            first_names(tokens.get(next), found);
            at = next;
        } else if is_ident(tokens.get(at), "mod") && is_brace(tokens.get(at + 2)) {
            if let Some(TokenTree::Group(body)) = tokens.get(at + 2) {
                scan(&body.stream(), depth + 1, found);
            }
            at += 3;
        } else {
            if let Some(TokenTree::Group(group)) = tokens.get(at) {
                scan(&group.stream(), depth, found);
            }
            at = next.max(at + 1);
        }
    }
}

/// The names with which a path may go on: one, or those that begin the branches of a group.
fn first_names(token: Option<&TokenTree>, found: &mut Vec<(usize, String)>) {
    match token {
        Some(TokenTree::Ident(name)) => found.push((name.span().start().line, name.to_string())),
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
            let mut begins = true;
            for token in group.stream() {
                if begins {
                    first_names(Some(&token), found);
                }
                begins = matches!(&token, TokenTree::Punct(mark) if mark.as_char() == ',');
            }
        }
        _ => {}
    }
}

fn is_ident(token: Option<&TokenTree>, name: &str) -> bool {
    matches!(token, Some(TokenTree::Ident(found)) if found == name)
}

fn is_brace(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace)
}

fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(mark)) if mark.as_char() == ':');
    colon(tokens.get(at)) && colon(tokens.get(at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_of_rooms_below_are_found_however_they_are_written() {
        for (path, text) in [
            ("src/clock.rs", "use crate::protocol::JobId;"),
            ("src/graph.rs", "use crate::{error::Coded, job::Job};"),
            ("src/graph.rs", "fn f() -> crate::cli::Exit { todo() }"),
            ("src/job/view.rs", "fn f() { assert_eq!(crate::llm::x(), 1); }"),
            ("src/job/view.rs", "use super::super::coordinator::lead;"),
            ("src/job.rs", "use super::worker;"),
            ("src/job/mod.rs", "use super::worker;"),
            ("src/graph.rs", "#[cfg(test)] mod tests { use crate::job::Job; }"),
            ("src/graph.rs", "mod tests { use super::super::job::Job; }"),
        ] {
            let found = faults(&Source::parse(path, text));
            assert_eq!(found.len(), 1, "{path}: {text}");
            assert!(found[0].starts_with(&format!("{path}:1: ")) && found[0].contains("below"), "{}", found[0]);
        }
    }

    #[test]
    fn imports_of_rooms_above_and_of_the_own_room_are_fine() {
        for (path, text) in [
            (
                "src/job/view.rs",
                "//! See [`crate::cli`].\nuse crate::graph::Graph; use super::task; use crate::job::task;",
            ),
            ("src/job/view.rs", "mod tests { use super::super::worker; use super::*; } pub(crate) fn cli() {}"),
            ("src/cli/run.rs", "use crate::{protocol::{JobId, worker}, coordinator};"),
            ("src/lib.rs", "pub mod cli; use crate::cli::Exit;"),
            ("tests/it/x.rs", "use crate::cli;"),
        ] {
            assert_eq!(faults(&Source::parse(path, text)), Vec::<String>::new(), "{path}: {text}");
        }
    }

    #[test]
    fn a_room_that_the_order_does_not_know_is_found() {
        assert_eq!(faults(&Source::parse("src/attic/box.rs", "")).len(), 1);
    }
}
