//! The heartbeat of a running attempt: keeps the delivery and the claim alive, and stops the attempt when the claim is lost.
//!
//! Two beats, because the two leases are of different lengths and in different stores: neither may wait for the other's
//! store to answer. Losing the claim ends the attempt; losing the delivery alone does not, for whoever gets the message
//! finds the claim held. But a delivery is lost by a process that was stopped for a while, and its claim may be, too; so the
//! claim is looked at at once, before more is paid for somebody else's work. A beat must never decide an outcome.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::claim::{CLAIM_LEASE, Claim};
use crate::backend::{Backend, BackendError, DeliveryTag, Disposition};

/// Beats per lease, so that three of them may be lost (research: engines §3).
const BEATS: u32 = 4;

/// How long an attempt that was taken over may still read: what a provider sent while this process was stopped is read in no
/// time and charged as what it cost, whereas a call that is cut off is charged in full.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Beats until dropped.
pub(super) struct Heartbeat(JoinHandle<()>);

impl Heartbeat {
    /// Starts beating for `claim` and `tag`; cancels `lost` when the attempt no longer belongs to this worker.
    pub(super) fn start(backend: Backend, claim: Arc<Mutex<Claim>>, tag: DeliveryTag, lost: CancellationToken) -> Self {
        Self(tokio::spawn(async move {
            let doubt = Notify::new();
            tokio::select! {
                () = renew(&backend, &claim, &doubt) => {
                    tokio::time::sleep(LAST_WORDS).await;
                    lost.cancel();
                }
                () = progress(&backend, &tag, &doubt) => {}
            }
        }))
    }
}

/// Renews the claim, at once when there is `doubt` about it, until somebody else has taken it over.
async fn renew(backend: &Backend, claim: &Mutex<Claim>, doubt: &Notify) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(CLAIM_LEASE / BEATS) => {}
            () = doubt.notified() => {}
        }
        match claim.lock().await.renew(backend.state.as_ref(), &backend.clock).await {
            Err(BackendError::Conflict { .. }) => {
                tracing::warn!("another worker has taken this attempt over");
                return;
            }
            Err(error) => tracing::warn!(%error, "the claim was not renewed; trying again at the next beat"),
            Ok(()) => {}
        }
    }
}

/// Keeps the delivery from being given to somebody else, and says when it may have been; never ends.
async fn progress(backend: &Backend, tag: &DeliveryTag, doubt: &Notify) {
    let beat = (backend.delivery_lease / BEATS).max(Duration::from_millis(1));
    loop {
        tokio::time::sleep(beat).await;
        match backend.broker.dispose(vec![(tag.clone(), Disposition::Progress)]).await {
            Ok(()) => {}
            // Alone it is harmless: whoever gets the message finds the claim held, unless that is lost as well.
            Err(BackendError::LeaseLost { .. }) => doubt.notify_one(),
            Err(error) => tracing::debug!(%error, "the delivery's lease was not renewed"),
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::super::claim::{ClaimAnswer, claim};
    use super::*;
    use crate::backend::embedded::{self, Durability};
    use crate::clock::{Clock, Timestamp};
    use crate::protocol::{InstanceId, TaskMessage};

    async fn granted(backend: &Backend, worker: &InstanceId, message: &TaskMessage) -> Claim {
        match claim(backend.state.as_ref(), &backend.clock, worker, message).await.unwrap() {
            ClaimAnswer::Granted(claim) => *claim,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn whoever_has_lost_the_delivery_learns_at_once_that_the_claim_is_lost_too() {
        let directory = tempfile::tempdir().unwrap();
        let (stopped, other) = (InstanceId::fresh("stopped"), InstanceId::fresh("other"));
        let clock = Clock::manual(Timestamp(1_000_000));
        let mut backend = embedded::open(directory.path(), &stopped, Durability::Process, clock).await.unwrap();
        backend.delivery_lease = Duration::from_millis(40);
        let text = include_str!("../../tests/it/golden/v1/envelope-file.json");
        let message = serde_json::from_str::<crate::protocol::Envelope<TaskMessage>>(text).unwrap().payload;
        let ours = Arc::new(Mutex::new(granted(&backend, &stopped, &message).await));
        let tag = DeliveryTag("of a delivery whose lease is over".into());
        let beat =
            |lost: &CancellationToken| Heartbeat::start(backend.clone(), Arc::clone(&ours), tag.clone(), lost.clone());
        let lost = CancellationToken::new();
        let heartbeat = beat(&lost);
        let ended = tokio::time::timeout(Duration::from_millis(200), lost.cancelled()).await;
        assert!(ended.is_err(), "a lost delivery alone ends nothing");
        drop(heartbeat);
        backend.clock.advance(CLAIM_LEASE);
        granted(&backend, &other, &message).await;
        let _heartbeat = beat(&lost);
        tokio::time::timeout(CLAIM_LEASE / BEATS / 2, lost.cancelled()).await.expect("long before the next renewal");
    }
}
