//! This process's view of the fleet's circuit breakers.
//!
//! The breaker itself is a [`Gate`](crate::backend::rates::gate::Gate) in the store, one per provider and model. While it
//! is closed and clean, calls pass on what this process last heard, at most a second old, and successes are not even
//! reported; every failure is, at once. So a healthy provider costs one look per second, and a sick one is left alone by
//! the whole fleet a second after the failure that opened the breaker. A store that does not answer stops nothing here:
//! the ledger stands on the same store and fails closed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::{GatePolicy, GateStep, GateView, RateTable};
use crate::clock;
use crate::metric;

/// How old news of other processes may be.
const COHERENCE: Duration = Duration::from_secs(1);

/// Breakers by provider and model.
#[derive(Clone)]
pub struct Breaker {
    table: Arc<dyn RateTable>,
    policy: GatePolicy,
    known: Arc<Mutex<HashMap<String, Known>>>,
}

/// What this process knows about one breaker.
struct Known {
    view: GateView,
    /// Until when that counts as news.
    fresh_until: Instant,
    /// Successes not reported yet, and since when.
    succeeded: u32,
    since: Instant,
}

/// How a call ended, as far as the provider's health is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answered.
    Well,
    /// It failed.
    Sick,
    /// The call says nothing about it.
    Unknown,
}

/// Leave to make one call.
#[must_use = "a trial that nobody ends blocks others until its lease is over"]
pub struct Passage {
    breaker: Breaker,
    key: String,
    /// The id of the trial this call is, if it is one.
    trial: Option<String>,
    /// Renews the trial's lease while the call is made.
    renewal: Option<AbortOnDrop>,
}

/// A task that ends with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Breaker {
    /// Breakers in `table` that all follow `policy`.
    #[must_use]
    pub fn new(table: Arc<dyn RateTable>, policy: GatePolicy) -> Self {
        Self { table, policy, known: Arc::default() }
    }

    /// Whether a call to `key` may pass, as far as this process knows; asks the store at most once a second.
    ///
    /// # Errors
    /// How long to stay away.
    pub async fn look(&self, key: &str) -> Result<(), Duration> {
        match self.view(key).await {
            GateView::Open { wait } | GateView::HalfOpen { wait } => Err(wait),
            GateView::Closed { .. } | GateView::Trial => Ok(()),
        }
    }

    /// Leave to make one call to `key` now, as a trial if trials are due.
    ///
    /// # Errors
    /// How long to stay away.
    pub async fn enter(&self, key: &str) -> Result<Passage, Duration> {
        let mut passage = Passage { breaker: self.clone(), key: key.to_owned(), trial: None, renewal: None };
        match self.view(key).await {
            GateView::Closed { .. } => return Ok(passage),
            GateView::Open { wait } | GateView::HalfOpen { wait } => return Err(wait),
            GateView::Trial => {}
        }
        let id = clock::random_token(16);
        // Set first: a future dropped while it waits for the store must give the trial back.
        passage.trial = Some(id.clone());
        match self.step(key, GateStep::Enter { id }).await {
            GateView::Trial => {
                passage.renewal = passage.trial.clone().map(|trial| self.renew(key, trial));
                Ok(passage)
            }
            GateView::Closed { .. } => {
                passage.trial = None;
                Ok(passage)
            }
            GateView::Open { wait } | GateView::HalfOpen { wait } => {
                passage.trial = None;
                Err(wait)
            }
        }
    }

    /// Keeps a trial alive for as long as its process lives: a call may take long, and the lease of one that died must not.
    fn renew(&self, key: &str, id: String) -> AbortOnDrop {
        let (table, policy, key) = (Arc::clone(&self.table), self.policy, key.to_owned());
        AbortOnDrop(tokio::spawn(async move {
            loop {
                tokio::time::sleep(policy.trial_lease / 3).await;
                if let Err(error) = table.gate(&key, &policy, GateStep::Renew { id: id.clone() }).await {
                    tracing::warn!(key, %error, "a trial was not renewed");
                }
            }
        }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest view, from memory if that is fresh enough.
    async fn view(&self, key: &str) -> GateView {
        let now = Instant::now();
        {
            let mut known = self.lock();
            let entry = known.entry(key.to_owned()).or_insert_with(|| Known::new(now));
            if now < entry.fresh_until {
                return match entry.view {
                    GateView::Open { .. } => GateView::Open { wait: entry.fresh_until - now },
                    other => other,
                };
            }
            if matches!(entry.view, GateView::Closed { .. }) {
                // Those who come while this one looks go by the old view instead of looking as well.
                entry.fresh_until = now + COHERENCE;
            }
        }
        self.step(key, GateStep::Look).await
    }

    /// Makes a step in the store and remembers what it answered.
    async fn step(&self, key: &str, step: GateStep) -> GateView {
        let view = match self.table.gate(key, &self.policy, step).await {
            Ok(view) => view,
            Err(error) => {
                tracing::warn!(key, %error, "the breaker cannot be asked; calls pass");
                GateView::Closed { clean: true }
            }
        };
        let now = Instant::now();
        let fresh_until = now
            + match view {
                GateView::Closed { .. } => COHERENCE,
                GateView::Open { wait } => wait,
                GateView::HalfOpen { wait } => wait.min(COHERENCE),
                GateView::Trial => Duration::ZERO,
            };
        let (state, opens) = match view {
            GateView::Closed { .. } => (0, false),
            GateView::Trial | GateView::HalfOpen { .. } => (1, false),
            GateView::Open { .. } => (2, true),
        };
        let mut known = self.lock();
        let entry = known.entry(key.to_owned()).or_insert_with(|| Known::new(now));
        let opened = opens && !matches!(entry.view, GateView::Open { .. });
        if opened {
            tracing::warn!(key, wait = ?view, "the breaker is open: calls wait in their queues");
        }
        metric::breaker_seen(key, state, opened);
        (entry.view, entry.fresh_until) = (view, fresh_until);
        view
    }

    /// The successes to report with a failure, or by themselves once that is due.
    fn successes(
        &self,
        key: &str,
        more: u32,
        is_due: impl Fn(&Known, Instant) -> bool,
        window: Duration,
    ) -> Option<u32> {
        let now = Instant::now();
        let mut known = self.lock();
        let entry = known.entry(key.to_owned()).or_insert_with(|| Known::new(now));
        if now.saturating_duration_since(entry.since) > window {
            (entry.succeeded, entry.since) = (0, now);
        }
        entry.succeeded = entry.succeeded.saturating_add(more);
        if !is_due(entry, now) {
            return None;
        }
        entry.since = now;
        Some(std::mem::take(&mut entry.succeeded))
    }

    async fn report(&self, key: &str, health: Health, trial: Option<String>) {
        let (succeeded, failed) = match (&trial, health) {
            (None, Health::Unknown) => return,
            (Some(_), _) => (u32::from(health == Health::Well), u32::from(health == Health::Sick)),
            (None, Health::Sick) => (self.successes(key, 0, |_, _| true, self.policy.window).unwrap_or(0), 1),
            (None, Health::Well) => {
                let is_due = |known: &Known, now: Instant| {
                    matches!(known.view, GateView::Closed { clean: false })
                        && now.saturating_duration_since(known.since) >= COHERENCE
                };
                match self.successes(key, 1, is_due, self.policy.window) {
                    Some(succeeded) => (succeeded, 0),
                    None => return,
                }
            }
        };
        self.step(key, GateStep::Report { succeeded, failed, trial }).await;
    }
}

impl Known {
    const fn new(now: Instant) -> Self {
        Self { view: GateView::Closed { clean: true }, fresh_until: now, succeeded: 0, since: now }
    }
}

impl Passage {
    /// True for a trial.
    pub(crate) const fn is_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Says how the call ended.
    pub async fn finish(mut self, health: Health) {
        // First, so that nobody renews what has ended.
        self.renewal = None;
        self.breaker.report(&self.key, health, self.trial.clone()).await;
        self.trial = None;
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let (Some(trial), Ok(runtime)) = (self.trial.take(), tokio::runtime::Handle::try_current()) else { return };
        // The call was never made, or nobody saw its end: another may try. Without a runtime the trial's lease does it.
        let (breaker, key) = (self.breaker.clone(), std::mem::take(&mut self.key));
        runtime.spawn(async move { breaker.report(&key, Health::Unknown, Some(trial)).await });
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
