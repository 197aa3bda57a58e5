//! What the fleet knows about its providers: whose breaker is open, who asked for a pause, how much is left.
//!
//! Hints from the stores, as the last process to make a call left them; nobody is asked. A provider that is left alone is a
//! warning and no failure: tasks wait in their queues and go on by themselves.

use super::Finding;
use crate::backend::{Backend, BackendError, GateView, RateState};

/// One finding per provider and model in use.
pub(super) async fn findings(backend: &Backend) -> Result<Vec<Finding>, BackendError> {
    Ok(backend.rates.list().await?.iter().map(finding).collect())
}

fn finding(state: &RateState) -> Finding {
    let key = &state.key;
    match state.gate {
        GateView::Open { wait } => Finding::warning(
            "provider",
            format!("{key} has failed too often and is left alone for {} s more", wait.as_secs().max(1)),
            "nothing to do if the provider is down: it is tried again by itself; otherwise look at `codeswarm events`",
        ),
        GateView::HalfOpen { .. } | GateView::Trial => Finding::warning(
            "provider",
            format!("{key} has failed too often; the next calls show whether it has recovered"),
            "nothing to do: it is left alone or used again by itself",
        ),
        GateView::Closed { .. } if !state.paused.is_zero() => Finding::warning(
            "provider",
            format!("{key} has asked for a pause of {} s more", state.paused.as_secs().max(1)),
            "nothing to do; a lower limits.requests_per_window asks for less",
        ),
        GateView::Closed { .. } => Finding::good("provider", format!("{key}: {}", rest(state))),
    }
}

/// What is left of its limits.
fn rest(state: &RateState) -> String {
    let names = ["requests", "input tokens", "output tokens"];
    let known: Vec<String> = names
        .iter()
        .zip(state.meters)
        .filter_map(|(name, meter)| meter.map(|(limit, rest)| format!("{rest} of {limit} {name} left")))
        .collect();
    if known.is_empty() { "no limit is known".into() } else { known.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Level;
    use super::*;

    #[test]
    fn a_provider_that_is_left_alone_is_a_warning_and_says_for_how_long() {
        let state = |gate, paused| RateState {
            key: "anthropic/m".into(),
            meters: [Some((50, 7)), None, None],
            paused: Duration::from_secs(paused),
            gate,
        };
        let wait = Duration::from_secs(12);
        for (gate, paused, level) in [
            (GateView::Closed { clean: false }, 0, Level::Good),
            (GateView::Closed { clean: true }, 9, Level::Warning),
            (GateView::Open { wait }, 0, Level::Warning),
            (GateView::Trial, 0, Level::Warning),
        ] {
            assert_eq!(finding(&state(gate, paused)).level, level, "{gate:?}");
        }
        assert_eq!(rest(&state(GateView::Trial, 0)), "7 of 50 requests left");
    }
}
