//! The heartbeat of a running attempt: keeps the delivery and the claim alive, and stops the attempt when the claim is lost.
//!
//! Two beats, because the two leases are of different lengths and in different stores: neither may wait for the other's
//! store to answer. Losing the claim ends the attempt; losing the delivery alone does not, for whoever gets the message
//! finds the claim held. A beat must never decide an outcome.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::claim::{CLAIM_LEASE, Claim};
use crate::backend::{Backend, BackendError, DeliveryTag, Disposition};

/// Beats per lease, so that three of them may be lost (research: engines §3).
const BEATS: u32 = 4;

/// Beats until dropped.
pub(super) struct Heartbeat(JoinHandle<()>);

impl Heartbeat {
    /// Starts beating for `claim` and `tag`; cancels `lost` when the attempt no longer belongs to this worker.
    pub(super) fn start(backend: Backend, claim: Arc<Mutex<Claim>>, tag: DeliveryTag, lost: CancellationToken) -> Self {
        Self(tokio::spawn(async move {
            tokio::select! {
                () = renew(&backend, &claim) => lost.cancel(),
                () = progress(&backend, &tag) => {}
            }
        }))
    }
}

/// Renews the claim until somebody else has taken it over.
async fn renew(backend: &Backend, claim: &Mutex<Claim>) {
    loop {
        tokio::time::sleep(CLAIM_LEASE / BEATS).await;
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

/// Keeps the delivery from being given to somebody else; never ends.
async fn progress(backend: &Backend, tag: &DeliveryTag) {
    let beat = (backend.delivery_lease / BEATS).max(Duration::from_millis(1));
    loop {
        tokio::time::sleep(beat).await;
        // A lost delivery alone is harmless: whoever gets the message finds the claim held.
        if let Err(error) = backend.broker.dispose(vec![(tag.clone(), Disposition::Progress)]).await {
            tracing::debug!(%error, "the delivery's lease was not renewed");
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.abort();
    }
}
