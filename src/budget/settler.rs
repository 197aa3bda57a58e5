//! The tasks that end reservations whose guard could not do it itself.
//!
//! `Drop` cannot await, and a ledger can be away just when a call ends. Both hand the reservation over with what is known
//! about it. Each has a task of its own, so that none waits behind another for a ledger that is away, and is tried with
//! growing pauses until the end of its lease: from then on an open reservation counts as spent anyway. A call that cost more
//! than was set aside is never given up, because only its settlement tells the ledger so. A shutdown waits for them only
//! for a minute. They must never turn an unknown outcome into free money.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::backend::{BackendError, Ledger, ReserveOutcome, ReserveRequest, SettleOutcome, Settlement};
use crate::error::Coded;
use crate::protocol::MicroUsd;

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
    /// End this reservation, by `until` when its lease says the same from then on.
    End { id: String, ending: Ending, until: Option<Instant> },
    /// Give this back, should it have been granted without anybody having heard of it.
    Withdraw(Box<ReserveRequest>),
    /// Answer once everything before this is done, or has been tried for as long as a shutdown waits.
    Flush(oneshot::Sender<()>),
}

/// Delays between attempts while a caller waits: long enough for a failover of a store, short enough for a call.
pub(super) const CALLER_DELAYS: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(800), Duration::from_secs(2)];

/// First and longest pause between attempts when nobody waits.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// The longest of them once somebody waits for the end.
const LONGEST_AT_THE_END: Duration = Duration::from_secs(5);

/// How long a shutdown waits, whatever there is to do: about a minute, as for one call.
const SHUTDOWN: Duration = Duration::from_secs(58);

/// A task's way of waiting for the ledger.
struct Patience {
    pause: Duration,
    /// `None`: for as long as the process lives.
    until: Option<Instant>,
    is_ending: watch::Receiver<bool>,
}

impl Patience {
    /// Whether the ledger may answer after this error. Books that were lost are rebuilt one day.
    fn outlasts(&self, error: &BackendError) -> bool {
        error.retry().is_retryable() || (self.until.is_none() && matches!(error, BackendError::DataLost { .. }))
    }

    /// Waits for the next attempt; false when there is none.
    async fn pass(&mut self) -> bool {
        let longest = if *self.is_ending.borrow() { LONGEST_AT_THE_END } else { PAUSES.1 };
        let pause = self.pause.min(longest);
        if self.until.is_some_and(|until| Instant::now() + pause >= until) {
            return false;
        }
        let was_ending = *self.is_ending.borrow();
        let hurried = async {
            // An error means that the settler is gone, and nobody is in a hurry.
            if was_ending || self.is_ending.wait_for(|is_ending| *is_ending).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = sleep(pause) => self.pause = (self.pause * 2).min(PAUSES.1),
            () = hurried => self.pause = PAUSES.0,
        }
        true
    }
}

/// Runs until every treasurer and every guard is gone.
pub(super) async fn run(ledger: Arc<dyn Ledger>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let (ending, is_ending) = watch::channel(false);
    let tasks = TaskTracker::new();
    tasks.close();
    let patience = |until| Patience { pause: PAUSES.0, until, is_ending: is_ending.clone() };
    while let Some(order) = orders.recv().await {
        let ledger = Arc::clone(&ledger);
        match order {
            Order::End { id, ending, until } => {
                let patience = patience(until);
                tasks.spawn(async move { end_reservation(ledger.as_ref(), &id, ending, patience).await });
            }
            Order::Withdraw(request) => {
                let patience = patience(Some(Instant::now() + request.lease));
                tasks.spawn(async move { withdraw(ledger.as_ref(), &request, patience).await });
            }
            Order::Flush(done) => {
                ending.send_replace(true);
                let (tasks, ending) = (tasks.clone(), ending.clone());
                tokio::spawn(async move {
                    if timeout(SHUTDOWN, tasks.wait()).await.is_err() {
                        tracing::error!(
                            reservations = tasks.len(),
                            "cannot be ended now; their leases will charge them"
                        );
                    }
                    ending.send_replace(false);
                    // The one who asked may have stopped waiting.
                    let _ = done.send(());
                });
            }
        }
    }
}

async fn end_reservation(ledger: &dyn Ledger, id: &str, ending: Ending, mut patience: Patience) {
    loop {
        match end_once(ledger, id, ending).await {
            Ok(outcome) => {
                let charged = outcome.charged;
                if outcome.overrun {
                    tracing::error!(reservation = id, %charged, "a call cost more than its proven worst case; its scopes are frozen");
                } else {
                    tracing::info!(reservation = id, %charged, "ended an abandoned reservation");
                }
                return;
            }
            Err(error) if patience.outlasts(&error) && patience.pass().await => {}
            Err(error) => {
                tracing::error!(reservation = id, %error, "cannot end a reservation; its lease will charge it");
                return;
            }
        }
    }
}

/// Makes a reservation whose answer nobody got, and releases it. Once it is on the books for certain, the question that was
/// not answered finds it there and changes nothing, however late it arrives; a mere release could come before it.
async fn withdraw(ledger: &dyn Ledger, request: &ReserveRequest, mut patience: Patience) {
    loop {
        match ledger.reserve(request.clone()).await {
            Ok(ReserveOutcome::Granted) => {
                return end_reservation(ledger, &request.id, Ending::Release, patience).await;
            }
            Ok(_) => return,
            Err(error) if error.retry().is_retryable() && patience.pass().await => {}
            Err(error) => {
                let id = &request.id;
                tracing::error!(reservation = id, %error, "nobody knows whether it was made; its lease would charge it");
                return;
            }
        }
    }
}

/// Sets money aside, repeating the idempotent step after each of `delays` while the ledger does not answer. Says as well
/// whether it may have been set aside without an answer.
pub(super) async fn reserve(
    ledger: &dyn Ledger,
    request: &ReserveRequest,
    delays: &[Duration],
) -> (Result<ReserveOutcome, BackendError>, bool) {
    let (mut delays, mut is_in_doubt) = (delays.iter(), false);
    loop {
        let outcome = ledger.reserve(request.clone()).await;
        // Lost books have set nothing aside.
        is_in_doubt |= matches!(&outcome, Err(error) if !matches!(error, BackendError::DataLost { .. }));
        match (outcome, delays.next()) {
            (Err(error), Some(delay)) if error.retry().is_retryable() => sleep(*delay).await,
            (outcome, _) => return (outcome, is_in_doubt),
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
        match (end_once(ledger, id, ending).await, delays.next()) {
            (Err(error), Some(delay)) if error.retry().is_retryable() => sleep(*delay).await,
            (result, _) => return result,
        }
    }
}

async fn end_once(ledger: &dyn Ledger, id: &str, ending: Ending) -> Result<SettleOutcome, BackendError> {
    match ending {
        Ending::Release => {
            ledger.release(id).await?;
            Ok(SettleOutcome { charged: MicroUsd::ZERO, overrun: false })
        }
        Ending::Charge(settlement) => ledger.settle(id, settlement).await,
    }
}
