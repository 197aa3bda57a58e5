//! The guard around money: no call without a [`Reservation`], no reservation that is forgotten.
//!
//! A guard ends in exactly one of three ways: settled with what the call cost, released because it provably cost
//! nothing, or forfeited, that is charged in full. Dropping it, whether by a panic, a cancelled future or an early
//! return, forfeits it through the settler task. Until its caller has it no call can have been made, so a guard dropped
//! before that moment is released instead. The ledger is asked in a task of its own, which goes on when the caller has given
//! up: its question may be on the way to a store already, and a release that overtakes it would release nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::settler::{self, CALLER_DELAYS, Ending, Order};
use super::{BudgetError, CallContext, PriceTable, WorstCase};
use crate::backend::{BackendError, Ledger, ReserveOutcome, ReserveRequest, Scope, SettleOutcome, Settlement};
use crate::clock::Clock;
use crate::error::Coded;
use crate::protocol::{MicroUsd, Usage};

/// Sets money aside. Clones share one ledger, one price table and one settler task.
#[derive(Clone)]
pub struct Treasurer {
    ledger: Arc<dyn Ledger>,
    prices: Arc<PriceTable>,
    /// Says in which windows of the account a reservation falls.
    clock: Clock,
    /// At most one order per guard is ever under way.
    settler: mpsc::UnboundedSender<Order>,
    /// Questions to the ledger, those whose callers have given up included.
    asking: TaskTracker,
}

impl fmt::Debug for Treasurer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Treasurer").finish_non_exhaustive()
    }
}

impl Treasurer {
    /// A treasurer over `ledger`; starts the settler task, so it has to be called inside a Tokio runtime.
    #[must_use]
    pub fn new(ledger: Arc<dyn Ledger>, prices: Arc<PriceTable>) -> Self {
        let (settler, orders) = mpsc::unbounded_channel();
        tokio::spawn(settler::run(Arc::clone(&ledger), orders));
        let asking = TaskTracker::new();
        // Only closed ones can be waited for; they take new tasks all the same.
        asking.close();
        Self { ledger, prices, clock: Clock::system(), settler, asking }
    }

    /// The same treasurer, going by `clock`: the stores' one, so that all processes agree on when a day ends
    /// and which prices hold.
    #[must_use]
    pub fn going_by(mut self, clock: Clock) -> Self {
        self.prices = Arc::new(self.prices.as_ref().clone().with_clock(clock.clone()));
        self.clock = clock;
        self
    }

    /// The prices it reserves and charges by.
    #[must_use]
    pub fn prices(&self) -> &PriceTable {
        &self.prices
    }

    /// Sets `worst` aside under `id` in every scope of `context`, or in none; a worst case in tokens also in the scopes that
    /// count them. While the ledger does not answer, the
    /// same id is tried a few times more; after that the call is refused.
    ///
    /// # Errors
    /// [`BudgetError::Refused`], [`BudgetError::TokensRefused`] and [`BudgetError::Frozen`] are the ledger's answers,
    /// [`BudgetError::Ledger`] means it gave none; should it have set money aside nevertheless, the settler gives that back.
    pub async fn reserve(
        &self,
        id: String,
        context: &CallContext,
        model: &str,
        worst: impl Into<WorstCase>,
        lease: Duration,
    ) -> Result<Reservation, BudgetError> {
        let WorstCase { amount, tokens } = worst.into();
        let request = ReserveRequest {
            id: id.clone(),
            scopes: self.scopes(context, tokens),
            amount,
            tokens,
            lease,
            may_use_hold_back: context.may_use_hold_back,
            instance: context.instance.clone(),
            job: context.job.clone(),
            task: context.task.clone(),
            agent: context.agent.clone(),
            model: model.to_owned(),
        };
        let until = Instant::now() + lease;
        let guard = Reservation { id, amount, until, treasurer: self.clone(), on_drop: Some(Ending::Release) };
        let mut guard = match self.asking.spawn(guard.ask(request)).await {
            Ok(asked) => asked?,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(ended) => {
                    let reason = format!("the program is ending: {ended}");
                    return Err(BudgetError::Ledger(BackendError::Unavailable { store: "ledger", reason }));
                }
            },
        };
        guard.on_drop = Some(Ending::Charge(guard.in_full()));
        Ok(guard)
    }

    /// The scopes of `context`, those that count `tokens` if there are any, and the windows of the account that hold this
    /// moment.
    fn scopes(&self, context: &CallContext, tokens: u64) -> Vec<Scope> {
        let mut scopes = context.scopes.clone();
        if tokens > 0 {
            scopes.extend([Scope::Tokens, Scope::JobTokens(context.job.clone())]);
        }
        if let Some(at) = scopes.iter().position(|scope| *scope == Scope::Account) {
            scopes.splice(at + 1..at + 1, Scope::windows(self.clock.now()));
        }
        scopes
    }

    /// Waits until every guard that was dropped before this call is accounted for, or has been tried for a minute. Called
    /// on shutdown, after the calls have ended.
    pub async fn drain(&self) {
        self.asking.wait().await;
        let (done, flushed) = oneshot::channel();
        if self.settler.send(Order::Flush(done)).is_ok() {
            // An error means that the runtime is going down with the settler; leases take over.
            drop(flushed.await);
        }
    }
}

/// Money set aside for one call attempt.
#[must_use = "a dropped reservation is charged in full"]
pub struct Reservation {
    id: String,
    amount: MicroUsd,
    /// End of its lease.
    until: Instant,
    treasurer: Treasurer,
    /// What the settler has to do if this guard goes away now; `None` once the ledger knows the end.
    on_drop: Option<Ending>,
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("id", &self.id).field("amount", &self.amount).finish_non_exhaustive()
    }
}

impl Reservation {
    /// Its id in the ledger.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is set aside.
    #[must_use]
    pub const fn amount(&self) -> MicroUsd {
        self.amount
    }

    /// Charges what the call cost. More than the reserved amount is recorded as it is and freezes the scopes; the
    /// outcome says so.
    ///
    /// # Errors
    /// [`BudgetError::Ledger`] when the ledger does not answer; the settler goes on trying with the same settlement.
    pub async fn settle(self, settlement: Settlement) -> Result<SettleOutcome, BudgetError> {
        self.end(Ending::Charge(settlement)).await
    }

    /// Gives the money back, because the call provably cost nothing.
    ///
    /// # Errors
    /// As for [`Reservation::settle`].
    pub async fn release(self) -> Result<(), BudgetError> {
        self.end(Ending::Release).await.map(drop)
    }

    /// Charges the whole amount, because what the call cost cannot be known.
    ///
    /// # Errors
    /// As for [`Reservation::settle`].
    pub async fn forfeit(self) -> Result<SettleOutcome, BudgetError> {
        let in_full = self.in_full();
        self.end(Ending::Charge(in_full)).await
    }

    /// Asks the ledger for the money. Released if nobody takes the answer.
    async fn ask(mut self, request: ReserveRequest) -> Result<Self, BudgetError> {
        let (asked, is_in_doubt) = settler::reserve(self.treasurer.ledger.as_ref(), &request, &CALLER_DELAYS).await;
        // As the ledger counts, or a little later.
        self.until = Instant::now() + request.lease;
        let refused = match asked {
            Ok(ReserveOutcome::Granted) => return Ok(self),
            Ok(ReserveOutcome::Refused { scope, available }) if scope.counts_tokens() => {
                BudgetError::TokensRefused { needed: request.tokens, available: available.0, scope }
            }
            Ok(ReserveOutcome::Refused { scope, available }) => {
                BudgetError::Refused { needed: self.amount, available, scope }
            }
            Ok(ReserveOutcome::Frozen { scope }) => BudgetError::Frozen { scope },
            Err(error) => {
                if is_in_doubt && error.retry().is_retryable() {
                    drop(self.treasurer.settler.send(Order::Withdraw(Box::new(request))));
                }
                BudgetError::Ledger(error)
            }
        };
        self.on_drop = None;
        Err(refused)
    }

    fn in_full(&self) -> Settlement {
        Settlement { amount: self.amount, usage: Usage::default() }
    }

    async fn end(mut self, ending: Ending) -> Result<SettleOutcome, BudgetError> {
        // Set first: a future dropped while it waits for the ledger must not forget what is already known.
        self.on_drop = Some(ending);
        let outcome = settler::end(self.treasurer.ledger.as_ref(), &self.id, ending, &CALLER_DELAYS).await;
        if outcome.is_ok() {
            self.on_drop = None;
        }
        outcome.map_err(BudgetError::Ledger)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(ending) = self.on_drop.take() {
            let id = std::mem::take(&mut self.id);
            // Without a settler (the runtime is going down) the lease charges it.
            let is_overrun = matches!(ending, Ending::Charge(settlement) if settlement.amount > self.amount);
            let until = (!is_overrun).then_some(self.until);
            drop(self.treasurer.settler.send(Order::End { id, ending, until }));
        }
    }
}
