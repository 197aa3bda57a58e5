//! The task that ends reservations whose guard could not do it itself.
//!
//! `Drop` cannot await, and a ledger can be away just when a call ends. Both hand the reservation over to this task with
//! what is known about it. When the ledger stays away the task gives up, which is safe: at the end of its lease an open
//! reservation counts as spent. It must never turn an unknown outcome into free money.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::backend::{BackendError, Ledger, ReserveOutcome, ReserveRequest, SettleOutcome, Settlement};
use crate::error::Coded;

/// How a reservation has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The call was provably never made.
    Release,
    /// The call cost this much, or may have.
    Charge(Settlement),
}

/// What the settler is told.
#[derive(Debug)]
pub(super) enum Order {
    /// End this reservation.
    End { id: String, ending: Ending },
    /// Give this back, should it have been granted without anybody having heard of it.
    Withdraw(Box<ReserveRequest>),
    /// Answer once everything before this is done.
    Flush(oneshot::Sender<()>),
}

/// Delays between attempts while a caller waits: long enough for a failover of a store, short enough for a call.
pub(super) const CALLER_DELAYS: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(800), Duration::from_secs(2)];

/// Delays between attempts when nobody waits; about a minute in all.
const SETTLER_DELAYS: [Duration; 7] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(20),
];

/// Runs until every treasurer and every guard is gone.
pub(super) async fn run(ledger: Arc<dyn Ledger>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut delays = &SETTLER_DELAYS[..];
    while let Some(order) = orders.recv().await {
        match order {
            Order::End { id, ending } => {
                // A ledger that stayed away for a minute is asked only briefly for the next one, so that many abandoned
                // calls do not add up to a shutdown of hours.
                let is_present = end_reservation(ledger.as_ref(), &id, ending, delays).await;
                delays = if is_present { &SETTLER_DELAYS } else { &SETTLER_DELAYS[..1] };
            }
            Order::Withdraw(request) => {
                let is_present = withdraw(ledger.as_ref(), &request, delays).await;
                delays = if is_present { &SETTLER_DELAYS } else { &SETTLER_DELAYS[..1] };
            }
            // The one who asked may have stopped waiting.
            Order::Flush(done) => drop(done.send(())),
        }
    }
}

async fn end_reservation(ledger: &dyn Ledger, id: &str, ending: Ending, delays: &[Duration]) -> bool {
    match end(ledger, id, ending, delays).await {
        Ok(outcome) => {
            tracing::info!(reservation = id, ?ending, charged = %outcome.charged, "ended an abandoned reservation");
            true
        }
        Err(error) => {
            tracing::error!(reservation = id, ?ending, %error, "cannot end a reservation; its lease will charge it");
            false
        }
    }
}

/// Makes a reservation whose answer nobody got, and releases it. Once it is on the books for certain, the question that was
/// not answered finds it there and changes nothing, however late it arrives; a mere release could come before it.
async fn withdraw(ledger: &dyn Ledger, request: &ReserveRequest, delays: &[Duration]) -> bool {
    match reserve(ledger, request, delays).await {
        Ok(ReserveOutcome::Granted) => end_reservation(ledger, &request.id, Ending::Release, delays).await,
        Ok(_) => true,
        Err(error) => {
            tracing::error!(reservation = request.id, %error, "nobody knows whether it was made; its lease would charge it");
            false
        }
    }
}

/// Sets money aside, repeating the idempotent step after each of `delays` while the ledger does not answer.
pub(super) async fn reserve(
    ledger: &dyn Ledger,
    request: &ReserveRequest,
    delays: &[Duration],
) -> Result<ReserveOutcome, BackendError> {
    let mut delays = delays.iter();
    loop {
        match (ledger.reserve(request.clone()).await, delays.next()) {
            (Err(error), Some(delay)) if error.retry().is_retryable() => tokio::time::sleep(*delay).await,
            (result, _) => return result,
        }
    }
}

/// Ends a reservation, repeating the idempotent step after each of `delays` while the ledger does not answer.
pub(super) async fn end(
    ledger: &dyn Ledger,
    id: &str,
    ending: Ending,
    delays: &[Duration],
) -> Result<SettleOutcome, BackendError> {
    let mut delays = delays.iter();
    loop {
        let result = match ending {
            Ending::Release => ledger
                .release(id)
                .await
                .map(|()| SettleOutcome { charged: crate::protocol::MicroUsd::ZERO, overrun: false }),
            Ending::Charge(settlement) => ledger.settle(id, settlement).await,
        };
        match (result, delays.next()) {
            (Err(error), Some(delay)) if error.retry().is_retryable() => tokio::time::sleep(*delay).await,
            (result, _) => return result,
        }
    }
}
