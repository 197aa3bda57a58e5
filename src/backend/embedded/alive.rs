//! Who is alive: every process holds a file lock for its life, and the kernel lets go of it when the process dies.
//!
//! That tells a dead process from a slow one at once and for certain, which no lease can. Creating a lock and reaping
//! one both happen under a lock on the guard file, so that a process which is just starting is never taken for dead
//! and two reapers never meet. Nothing here may remove a lock file that it does not hold.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use super::fault::io;
use super::step::{Operation, Step};
use super::{broker, ledger, locks, state};
use crate::backend::{BackendError, presence};
use crate::protocol::InstanceId;

/// Suffix of a lock file's name, after the instance.
const SUFFIX: &str = ".lock";

/// The directory of lock files and the lock of this process.
pub(super) struct Lives {
    directory: PathBuf,
    own: String,
    _lock: File,
}

/// Exclusive right to create and to remove lock files.
pub(super) struct Guard(#[expect(dead_code, reason = "held, not read: the lock ends with the file")] File);

fn open_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn guard_file(directory: &Path) -> Result<File, BackendError> {
    let path = directory.join("guard");
    open_file(&path).map_err(|error| io(&path, &error))
}

/// Waits for the right to change the lock files below `data`.
pub(super) fn guard(data: &Path) -> Result<Guard, BackendError> {
    let directory = data.join("alive");
    fs::create_dir_all(&directory).map_err(|error| io(&directory, &error))?;
    let file = guard_file(&directory)?;
    file.lock().map_err(|error| io(&directory, &error))?;
    Ok(Guard(file))
}

impl Lives {
    /// Takes the lock of `instance` below `data`.
    pub(super) fn enter(data: &Path, instance: &InstanceId, _guard: &Guard) -> Result<Self, BackendError> {
        let directory = data.join("alive");
        let own = format!("{instance}{SUFFIX}");
        let path = directory.join(&own);
        let lock = open_file(&path).map_err(|error| io(&path, &error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { directory, own, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(BackendError::InUse {
                what: path.display().to_string(),
                holder: format!("a living process called {instance}"),
            }),
            Err(TryLockError::Error(error)) => Err(io(&path, &error)),
        }
    }

    /// Looks for dead processes; the answer reaps them when it runs. `None` when there are none or somebody else is
    /// looking.
    pub(super) fn find_dead(&self) -> std::io::Result<Option<Reap>> {
        let guard = open_file(&self.directory.join("guard"))?;
        if guard.try_lock().is_err() {
            return Ok(None);
        }
        self.dead_under(Guard(guard))
    }

    /// The same for a caller that has the right already.
    pub(super) fn dead_under(&self, guard: Guard) -> std::io::Result<Option<Reap>> {
        let mut dead = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str().filter(|name| *name != self.own) else { continue };
            let Some(instance) = name.strip_suffix(SUFFIX).and_then(|id| InstanceId::new(id).ok()) else { continue };
            let path = self.directory.join(name);
            let file = File::open(&path)?;
            if file.try_lock().is_ok() {
                dead.push(Dead { instance, path, _lock: file });
            }
        }
        Ok((!dead.is_empty()).then_some(Reap { dead, _guard: guard }))
    }
}

/// A process that no longer holds its lock; this one does.
struct Dead {
    instance: InstanceId,
    path: PathBuf,
    _lock: File,
}

/// Takes over from dead processes: their messages are available again, their reservations count as spent, their leases
/// are gone.
pub(super) struct Reap {
    dead: Vec<Dead>,
    _guard: Guard,
}

impl Operation for Reap {
    fn run(&mut self, step: &mut Step<'_>) -> rusqlite::Result<()> {
        for Dead { instance, .. } in &self.dead {
            broker::orphan(step, instance)?;
            ledger::orphan(step, instance)?;
            locks::orphan(step, instance)?;
            state::put(step, step.process, &presence::key(instance), presence::DEAD)?;
        }
        Ok(())
    }

    /// Whatever loss of power undoes of it, the next process on the directory does again.
    fn must_flush(&self) -> bool {
        false
    }

    fn answer(self: Box<Self>, failure: Option<BackendError>) {
        for Dead { instance, path, .. } in &self.dead {
            match &failure {
                None => {
                    tracing::info!(%instance, "took over from a process that has died");
                    // A file that stays is found unlocked again and reaped again, which changes nothing.
                    let _ = fs::remove_file(path);
                }
                Some(error) => tracing::warn!(%instance, %error, "cannot take over from a process that has died"),
            }
        }
    }
}

/// Announces this process in the state store.
pub(super) fn announce(step: &mut Step<'_>) -> rusqlite::Result<()> {
    state::put(step, step.process, &presence::key(step.process), presence::ALIVE).map(drop)
}
