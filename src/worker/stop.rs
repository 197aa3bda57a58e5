//! Stopping running attempts at once: a cancelled job, a freeze, or the end of a drain.
//!
//! Signals are only hints that make it fast. That a stopped job's attempts are not *started* is decided by the stop key
//! (see [`super::claim`]), and that frozen ones do not go on by looking at the ledger: at every beat while calls run, and at
//! once when signals may have been missed. So a freeze takes a beat where its signal is lost. A stopped attempt still
//! settles: the token closes the stream, it does not kill the task.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, BackendError, Ledger, Scope, Signal};
use crate::protocol::JobId;

/// How often a process with running calls looks whether spending is frozen: a freeze is to hold within a second.
const BEAT: Duration = Duration::from_millis(800);

/// The running attempts of one job.
#[derive(Debug, Default)]
struct Attempts {
    token: CancellationToken,
    /// Held by each of them.
    running: Arc<()>,
}

impl Attempts {
    fn is_running(&self) -> bool {
        Arc::strong_count(&self.running) > 1
    }
}

/// Cancellation tokens of the running attempts, by job.
#[derive(Debug, Clone, Default)]
pub(super) struct Stops {
    /// Std mutex: held for a map operation only, never across an await.
    jobs: Arc<Mutex<HashMap<JobId, Attempts>>>,
}

/// One running attempt, until dropped.
#[derive(Debug)]
pub(super) struct Entered {
    /// Cancelled when it has to stop.
    pub(super) token: CancellationToken,
    _running: Arc<()>,
}

impl Stops {
    /// A new attempt of `job`.
    pub(super) fn enter(&self, job: &JobId) -> Entered {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let attempts = jobs.entry(job.clone()).or_default();
        if attempts.token.is_cancelled() {
            // The job was stopped and has been resumed since; otherwise its attempts could not be claimed.
            *attempts = Attempts::default();
        }
        Entered { token: attempts.token.child_token(), _running: Arc::clone(&attempts.running) }
    }

    /// Stops the running attempts of `job`.
    fn stop(&self, job: &JobId) {
        if let Some(attempts) = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(job) {
            attempts.token.cancel();
        }
    }

    /// Stops every running attempt.
    pub(super) fn stop_everything(&self) {
        for (_, attempts) in self.jobs.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            attempts.token.cancel();
        }
    }

    /// The jobs that have running attempts; the others are forgotten.
    fn at_work(&self) -> Vec<JobId> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|_, attempts| attempts.is_running());
        jobs.keys().cloned().collect()
    }

    /// Obeys signals, and the ledger where signals are lost, until the answered task is aborted, during a drain as well: what is
    /// still running then must stop as fast.
    pub(super) fn listen(&self, backend: &Backend) -> JoinHandle<()> {
        let (stops, signals, ledger) = (self.clone(), backend.broker.signals(), Arc::clone(&backend.ledger));
        tokio::spawn(async move {
            let doubt = Notify::new();
            tokio::select! {
                () = stops.obey(signals, &doubt) => {}
                () = stops.look(ledger.as_ref(), &doubt) => {}
            }
        })
    }

    /// Obeys signals until there are none any more; says when some were missed.
    async fn obey(&self, mut signals: broadcast::Receiver<Signal>, doubt: &Notify) {
        loop {
            match signals.recv().await {
                Ok(Signal::CancelJob { job }) => self.stop(&job),
                Ok(Signal::Freeze) => self.stop_everything(),
                Ok(Signal::JobChanged { .. }) => {}
                Err(RecvError::Lagged(_)) => doubt.notify_one(),
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Looks again and again whether what runs is frozen; never ends.
    async fn look(&self, ledger: &dyn Ledger, doubt: &Notify) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(BEAT) => {}
                () = doubt.notified() => {}
            }
            let jobs = self.at_work();
            if jobs.is_empty() {
                continue;
            }
            if let Err(error) = self.stop_frozen(ledger, &jobs).await {
                // No call can begin without the ledger; what runs goes on until it answers again.
                tracing::debug!(%error, "cannot look whether spending is frozen; looking again soon");
            }
        }
    }

    /// Stops what is frozen of `jobs`.
    async fn stop_frozen(&self, ledger: &dyn Ledger, jobs: &[JobId]) -> Result<(), BackendError> {
        if ledger.balance(&Scope::Account).await?.frozen {
            self.stop_everything();
            return Ok(());
        }
        for job in jobs {
            if ledger.balance(&Scope::Job(job.clone())).await?.frozen {
                self.stop(job);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Adjustment;
    use crate::backend::embedded::{self, Durability};
    use crate::clock::Clock;
    use crate::protocol::InstanceId;

    /// Far longer than a beat on any machine.
    const PATIENCE: Duration = Duration::from_secs(30);

    async fn stores(directory: &std::path::Path) -> Backend {
        embedded::open(directory, &InstanceId::fresh("worker"), Durability::Process, Clock::system()).await.unwrap()
    }

    async fn freeze(backend: &Backend, scope: &Scope) {
        backend.ledger.adjust(&format!("freeze {scope}"), scope, Adjustment::Freeze).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_frozen_stops_although_no_signal_ever_comes() {
        let directory = tempfile::tempdir().unwrap();
        let backend = stores(directory.path()).await;
        let stops = Stops::default();
        let (frozen, other) = (JobId::new("frozen").unwrap(), JobId::new("other").unwrap());
        let (first, second, beside) = (stops.enter(&frozen), stops.enter(&frozen), stops.enter(&other));
        let listening = stops.listen(&backend);
        freeze(&backend, &Scope::Job(frozen.clone())).await;
        for attempt in [&first, &second] {
            tokio::time::timeout(PATIENCE, attempt.token.cancelled()).await.expect("a beat later at most");
        }
        assert!(!beside.token.is_cancelled(), "the other job may go on");
        freeze(&backend, &Scope::Account).await;
        tokio::time::timeout(PATIENCE, beside.token.cancelled()).await.expect("a beat later at most");
        assert!(!listening.is_finished());
        listening.abort();
    }

    #[tokio::test]
    async fn missed_signals_are_made_up_for_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let backend = stores(directory.path()).await;
        let (stops, doubt) = (Stops::default(), Notify::new());
        let job = JobId::new("job").unwrap();
        let attempt = stops.enter(&job);
        freeze(&backend, &Scope::Job(job.clone())).await;
        let (sender, signals) = broadcast::channel(1);
        for _ in 0..3 {
            sender.send(Signal::JobChanged { job: job.clone() }).unwrap();
        }
        drop(sender);
        stops.obey(signals, &doubt).await;
        tokio::time::timeout(BEAT / 4, doubt.notified())
            .await
            .expect("three signals do not fit where there is room for one");
        stops.stop_frozen(backend.ledger.as_ref(), &stops.at_work()).await.unwrap();
        assert!(attempt.token.is_cancelled());
    }

    #[test]
    fn only_jobs_with_running_attempts_are_looked_at() {
        let stops = Stops::default();
        let job = JobId::new("job").unwrap();
        let (first, second) = (stops.enter(&job), stops.enter(&job));
        drop(first);
        assert_eq!(stops.at_work(), std::slice::from_ref(&job));
        drop(second);
        assert!(stops.at_work().is_empty());
        stops.stop(&job);
        assert!(!stops.enter(&job).token.is_cancelled());
    }
}
