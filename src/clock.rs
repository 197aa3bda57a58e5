//! The only reader of time, and the maker of ids.
//!
//! Every room takes a [`Clock`] instead of asking the operating system, so that leases, windows and
//! expiries are tested by moving a hand, not by sleeping. Ids are UUID version 7 (RFC 9562): sortable by
//! creation. Nothing else in the program may call `SystemTime::now` (clippy.toml forbids it).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This instant moved forward by `delay`, saturating at the end of time.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long from `earlier` until this instant; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds, for example `2026-11-21T09:30:00.123Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms) = (self.0.div_euclid(86_400_000), self.0.rem_euclid(86_400_000));
        let (year, month, day) = civil_from_days(days);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            ms / 3_600_000,
            ms / 60_000 % 60,
            ms / 1_000 % 60,
            ms % 1_000
        )
    }
}

/// Not a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a time: write a day (2026-11-21) or a time in UTC (2026-11-21T09:30:00Z)")]
pub struct InvalidTime;

impl std::str::FromStr for Timestamp {
    type Err = InvalidTime;

    /// Reads RFC 3339, or a day, which stands for its first moment in UTC.
    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        let whole = if text.len() == "2026-11-21".len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
        let at = time::OffsetDateTime::parse(&whole, &time::format_description::well_known::Rfc3339);
        let nanoseconds = at.map_err(|_| InvalidTime)?.unix_timestamp_nanos();
        i64::try_from(nanoseconds.div_euclid(1_000_000)).map(Self).map_err(|_| InvalidTime)
    }
}

/// Days since 1970-01-01 to a proleptic Gregorian date (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// Source of the current time: the system's clock in production, a hand moved by the test otherwise.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// `None` reads the system clock; `Some` is the manual hand, in epoch milliseconds.
    hand: Option<Arc<AtomicI64>>,
    /// Milliseconds to add to the system clock, to follow another one.
    offset: Option<Arc<AtomicI64>>,
}

/// Sets a clock that [follows](Clock::following) another one.
#[derive(Debug, Clone)]
pub struct ClockSetter(Arc<AtomicI64>);

impl ClockSetter {
    /// Makes the clock show `now` at this moment.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0.saturating_sub(Clock::system().now().0), Ordering::SeqCst);
    }
}

impl Clock {
    /// The operating system's clock.
    #[must_use]
    pub const fn system() -> Self {
        Self { hand: None, offset: None }
    }

    /// The operating system's clock, moved so that it agrees with another one: whoever knows that sets it now and then.
    #[must_use]
    pub fn following() -> (Self, ClockSetter) {
        let offset = Arc::new(AtomicI64::new(0));
        (Self { hand: None, offset: Some(Arc::clone(&offset)) }, ClockSetter(offset))
    }

    /// A clock that stands still at `start` until [`Clock::advance`] moves it.
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self { hand: Some(Arc::new(AtomicI64::new(start.0))), offset: None }
    }

    /// The current instant.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that may read the system clock")]
    pub fn now(&self) -> Timestamp {
        match &self.hand {
            Some(hand) => Timestamp(hand.load(Ordering::SeqCst)),
            None => {
                let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                let offset = self.offset.as_ref().map_or(0, |offset| offset.load(Ordering::Relaxed));
                Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX).saturating_add(offset))
            }
        }
    }

    /// True when only a test moves this clock.
    #[must_use]
    pub const fn is_manual(&self) -> bool {
        self.hand.is_some()
    }

    /// Moves a manual clock forward; a system clock ignores it.
    pub fn advance(&self, by: Duration) {
        if let Some(hand) = &self.hand {
            hand.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}

/// A fresh, time-ordered unique id (UUID version 7), 36 characters.
#[must_use]
pub fn unique_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// A short random token of `digits` hexadecimal digits (at most 32) that its reader cannot guess beforehand.
#[must_use]
pub fn random_token(digits: usize) -> String {
    let mut token = uuid::Uuid::new_v4().simple().to_string();
    token.truncate(digits);
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_rfc_3339() {
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp(951_782_400_123).to_string(), "2000-02-29T00:00:00.123Z");
        assert_eq!(Timestamp(-1).to_string(), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn reads_what_it_prints_and_days() {
        for at in [Timestamp(0), Timestamp(951_782_400_123), Timestamp(-1)] {
            assert_eq!(at.to_string().parse(), Ok(at));
        }
        assert_eq!("2026-11-21".parse(), "2026-11-21T01:00:00+01:00".parse::<Timestamp>());
        for wrong in ["", "today", "2026-13-01", "2026-11-21T25:00:00Z"] {
            assert_eq!(wrong.parse::<Timestamp>(), Err(InvalidTime), "{wrong:?}");
        }
    }

    #[test]
    fn a_manual_clock_moves_only_by_hand() {
        let clock = Clock::manual(Timestamp(5));
        assert_eq!(clock.now(), Timestamp(5));
        clock.advance(Duration::from_millis(7));
        assert_eq!(clock.now(), Timestamp(12));
        assert_eq!(clock.now().since(Timestamp(2)), Duration::from_millis(10));
        assert_eq!(Timestamp(2).since(clock.now()), Duration::ZERO);
    }
}
