//! Checks of the whole configuration: every fault at once, dangerous combinations included.
//!
//! Faults are gathered instead of returned one by one, because a person fixes a file once, not ten times. Each names key,
//! value and what would be right. No room behind this one has to check a setting again.

use super::settings::Settings;
use crate::protocol::{AgentType, MicroUsd};

/// One thing that is wrong: key, value and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Dotted key.
    pub key: String,
    /// What is wrong and what would be right.
    pub why: String,
}

pub(super) fn check(faults: &mut Vec<Fault>, holds: bool, key: &str, why: impl FnOnce() -> String) {
    if !holds {
        faults.push(Fault { key: key.to_owned(), why: why() });
    }
}

/// All faults of `settings`; empty when it can be used.
pub(super) fn faults(settings: &Settings) -> Vec<Fault> {
    let mut faults = Vec::new();
    job(settings, &mut faults);
    budget(settings, &mut faults);
    llm(settings, &mut faults);
    roles(settings, &mut faults);
    let concurrency = settings.fleet.concurrency;
    check(&mut faults, (1..=1000).contains(&concurrency), "fleet.concurrency", || {
        format!("{concurrency} is not between 1 and 1000")
    });
    let prefetch = settings.fleet.prefetch_percent;
    check(&mut faults, prefetch <= 100, "fleet.prefetch_percent", || format!("{prefetch} is over 100"));
    super::validate_limits::faults(settings, &mut faults);
    super::validate_stores::faults(settings, &mut faults);
    faults
}

fn job(settings: &Settings, faults: &mut Vec<Fault>) {
    let job = &settings.job;
    if let Err(error) = job.budget_usd.parse::<MicroUsd>() {
        faults.push(Fault { key: "job.budget_usd".into(), why: error.to_string() });
    }
    for (low, high, name) in [
        (job.min_features, job.max_features, "features"),
        (job.min_tasks_per_feature, job.max_tasks_per_feature, "tasks_per_feature"),
    ] {
        check(faults, low >= 1 && low <= high && high <= 10_000, &format!("job.max_{name}"), || {
            format!("the range {low} to {high} is not within 1 to 10000")
        });
    }
    check(faults, (1..=20).contains(&job.max_attempts), "job.max_attempts", || {
        format!("{} is not between 1 and 20", job.max_attempts)
    });
    check(faults, job.retry_first_delay_ms <= job.retry_longest_delay_ms, "job.retry_first_delay_ms", || {
        format!("{} is over job.retry_longest_delay_ms = {}", job.retry_first_delay_ms, job.retry_longest_delay_ms)
    });
    check(faults, (1..=8 << 20).contains(&job.max_proposal_bytes), "job.max_proposal_bytes", || {
        format!("{} is not between 1 and 8388608", job.max_proposal_bytes)
    });
    check(faults, (1..=settings.llm.max_reply_bytes).contains(&job.max_file_bytes), "job.max_file_bytes", || {
        format!("{} is over llm.max_reply_bytes = {}", job.max_file_bytes, settings.llm.max_reply_bytes)
    });
}

fn budget(settings: &Settings, faults: &mut Vec<Fault>) {
    let budget = &settings.budget;
    check(faults, (1..=100).contains(&budget.warn_percent), "budget.warn_percent", || {
        format!("{} is not between 1 and 100", budget.warn_percent)
    });
    check(faults, budget.hold_back_percent <= 90, "budget.hold_back_percent", || {
        format!("{} is over 90", budget.hold_back_percent)
    });
    if !budget.account_limit_usd.is_empty()
        && let Err(error) = budget.account_limit_usd.parse::<MicroUsd>()
    {
        faults.push(Fault { key: "budget.account_limit_usd".into(), why: error.to_string() });
    }
}

fn llm(settings: &Settings, faults: &mut Vec<Fault>) {
    let llm = &settings.llm;
    check(faults, llm.provider == "anthropic", "llm.provider", || {
        format!("{:?} is not known; use \"anthropic\"", llm.provider)
    });
    let url = llm.base_url.as_str();
    check(faults, url.starts_with("https://") || url.starts_with("http://"), "llm.base_url", || {
        format!("{url:?} does not start with http:// or https://")
    });
    let credentials = url.split("://").nth(1).unwrap_or("").split('/').next().unwrap_or("").contains('@');
    check(faults, !credentials, "llm.base_url", || "it holds a user name or password; use ANTHROPIC_API_KEY".into());
    check(faults, is_effort(&llm.effort), "llm.effort", || format!("{:?} is not low, medium or high", llm.effort));
    check(faults, (256..=128_000).contains(&llm.max_output_tokens), "llm.max_output_tokens", || {
        format!("{} is not between 256 and 128000", llm.max_output_tokens)
    });
    check(faults, (1..=10).contains(&llm.attempts), "llm.attempts", || {
        format!("{} is not between 1 and 10", llm.attempts)
    });
    check(faults, llm.retry_first_delay_ms <= llm.retry_longest_delay_ms, "llm.retry_first_delay_ms", || {
        format!("{} is over llm.retry_longest_delay_ms = {}", llm.retry_first_delay_ms, llm.retry_longest_delay_ms)
    });
    // Between two attempts the task is held and its lease renewed: a longer wait belongs to the queue.
    check(faults, llm.retry_longest_delay_ms <= 600_000, "llm.retry_longest_delay_ms", || {
        format!("{} is over 600000", llm.retry_longest_delay_ms)
    });
    check(faults, llm.longest_wait_seconds <= 600, "llm.longest_wait_seconds", || {
        format!("{} is over 600", llm.longest_wait_seconds)
    });
    check(faults, (1..=3600).contains(&llm.total_timeout_seconds), "llm.total_timeout_seconds", || {
        format!("{} is not between 1 and 3600", llm.total_timeout_seconds)
    });
    // A gap longer than the whole call would never be noticed as a gap.
    check(
        faults,
        (1..=llm.total_timeout_seconds).contains(&llm.idle_timeout_seconds),
        "llm.idle_timeout_seconds",
        || {
            format!(
                "{} is not between 1 and llm.total_timeout_seconds = {}",
                llm.idle_timeout_seconds, llm.total_timeout_seconds
            )
        },
    );
    check(faults, (1..=60).contains(&llm.connect_timeout_seconds), "llm.connect_timeout_seconds", || {
        format!("{} is not between 1 and 60", llm.connect_timeout_seconds)
    });
    check(faults, (1024..=32 << 20).contains(&llm.max_reply_bytes), "llm.max_reply_bytes", || {
        format!("{} is not between 1024 and 33554432", llm.max_reply_bytes)
    });
    check(faults, (4096..=16 << 20).contains(&llm.max_context_bytes), "llm.max_context_bytes", || {
        format!("{} is not between 4096 and 16777216", llm.max_context_bytes)
    });
}

fn roles(settings: &Settings, faults: &mut Vec<Fault>) {
    for (name, role) in &settings.roles {
        let key = format!("roles.{name}");
        match AgentType::new(name) {
            Err(error) => faults.push(Fault { key: key.clone(), why: error.to_string() }),
            Ok(agent) => {
                let known = AgentType::builtin().contains(&agent);
                check(faults, known || role.prompt_file.is_some(), &key, || {
                    "an agent type of your own needs a prompt_file".into()
                });
            }
        }
        check(faults, role.effort.as_deref().is_none_or(is_effort), &format!("{key}.effort"), || {
            "use low, medium or high".into()
        });
        check(
            faults,
            role.max_output_tokens.is_none_or(|n| (256..=128_000).contains(&n)),
            &format!("{key}.max_output_tokens"),
            || "use 256 to 128000".into(),
        );
    }
}

fn is_effort(text: &str) -> bool {
    matches!(text, "low" | "medium" | "high")
}
