//! Compares the paths of a commit with what is on disk, before anything is written.
//!
//! The text of a path has been judged by [`crate::protocol::path`]; here the file system has its say: no symbolic link on the
//! way, no directory in the place of a file, no name that a case-insensitive disk would take for another. Each directory
//! is read once per commit. cap-std keeps writes inside the root even if the disk changes after this check.

use std::collections::HashMap;
use std::io;

use cap_std::fs::Dir;

use super::WorkspaceError;
use crate::protocol::path;

/// What a name stands for, on disk or in this commit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
    Link,
    Other,
    /// A file that an earlier path of the same commit names.
    Planned,
}

/// Entries of one directory by folded name.
type Listing = HashMap<String, (String, Kind)>;

/// Checks all `paths` of one commit.
///
/// # Errors
/// The first path that cannot be written safely.
pub(super) fn check<'a>(dir: &Dir, paths: impl Iterator<Item = &'a str>) -> Result<(), WorkspaceError> {
    let mut listings: HashMap<&str, Listing> = HashMap::new();
    for path in paths {
        path::check(path)?;
        check_one(dir, path, &mut listings)?;
    }
    Ok(())
}

fn check_one<'a>(dir: &Dir, path: &'a str, listings: &mut HashMap<&'a str, Listing>) -> Result<(), WorkspaceError> {
    let mut start = 0;
    while start <= path.len() {
        let end = path[start..].find('/').map_or(path.len(), |length| start + length);
        let (parent, name, last) = (&path[..start.saturating_sub(1)], &path[start..end], end == path.len());
        if !listings.contains_key(parent) {
            listings.insert(parent, list(dir, parent)?);
        }
        let Some(listing) = listings.get_mut(parent) else { return Ok(()) };
        match listing.get(&path::fold(name)) {
            None => {
                let kind = if last { Kind::Planned } else { Kind::Directory };
                listing.insert(path::fold(name), (name.to_owned(), kind));
            }
            Some((existing, kind)) => accept(path, name, last, existing, *kind)?,
        }
        start = end + 1;
    }
    Ok(())
}

fn accept(path: &str, name: &str, last: bool, existing: &str, kind: Kind) -> Result<(), WorkspaceError> {
    let occupied = |why| Err(WorkspaceError::Occupied { path: path.to_owned(), why });
    if existing != name {
        return Err(WorkspaceError::Clash { path: path.to_owned(), existing: existing.to_owned() });
    }
    match (kind, last) {
        (Kind::Link, _) => Err(WorkspaceError::Symlink { path: path.to_owned() }),
        (Kind::Directory, false) | (Kind::File, true) => Ok(()),
        (Kind::Directory, true) => occupied("there is a directory of that name"),
        (Kind::Planned, true) => occupied("the commit names it twice"),
        (Kind::File | Kind::Planned, false) => occupied("one of its directories is a file"),
        (Kind::Other, _) => occupied("something that is neither file nor directory is in the way"),
    }
}

/// The entries of `parent`; none when it does not exist yet.
fn list(dir: &Dir, parent: &str) -> Result<Listing, WorkspaceError> {
    let entries = match dir.read_dir(if parent.is_empty() { "." } else { parent }) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Listing::new()),
        Err(error) => return Err(WorkspaceError::io(parent)(error)),
    };
    let mut listing = Listing::new();
    for entry in entries {
        let entry = entry.map_err(WorkspaceError::io(parent))?;
        let kind = match entry.file_type().map_err(WorkspaceError::io(parent))? {
            kind if kind.is_symlink() => Kind::Link,
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_file() => Kind::File,
            _ => Kind::Other,
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        listing.insert(path::fold(&name), (name, kind));
    }
    Ok(listing)
}
