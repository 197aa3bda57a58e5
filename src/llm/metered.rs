//! The one way to call a model. From the outside in: fallbacks (`fallback.rs`), retries (`Metered::call_model`), and for each
//! attempt the warm gate, the guards, the budget, the provider (`Metered::attempt` shows them in this order).
//!
//! Every attempt is prepared, bounded and reserved on its own, and ends settled, released or charged in full. A call that
//! does not fit into the budget is made smaller (`max_tokens`), never its reservation; below the caller's minimum nothing
//! is sent. Whatever is unclear about a cost is decided against the budget: absent usage, an unknown model in the reply,
//! a cut stream, a dropped future. No attempt may ever be made without its own reservation.

#[cfg(test)]
mod charge_tests;
mod count;
#[cfg(test)]
mod count_tests;
mod fallback;
#[cfg(test)]
mod fallback_tests;
#[cfg(test)]
mod tests;
mod verdict;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use self::count::Count;
use super::guards::Pass;
use super::warm::WarmGate;
use super::{Charge, Guards, LlmError, LlmReply, LlmRequest, Prepared, Provider, is_same_model};
use crate::backend::Settlement;
use crate::budget::{BudgetError, CallContext, Reservation, Treasurer, WorstCase, WorstCaseInput};
use crate::error::Coded;
use crate::metric;
use crate::protocol::{MicroUsd, Overrun, Usage};
use crate::resilience::{Next, RetryPolicy};

/// How much longer than a call its reservation lives: room for the settlement and its retries.
const LEASE_MARGIN: Duration = Duration::from_secs(60);

/// How much later than the provider's own total timeout a call is given up from outside.
const BACKSTOP_MARGIN: Duration = Duration::from_secs(5);

/// How often a call is made smaller while others take the money it was just fitted into.
const MOST_SHRINKS: u32 = 4;

/// A provider whose every attempt is paid for before it is made.
#[derive(Clone)]
pub struct Metered {
    provider: Arc<dyn Provider>,
    treasurer: Treasurer,
    retry: RetryPolicy,
    total_timeout: Duration,
    /// `None` only where nobody else calls the same provider.
    guards: Option<Guards>,
    warm: WarmGate,
    /// Whether the provider may be asked for the input of calls that do not fit by their bytes.
    counts_input: bool,
}

impl fmt::Debug for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metered").field("retry", &self.retry).finish_non_exhaustive()
    }
}

/// What a call brought and what all its attempts cost together.
#[derive(Debug)]
pub struct CallOutcome {
    /// The complete reply, or the error that ended the call.
    pub result: Result<LlmReply, LlmError>,
    /// Charged for all attempts.
    pub cost: MicroUsd,
    /// Tokens of the attempts that reported them.
    pub usage: Usage,
    /// Attempts sent, 0 when the call was refused before.
    pub attempts: u32,
    /// An attempt that cost more than its worst case, if one did; the ledger has frozen its scopes.
    pub overrun: Option<Overrun>,
    /// The model that was asked last.
    pub model: String,
    /// How many of them failed at the provider and may have been billed; trials of its breaker are not counted.
    pub failed: u32,
}

#[derive(Default)]
struct Bill {
    cost: MicroUsd,
    usage: Usage,
    attempts: u32,
    failed: u32,
    overrun: Option<Overrun>,
}

impl Bill {
    fn outcome(self, result: Result<LlmReply, LlmError>) -> CallOutcome {
        let Self { cost, usage, attempts, failed, overrun } = self;
        CallOutcome { result, cost, usage, attempts, failed, overrun, model: String::new() }
    }
}

impl Metered {
    /// Calls `provider` with money from `treasurer`. `total_timeout` is the longest that one attempt of the provider may
    /// take; reservations outlive it.
    #[must_use]
    pub fn new(provider: Arc<dyn Provider>, treasurer: Treasurer, retry: RetryPolicy, total_timeout: Duration) -> Self {
        Self { provider, treasurer, retry, total_timeout, guards: None, warm: WarmGate::default(), counts_input: false }
    }

    /// The same, letting the provider count the input of calls that do not fit into the budget by their bytes, if `counts`. The
    /// bound of such a call then rests on the provider's estimate.
    #[must_use]
    pub fn counting_input(mut self, counts: bool) -> Self {
        self.counts_input = counts;
        self
    }

    /// The same, with every attempt passing `guards` before money is set aside for it.
    #[must_use]
    pub fn behind(mut self, guards: Guards) -> Self {
        self.guards = Some(guards);
        self
    }

    /// The same, letting the calls pass through `gate` first, so that one of many warms the provider's cache.
    #[must_use]
    pub fn warmed_by(mut self, gate: WarmGate) -> Self {
        self.warm = gate;
        self
    }

    /// The most attempts of one call.
    #[must_use]
    pub const fn most_attempts(&self) -> u32 {
        self.retry.attempts
    }

    /// The treasurer that pays.
    #[must_use]
    pub const fn treasurer(&self) -> &Treasurer {
        &self.treasurer
    }

    /// Calls one model, in as many attempts as the retry policy allows; see [`Metered::call`].
    async fn call_model(
        &self,
        mut request: LlmRequest,
        context: &CallContext,
        min_output_tokens: u32,
        cancel: &CancellationToken,
    ) -> CallOutcome {
        let (mut bill, mut count) = (Bill::default(), Count::default());
        let asked = request.max_tokens;
        loop {
            if cancel.is_cancelled() {
                return bill.outcome(Err(LlmError::Cancelled));
            }
            request.max_tokens = asked;
            let made = bill.attempts;
            let error =
                match self.attempt(&mut request, context, min_output_tokens, cancel, &mut bill, &mut count).await {
                    Ok(reply) => return bill.outcome(Ok(reply)),
                    Err(refused) if bill.attempts == made => return bill.outcome(Err(refused)),
                    Err(error) => error,
                };
            // What earlier attempts of the task may have paid for in vain counts: the loops must not multiply.
            let made = bill.attempts.max(context.failed_calls.saturating_add(bill.failed));
            let delay = match self.retry.next(made, error.retry()) {
                Next::Wait(delay) => delay,
                Next::Park(_) | Next::Stop => return bill.outcome(Err(error)),
                Next::Exhausted => {
                    let attempts = bill.attempts;
                    return bill.outcome(Err(LlmError::Exhausted { attempts, last: Box::new(error) }));
                }
            };
            tracing::warn!(job = %context.job, task = %context.task, %error, ?delay, "trying a model call again");
            metric::call_retried(&request.model);
            tokio::select! {
                () = cancel.cancelled() => return bill.outcome(Err(LlmError::Cancelled)),
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// One attempt: whoever warms the cache first, then the guards, then the budget, then the provider. An error without a
    /// further attempt on the bill means that nothing was sent.
    async fn attempt(
        &self,
        request: &mut LlmRequest,
        context: &CallContext,
        min_output_tokens: u32,
        cancel: &CancellationToken,
        bill: &mut Bill,
        count: &mut Count,
    ) -> Result<LlmReply, LlmError> {
        let prepared = self.prepare(request)?;
        let warm = self.warm.pass(request, self.treasurer.prices(), cancel).await;
        let pass = self.admit(&prepared, context, cancel).await?;
        let secured = self.secure(prepared, request, context, min_output_tokens, cancel, count).await;
        let (mut prepared, reservation) = match secured {
            Ok(secured) => secured,
            Err(refused) => {
                if let Some(pass) = pass {
                    pass.unused().await;
                }
                return Err(refused);
            }
        };
        if cancel.is_cancelled() {
            bill.give_back(reservation).await;
            if let Some(pass) = pass {
                pass.unused().await;
            }
            return Err(LlmError::Cancelled);
        }
        prepared.began = warm.began();
        let result = self.send(&prepared, reservation, cancel, bill).await;
        drop(warm);
        let may_be_billed = result
            .as_ref()
            .is_err_and(|error| error.charge() == Charge::Everything && !matches!(error, LlmError::Cancelled));
        bill.failed += u32::from(may_be_billed && !pass.as_ref().is_some_and(Pass::is_trial));
        if let Some(pass) = pass {
            pass.finish(&result, prepared.headroom.take()).await;
        }
        result
    }

    /// The bytes of the call at its full size, for which nothing has been set aside yet.
    fn prepare(&self, request: &mut LlmRequest) -> Result<Prepared, LlmError> {
        if let Some(most) = self.treasurer.prices().get(&request.model).and_then(|price| price.max_output) {
            request.max_tokens = request.max_tokens.min(most);
        }
        self.provider.prepare(request)
    }

    /// Waits at the guards, if there are any. No money is set aside meanwhile.
    async fn admit(
        &self,
        prepared: &Prepared,
        context: &CallContext,
        cancel: &CancellationToken,
    ) -> Result<Option<Pass>, LlmError> {
        match &self.guards {
            Some(guards) => guards.enter(prepared, &context.agent, cancel).await.map(Some),
            None => Ok(None),
        }
    }

    /// Bounds the call and sets its worst case aside, shrinking the call until it fits; before it is made smaller, the provider
    /// may be asked for a smaller bound of its input.
    async fn secure(
        &self,
        mut prepared: Prepared,
        request: &mut LlmRequest,
        context: &CallContext,
        min_output_tokens: u32,
        cancel: &CancellationToken,
        count: &mut Count,
    ) -> Result<(Prepared, Reservation), LlmError> {
        let prices = self.treasurer.prices();
        let smallest = min_output_tokens.clamp(1, request.max_tokens.max(1));
        let id = context.next_reservation_id();
        let lease = self.total_timeout + BACKSTOP_MARGIN + LEASE_MARGIN;
        let mut shrinks = 0;
        loop {
            let worst = prices.worst(&prepared.worst_case).map_err(unpriced)?;
            let (fitting, refused) =
                match self.treasurer.reserve(id.clone(), context, &request.model, worst, lease).await {
                    Ok(reservation) => return Ok((prepared, reservation)),
                    Err(BudgetError::Frozen { scope }) => return Err(LlmError::Frozen { scope: scope.to_string() }),
                    Err(BudgetError::Ledger(cause)) => return Err(LlmError::Ledger(cause)),
                    Err(BudgetError::Price(cause)) => return Err(unpriced(cause)),
                    Err(refused @ BudgetError::Refused { available, .. }) => {
                        (prices.largest_output(&prepared.worst_case, available), refused)
                    }
                    Err(refused @ BudgetError::TokensRefused { available, .. }) => {
                        (prices.largest_output_within(&prepared.worst_case, available), refused)
                    }
                };
            if prepared.worst_case.counted_input.is_none()
                && let Some(counted) = self.counted(&prepared, count, cancel).await?
            {
                prepared.worst_case.counted_input = Some(counted);
                continue;
            }
            let fitting = fitting.map_err(unpriced)?;
            if fitting < smallest || fitting >= request.max_tokens || shrinks == MOST_SHRINKS {
                let least = WorstCaseInput { max_tokens: smallest, ..prepared.worst_case };
                return Err(too_little(refused, prices.worst(&least).unwrap_or(worst)));
            }
            request.max_tokens = fitting;
            let counted_input = prepared.worst_case.counted_input;
            prepared = self.provider.prepare(request)?;
            // The same prompt, whatever it may be answered with.
            prepared.worst_case.counted_input = counted_input;
            shrinks += 1;
        }
    }

    /// Sends once, and accounts for it whatever happens.
    async fn send(
        &self,
        prepared: &Prepared,
        reservation: Reservation,
        cancel: &CancellationToken,
        bill: &mut Bill,
    ) -> Result<LlmReply, LlmError> {
        bill.attempts += 1;
        let began = Instant::now();
        let sent = self.provider.send(prepared, &reservation, cancel);
        // The provider keeps its own timeout; this one only guarantees that no call outlives its reservation.
        let result = tokio::time::timeout(self.total_timeout + BACKSTOP_MARGIN, sent).await.unwrap_or_else(|_| {
            Err(LlmError::Timeout { reason: format!("no end after {:?}", self.total_timeout + BACKSTOP_MARGIN) })
        });
        count(&prepared.worst_case.model, &result, began.elapsed());
        let settlement = {
            let (prices, told) = (self.treasurer.prices(), prepared.told.take());
            verdict::verdict(prices, &prepared.worst_case, &result, &told, reservation.amount())
        };
        bill.pay(reservation, settlement).await;
        result
    }
}

impl Bill {
    /// Ends the reservation; `None` gives the money back. A ledger that does not answer now is left to the settler, and
    /// the bill counts what will be charged.
    async fn pay(&mut self, reservation: Reservation, settlement: Option<Settlement>) {
        let id = reservation.id().to_owned();
        let Some(settlement) = settlement else {
            return self.give_back(reservation).await;
        };
        self.usage = self.usage.plus(settlement.usage);
        let reserved = reservation.amount();
        match reservation.settle(settlement).await {
            Ok(outcome) => {
                self.cost = self.cost.saturating_add(outcome.charged);
                if outcome.overrun {
                    self.overrun = Some(Overrun { reserved, charged: outcome.charged });
                    tracing::error!(
                        reservation = id, %reserved, charged = %outcome.charged,
                        "a call cost more than its proven worst case; its scopes are frozen"
                    );
                }
            }
            Err(error) => {
                self.cost = self.cost.saturating_add(settlement.amount);
                // The settler does not give up before it is on the books.
                if settlement.amount > reserved {
                    self.overrun = Some(Overrun { reserved, charged: settlement.amount });
                }
                tracing::warn!(reservation = id, %error, "a settlement is left to the settler");
            }
        }
    }

    /// Ends the reservation of a call that provably cost nothing.
    async fn give_back(&self, reservation: Reservation) {
        let id = reservation.id().to_owned();
        if let Err(error) = reservation.release().await {
            tracing::warn!(reservation = id, %error, "a release is left to the settler");
        }
    }
}

/// Counts an attempt by its outcome: `ok`, or the code of the error.
fn count(model: &str, result: &Result<LlmReply, LlmError>, took: Duration) {
    let usage = result.as_ref().ok().and_then(|reply| reply.usage).unwrap_or_default();
    let tokens = [
        ("input", usage.input),
        ("cache_write", usage.cache_write_5m + usage.cache_write_1h),
        ("cache_read", usage.cache_read),
        ("output", usage.output),
    ];
    metric::model_called(model, result.as_ref().map_or_else(Coded::code, |_| "ok"), took, tokens);
}

/// What was refused, with what the smallest acceptable call would need.
fn too_little(refused: BudgetError, least: WorstCase) -> LlmError {
    match refused {
        BudgetError::TokensRefused { available, scope, .. } => {
            LlmError::TokensRefused { needed: least.tokens, available, scope: scope.to_string() }
        }
        BudgetError::Refused { available, scope, .. } => {
            LlmError::BudgetRefused { needed: least.amount, available, scope: scope.to_string() }
        }
        other => unpriced(other),
    }
}

fn unpriced(cause: impl fmt::Display) -> LlmError {
    LlmError::Unsupported(cause.to_string())
}
