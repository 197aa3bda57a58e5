//! Checks of how much is asked of the provider and when it is left alone.
//!
//! Apart from the rest because a wrong value here does not break anything at once: it makes a fleet crawl, or storm a
//! provider that is down. So every bound is stated, and pairs that contradict each other are refused.

use super::settings::Settings;
use super::validate::{Fault, check};

/// Faults of the limits and the breaker.
pub(super) fn faults(settings: &Settings, faults: &mut Vec<Fault>) {
    limits(settings, faults);
    breaker(settings, faults);
    let parking = settings.job.longest_parking_seconds;
    check(faults, parking <= 7 * 86_400, "job.longest_parking_seconds", || {
        format!("{parking} is over 604800, which is a week")
    });
}

fn limits(settings: &Settings, faults: &mut Vec<Fault>) {
    let limits = &settings.limits;
    for (key, value) in [
        ("limits.requests_per_window", limits.requests_per_window),
        ("limits.input_tokens_per_window", limits.input_tokens_per_window),
        ("limits.output_tokens_per_window", limits.output_tokens_per_window),
    ] {
        check(faults, value <= 1_000_000_000_000, key, || format!("{value} is over 1000000000000"));
    }
    check(faults, (1..=3_600).contains(&limits.window_seconds), "limits.window_seconds", || {
        format!("{} is not between 1 and 3600", limits.window_seconds)
    });
    for (key, percent) in
        [("limits.burst_percent", limits.burst_percent), ("limits.agent_share_percent", limits.agent_share_percent)]
    {
        check(faults, (1..=100).contains(&percent), key, || format!("{percent} is not between 1 and 100"));
    }
    check(faults, (1..=10_000).contains(&limits.max_concurrency), "limits.max_concurrency", || {
        format!("{} is not between 1 and 10000", limits.max_concurrency)
    });
    check(faults, limits.start_concurrency <= limits.max_concurrency, "limits.start_concurrency", || {
        format!("{} is over limits.max_concurrency = {}", limits.start_concurrency, limits.max_concurrency)
    });
    let factor = limits.slowdown_factor;
    check(faults, factor == 0 || (2..=100).contains(&factor), "limits.slowdown_factor", || {
        format!("{factor} is neither 0 nor between 2 and 100")
    });
}

fn breaker(settings: &Settings, faults: &mut Vec<Fault>) {
    let breaker = &settings.breaker;
    check(faults, breaker.failure_percent <= 100, "breaker.failure_percent", || {
        format!("{} is over 100", breaker.failure_percent)
    });
    check(faults, (1..=100_000).contains(&breaker.least_calls), "breaker.least_calls", || {
        format!("{} is not between 1 and 100000", breaker.least_calls)
    });
    check(faults, (1..=3_600).contains(&breaker.window_seconds), "breaker.window_seconds", || {
        format!("{} is not between 1 and 3600", breaker.window_seconds)
    });
    check(faults, (1..=breaker.longest_open_seconds).contains(&breaker.open_seconds), "breaker.open_seconds", || {
        format!(
            "{} is not between 1 and breaker.longest_open_seconds = {}",
            breaker.open_seconds, breaker.longest_open_seconds
        )
    });
    check(faults, breaker.longest_open_seconds <= 3_600, "breaker.longest_open_seconds", || {
        format!("{} is over 3600", breaker.longest_open_seconds)
    });
    check(faults, (1..=100).contains(&breaker.trials), "breaker.trials", || {
        format!("{} is not between 1 and 100", breaker.trials)
    });
}
