//! How long a loop goes on while its stores are away, and how long it waits in between.
//!
//! A server may be away for as long as it takes to restart or upgrade it, and a process that has ended by then helps nobody.
//! So what ends a loop is time, not a number of attempts, some of which take no time at all. Pauses are counted from the
//! beginning of an attempt: one that has taken long itself is repeated at once, so that work goes on as soon as the stores
//! are back. A loop that is told to go on must have failed with something that may pass.

use std::time::Duration;

use tokio::time::Instant;

use super::RetryPolicy;
use crate::error::Retry;

/// After this long without its stores a loop gives up, and its process ends, for somebody to notice.
pub const LONGEST_ABSENCE: Duration = Duration::from_secs(300);

/// An absence of the stores, as one loop sees it.
#[derive(Debug, Default)]
pub struct Absence {
    /// When the first of the attempts began that have failed since the last that did not, and how many there were.
    since: Option<(Instant, u32)>,
}

impl Absence {
    /// The stores have answered.
    pub const fn end(&mut self) {
        self.since = None;
    }

    /// An attempt that `began` then has failed, and `retry` says whether repeating it can help: how long to wait first, or
    /// `None` when the loop has to give up.
    #[must_use]
    pub fn pause(&mut self, retry: Retry, began: Instant) -> Option<Duration> {
        let (since, failures) = self.since.map_or((began, 1), |(since, failures)| (since, failures.saturating_add(1)));
        self.since = Some((since, failures));
        if !retry.is_retryable() || since.elapsed() >= LONGEST_ABSENCE {
            return None;
        }
        Some(RetryPolicy::store().delay(failures).saturating_sub(began.elapsed()))
    }

    /// How many attempts have failed in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.since.map_or(0, |(_, failures)| failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_fails_late_is_repeated_at_once_and_one_that_fails_at_once_is_not() {
        let mut absence = Absence::default();
        let mut pauses = Vec::new();
        for _ in 0..10 {
            pauses.push(absence.pause(Retry::Now, Instant::now()).unwrap());
        }
        assert!(pauses[0] > Duration::ZERO && pauses[9] > Duration::from_secs(1), "{pauses:?}");
        let began = Instant::now();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(absence.pause(Retry::Now, began), Some(Duration::ZERO));
        absence.end();
        assert_eq!(absence.failures(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_gives_up_after_minutes_and_at_once_on_what_does_not_pass() {
        let mut absence = Absence::default();
        for _ in 0..59 {
            let began = Instant::now();
            tokio::time::advance(Duration::from_secs(5)).await;
            assert!(absence.pause(Retry::Now, began).is_some());
        }
        let began = Instant::now();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(absence.pause(Retry::Now, began), None);
        assert_eq!(Absence::default().pause(Retry::Never, began), None);
    }
}
