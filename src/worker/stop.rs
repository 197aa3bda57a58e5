//! Stopping running attempts at once: a cancelled job, a freeze, or the end of a drain.
//!
//! Signals are only hints that make it fast; that a stopped job's attempts are not *started* is decided by the stop key
//! (see [`super::claim`]). A stopped attempt still settles: the token closes the stream, it does not kill the task.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast::{self, error::RecvError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::backend::Signal;
use crate::protocol::JobId;

/// Cancellation tokens of the running attempts, by job.
#[derive(Debug, Clone, Default)]
pub(super) struct Stops {
    /// Std mutex: held for a map operation only, never across an await.
    tokens: Arc<Mutex<HashMap<JobId, CancellationToken>>>,
}

impl Stops {
    /// The token of a new attempt of `job`.
    pub(super) fn token(&self, job: &JobId) -> CancellationToken {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let parent = tokens.entry(job.clone()).or_default();
        if parent.is_cancelled() {
            // The job was stopped and has been resumed since; otherwise its attempts could not be claimed.
            *parent = CancellationToken::new();
        }
        parent.child_token()
    }

    /// Stops the running attempts of `job`.
    fn stop(&self, job: &JobId) {
        if let Some(token) = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(job) {
            token.cancel();
        }
    }

    /// Stops every running attempt.
    pub(super) fn stop_everything(&self) {
        for (_, token) in self.tokens.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            token.cancel();
        }
    }

    /// Obeys signals until the answered task is aborted, during a drain as well: what is still running then must stop as fast.
    pub(super) fn listen(&self, mut signals: broadcast::Receiver<Signal>) -> JoinHandle<()> {
        let stops = self.clone();
        tokio::spawn(async move {
            loop {
                match signals.recv().await {
                    Ok(Signal::CancelJob { job }) => stops.stop(&job),
                    Ok(Signal::Freeze) => stops.stop_everything(),
                    Ok(Signal::JobChanged { .. }) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        })
    }
}
