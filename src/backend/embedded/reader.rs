//! The reading side: threads with their own connection, so that no reader waits for a disk flush.
//!
//! A caller that was answered by the writer finds its own write here, because the answer comes after the commit and
//! every read starts a new snapshot.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::connection;
use super::fault::{Halt, closed, io};
use crate::backend::BackendError;

/// Reading threads per process: one may be busy with a large read while the other goes on.
const THREADS: usize = 2;

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// A handle on the reading threads, which end with it.
pub(super) struct Reader {
    threads: Vec<mpsc::Sender<Job>>,
    next: AtomicUsize,
    file: String,
}

impl Reader {
    /// Starts the threads on `file`.
    pub(super) fn start(file: &Path) -> Result<Self, BackendError> {
        let mut threads = Vec::with_capacity(THREADS);
        for _ in 0..THREADS {
            let db = connection::reader(file)?;
            let (jobs, queue) = mpsc::channel::<Job>();
            thread::Builder::new()
                .name("store-reader".into())
                .spawn(move || queue.iter().for_each(|job| job(&db)))
                .map_err(|error| io(file, &error))?;
            threads.push(jobs);
        }
        Ok(Self { threads, next: AtomicUsize::new(0), file: file.display().to_string() })
    }

    /// Runs `body` on one moment of the database.
    pub(super) async fn read<T, F>(&self, body: F) -> Result<T, BackendError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Halt> + Send + 'static,
    {
        let (answer, outcome) = oneshot::channel();
        let job: Job = Box::new(move |db| {
            let execute = |sql| db.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
            let outcome = execute("BEGIN").map_err(Halt::from).and_then(|_| body(db));
            // Ending a transaction that has only read cannot fail in a way that matters to what was read.
            let _ = execute("COMMIT");
            // A caller that is gone does not want the answer.
            let _ = answer.send(outcome);
        });
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.threads.len();
        self.threads[turn].send(job).map_err(|_| closed())?;
        outcome.await.map_err(|_| closed())?.map_err(|halt: Halt| halt.into_error(&self.file))
    }
}
