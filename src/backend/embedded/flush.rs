//! Pressing SQLite's log onto the disk exactly when a step has to survive loss of power.
//!
//! Every commit survives the death of any process at once. A flush is what survives loss of power, and it is the one
//! expensive thing here (0.2 ms on a quiet disk, twenty times that on a busy one), so only steps that must not be undone
//! wait for it: money set aside, limits, job logs, commands of people. The rest (claims, artifacts, results,
//! deliveries) is in the same log and goes down with the next flush. A log is only ever lost from its end, so what a
//! power failure undoes is a suffix of such steps: calls may have to be repeated, but their reservations are on disk
//! and count as spent. SQLite runs with `synchronous = NORMAL`, which flushes nothing at a commit and everything, in
//! the right order, at a checkpoint; this is then the flush that `FULL` would have done. It must never be skipped.
//!
//! A thread of its own flushes, so that writing goes on meanwhile: whoever waits is answered after a flush that began
//! after his commit, together with everyone who came until then.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::fault::io;
use super::step::Operation;

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

/// The thread that flushes and then answers.
pub(super) struct Flusher {
    waiting: Sender<Vec<Box<dyn Operation>>>,
}

impl Flusher {
    /// Starts the thread for the database in `file`; it ends with the handle, after the last answer.
    pub(super) fn start(file: &Path) -> std::io::Result<Self> {
        let (waiting, queue) = channel();
        let (log, name) = (LogFlush::of(file), file.to_owned());
        std::thread::Builder::new()
            .name("store-flusher".into())
            .spawn(move || answer_after_flush(log, &name, &queue))?;
        Ok(Self { waiting })
    }

    /// Answers `operations`, which are committed, once they survive loss of power.
    pub(super) fn answer(&self, operations: Vec<Box<dyn Operation>>) {
        // The thread lives as long as this handle; were it gone all the same, dropping tells the callers that.
        let _ = self.waiting.send(operations);
    }
}

fn answer_after_flush(mut log: LogFlush, file: &Path, queue: &Receiver<Vec<Box<dyn Operation>>>) {
    while let Ok(mut operations) = queue.recv() {
        operations.extend(queue.try_iter().flatten());
        let flushed = log.flush();
        for operation in operations {
            operation.answer(flushed.as_ref().err().map(|error| io(file, error)));
        }
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
