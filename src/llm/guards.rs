//! The order in which a call passes the guards, before a cent is set aside for it.
//!
//! 1. the **breaker**: a provider known to be down is not even waited for;
//! 2. a **place** among this process's calls, as many as the provider bears, shared between agent types;
//! 3. the **fleet's rates**: requests and tokens per minute, over all processes;
//! 4. the breaker again, now for leave to make this very call, as a trial if trials are due.
//!
//! Budget and provider follow, in `metered.rs`. Places come before rates, because an allowance that waits for a place is
//! lost to the others; money comes last, because a reservation must never wait for anything. Whoever would have to wait
//! longer than the longest wait honoured is sent back to the queue with the time to return, and burns nothing.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::Guard;
use super::{LlmError, LlmReply, Prepared};
use crate::backend::{Headroom, Reading};
use crate::metric;
use crate::protocol::AgentType;
use crate::resilience::{
    AimdPolicy, Breaker, Bulkhead, FleetRates, Health, Load, Passage, Permit, Permits, Ticket, Used,
};

/// When those should come back who waited for a place in vain.
const PLACE_LATER: Duration = Duration::from_secs(5);

/// The provider of recorded replies: the guards of all its models, of named endpoints too, are apart from those of live ones.
pub const REPLAY: &str = "replay";

/// The guards before all models that a process calls.
#[derive(Clone)]
pub struct Guards(Arc<Parts>);

struct Parts {
    provider: String,
    breaker: Breaker,
    rates: FleetRates,
    places: AimdPolicy,
    bulkhead: Bulkhead,
    /// By model.
    permits: Mutex<HashMap<String, Permits>>,
    longest_wait: Duration,
    /// What a provider asks for beyond this is not waited for; by default nothing is too long.
    longest_pause: Duration,
}

impl fmt::Debug for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guards").field("provider", &self.0.provider).finish_non_exhaustive()
    }
}

/// Leave to make one call.
#[must_use = "a dropped pass frees its place and gives its trial back"]
pub struct Pass {
    key: String,
    permit: Permit,
    ticket: Ticket,
    passage: Passage,
    longest_pause: Duration,
}

impl Guards {
    /// Guards before the endpoints of a process; models without an endpoint's name belong to `provider`. Nobody waits at them for longer than `longest_wait`.
    #[must_use]
    pub fn new(
        provider: &str,
        breaker: Breaker,
        rates: FleetRates,
        places: AimdPolicy,
        bulkhead: Bulkhead,
        longest_wait: Duration,
    ) -> Self {
        let (provider, permits) = (provider.to_owned(), Mutex::default());
        let longest_pause = Duration::MAX;
        Self(Arc::new(Parts { provider, breaker, rates, places, bulkhead, permits, longest_wait, longest_pause }))
    }

    /// The same, staying away from a provider for no longer than `longest` at once, whatever it asks for.
    #[must_use]
    pub fn pausing_at_most(mut self, longest: Duration) -> Self {
        if let Some(parts) = Arc::get_mut(&mut self.0) {
            parts.longest_pause = longest;
        }
        self
    }

    /// Passes all guards in order, or says how long to stay away.
    ///
    /// # Errors
    /// [`LlmError::NotAdmitted`] by the guard that would keep the call waiting for too long, [`LlmError::Cancelled`].
    pub async fn enter(
        &self,
        prepared: &Prepared,
        agent: &AgentType,
        cancel: &CancellationToken,
    ) -> Result<Pass, LlmError> {
        let began = Instant::now();
        let entered = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(LlmError::Cancelled),
            entered = self.pass(prepared, agent, began) => entered,
        };
        metric::admitted(began.elapsed(), entered.as_ref().err().map(|(guard, _)| guard.name()));
        entered.map_err(|(guard, retry_after)| LlmError::NotAdmitted { guard, retry_after })
    }

    async fn pass(&self, prepared: &Prepared, agent: &AgentType, began: Instant) -> Result<Pass, (Guard, Duration)> {
        let Parts { breaker, rates, longest_wait, .. } = &*self.0;
        let model = &prepared.worst_case.model;
        // Models of named endpoints bring the endpoint's name along.
        let is_named = model.contains('/') && self.0.provider != REPLAY;
        let key = if is_named { model.clone() } else { format!("{}/{model}", self.0.provider) };
        let left = || longest_wait.saturating_sub(began.elapsed());
        breaker.look(&key).await.map_err(|wait| (Guard::Breaker, wait))?;
        let place = self.permits(model, &key).acquire(agent, left()).await;
        let mut permit = place.ok_or((Guard::Places, PLACE_LATER))?;
        let (bytes, max_tokens) = (prepared.body.len(), prepared.worst_case.max_tokens);
        let ticket = rates.take(&key, bytes, max_tokens, left()).await.map_err(|wait| (Guard::Rates, wait))?;
        match breaker.enter(&key).await {
            Ok(passage) => {
                permit.begin();
                Ok(Pass { key, permit, ticket, passage, longest_pause: self.0.longest_pause })
            }
            Err(wait) => {
                ticket.finish(Used::Nothing, None).await;
                Err((Guard::Breaker, wait))
            }
        }
    }

    fn permits(&self, model: &str, key: &str) -> Permits {
        let mut permits = self.0.permits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = permits.get(model) {
            return known.clone();
        }
        let fresh = Permits::new(key, self.0.places, self.0.bulkhead);
        permits.insert(model.to_owned(), fresh.clone());
        fresh
    }
}

impl Pass {
    /// True for one of the few calls that find out whether the provider is back.
    #[must_use]
    pub const fn is_trial(&self) -> bool {
        self.passage.is_trial()
    }

    /// The call was not made after all: everything goes back.
    pub async fn unused(self) {
        let Self { permit, ticket, passage, .. } = self;
        permit.finish(Load::Unknown);
        passage.finish(Health::Unknown).await;
        ticket.finish(Used::Nothing, None).await;
    }

    /// Tells every guard what the call means to it; `said` is what the provider let know about its limits.
    pub async fn finish(self, result: &Result<LlmReply, LlmError>, said: Option<Headroom>) {
        let Self { key, permit, ticket, passage, longest_pause } = self;
        let (health, load, used) = meaning(result);
        let readings: Vec<Reading> = said.map_or_else(Vec::new, |said| said.readings.into_iter().flatten().collect());
        let (is_told, is_spent) = (!readings.is_empty(), readings.iter().any(|reading| reading.remaining == 0));
        // When an allowance is used up, the number of calls at once is not to blame for a refusal.
        let load = if is_spent && load == Load::TooMuch { Load::Unknown } else { load };
        let outcome = match (health, load) {
            (Health::Sick, _) => "failed",
            (_, Load::TooMuch) => "rejected",
            (Health::Well, _) => "answered",
            _ => "ended",
        };
        metric::attempt_ended(&key, outcome);
        let pause = match result {
            // With allowances left it is this call that came at a bad moment, not the fleet that asked for too much.
            Err(LlmError::Status { status: 429 | 503 | 529, retry_after, .. }) if is_spent || !is_told => {
                retry_after.map(|pause| pause.min(longest_pause))
            }
            _ => None,
        };
        let said = match (said, pause) {
            (said, None) => said,
            (said, pause) => Some(Headroom { pause, ..said.unwrap_or_default() }),
        };
        // First what frees others, then what the store has to be asked for.
        permit.finish(load);
        passage.finish(health).await;
        ticket.finish(used, said).await;
    }
}

/// What the end of a call says about the provider's health, its load, and what was used. A refusal for money, a
/// cancellation and a faulty request say nothing about health; being told to slow down is load, not sickness.
fn meaning(result: &Result<LlmReply, LlmError>) -> (Health, Load, Used) {
    match result {
        Ok(reply) => {
            let used = reply.usage.map_or(Used::Unknown, Used::Known);
            (Health::Well, Load::Fine { tokens: reply.usage.map_or(0, |usage| usage.output) }, used)
        }
        Err(LlmError::Status { status: 429, .. }) => (Health::Unknown, Load::TooMuch, Used::NoTokens),
        Err(LlmError::Status { status: 503 | 529, .. }) => (Health::Sick, Load::TooMuch, Used::NoTokens),
        Err(LlmError::Status { status, .. }) if *status >= 500 || *status == 408 => {
            (Health::Sick, Load::Unknown, Used::Unknown)
        }
        Err(LlmError::Status { .. }) => (Health::Unknown, Load::Unknown, Used::NoTokens),
        Err(LlmError::Timeout { .. }) => (Health::Sick, Load::TooMuch, Used::Unknown),
        Err(LlmError::Connect { .. }) => (Health::Sick, Load::Unknown, Used::Nothing),
        Err(LlmError::Cut { .. } | LlmError::Malformed { .. }) => (Health::Sick, Load::Unknown, Used::Unknown),
        Err(_) => (Health::Unknown, Load::Unknown, Used::Unknown),
    }
}

#[cfg(test)]
#[path = "guards_tests.rs"]
mod tests;
