//! Checks of the whole configuration: every fault at once, dangerous combinations included.
//!
//! Faults are gathered instead of returned one by one, because a person fixes a file once, not ten times. Each names key,
//! value and what would be right. No room behind this one has to check a setting again.

use super::settings::Settings;
use crate::protocol::MicroUsd;

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
    super::validate_llm::faults(settings, &mut faults);
    let concurrency = settings.fleet.concurrency;
    check(&mut faults, (1..=1000).contains(&concurrency), "fleet.concurrency", || {
        format!("{concurrency} is not between 1 and 1000")
    });
    let prefetch = settings.fleet.prefetch_percent;
    check(&mut faults, prefetch <= 100, "fleet.prefetch_percent", || format!("{prefetch} is over 100"));
    let drain = settings.fleet.drain_seconds;
    check(&mut faults, drain <= 86_400, "fleet.drain_seconds", || format!("{drain} is over 86400"));
    super::validate_limits::faults(settings, &mut faults);
    super::validate_stores::faults(settings, &mut faults);
    faults
}

/// Largest ceiling in tokens; no fleet gets there.
const MOST_TOKENS: u64 = 1_000_000_000_000_000;

fn job(settings: &Settings, faults: &mut Vec<Fault>) {
    let job = &settings.job;
    let why = match job.budget_usd.parse::<MicroUsd>() {
        Ok(MicroUsd::ZERO) => Some(format!("{:?} allows no call at all; give US dollars above zero", job.budget_usd)),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    };
    faults.extend(why.map(|why| Fault { key: "job.budget_usd".into(), why }));
    check(faults, job.free_tokens <= MOST_TOKENS, "job.free_tokens", || {
        format!("{} is over {MOST_TOKENS}", job.free_tokens)
    });
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
    for (key, limit) in [
        ("budget.account_limit_usd", &budget.account_limit_usd),
        ("budget.account_day_limit_usd", &budget.account_day_limit_usd),
        ("budget.account_month_limit_usd", &budget.account_month_limit_usd),
    ] {
        if !limit.is_empty()
            && let Err(error) = limit.parse::<MicroUsd>()
        {
            faults.push(Fault { key: key.into(), why: error.to_string() });
        }
    }
    check(faults, budget.account_free_tokens <= MOST_TOKENS, "budget.account_free_tokens", || {
        format!("{} is over {MOST_TOKENS}", budget.account_free_tokens)
    });
    for (key, percent) in [
        ("budget.cheaper_model_percent", budget.cheaper_model_percent),
        ("budget.drop_optional_percent", budget.drop_optional_percent),
        ("budget.pause_percent", budget.pause_percent),
    ] {
        check(faults, percent <= 100, key, || format!("{percent} is over 100"));
    }
}
