//! The output directory itself: is it ours to write, before any money is spent?
//!
//! A directory is ours when it was empty once and carries the job's marker since. Anything else is left alone: a program
//! that writes what models say must never mix its files with those of a person.

use std::io::{self, Write as _};
use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use serde::{Deserialize, Serialize};

use super::{OutputMode, WorkspaceError};
use crate::protocol::JobId;

/// Names the job an output directory belongs to; written once, also the lock between processes.
pub(super) const MARKER: &str = ".codeswarm-output.json";
/// Everything the program keeps in an output directory begins like this; no output file may.
const OWN_PREFIX: &str = ".codeswarm";
/// A marker is a few words; more is not one.
const MAX_MARKER_BYTES: u64 = 4_096;

#[derive(Serialize, Deserialize)]
struct Marker {
    schema: u16,
    job: JobId,
}

/// Opens or makes the output directory and says whether it already carries the job's marker. Blocking.
///
/// # Errors
/// When it is not a directory, cannot be written, or holds what is not this job's.
pub(super) fn enter(output: &Path, mode: OutputMode, job: &JobId) -> Result<(Dir, bool), WorkspaceError> {
    let not_writable = |source| WorkspaceError::NotWritable { path: output.to_owned(), source };
    match std::fs::metadata(output) {
        Ok(metadata) if !metadata.is_dir() => return Err(WorkspaceError::NotDirectory { path: output.to_owned() }),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(WorkspaceError::NotDirectory { path: output.to_owned() });
        }
        Err(_) => std::fs::create_dir_all(output).map_err(not_writable)?,
    }
    let dir = Dir::open_ambient_dir(output, ambient_authority()).map_err(not_writable)?;
    if let Some(owner) = owner(&dir) {
        let ours = owner == job.as_str();
        return if ours {
            Ok((dir, true))
        } else {
            Err(WorkspaceError::OtherJob { path: output.to_owned(), job: owner })
        };
    }
    for entry in dir.entries().map_err(not_writable)? {
        let name = entry.map_err(not_writable)?.file_name();
        if name == ".git" && mode == OutputMode::Git {
            return Err(WorkspaceError::ForeignRepository { path: output.to_owned() });
        }
        if !name.to_string_lossy().starts_with(OWN_PREFIX) {
            return Err(WorkspaceError::NotEmpty { path: output.to_owned() });
        }
    }
    Ok((dir, false))
}

/// The job named by the marker; nothing when there is no marker or it cannot be read as one.
fn owner(dir: &Dir) -> Option<String> {
    let metadata = dir.symlink_metadata(MARKER).ok()?;
    if !metadata.is_file() || metadata.len() > MAX_MARKER_BYTES {
        return None;
    }
    let marker: Marker = serde_json::from_slice(&dir.read(MARKER).ok()?).ok()?;
    Some(marker.job.as_str().to_owned())
}

/// Writes and removes a small file, to find out now what would otherwise be found out after the money is spent.
pub(super) fn probe(dir: &Dir, output: &Path) -> Result<(), WorkspaceError> {
    let name = format!("{OWN_PREFIX}-probe-{}", crate::clock::random_token(8));
    let result = write_new(dir, &name, b"codeswarm").and_then(|()| dir.remove_file(&name));
    result.map_err(|source| WorkspaceError::NotWritable { path: output.to_owned(), source })
}

/// Makes the directory this job's.
pub(super) fn claim(dir: &Dir, job: &JobId) -> Result<(), WorkspaceError> {
    let marker = serde_json::to_vec(&Marker { schema: 1, job: job.clone() }).map_err(io::Error::from);
    let temporary = format!("{MARKER}.{}", crate::clock::random_token(8));
    marker
        .and_then(|bytes| write_new(dir, &temporary, &bytes))
        .and_then(|()| dir.rename(&temporary, dir, MARKER))
        .and_then(|()| sync_directory(dir, "."))
        .map_err(WorkspaceError::io(MARKER))
}

/// Waits until no other process writes to this output; the lock ends when the file is dropped.
pub(super) fn lock(dir: &Dir) -> Result<std::fs::File, WorkspaceError> {
    let file = dir.open(MARKER).map_err(WorkspaceError::io(MARKER))?.into_std();
    file.lock().map_err(WorkspaceError::io(MARKER))?;
    Ok(file)
}

/// Writes a file that must not exist yet and waits until the disk has it.
pub(super) fn write_new(dir: &Dir, name: &str, bytes: &[u8]) -> io::Result<()> {
    write_unsynced(dir, name, bytes)?.sync_all()
}

/// Writes a file that must not exist yet; [`sync_everything`] waits for the disk.
pub(super) fn write_unsynced(dir: &Dir, name: &str, bytes: &[u8]) -> io::Result<cap_std::fs::File> {
    let mut file = dir.open_with(name, OpenOptions::new().write(true).create_new(true))?;
    file.write_all(bytes)?;
    make_executable_if_script(&file, bytes)?;
    Ok(file)
}

/// True where the disk can be told to take everything at once.
pub(super) const CAN_SYNC_EVERYTHING: bool = cfg!(target_os = "linux");

/// Waits until the disk has everything written to the file system of `dir`. Worth it for many files: one journal commit
/// instead of one for each, which also leaves the disk to the ledger.
pub(super) fn sync_everything(dir: &Dir) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    // The handle of a directory only names it; what is flushed has to be open for reading.
    rustix::fs::syncfs(dir.open(".")?)?;
    #[cfg(not(target_os = "linux"))]
    sync_directory(dir, ".")?;
    Ok(())
}

/// A file that names its interpreter is meant to be run.
#[cfg(unix)]
fn make_executable_if_script(file: &cap_std::fs::File, bytes: &[u8]) -> io::Result<()> {
    use cap_std::fs::{Permissions, PermissionsExt as _};
    if bytes.starts_with(b"#!") { file.set_permissions(Permissions::from_mode(0o755)) } else { Ok(()) }
}

#[cfg(not(unix))]
fn make_executable_if_script(_file: &cap_std::fs::File, _bytes: &[u8]) -> io::Result<()> {
    Ok(())
}

/// Waits until the disk has the directory's entries; systems other than Unix do that by themselves.
pub(super) fn sync_directory(dir: &Dir, name: &str) -> io::Result<()> {
    if cfg!(unix) { dir.open(name)?.sync_all() } else { Ok(()) }
}
