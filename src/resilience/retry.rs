//! Exponential backoff with jitter, and the decision what to do after a failure.
//!
//! The curve comes from the `backoff` crate. That crate is unmaintained (RUSTSEC-2025-0012), so this is the only file
//! that may name it: replacing it means replacing [`RetryPolicy::delay`]. Its own retry loops are not used, because a
//! loop that spends money has to be visible where the money is reserved.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

use crate::error::Retry;

/// After this many doublings every sensible policy has reached its longest delay.
const MOST_DOUBLINGS: u32 = 32;

/// How often to try, and how long to wait in between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included; at least 1.
    pub attempts: u32,
    /// Delay after the first failure; doubles after each further one.
    pub first_delay: Duration,
    /// The delay never grows beyond this.
    pub max_delay: Duration,
    /// A delay named by the other side is waited for up to this length; a longer one ends the loop.
    pub longest_honoured_wait: Duration,
    /// Share of a delay, 0 to 1, by which it varies at random in both directions; 0 makes delays exact.
    pub jitter: f64,
}

impl Default for RetryPolicy {
    /// Three attempts, 0.5 s doubling to 8 s, a quarter of jitter, waits up to 60 s: what the provider's own client
    /// does (anthropic-sdk-python 0.121.0), with one attempt more to survive a second rate limit.
    fn default() -> Self {
        Self {
            attempts: 3,
            first_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(8),
            longest_honoured_wait: Duration::from_secs(60),
            jitter: 0.25,
        }
    }
}

/// What to do after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Wait this long, then try again.
    Wait(Duration),
    /// The other side asked for more patience than this loop has; its caller should come back after this long.
    Park(Duration),
    /// Repeating could help, but the attempts are used up.
    Exhausted,
    /// Repeating cannot help.
    Stop,
}

impl RetryPolicy {
    /// For steps on our own stores: many short tries, about ten seconds in all.
    #[must_use]
    pub const fn store() -> Self {
        Self {
            attempts: 8,
            first_delay: Duration::from_millis(50),
            max_delay: Duration::from_secs(3),
            longest_honoured_wait: Duration::from_secs(3),
            jitter: 0.25,
        }
    }

    /// The wait before the attempt after number `failed` (from 1), jitter included, never above
    /// [`RetryPolicy::max_delay`].
    #[must_use]
    pub fn delay(&self, failed: u32) -> Duration {
        let mut curve = ExponentialBackoff {
            current_interval: self.first_delay,
            initial_interval: self.first_delay,
            randomization_factor: self.jitter.clamp(0.0, 1.0),
            multiplier: 2.0,
            max_interval: self.max_delay,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        let mut delay = self.first_delay;
        for _ in 0..failed.clamp(1, MOST_DOUBLINGS) {
            delay = curve.next_backoff().unwrap_or(self.max_delay);
        }
        delay.min(self.max_delay)
    }

    /// What follows after `made` attempts, the last of which failed with an error that says `retry`.
    #[must_use]
    pub fn next(&self, made: u32, retry: Retry) -> Next {
        match retry {
            Retry::Never => Next::Stop,
            Retry::After(named) if named > self.longest_honoured_wait => Next::Park(named),
            Retry::Exhausted => Next::Exhausted,
            Retry::Now | Retry::After(_) if made >= self.attempts => Next::Exhausted,
            Retry::Now => Next::Wait(self.delay(made)),
            // Added, not compared: many callers that were told the same delay must not return in the same instant.
            Retry::After(named) => Next::Wait(named + self.delay(made)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXACT: RetryPolicy = RetryPolicy {
        attempts: 3,
        first_delay: Duration::from_millis(500),
        max_delay: Duration::from_secs(8),
        longest_honoured_wait: Duration::from_secs(60),
        jitter: 0.0,
    };

    #[test]
    fn delays_double_up_to_the_longest_one() {
        let delays: Vec<_> = (1..=7).map(|failed| EXACT.delay(failed).as_millis()).collect();
        assert_eq!(delays, [500, 1_000, 2_000, 4_000, 8_000, 8_000, 8_000]);
        assert_eq!(EXACT.delay(u32::MAX), EXACT.max_delay);
        assert_eq!(EXACT.delay(0), EXACT.first_delay);
    }

    #[test]
    fn jitter_stays_within_its_share_and_really_varies() {
        let policy = RetryPolicy { jitter: 0.25, ..EXACT };
        let delays: Vec<_> = (0..200).map(|_| policy.delay(2)).collect();
        assert!(delays.iter().all(|d| (750..=1_250).contains(&d.as_millis())), "{delays:?}");
        assert!(delays.iter().any(|d| *d != delays[0]));
        assert!((0..200).all(|_| policy.delay(20) <= policy.max_delay));
    }

    #[test]
    fn a_named_delay_is_never_cut_short() {
        let named = Duration::from_secs(60);
        assert_eq!(EXACT.next(1, Retry::After(named)), Next::Wait(named + EXACT.first_delay));
    }

    #[test]
    fn a_delay_beyond_patience_parks_even_when_attempts_are_used_up() {
        let named = Duration::from_millis(60_001);
        assert_eq!(EXACT.next(1, Retry::After(named)), Next::Park(named));
        assert_eq!(EXACT.next(3, Retry::After(named)), Next::Park(named));
    }

    #[test]
    fn attempts_are_counted_and_hopeless_errors_stop_at_once() {
        assert_eq!(EXACT.next(2, Retry::Now), Next::Wait(Duration::from_secs(1)));
        assert_eq!(EXACT.next(3, Retry::Now), Next::Exhausted);
        assert_eq!(EXACT.next(3, Retry::After(Duration::from_secs(1))), Next::Exhausted);
        assert_eq!(EXACT.next(1, Retry::Never), Next::Stop);
        assert_eq!(EXACT.next(1, Retry::Exhausted), Next::Exhausted);
    }
}
