//! The collector behind [`crate::metric`]: counts in memory, printed as Prometheus text.
//!
//! Installed once per process and only when somebody can ask for the figures. Histograms have fixed buckets, so that the
//! figures of many processes can be added up.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::metric::{self, Kind};

/// Installs the collector of this process and answers the handle that prints it. One that is installed already stays, and
/// then this one shows nothing: that only happens in tests.
pub(super) fn install() -> PrometheusHandle {
    let recorder = build();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_ok() {
        describe();
    }
    handle
}

fn build() -> PrometheusRecorder {
    let mut builder = PrometheusBuilder::new();
    for (name, buckets) in [
        (metric::TASK_DURATION, &metric::LONG_BUCKETS[..]),
        (metric::LLM_CALL_DURATION, &metric::LONG_BUCKETS[..]),
        (metric::PICKUP, &metric::SHORT_BUCKETS[..]),
        (metric::LLM_ADMISSION, &metric::SHORT_BUCKETS[..]),
        (metric::LLM_RATE_WAIT, &metric::SHORT_BUCKETS[..]),
    ] {
        // Only an empty list of buckets is refused, and none of these is; without buckets it would be a summary.
        builder = builder
            .set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)
            .unwrap_or_else(|_| PrometheusBuilder::new());
    }
    builder.build_recorder()
}

/// Tells the collector what every metric means.
fn describe() {
    for (name, kind, help) in metric::ALL {
        match kind {
            Kind::Counter => metrics::describe_counter!(name, help),
            Kind::Gauge => metrics::describe_gauge!(name, help),
            Kind::Histogram => metrics::describe_histogram!(name, help),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn everything_that_is_measured_is_described_and_printed_with_its_labels() {
        let recorder = build();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            metric::queue_depth("backend", "low", 3, 1);
            metric::dead_letters(2);
            metric::picked_up("backend", Duration::from_millis(3));
            let running = metric::RunningTask::start("backend");
            metric::task_ended("backend", "succeeded", Duration::from_secs(3));
            metric::model_called("m", "ok", Duration::from_secs(1), [("input", 5), ("output", 7), ("a", 0), ("b", 0)]);
            metric::attempt_ended("k", "answered");
            metric::call_retried("m");
            metric::input_counted("m", "smaller");
            metric::admitted(Duration::from_millis(3), Some("rates"));
            metric::permits("k", 10, 4, 2);
            metric::breaker_seen("k", 2, true);
            metric::rate_waited("k", Duration::from_millis(3));
            metric::rate_taken("k");
            metric::nats_connection("disconnected");
            metric::nats_given_back();
            metric::account(Some(5_000_000), 1_500_000, 250_000, false);
            metric::leads(true);
            metric::jobs("running", 2);
            metric::active_agents("backend", 4);
            metric::store_failed("NATS");
            metric::store_up("state", true);
            metric::process_started(crate::clock::Timestamp(1_500));
            drop(running);
        });
        let text = handle.render();
        for line in [
            "codeswarm_queue_depth{agent_type=\"backend\",priority=\"low\",state=\"waiting\"} 3",
            "codeswarm_dead_letters 2",
            "codeswarm_pickup_seconds_bucket{agent_type=\"backend\",le=\"0.005\"} 1",
            "codeswarm_tasks_running{agent_type=\"backend\"} 0",
            "codeswarm_tasks_total{agent_type=\"backend\",outcome=\"succeeded\"} 1",
            "codeswarm_task_duration_seconds_bucket{agent_type=\"backend\",le=\"5\"} 1",
            "codeswarm_llm_calls_total{model=\"m\",outcome=\"ok\"} 1",
            "codeswarm_llm_tokens_total{model=\"m\",kind=\"output\"} 7",
            "codeswarm_budget_spent_usd{scope=\"account\"} 1.5",
            "codeswarm_llm_admission_seconds_bucket{le=\"0.005\"} 1",
            "codeswarm_llm_parked_total{guard=\"rates\"} 1",
            "codeswarm_llm_permits_waiting{key=\"k\"} 2",
            "codeswarm_llm_breaker_seen_open_total{key=\"k\"} 1",
            "codeswarm_nats_connection_events_total{event=\"disconnected\"} 1",
            "codeswarm_leader 1",
            "codeswarm_store_errors_total{store=\"NATS\"} 1",
            "codeswarm_process_start_time_seconds 1.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        for (name, _, help) in metric::ALL {
            assert!(name.starts_with("codeswarm_"));
            assert!(text.contains(&format!("# HELP {name} {help}")), "{name} is not described in\n{text}");
        }
        assert!(!text.contains("kind=\"a\""), "kinds without tokens are left out");
    }
}
