//! When a price holds: until a day, from a day on, in the hours of high demand, outside of them.
//!
//! Nobody knows when a call will end or by whose clock the provider bills, so a price is never looked up for an instant but
//! for a window around it. A price counts if it holds at any moment of the window; of several the dearest counts. All
//! times are UTC. The window of a charge lies within the window of every bound it was reserved by, so that no charge can
//! exceed its bound because time has passed.

use std::fmt;
use std::time::Duration;

use crate::clock::Timestamp;

/// How far a window reaches beyond the moment that is asked about: more than any call may last (an hour), and room for
/// clocks that differ.
const REACH: Duration = Duration::from_secs(2 * 3_600);

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// A stretch of time, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    from: Timestamp,
    to: Timestamp,
}

impl Window {
    /// When a call that begins now may be billed.
    pub(super) fn of_bound(now: Timestamp) -> Self {
        Self { from: earlier(now), to: now.after(REACH) }
    }

    /// When a call that has just ended may have been billed.
    pub(super) fn of_charge(now: Timestamp) -> Self {
        Self { from: earlier(now), to: now }
    }

    /// Both ends and every full hour between them: seasons only change on the hour.
    fn moments(self) -> impl Iterator<Item = i64> {
        let first = (self.from.0.div_euclid(HOUR_MS) + 1) * HOUR_MS;
        let step = usize::try_from(HOUR_MS).unwrap_or(usize::MAX);
        [self.from.0, self.to.0].into_iter().chain((first..self.to.0).step_by(step))
    }
}

fn earlier(now: Timestamp) -> Timestamp {
    Timestamp(now.0.saturating_sub(i64::try_from(REACH.as_millis()).unwrap_or(i64::MAX)))
}

/// The hours of high demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peak {
    /// First hour (included) and last (excluded), in UTC.
    pub(super) hours: Vec<(u8, u8)>,
    /// Saturdays and Sundays have none.
    pub(super) weekdays_only: bool,
}

impl Peak {
    fn holds_at(&self, moment: i64) -> bool {
        let hour = moment.rem_euclid(DAY_MS) / HOUR_MS;
        // 1970-01-01 was a Thursday: 0 is Monday.
        let weekday = (moment.div_euclid(DAY_MS) + 3).rem_euclid(7);
        let in_hours = self.hours.iter().any(|(from, to)| (i64::from(*from)..i64::from(*to)).contains(&hour));
        in_hours && !(self.weekdays_only && weekday >= 5)
    }
}

/// When a price holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Season {
    /// Whenever anything does.
    Always,
    /// Before this instant.
    Until(Timestamp),
    /// From this instant on.
    From(Timestamp),
    /// In the hours of high demand.
    During(Peak),
    /// Outside of them.
    Outside(Peak),
}

impl Season {
    /// True when it holds at any moment of the window.
    pub(super) fn touches(&self, window: Window) -> bool {
        match self {
            Self::Always => true,
            Self::Until(end) => window.from < *end,
            Self::From(start) => window.to >= *start,
            Self::During(peak) => window.moments().any(|moment| peak.holds_at(moment)),
            Self::Outside(peak) => window.moments().any(|moment| !peak.holds_at(moment)),
        }
    }
}

impl fmt::Display for Peak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours: Vec<String> = self.hours.iter().map(|(from, to)| format!("{from}-{to}")).collect();
        let days = if self.weekdays_only { ", Monday to Friday" } else { "" };
        write!(f, "{} h UTC{days}", hours.join(" and "))
    }
}

impl fmt::Display for Season {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = |at: &Timestamp| at.to_string().chars().take("2026-12-31".len()).collect::<String>();
        match self {
            Self::Always => f.write_str("always"),
            Self::Until(end) => write!(f, "before {}", day(end)),
            Self::From(start) => write!(f, "from {} on", day(start)),
            Self::During(peak) => write!(f, "at peak, {peak}"),
            Self::Outside(peak) => write!(f, "off peak, not {peak}"),
        }
    }
}

/// The first instant after a day written as `2026-12-31`; nothing for anything else.
pub(super) fn end_of_day(text: &str) -> Option<Timestamp> {
    let start: Timestamp = Some(text).filter(|text| text.len() == "2026-12-31".len())?.parse().ok()?;
    Some(start.after(Duration::from_secs(86_400)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        for (text, after) in [
            ("1970-01-01", "1970-01-02T00:00:00.000Z"),
            ("2026-12-31", "2027-01-01T00:00:00.000Z"),
            ("2028-02-28", "2028-02-29T00:00:00.000Z"),
        ] {
            assert_eq!(end_of_day(text).unwrap().to_string(), after);
        }
        for wrong in ["2026-13-01", "2026-02-30", "2026-1-1", "soon", "2026-12-31-1", ""] {
            assert_eq!(end_of_day(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_season_counts_when_any_moment_of_the_window_lies_in_it() {
        let peak = Peak { hours: vec![(1, 4), (6, 10)], weekdays_only: true };
        // 2026-11-20 is a Friday.
        let friday = end_of_day("2026-11-19").unwrap();
        let at = |hours: i64| Timestamp(friday.0 + hours * HOUR_MS + 1_800_000);
        let during = Season::During(peak.clone());
        let outside = Season::Outside(peak);
        for (hour, high, low) in [
            (2, true, true),
            (12, false, true),
            (8, true, false),
            (10, true, true),
            (26, false, true),
            (32, false, true),
        ] {
            let window = Window::of_charge(at(hour));
            assert_eq!((during.touches(window), outside.touches(window)), (high, low), "{hour}");
        }
        assert!(during.touches(Window::of_bound(at(-1))), "a call that begins at half past eleven may end in the peak");
    }
}
