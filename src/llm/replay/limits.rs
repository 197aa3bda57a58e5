//! Rate limits as a provider keeps them: token buckets per minute and a cap on concurrent calls.
//!
//! Buckets fill continuously, as the provider's do, and a call that finds too little is answered 429 with the time after
//! which it would fit. Output is taken when it is known, so a bucket can go below zero, as it does with the provider.
//! Never kinder than the real one: a refused call costs a request nothing, but it is counted.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::dialect::Dialect;
use crate::clock::Clock;

/// What the server allows; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimits {
    /// Requests a minute.
    pub requests_per_minute: Option<u64>,
    /// Input tokens a minute; what is read from the cache does not count.
    pub input_tokens_per_minute: Option<u64>,
    /// Output tokens a minute.
    pub output_tokens_per_minute: Option<u64>,
    /// Calls that may run at once.
    pub concurrent_calls: Option<usize>,
    /// How long a minute is, for tests that have no time; a minute when `None`.
    pub minute: Option<Duration>,
}

/// A bucket that refills to its limit within a minute.
#[derive(Debug)]
struct Bucket {
    limit: u64,
    minute: Duration,
    /// Micro-tokens left, at `at`; negative when more was taken than there was.
    left: i128,
    at: Instant,
}

const MICRO: i128 = 1_000_000;

impl Bucket {
    fn new(limit: u64, minute: Duration) -> Self {
        Self { limit, minute, left: i128::from(limit) * MICRO, at: Instant::now() }
    }

    /// Length of the minute in milliseconds, at least one.
    fn minute_ms(&self) -> i128 {
        i128::try_from(self.minute.as_millis()).unwrap_or(60_000).max(1)
    }

    fn refill(&mut self) {
        let now = Instant::now();
        let gained =
            now.duration_since(self.at).as_micros().cast_signed() * i128::from(self.limit) * 1_000 / self.minute_ms();
        // Less than a micro-token is left for the next look, not lost.
        if gained > 0 {
            self.left = (self.left + gained).min(i128::from(self.limit) * MICRO);
            self.at = now;
        }
    }

    /// How long until `wanted` would fit.
    fn wait(&self, wanted: u64) -> Duration {
        if self.limit == 0 && wanted > 0 {
            return self.minute;
        }
        let missing = i128::from(wanted.min(self.limit)) * MICRO - self.left;
        if missing <= 0 {
            return Duration::ZERO;
        }
        let micros = missing.saturating_mul(self.minute_ms()) / (i128::from(self.limit.max(1)) * 1_000) + 1;
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn take(&mut self, amount: u64) {
        self.left -= i128::from(amount) * MICRO;
    }

    fn remaining(&self) -> u64 {
        u64::try_from(self.left / MICRO).unwrap_or(0)
    }

    fn full_after(&self) -> Duration {
        self.wait(self.limit)
    }
}

#[derive(Debug, Default)]
struct Buckets {
    requests: Option<Bucket>,
    input: Option<Bucket>,
    output: Option<Bucket>,
}

/// The running state of the limits.
#[derive(Debug)]
pub(super) struct Limiter {
    buckets: Mutex<Buckets>,
    running: Arc<AtomicUsize>,
    most_running: Option<usize>,
    rejected: AtomicU64,
    clock: Clock,
}

/// A call that runs; dropped when its reply is over.
#[derive(Debug)]
pub(super) struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Limiter {
    pub(super) fn new(limits: RateLimits) -> Self {
        let minute = limits.minute.unwrap_or(Duration::from_secs(60));
        let bucket = |limit: Option<u64>| limit.map(|limit| Bucket::new(limit, minute));
        let buckets = Buckets {
            requests: bucket(limits.requests_per_minute),
            input: bucket(limits.input_tokens_per_minute),
            output: bucket(limits.output_tokens_per_minute),
        };
        Self {
            buckets: Mutex::new(buckets),
            running: Arc::default(),
            most_running: limits.concurrent_calls,
            rejected: AtomicU64::new(0),
            clock: Clock::system(),
        }
    }

    /// Lets a call of so many input tokens begin, or says after how long it may come again.
    pub(super) fn admit(&self, input_tokens: u64) -> Result<Running, Duration> {
        let refused = |wait: Duration| {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            Err(wait)
        };
        let running = self.running.fetch_add(1, Ordering::AcqRel);
        let guard = Running(Arc::clone(&self.running));
        if self.most_running.is_some_and(|most| running >= most) {
            return refused(Duration::from_secs(1));
        }
        let mut buckets = self.lock();
        let Buckets { requests, input, output } = &mut *buckets;
        let mut wait = Duration::ZERO;
        for (bucket, wanted) in [(&mut *requests, 1), (&mut *input, input_tokens), (&mut *output, 1)] {
            if let Some(bucket) = bucket {
                bucket.refill();
                wait = wait.max(bucket.wait(wanted));
            }
        }
        if !wait.is_zero() {
            return refused(wait);
        }
        for (bucket, amount) in [(requests, 1), (input, input_tokens)] {
            if let Some(bucket) = bucket {
                bucket.take(amount);
            }
        }
        Ok(guard)
    }

    /// Takes the output of a call, which nobody could know before.
    pub(super) fn generated(&self, output_tokens: u64) {
        if let Some(bucket) = &mut self.lock().output {
            bucket.refill();
            bucket.take(output_tokens);
        }
    }

    /// Calls that were turned away.
    pub(super) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// What the provider says about its limits on every answer.
    pub(super) fn tell(&self, dialect: Dialect, headers: &mut HeaderMap) {
        let mut buckets = self.lock();
        let Buckets { requests, input, output } = &mut *buckets;
        let named = match dialect {
            Dialect::Anthropic => [("requests", requests), ("input-tokens", input), ("output-tokens", output)],
            Dialect::OpenAi => [("requests", requests), ("tokens", input), ("", output)],
        };
        for (name, bucket) in named {
            let Some(bucket) = bucket.as_mut().filter(|_| !name.is_empty()) else { continue };
            bucket.refill();
            let reset = bucket.full_after();
            let (prefix, reset) = match dialect {
                Dialect::Anthropic => ("anthropic-ratelimit", self.clock.now().after(reset).to_string()),
                Dialect::OpenAi => ("x-ratelimit", format!("{}ms", reset.as_millis())),
            };
            for (what, value) in
                [("limit", bucket.limit.to_string()), ("remaining", bucket.remaining().to_string()), ("reset", reset)]
            {
                let full = match dialect {
                    Dialect::Anthropic => format!("{prefix}-{name}-{what}"),
                    Dialect::OpenAi => format!("{prefix}-{what}-{name}"),
                };
                if let (Ok(name), Ok(value)) = (HeaderName::try_from(full), HeaderValue::try_from(value)) {
                    headers.insert(name, value);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_refills_steadily_and_says_when_a_call_will_fit() {
        let limiter = Limiter::new(RateLimits { requests_per_minute: Some(60), ..RateLimits::default() });
        let admitted: Vec<_> = (0..60).map(|_| limiter.admit(1)).collect();
        assert!(admitted.iter().all(Result::is_ok));
        let wait = limiter.admit(1).unwrap_err();
        assert!(wait > Duration::from_millis(999) && wait <= Duration::from_millis(1_001), "{wait:?}");
        tokio::time::advance(wait).await;
        assert!(limiter.admit(1).is_ok());
        assert!(limiter.admit(1).is_err());
        assert_eq!(limiter.rejected(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_of_nothing_lets_nothing_through() {
        let limiter = Limiter::new(RateLimits { requests_per_minute: Some(0), ..RateLimits::default() });
        for _ in 0..2 {
            assert_eq!(limiter.admit(1).unwrap_err(), Duration::from_secs(60));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_and_concurrency_are_limited_by_themselves() {
        let limits = RateLimits {
            input_tokens_per_minute: Some(600),
            output_tokens_per_minute: Some(600),
            concurrent_calls: Some(2),
            ..RateLimits::default()
        };
        let limiter = Limiter::new(limits);
        let first = limiter.admit(300).unwrap();
        let _second = limiter.admit(300).unwrap();
        assert!(limiter.admit(0).is_err(), "two run");
        drop(first);
        assert!(limiter.admit(300).is_err(), "no input is left");
        let third = limiter.admit(0).unwrap();
        limiter.generated(1_200);
        drop(third);
        let wait = limiter.admit(0).unwrap_err();
        assert!(wait > Duration::from_secs(60), "output that was not foreseen has to be worked off: {wait:?}");
    }
}
