//! All files of a feature or none: stage, journal, place, clear.
//!
//! 1. *Stage*: every new file is written to `.codeswarm-stage/<feature>/<n>` and flushed. A failure here leaves no trace.
//! 2. *Journal*: `.codeswarm-stage/<feature>.journal` lists paths and digests; it appears by an atomic rename. From
//!    here on the commit happens, even if the process dies: recovery goes forward only.
//! 3. *Place*: each staged file is renamed to its path. A staged file that is gone has been placed.
//! 4. *Clear*: the journal goes first, then the stage.
//!
//! Every step may be repeated. All functions block and must not run on an async thread.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;

use cap_std::fs::Dir;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::output::{CAN_SYNC_EVERYTHING, sync_directory, sync_everything, write_new, write_unsynced};
use super::{FeatureCommit, WorkspaceError, layout};
use crate::protocol::{FeatureId, JobId, TaskId};

/// Where commits are prepared; on the same file system as the output, so that renames are atomic.
pub(super) const STAGE: &str = ".codeswarm-stage";
/// A journal lists at most some hundred files.
const MAX_JOURNAL_BYTES: u64 = 1 << 20;

/// A step of a commit, told to the observer before it is done; tests stop the world there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A file is about to be staged.
    Stage,
    /// The journal is about to be written.
    Journal,
    /// The journal is about to take effect.
    Publish,
    /// A file is about to be placed.
    Place,
    /// The journal is about to be removed.
    Clear,
    /// The stage is about to be removed.
    Sweep,
}

/// Told before every step; an error fails the step.
pub(super) type Observer<'a> = &'a dyn Fn(Step) -> io::Result<()>;

/// The observer of production: sees nothing, stops nothing.
pub(super) fn unobserved(_: Step) -> io::Result<()> {
    Ok(())
}

/// What a journal says: everything needed to finish the commit without the process that began it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) schema: u16,
    pub(super) job: JobId,
    pub(super) feature: FeatureId,
    pub(super) title: String,
    pub(super) complete: bool,
    pub(super) files: Vec<Entry>,
}

/// One file of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) sha256: String,
    pub(super) task: TaskId,
    /// False when the output already holds these very bytes.
    pub(super) staged: bool,
}

fn stage_of(feature: &FeatureId) -> String {
    format!("{STAGE}/{feature}")
}

fn journal_of(feature: &FeatureId) -> String {
    format!("{STAGE}/{feature}.journal")
}

/// Stages and journals a commit. On failure nothing is left behind.
pub(super) fn prepare(
    dir: &Dir,
    job: &JobId,
    commit: &FeatureCommit,
    observer: Observer<'_>,
) -> Result<Journal, WorkspaceError> {
    layout::check(dir, commit.files.iter().map(|(path, ..)| path.as_str()))?;
    make_stage_root(dir)?;
    let stage = stage_of(&commit.feature);
    remove_tree(dir, &stage).map_err(WorkspaceError::io(&stage))?;
    let prepared = stage_all(dir, job, commit, observer);
    if prepared.is_err() {
        // The journal does not exist, so whatever cannot be removed now is swept at the next start.
        let _ = remove_tree(dir, &stage);
    }
    prepared
}

/// A feature with more files than this is put on the disk at once instead of file by file.
const MANY_FILES: usize = 16;

fn stage_all(
    dir: &Dir,
    job: &JobId,
    commit: &FeatureCommit,
    observer: Observer<'_>,
) -> Result<Journal, WorkspaceError> {
    let (stage, name) = (stage_of(&commit.feature), journal_of(&commit.feature));
    dir.create_dir(&stage).map_err(WorkspaceError::io(&stage))?;
    let at_once = CAN_SYNC_EVERYTHING && commit.files.len() > MANY_FILES;
    let mut files = Vec::with_capacity(commit.files.len());
    for (index, (path, bytes, task)) in commit.files.iter().enumerate() {
        let staged = !holds(dir, path, bytes);
        if staged {
            let name = format!("{stage}/{index}");
            let write = observer(Step::Stage).and_then(|()| match at_once {
                true => write_unsynced(dir, &name, bytes).map(drop),
                false => write_new(dir, &name, bytes),
            });
            write.map_err(WorkspaceError::io(path))?;
        }
        files.push(Entry { path: path.clone(), sha256: sha256(bytes), task: task.clone(), staged });
    }
    let journal = Journal {
        schema: 1,
        job: job.clone(),
        feature: commit.feature.clone(),
        title: commit.title.clone(),
        complete: commit.complete,
        files,
    };
    let temporary = format!("{name}.new");
    let publish = || {
        let bytes = serde_json::to_vec(&journal)?;
        if at_once {
            sync_everything(dir)?;
        } else {
            sync_directory(dir, &stage)?;
        }
        observer(Step::Journal)?;
        remove_tree(dir, &temporary)?;
        write_new(dir, &temporary, &bytes)?;
        observer(Step::Publish)?;
        dir.rename(&temporary, dir, &name)?;
        sync_directory(dir, STAGE)
    };
    publish().map_err(WorkspaceError::io(&name))?;
    Ok(journal)
}

/// Puts every staged file in its place; repeats harmlessly.
pub(super) fn place(dir: &Dir, journal: &Journal, observer: Observer<'_>) -> Result<(), WorkspaceError> {
    layout::check(dir, journal.files.iter().map(|entry| entry.path.as_str()))?;
    let stage = stage_of(&journal.feature);
    let mut touched = BTreeSet::new();
    for (index, entry) in journal.files.iter().enumerate().filter(|(_, entry)| entry.staged) {
        let staged = format!("{stage}/{index}");
        let (source, wanted) = match dir.read(&staged) {
            Ok(bytes) => (Some(&staged), bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, dir.read(&entry.path).unwrap_or_default()),
            Err(error) => return Err(WorkspaceError::io(staged)(error)),
        };
        if sha256(&wanted) != entry.sha256 {
            return Err(WorkspaceError::Damaged { why: format!("{} does not match its digest", entry.path) });
        }
        let Some(source) = source else { continue };
        let parent = entry.path.rsplit_once('/').map_or(".", |(parent, _)| parent);
        let moved = observer(Step::Place)
            .and_then(|()| dir.create_dir_all(parent))
            .and_then(|()| dir.rename(source, dir, &entry.path));
        moved.map_err(WorkspaceError::io(&entry.path))?;
        // A new directory is an entry of its parent, so the whole way up has to reach the disk.
        touched.extend(entry.path.match_indices('/').map(|(end, _)| &entry.path[..end]));
        touched.insert(".");
    }
    touched.into_iter().try_for_each(|parent| sync_directory(dir, parent)).map_err(WorkspaceError::io("directories"))
}

/// Ends a commit whose files are all in place.
pub(super) fn clear(dir: &Dir, feature: &FeatureId, observer: Observer<'_>) -> Result<(), WorkspaceError> {
    let (stage, journal) = (stage_of(feature), journal_of(feature));
    let cleared = observer(Step::Clear)
        .and_then(|()| remove_tree(dir, &journal))
        .and_then(|()| sync_directory(dir, STAGE))
        .and_then(|()| observer(Step::Sweep))
        .and_then(|()| remove_tree(dir, &stage));
    cleared.map_err(WorkspaceError::io(stage))
}

/// The journals that wait to be finished; everything else in the stage is removed.
pub(super) fn pending(dir: &Dir) -> Result<Vec<Journal>, WorkspaceError> {
    let entries = match dir.symlink_metadata(STAGE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Ok(metadata) if metadata.is_dir() => dir.read_dir(STAGE).map_err(WorkspaceError::io(STAGE))?,
        Ok(_) => return Err(WorkspaceError::Symlink { path: STAGE.to_owned() }),
        Err(error) => return Err(WorkspaceError::io(STAGE)(error)),
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        names.insert(entry.map_err(WorkspaceError::io(STAGE))?.file_name().to_string_lossy().into_owned());
    }
    let mut journals = Vec::new();
    for name in &names {
        let path = format!("{STAGE}/{name}");
        if name.ends_with(".journal") {
            journals.push(read_journal(dir, &path)?);
        } else if !names.contains(&format!("{name}.journal")) {
            remove_tree(dir, &path).map_err(WorkspaceError::io(path))?;
        }
    }
    Ok(journals)
}

fn read_journal(dir: &Dir, path: &str) -> Result<Journal, WorkspaceError> {
    let damaged = |why: &str| WorkspaceError::Damaged { why: format!("{path}: {why}") };
    let metadata = dir.symlink_metadata(path).map_err(WorkspaceError::io(path))?;
    if !metadata.is_file() || metadata.len() > MAX_JOURNAL_BYTES {
        return Err(damaged("is not a journal"));
    }
    let bytes = dir.read(path).map_err(WorkspaceError::io(path))?;
    let journal: Journal = serde_json::from_slice(&bytes).map_err(|error| damaged(&error.to_string()))?;
    if path == journal_of(&journal.feature) { Ok(journal) } else { Err(damaged("names another feature")) }
}

/// Removes the stage when nothing waits in it.
pub(super) fn remove_stage(dir: &Dir) -> Result<(), WorkspaceError> {
    remove_tree(dir, STAGE).map_err(WorkspaceError::io(STAGE))
}

fn make_stage_root(dir: &Dir) -> Result<(), WorkspaceError> {
    match dir.create_dir(STAGE) {
        Ok(()) => sync_directory(dir, ".").map_err(WorkspaceError::io(STAGE)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = dir.symlink_metadata(STAGE).map_err(WorkspaceError::io(STAGE))?;
            if metadata.is_dir() { Ok(()) } else { Err(WorkspaceError::Symlink { path: STAGE.to_owned() }) }
        }
        Err(error) => Err(WorkspaceError::io(STAGE)(error)),
    }
}

/// Removes a file, a link or a whole directory; what does not exist is removed already.
fn remove_tree(dir: &Dir, path: &str) -> io::Result<()> {
    let removed = match dir.symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => dir.remove_dir_all(path),
        Ok(_) => dir.remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// True when the file at `path` has exactly these bytes.
fn holds(dir: &Dir, path: &str, bytes: &[u8]) -> bool {
    let same_size = dir.symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == bytes.len() as u64);
    same_size && dir.read(path).is_ok_and(|found| found == bytes)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
