//! Directories as values that can be compared.
//!
//! Permissions count, times do not: two runs are the same when a person could not tell them apart.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Path relative to the root, with `/`, and what is there: kind, executable or not, bytes.
pub(crate) type Tree = BTreeMap<String, String>;

/// Everything below `root` but directories, which exist through their files; empty when there is no `root`.
pub(crate) fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                open.push(path);
                continue;
            }
            let what = if meta.is_file() {
                let bytes = std::fs::read(&path).unwrap();
                let text = String::from_utf8(bytes).unwrap_or_else(|error| format!("{:?}", error.as_bytes()));
                format!("{:o} {text}", meta.permissions().mode() & 0o777)
            } else {
                format!("{:?} {:?}", meta.file_type(), std::fs::read_link(&path).ok())
            };
            found.insert(path.strip_prefix(root).unwrap().to_string_lossy().into_owned(), what);
        }
    }
    found
}

/// How two trees differ, one line per path; empty when they do not.
pub(crate) fn differences(expected: &Tree, actual: &Tree) -> String {
    let mut text = String::new();
    for (path, content) in expected {
        match actual.get(path) {
            None => writeln!(text, "missing: {path}").unwrap(),
            Some(other) if other != content => {
                writeln!(text, "different: {path} ({} and {} bytes)", content.len(), other.len()).unwrap();
            }
            Some(_) => {}
        }
    }
    for path in actual.keys().filter(|path| !expected.contains_key(*path)) {
        writeln!(text, "unexpected: {path}").unwrap();
    }
    text
}
