//! The heartbeat of a running attempt: keeps the delivery and the claim alive, and stops the attempt when either is lost.
//!
//! One beat renews both, so that neither can outlive the other by more than a lease. Losing the claim ends the attempt;
//! losing the delivery alone does not, for whoever gets the message finds the claim held. A beat must never decide an outcome.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::claim::{CLAIM_LEASE, Claim};
use crate::backend::{Backend, BackendError, DeliveryTag, Disposition};

/// A quarter of the lease, so that three beats may be lost (research: engines §3).
const BEAT: Duration = Duration::from_millis(7_500);
const _: () = assert!(BEAT.as_millis() * 4 <= CLAIM_LEASE.as_millis());

/// Beats until dropped.
pub(super) struct Heartbeat(JoinHandle<()>);

impl Heartbeat {
    /// Starts beating for `claim` and `tag`; cancels `lost` when the attempt no longer belongs to this worker.
    pub(super) fn start(backend: Backend, claim: Arc<Mutex<Claim>>, tag: DeliveryTag, lost: CancellationToken) -> Self {
        Self(tokio::spawn(async move {
            loop {
                tokio::time::sleep(BEAT).await;
                let renewed = claim.lock().await.renew(backend.state.as_ref(), &backend.clock).await;
                let progressed = backend.broker.dispose(vec![(tag.clone(), Disposition::Progress)]).await;
                // A lost delivery alone is harmless: whoever gets the message finds the claim held.
                if let Err(error) = progressed {
                    tracing::debug!(%error, "the delivery's lease was not renewed");
                }
                match renewed {
                    Err(BackendError::Conflict { .. }) => {
                        tracing::warn!("another worker has taken this attempt over");
                        lost.cancel();
                        return;
                    }
                    Err(error) => tracing::warn!(%error, "the claim was not renewed; trying again at the next beat"),
                    Ok(()) => {}
                }
            }
        }))
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.abort();
    }
}
