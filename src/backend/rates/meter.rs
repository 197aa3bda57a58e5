//! Token bucket and sliding window over three meters: pure arithmetic, one step at a time.
//!
//! The bucket evens out what is asked over time, the window bounds what any minute sees; both must agree. The window is
//! counted in sixty slices, and the slice that is half over counts whole, so the error is on the safe side and at most a
//! sixtieth. Levels are floating point on purpose: these are rates, not money. Time comes in as a value.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Amounts, Headroom, Limits, Reading, Take, Taken};
use crate::clock::Timestamp;

/// Slices of a window.
const SLICES: i64 = 60;

/// The meters of one key.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bank {
    /// Length of the window that slices were counted by, in milliseconds.
    window_ms: i64,
    /// The provider wants to be left alone until then.
    paused_until: Timestamp,
    /// What the last step said is configured.
    configured: [Option<u64>; 3],
    meters: [Meter; 3],
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Meter {
    /// What the provider allows per window, once it has said so.
    learned: Option<u64>,
    /// What the bucket holds; `None` until the first step, when it is full. Below zero after a take larger than it.
    level: Option<f64>,
    /// When `level` was true.
    at: Timestamp,
    /// Slice number and what was taken in it, oldest first.
    slices: VecDeque<(i64, u64)>,
}

/// Whole units as a number to reckon with; exact up to 2^53, far beyond any allowance.
#[expect(clippy::cast_precision_loss, reason = "rates, not money")]
const fn real(units: u64) -> f64 {
    units as f64
}

/// Milliseconds, rounded up, so that whoever waits that long has waited enough; what rounding errors add does not count.
#[expect(clippy::cast_possible_truncation, reason = "clamped to a day")]
fn ms(value: f64) -> i64 {
    (value - 1e-6).ceil().clamp(0.0, 86_400_000.0) as i64
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

impl Meter {
    /// The allowance per window: what was configured or what the provider said, whichever is less.
    fn limit(&self, configured: Option<u64>) -> Option<u64> {
        match (configured, self.learned) {
            (Some(configured), Some(learned)) => Some(configured.min(learned)),
            (configured, learned) => configured.or(learned),
        }
    }

    /// Fills the bucket up to `now`.
    fn refill(&mut self, now: Timestamp, limit: u64, capacity: f64, window_ms: i64) {
        let elapsed = real(u64::try_from(now.0.saturating_sub(self.at.0)).unwrap_or(0));
        let flowed = real(limit) * elapsed / real(window_ms.unsigned_abs());
        self.level = Some(self.level.map_or(capacity, |level| (level + flowed).min(capacity)));
        self.at = self.at.max(now);
    }

    /// Milliseconds until `amount` may be taken.
    fn wait(&self, now: Timestamp, amount: u64, limit: u64, capacity: f64, window_ms: i64, sliding: bool) -> i64 {
        if amount == 0 {
            return 0;
        }
        let missing = real(amount).min(capacity) - self.level.unwrap_or(capacity);
        // A rounding error of the bucket must not cost a millisecond.
        let by_bucket =
            if missing > 1e-6 { ms(missing * real(window_ms.unsigned_abs()) / real(limit.max(1))).max(1) } else { 0 };
        let by_window = if sliding { self.window_wait(now, amount.min(limit), limit, window_ms) } else { 0 };
        by_bucket.max(by_window)
    }

    fn window_wait(&self, now: Timestamp, amount: u64, limit: u64, window_ms: i64) -> i64 {
        let width = (window_ms / SLICES).max(1);
        let mut taken: u64 = self.slices.iter().map(|(_, amount)| amount).sum();
        for (slice, in_it) in &self.slices {
            if taken.saturating_add(amount) <= limit {
                return 0;
            }
            taken -= in_it;
            if taken.saturating_add(amount) <= limit {
                return ((slice + 1) * width + window_ms - now.0).max(1);
            }
        }
        0
    }

    /// Forgets slices that are wholly out of the window.
    fn forget(&mut self, now: Timestamp, window_ms: i64) {
        let width = (window_ms / SLICES).max(1);
        while self.slices.front().is_some_and(|(slice, _)| (slice + 1) * width + window_ms <= now.0) {
            self.slices.pop_front();
        }
    }

    fn count(&mut self, now: Timestamp, amount: u64, window_ms: i64) {
        if amount == 0 {
            return;
        }
        let slice = now.0 / (window_ms / SLICES).max(1);
        match self.slices.back_mut() {
            Some((newest, taken)) if *newest >= slice => *taken = taken.saturating_add(amount),
            _ => self.slices.push_back((slice, amount)),
        }
        self.level = self.level.map(|level| level - real(amount));
    }

    /// Corrects what earlier takes counted. What was taken too much leaves the newest slices first.
    fn correct(&mut self, now: Timestamp, by: i64, capacity: f64, window_ms: i64) {
        let Ok(mut too_much) = u64::try_from(by.saturating_neg()) else {
            return self.count(now, by.unsigned_abs(), window_ms);
        };
        self.level = self.level.map(|level| (level + real(too_much)).min(capacity));
        for (_, taken) in self.slices.iter_mut().rev() {
            let back = too_much.min(*taken);
            *taken -= back;
            too_much -= back;
        }
    }
}

/// The bucket's size: at least one, or nothing would ever pass.
fn capacity(limit: u64, burst_percent: u32) -> f64 {
    (real(limit) * f64::from(burst_percent) / 100.0).max(1.0)
}

impl Bank {
    /// Takes what is asked for from all meters, or answers how long to wait.
    pub fn take(&mut self, now: Timestamp, limits: &Limits, take: &Take) -> Taken {
        let window_ms = millis(limits.window).max(1);
        if self.window_ms != window_ms {
            self.window_ms = window_ms;
            self.meters.iter_mut().for_each(|meter| meter.slices.clear());
        }
        self.configured = limits.per_window;
        if let Some(headroom) = &take.headroom {
            self.learn(now, limits, headroom);
        }
        let (need, want) = (take.need.by_meter(), take.want.by_meter());
        let (mut wait, mut is_plenty, mut limited) = (self.paused_until.0.saturating_sub(now.0), true, false);
        for (at, meter) in self.meters.iter_mut().enumerate() {
            let Some(limit) = meter.limit(limits.per_window[at]) else { continue };
            limited = true;
            let capacity = capacity(limit, limits.burst_percent);
            meter.refill(now, limit, capacity, window_ms);
            meter.forget(now, window_ms);
            meter.correct(now, take.correction[at], capacity, window_ms);
            wait = wait.max(meter.wait(now, need[at], limit, capacity, window_ms, limits.sliding));
            // An advance leaves at least half to the other processes.
            let left = meter.level.unwrap_or(capacity) - real(want[at]);
            let taken: u64 = meter.slices.iter().map(|(_, amount)| amount).sum();
            is_plenty &= left >= capacity / 2.0 && (!limits.sliding || taken.saturating_add(want[at]) <= limit / 2);
        }
        if take.need == Amounts::default() {
            return Taken::Granted { amounts: Amounts::default(), limited };
        }
        if wait > 0 {
            return Taken::Wait(duration(wait));
        }
        let amounts = if is_plenty { take.want } else { take.need };
        for (at, meter) in self.meters.iter_mut().enumerate() {
            if meter.limit(limits.per_window[at]).is_some() {
                meter.count(now, amounts.by_meter()[at], window_ms);
            }
        }
        Taken::Granted { amounts, limited }
    }

    /// Takes in what the provider said. What it has left can only be less than it was then plus what flowed in since,
    /// so a reading lowers a bucket and never fills it.
    fn learn(&mut self, now: Timestamp, limits: &Limits, headroom: &Headroom) {
        if let Some(pause) = headroom.pause {
            self.paused_until = self.paused_until.max(now.after(pause));
        }
        let window_ms = self.window_ms;
        for (at, meter) in self.meters.iter_mut().enumerate() {
            let Some(Reading { limit: learned, remaining }) = headroom.readings[at] else { continue };
            meter.learned = Some(learned.max(1));
            let Some(limit) = meter.limit(limits.per_window[at]) else { continue };
            let capacity = capacity(limit, limits.burst_percent);
            meter.refill(now, limit, capacity, window_ms);
            let since = real(limit) * headroom.age.as_secs_f64() * 1_000.0 / real(window_ms.unsigned_abs());
            let most = real(remaining) + since;
            meter.level = meter.level.map(|level| level.min(most));
        }
    }

    /// Limit and rest per meter, as of the last step.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped at zero")]
    pub fn readings(&self) -> [Option<(u64, u64)>; 3] {
        std::array::from_fn(|at| {
            let meter = &self.meters[at];
            let limit = meter.limit(self.configured[at])?;
            Some((limit, meter.level.unwrap_or(real(limit)).max(0.0) as u64))
        })
    }

    /// How long the provider still wants to be left alone.
    #[must_use]
    pub fn paused(&self, now: Timestamp) -> Duration {
        self.paused_until.since(now)
    }
}

#[cfg(test)]
#[path = "meter_tests.rs"]
mod tests;
