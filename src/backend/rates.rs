//! The seventh trait: what the whole fleet may ask of one provider and model, and whether it answers at present.
//!
//! Two things can only be known together: how much of a provider's allowance per minute is left, and whether its breaker
//! is open. Both are small states under one key, changed in one atomic step of the store, so that two hundred processes
//! keep to one limit. The arithmetic is in [`meter`] and [`gate`], pure and shared by every backend; a store only makes a
//! step of it atomic. Nothing here may be needed for money to be safe: the ledger alone does that.

pub mod gate;
pub mod meter;

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use super::BackendError;
use crate::clock::Timestamp;

pub use gate::{GatePolicy, GateStep, GateView};

/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 200;

/// What one call takes out of an allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Amounts {
    /// Requests.
    pub requests: u64,
    /// Input tokens, as far as the provider counts them.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
}

impl Amounts {
    /// Requests, input tokens, output tokens: the order of everything per meter.
    #[must_use]
    pub const fn by_meter(self) -> [u64; 3] {
        [self.requests, self.input_tokens, self.output_tokens]
    }

    /// The amounts in that order.
    #[must_use]
    pub const fn of_meters([requests, input_tokens, output_tokens]: [u64; 3]) -> Self {
        Self { requests, input_tokens, output_tokens }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let (a, b) = (self.by_meter(), other.by_meter());
        Self::of_meters(std::array::from_fn(|at| a[at].saturating_add(b[at])))
    }

    /// What is left of these after `other`, or nothing when `other` does not fit.
    #[must_use]
    pub fn minus(self, other: Self) -> Option<Self> {
        let (a, b) = (self.by_meter(), other.by_meter());
        let fits = (0..3).all(|at| a[at] >= b[at]);
        fits.then(|| Self::of_meters(std::array::from_fn(|at| a[at] - b[at])))
    }
}

/// What may be taken per window. The same for every process of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests, input tokens, output tokens per window; `None` where only the provider knows.
    pub per_window: [Option<u64>; 3],
    /// Length of the window; providers count by the minute.
    pub window: Duration,
    /// Share of a window's allowance that may be taken at once, 1 to 100: the size of the token bucket.
    pub burst_percent: u32,
    /// True forbids more than the allowance in any window, wherever it begins. A bucket alone lets up to twice as much
    /// pass in one, which providers with buckets of their own accept and others do not.
    pub sliding: bool,
}

/// What the provider said about one of its meters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Allowed per window.
    pub limit: u64,
    /// Left of it.
    pub remaining: u64,
}

/// What the provider said about its limits with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Headroom {
    /// Requests, input tokens, output tokens.
    pub readings: [Option<Reading>; 3],
    /// How long ago it said so.
    pub age: Duration,
    /// How long it wants to be left alone, counted from now.
    pub pause: Option<Duration>,
}

/// A step on the meters of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Take {
    /// What is taken, all of it or nothing; all zero only reports.
    pub need: Amounts,
    /// What is taken instead while there is plenty, at least `need`: an advance that saves further steps.
    pub want: Amounts,
    /// By how much earlier takes were too small (positive) or too large (negative).
    pub correction: [i64; 3],
    /// What the provider said meanwhile.
    pub headroom: Option<Headroom>,
}

/// Answer to a take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// These amounts may be used: what was needed, or what was wanted.
    Granted {
        /// What was taken.
        amounts: Amounts,
        /// False while nobody has named a limit: then there is nothing to take from.
        limited: bool,
    },
    /// Not now. Nothing was taken; the report that came with it counts all the same.
    Wait(Duration),
}

/// The state of a key, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RateState {
    /// Provider and model.
    pub key: String,
    /// Limit and rest of requests, input tokens and output tokens, as of the last step.
    pub meters: [Option<(u64, u64)>; 3],
    /// How long the provider still wants to be left alone.
    pub paused: Duration,
    /// The breaker.
    pub gate: GateView,
}

impl RateState {
    /// The state of `key` at `now`.
    pub(crate) fn of(key: String, bank: &meter::Bank, gate: &gate::Gate, now: Timestamp) -> Self {
        Self { key, meters: bank.readings(), paused: bank.paused(now), gate: gate.glance(now) }
    }
}

/// Refuses what is no key.
pub(super) fn check_key(key: &str) -> Result<(), BackendError> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES || key.chars().any(char::is_control) {
        let why = format!("a key has 1 to {MAX_KEY_BYTES} bytes and no control characters");
        return Err(BackendError::Invalid { field: "rate key", why });
    }
    Ok(())
}

/// Refuses what is no step: the id of a trial has 1 to 64 letters and digits.
pub(super) fn check_step(step: &GateStep) -> Result<(), BackendError> {
    let (GateStep::Enter { id } | GateStep::Renew { id } | GateStep::Report { trial: Some(id), .. }) = step else {
        return Ok(());
    };
    if id.is_empty() || id.len() > 64 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        let why = "a trial's id has 1 to 64 letters and digits".into();
        return Err(BackendError::Invalid { field: "trial", why });
    }
    Ok(())
}

/// Allowances and breakers by key, shared by all processes of a deployment.
///
/// Promises:
/// - Every step is atomic, by the store's clock. No two processes are granted the same allowance.
/// - With a limit of `n` per window, at most the bucket's size plus `n` per window passed is granted, and with
///   [`Limits::sliding`] never more than `n` within any window. Only one take that is larger than the bucket is granted
///   all the same, once the bucket is full, and paid off before the next.
/// - A key whose limits nobody has named grants everything.
/// - A wait is never longer than a window, or than the provider asked for.
/// - Steps carry no id. Repeating one after an error takes or counts twice, which errs on the side of asking less of the
///   provider; a trial of the breaker is repeated under its own id and granted once.
/// - States are hints, not records: losing them costs rejected calls, never work or money.
#[async_trait]
pub trait RateTable: Send + Sync {
    /// Takes from all meters of `key` or from none.
    async fn take(&self, key: &str, limits: &Limits, take: Take) -> Result<Taken, BackendError>;

    /// One step of the key's breaker.
    async fn gate(&self, key: &str, policy: &GatePolicy, step: GateStep) -> Result<GateView, BackendError>;

    /// Every key in use, in order.
    async fn list(&self) -> Result<Vec<RateState>, BackendError>;
}
