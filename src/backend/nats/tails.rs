//! Who waits for a job's events is told when some are stored.
//!
//! A message for a stream is seen by plain subscribers, too, but a moment before it is stored, and even when it is refused.
//! So a notice is only a reason to look, and this process's own appends, which need no look, are told directly. One
//! subscription per job serves all who wait and ends some time after the last of them has left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::entry::{Place, Tip};
use super::link::Link;
use super::stored::Reader;
use crate::backend::BackendError;
use crate::protocol::JobId;

/// How long a subscription outlives its last follower.
const IDLE: Duration = Duration::from_secs(30);

/// Pauses between looks after a notice; an append that is not there by then was refused.
const LOOKS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(1),
    Duration::from_millis(4),
    Duration::from_millis(16),
    Duration::from_millis(64),
];

type Known = Arc<Mutex<HashMap<JobId, watch::Sender<u64>>>>;

/// The followed logs.
pub(super) struct Tails {
    link: Link,
    reader: Reader,
    known: Known,
    stop: CancellationToken,
}

fn lock(known: &Known) -> MutexGuard<'_, HashMap<JobId, watch::Sender<u64>>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Raises a number that only grows.
fn raise(last: &watch::Sender<u64>, to: u64) {
    last.send_if_modified(|last| {
        let grows = to > *last;
        *last = to.max(*last);
        grows
    });
}

impl Tails {
    pub(super) fn new(link: &Link, reader: &Reader, stop: CancellationToken) -> Self {
        Self { link: link.clone(), reader: reader.clone(), known: Known::default(), stop }
    }

    /// This process has appended up to `last`.
    pub(super) fn appended(&self, job: &JobId, last: u64) {
        if let Some(tail) = lock(&self.known).get(job) {
            raise(tail, last);
        }
    }

    /// The sequence of the newest event of `job`, as far as notices tell.
    pub(super) async fn follow(&self, job: &JobId) -> Result<watch::Receiver<u64>, BackendError> {
        if let Some(tail) = lock(&self.known).get(job) {
            return Ok(tail.subscribe());
        }
        let subject = self.link.names.event(job);
        let subscribing =
            async { self.link.client.subscribe(subject.clone()).await.map_err(|error| self.link.unavailable(error)) };
        let mut notices = self.link.within("following a log", subscribing).await?;
        let (sender, receiver) = watch::channel(0);
        if let Some(other) = lock(&self.known).insert(job.clone(), sender.clone()) {
            // Somebody else began at the same time; its followers move over when they look next.
            drop(other);
        }
        let (job, reader, known, stop) = (job.clone(), self.reader.clone(), self.known.clone(), self.stop.clone());
        tokio::spawn(async move {
            loop {
                let notice = tokio::select! {
                    () = stop.cancelled() => return,
                    notice = tokio::time::timeout(IDLE, notices.next()) => notice,
                };
                match notice {
                    Ok(Some(notice)) => {
                        if let Some(place) = Place::read(notice.headers.as_ref()) {
                            look(&reader, &subject, place.last, &sender).await;
                        }
                    }
                    Ok(None) => return,
                    Err(_) => {
                        let mut all = lock(&known);
                        if sender.receiver_count() == 0 {
                            all.retain(|other, tail| *other != job || !tail.same_channel(&sender));
                            return;
                        }
                    }
                }
            }
        });
        Ok(receiver)
    }
}

/// Looks until the log has reached `expected`, for a moment.
async fn look(reader: &Reader, subject: &str, expected: u64, tail: &watch::Sender<u64>) {
    for pause in LOOKS {
        tokio::time::sleep(pause).await;
        if let Ok(Some(newest)) = reader.last(subject).await
            && let Some(tip) = Tip::read(&newest)
        {
            raise(tail, tip.last);
            if tip.last >= expected {
                return;
            }
        }
    }
}
