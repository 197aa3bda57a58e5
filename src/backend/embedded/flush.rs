//! Pressing SQLite's log onto the disk exactly when a step has to survive loss of power.
//!
//! Every commit survives the death of any process at once. A flush is what survives loss of power, and it is the one
//! expensive thing here (0.2 ms on a quiet disk, twenty times that on a busy one), so only steps that must not be undone
//! wait for it: money set aside, limits, job logs, commands of people. The rest (claims, artifacts, results,
//! deliveries) is in the same log and goes down with the next flush. A log is only ever lost from its end, so what a
//! power failure undoes is a suffix of such steps: calls may have to be repeated, but their reservations are on disk
//! and count as spent. SQLite runs with `synchronous = NORMAL`, which flushes nothing at a commit and everything, in
//! the right order, at a checkpoint; this is then the flush that `FULL` would have done. It must never be skipped.

use std::fs::File;
use std::path::{Path, PathBuf};

/// SQLite's write-ahead log of one database.
pub(super) struct LogFlush {
    path: PathBuf,
    file: Option<File>,
}

impl LogFlush {
    /// The log of the database in `file`. It need not exist yet.
    pub(super) fn of(file: &Path) -> Self {
        let mut path = file.as_os_str().to_owned();
        path.push("-wal");
        Self { path: path.into(), file: None }
    }

    /// Returns once everything committed so far survives loss of power.
    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                let file = File::open(&self.path)?;
                // A new file is only there after a crash if its directory knows about it.
                if let Some(directory) = self.path.parent() {
                    File::open(directory)?.sync_all()?;
                }
                self.file.insert(file)
            }
        };
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_cannot_be_flushed_is_an_error_and_never_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogFlush::of(&directory.path().join("x.db"));
        assert!(log.flush().is_err());
        std::fs::write(directory.path().join("x.db-wal"), b"log").unwrap();
        assert!(log.flush().is_ok());
        assert!(log.flush().is_ok());
    }
}
