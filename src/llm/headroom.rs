//! What a provider's headers say about its limits, and the slot in which a call brings that home.
//!
//! Read once, where every response passes, so that no dialect has to remember it; errors carry these headers too, and
//! those are the ones that matter most. Only numbers are believed, and only limits with their rest: when a bucket is full
//! again follows from its limit, by the fleet's own clock. A header that makes no sense is no header.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderMap;
use tokio::time::Instant;

use crate::backend::{Headroom, Reading};

/// Names of the meters' headers: limit and rest of requests, input tokens, output tokens. Where a provider counts tokens of
/// both kinds together, they are counted as input, which is most of them.
const NAMES: [[(&str, &str); 3]; 2] = [
    [
        ("anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining"),
        ("anthropic-ratelimit-input-tokens-limit", "anthropic-ratelimit-input-tokens-remaining"),
        ("anthropic-ratelimit-output-tokens-limit", "anthropic-ratelimit-output-tokens-remaining"),
    ],
    [
        ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"),
        ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens"),
        ("", ""),
    ],
];

/// Filled by a call with what the provider said; clones share it.
#[derive(Debug, Clone, Default)]
pub struct HeadroomSlot(Arc<Mutex<Option<(Headroom, Instant)>>>);

impl HeadroomSlot {
    /// Keeps what `headers` say, if they say anything.
    pub(in crate::llm) fn note(&self, headers: &HeaderMap) {
        if let Some(headroom) = read(headers) {
            *self.lock() = Some((headroom, Instant::now()));
        }
    }

    /// What was said, with its age.
    #[must_use]
    pub fn take(&self) -> Option<Headroom> {
        let (headroom, at) = self.lock().take()?;
        Some(Headroom { age: at.elapsed(), ..headroom })
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Headroom, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The largest number that is believed: beyond it, stores that count in floating point are no longer exact.
const MOST: u64 = 1 << 53;

fn read(headers: &HeaderMap) -> Option<Headroom> {
    let number = |name: &str| {
        let said = headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok()?;
        (said <= MOST).then_some(said)
    };
    let reading = |(limit, remaining): (&str, &str)| {
        let (limit, remaining) = (number(limit)?, number(remaining)?);
        (limit > 0).then_some(Reading { limit, remaining: remaining.min(limit) })
    };
    NAMES.iter().find_map(|names| {
        let readings = names.map(reading);
        readings.iter().any(Option::is_some).then_some(Headroom { readings, age: Duration::ZERO, pause: None })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn said(pairs: &[(&'static str, &'static str)]) -> Option<[Option<(u64, u64)>; 3]> {
        let headers: HeaderMap = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let slot = HeadroomSlot::default();
        slot.note(&headers);
        let readings = slot.take()?.readings;
        assert!(slot.take().is_none(), "it is said once");
        Some(readings.map(|reading| reading.map(|reading| (reading.limit, reading.remaining))))
    }

    #[test]
    fn both_dialects_are_understood() {
        let anthropic = [
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "49"),
            ("anthropic-ratelimit-requests-reset", "2026-11-21T10:00:00Z"),
            ("anthropic-ratelimit-input-tokens-limit", "40000"),
            ("anthropic-ratelimit-input-tokens-remaining", "39000"),
        ];
        assert_eq!(said(&anthropic), Some([Some((50, 49)), Some((40_000, 39_000)), None]));
        let openai = [
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-limit-tokens", "150000"),
            ("x-ratelimit-remaining-tokens", "149984"),
        ];
        assert_eq!(said(&openai), Some([Some((60, 0)), Some((150_000, 149_984)), None]));
    }

    #[test]
    fn what_makes_no_sense_is_not_said() {
        assert_eq!(said(&[("content-type", "text/plain")]), None);
        for (limit, remaining) in
            [("many", "1"), ("10", "-1"), ("0", "0"), ("", ""), ("18446744073709551615", "18446744073709551615")]
        {
            let pairs = [("x-ratelimit-limit-requests", limit), ("x-ratelimit-remaining-requests", remaining)];
            assert_eq!(said(&pairs), None, "{limit} {remaining}");
        }
        let only_limit = [("x-ratelimit-limit-requests", "10")];
        assert_eq!(said(&only_limit), None);
    }
}
