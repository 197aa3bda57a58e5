//! How long a call takes, and when in that time the bytes of its reply leave.
//!
//! A sample depends on the seed, the request's key and how often that key was asked, never on the order in which
//! different requests arrive; so two schedulers are compared on the same durations. A streamed reply begins after a small
//! share of its time and goes on until the end of it, as a provider's does: whoever waits for the beginning must not be made
//! to wait for the whole. How the time is shared out must never change how long a call takes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::time::Instant;

/// Longest delay that is ever waited: ten minutes, the provider's own limit for a call.
pub(super) const MAX_DELAY: Duration = Duration::from_secs(600);

/// Steps in which a stream goes on after its beginning, at most.
const MAX_STEPS: u32 = 16;

/// Shortest time between two of them: more often would cost the machine more than it shows.
const SHORTEST_STEP: Duration = Duration::from_millis(5);

/// How long every call takes, besides what its reply says.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Latency {
    /// None.
    #[default]
    None,
    /// Always the same.
    Fixed(Duration),
    /// Log-normal, as the durations of real calls are.
    LogNormal {
        /// Half of the calls are faster.
        median: Duration,
        /// Standard deviation of the logarithm; real calls lie between 0.3 and 1.
        sigma: f64,
        /// Same seed, same delays.
        seed: u64,
    },
}

impl Latency {
    /// The delay of the `nth` call with this key, at most ten minutes.
    #[must_use]
    pub fn sample(&self, key: &str, nth: usize) -> Duration {
        match *self {
            Self::None => Duration::ZERO,
            Self::Fixed(delay) => delay.min(MAX_DELAY),
            Self::LogNormal { median, sigma, seed } => {
                let mut hasher = DefaultHasher::new();
                (seed, key, nth).hash(&mut hasher);
                let mut random = SplitMix64::new(hasher.finish());
                // Box-Muller; 1 - unit() keeps the logarithm away from zero.
                let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
                let normal = radius * (std::f64::consts::TAU * random.unit()).cos();
                let seconds = median.as_secs_f64() * (sigma * normal).exp();
                Duration::try_from_secs_f64(seconds).unwrap_or(MAX_DELAY).min(MAX_DELAY)
            }
        }
    }
}

/// The time that one call takes, from the moment at which this was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    began: Instant,
    first: Duration,
    whole: Duration,
}

impl Pace {
    /// A call that takes `whole`, and of it `first_percent` until its reply begins.
    pub(super) fn new(whole: Duration, first_percent: u32) -> Self {
        Self { began: Instant::now(), first: whole * first_percent.min(100) / 100, whole }
    }

    /// When the reply begins.
    pub(super) fn begins(&self) -> Instant {
        self.began + self.first
    }

    /// When the reply goes on after its beginning, in equal steps up to its end; never for a reply that comes at once.
    pub(super) fn steps(&self) -> Vec<Instant> {
        let rest = self.whole - self.first;
        if rest.is_zero() {
            return Vec::new();
        }
        let fitting = rest.as_micros() / SHORTEST_STEP.as_micros();
        let count = u32::try_from(fitting).unwrap_or(MAX_STEPS).clamp(1, MAX_STEPS);
        (1..=count).map(|step| self.begins() + rest * step / count).collect()
    }
}

/// Steele, Lea and Flood's SplitMix64: enough randomness for durations and graphs, and the same on every machine.
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator that always yields the same numbers for the same seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The next number below `bound`; 0 for a bound of 0. The bias is far below what any caller can notice.
    pub const fn below(&mut self, bound: u64) -> u64 {
        let number = self.next();
        if bound == 0 { 0 } else { number % bound }
    }

    /// The next number from 0 (included) to 1 (excluded), with 32 bits of it random.
    #[must_use]
    pub fn unit(&mut self) -> f64 {
        let high = u32::try_from(self.next() >> 32).unwrap_or(u32::MAX);
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_yields_the_published_sequence() {
        // Reference output of Vigna's splitmix64.c for seed 1234567.
        let mut random = SplitMix64::new(1_234_567);
        assert_eq!([random.next(), random.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_begins_after_its_share_and_goes_on_in_few_equal_steps_to_the_end() {
        for (whole, percent, first, steps) in [
            (1_000, 10, 100, 16),
            (1_000, 0, 0, 16),
            (20, 50, 10, 2),
            (3, 10, 0, 1),
            (1_000, 100, 1_000, 0),
            (0, 10, 0, 0),
        ] {
            let pace = Pace::new(Duration::from_millis(whole), percent);
            let now = Instant::now();
            assert_eq!((pace.begins() - now).as_millis(), first, "{percent} % of {whole}");
            let told = pace.steps();
            assert_eq!(told.len(), steps, "{percent} % of {whole}");
            assert!(told.is_sorted() && told.last().is_none_or(|last| *last == now + pace.whole));
        }
    }

    #[test]
    fn log_normal_delays_repeat_and_centre_on_the_median() {
        let latency = |seed| Latency::LogNormal { median: Duration::from_millis(100), sigma: 0.5, seed };
        let draw = |seed| (0..1_001).map(|nth| latency(seed).sample("plan", nth)).collect::<Vec<_>>();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let mut sorted = draw(3);
        sorted.sort();
        let median = sorted[500].as_millis();
        assert!((90..110).contains(&median), "{median}");
    }
}
