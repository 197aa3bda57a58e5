//! From settings to guards: what stands between a worker and its providers.
//!
//! One place where `[limits]` and `[breaker]` become objects, so that every process of a fleet keeps to the same numbers;
//! the guards of different processes meet in the stores. Recorded replies have guards of their own: what a live provider
//! refused says nothing about them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::providers::PLAIN;
use crate::backend::{Backend, GatePolicy, Limits};
use crate::config::Settings;
use crate::llm::{Guards, REPLAY};
use crate::resilience::{AimdPolicy, Breaker, Bulkhead, FleetRates};

/// How long a trial whose process died keeps others from making one; whoever lives renews it while the call lasts.
const TRIAL_LEASE: Duration = Duration::from_secs(30);

/// The policies of all guards.
#[derive(Debug, Clone)]
pub(super) struct GuardPlan {
    provider: String,
    gate: GatePolicy,
    limits: Limits,
    /// Limits of providers and of single models that have their own.
    own: HashMap<String, Limits>,
    places: AimdPolicy,
    bulkhead: Bulkhead,
    longest_wait: Duration,
    longest_pause: Duration,
}

impl GuardPlan {
    /// The policies that `settings` ask for.
    pub(super) fn of(settings: &Settings, is_replay: bool) -> Self {
        let (limits, breaker, llm) = (&settings.limits, &settings.breaker, &settings.llm);
        let seconds = Duration::from_secs;
        let named = |limit: u64| (limit > 0).then_some(limit);
        let usual = Limits {
            per_window: [
                named(limits.requests_per_window),
                named(limits.input_tokens_per_window),
                named(limits.output_tokens_per_window),
            ],
            window: seconds(limits.window_seconds),
            burst_percent: limits.burst_percent,
            sliding: limits.sliding_window,
        };
        Self {
            provider: if is_replay { REPLAY.into() } else { PLAIN.into() },
            gate: GatePolicy {
                consecutive: breaker.consecutive_failures,
                ratio_percent: breaker.failure_percent,
                least_calls: breaker.least_calls,
                window: seconds(breaker.window_seconds),
                open: seconds(breaker.open_seconds),
                longest_open: seconds(breaker.longest_open_seconds),
                trials: breaker.trials,
                trial_lease: TRIAL_LEASE,
            },
            // What live providers allow says nothing about recorded replies.
            own: if is_replay { HashMap::new() } else { own_limits(settings, usual) },
            limits: usual,
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
            longest_pause: seconds(settings.job.longest_parking_seconds),
        }
    }

    /// Guards that share their state through `backend`.
    pub(super) fn guards(&self, backend: &Backend) -> Guards {
        Guards::new(
            &self.provider,
            Breaker::new(Arc::clone(&backend.rates), self.gate),
            FleetRates::new(Arc::clone(&backend.rates), self.limits).with_own(self.own.clone()),
            self.places,
            self.bulkhead,
            self.longest_wait,
        )
        .pausing_at_most(self.longest_pause)
    }
}

/// Limits by provider, and by provider and model: what is not said of a model is as for its provider, and what is not said of
/// that as for all.
fn own_limits(settings: &Settings, usual: Limits) -> HashMap<String, Limits> {
    let over = |base: Limits, own: [Option<u64>; 3]| {
        let mut per_window = base.per_window;
        for (limit, own) in per_window.iter_mut().zip(own) {
            *limit = own.map_or(*limit, |own| (own > 0).then_some(own));
        }
        Limits { per_window, ..base }
    };
    let mut limits = HashMap::new();
    for (name, provider) in &settings.providers {
        let each = over(usual, provider.per_window());
        limits.insert(name.clone(), each);
        for model in &provider.models {
            limits.insert(format!("{name}/{}", model.name), over(each, model.per_window()));
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Layers};

    #[test]
    fn what_is_not_said_of_a_model_is_as_for_its_provider_and_then_as_for_all() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("codeswarm.toml");
        let text = "[limits]\nrequests_per_window = 100\noutput_tokens_per_window = 9\n\
                    [providers.openai]\nrequests_per_window = 50\noutput_tokens_per_window = 0\n\
                    models = [{ name = \"gpt-6.1-sol\", input_tokens_per_window = 7 }]\n";
        std::fs::write(&file, text).unwrap();
        let environment = Environment::from_map(std::collections::BTreeMap::new());
        let settings = Layers { file: Some(file), environment, flags: Vec::new() }.load().unwrap().settings;
        let plan = GuardPlan::of(&settings, false);
        let told = |key: &str| plan.own.get(key).map(|limits| limits.per_window);
        assert_eq!(plan.limits.per_window, [Some(100), None, Some(9)]);
        assert_eq!(told("openai"), Some([Some(50), None, None]));
        assert_eq!(told("openai/gpt-6.1-sol"), Some([Some(50), Some(7), None]));
        assert_eq!(told("anthropic"), None);
    }
}
