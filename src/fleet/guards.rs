//! From settings to guards: what stands between a worker and its providers.
//!
//! One place where `[limits]` and `[breaker]` become objects, so that every process of a fleet keeps to the same numbers;
//! the guards of different processes meet in the stores. Recorded replies have guards of their own: what a live provider
//! refused says nothing about them.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Backend, GatePolicy, Limits};
use crate::config::Settings;
use crate::llm::Guards;
use crate::resilience::{AimdPolicy, Breaker, Bulkhead, FleetRates};

/// The policies of all guards.
#[derive(Debug, Clone)]
pub(super) struct GuardPlan {
    provider: String,
    gate: GatePolicy,
    limits: Limits,
    places: AimdPolicy,
    bulkhead: Bulkhead,
    longest_wait: Duration,
}

impl GuardPlan {
    /// The policies that `settings` ask for.
    pub(super) fn of(settings: &Settings, is_replay: bool) -> Self {
        let (limits, breaker, llm) = (&settings.limits, &settings.breaker, &settings.llm);
        let seconds = Duration::from_secs;
        let named = |limit: u64| (limit > 0).then_some(limit);
        Self {
            provider: if is_replay { "replay".into() } else { llm.provider.clone() },
            gate: GatePolicy {
                consecutive: breaker.consecutive_failures,
                ratio_percent: breaker.failure_percent,
                least_calls: breaker.least_calls,
                window: seconds(breaker.window_seconds),
                open: seconds(breaker.open_seconds),
                longest_open: seconds(breaker.longest_open_seconds),
                trials: breaker.trials,
                // A trial may take as long as any call; only one whose process died takes longer.
                trial_lease: seconds(llm.total_timeout_seconds + 60),
            },
            limits: Limits {
                per_window: [
                    named(limits.requests_per_window),
                    named(limits.input_tokens_per_window),
                    named(limits.output_tokens_per_window),
                ],
                window: seconds(limits.window_seconds),
                burst_percent: limits.burst_percent,
                sliding: limits.sliding_window,
            },
            places: AimdPolicy {
                start: match limits.start_concurrency {
                    0 => settings.fleet.concurrency,
                    start => start,
                },
                max: limits.max_concurrency,
                slowdown: limits.slowdown_factor,
            },
            bulkhead: Bulkhead { share_percent: limits.agent_share_percent },
            longest_wait: seconds(llm.longest_wait_seconds),
        }
    }

    /// Guards that share their state through `backend`.
    pub(super) fn guards(&self, backend: &Backend) -> Guards {
        Guards::new(
            &self.provider,
            Breaker::new(Arc::clone(&backend.rates), self.gate),
            FleetRates::new(Arc::clone(&backend.rates), self.limits),
            self.places,
            self.bulkhead,
            self.longest_wait,
        )
    }
}
