//! Jobs and events as JSON for programs: stable snake_case keys, money as integer micro-dollars, times as RFC 3339.
//!
//! What is printed here is an interface: keys are only ever added.

use serde_json::{Map, Value, json};

use super::jobs::JobView;
use crate::backend::{Balance, Entry};
use crate::clock::Timestamp;
use crate::job::{Counts, Task};
use crate::protocol::RecordedEvent;

/// Keys of event fields that hold money, and what they are called here.
const MONEY: [(&str, &str); 8] = [
    ("budget", "budget_micro_usd"),
    ("cost", "cost_micro_usd"),
    ("spent", "spent_micro_usd"),
    ("limit", "limit_micro_usd"),
    ("estimate", "estimate_micro_usd"),
    ("needed", "needed_micro_usd"),
    ("reserved", "reserved_micro_usd"),
    ("charged", "charged_micro_usd"),
];

/// Keys of event fields that hold an instant.
const INSTANTS: [&str; 2] = ["at", "retry_at"];

/// The short form, for lists.
pub(super) fn brief(view: &JobView, updated_at: Timestamp) -> Value {
    let job = &view.watched.job;
    let submission = job.submission();
    let (spent, reserved) = (view.balance.spent, view.balance.reserved);
    json!({
        "job": job.id(),
        "name": submission.map(|submission| &submission.name),
        "status": job.status().as_str(),
        "active": view.active,
        "files": files(job.totals().files),
        "spent_micro_usd": spent,
        "reserved_micro_usd": reserved,
        "budget_micro_usd": view.balance.limit,
        "frozen": view.balance.frozen,
        "output": submission.and_then(|submission| submission.settings.output()),
        "submitted_at": job.submitted_at().to_string(),
        "updated_at": updated_at.to_string(),
        "ended_at": job.end().map(|(_, _, at)| at.to_string()),
        "reason": job.end().map(|(_, reason, _)| reason).or_else(|| job.pause_reason()),
    })
}

/// Everything that is known about a job.
pub(super) fn whole(view: &JobView, updated_at: Timestamp) -> Value {
    let job = &view.watched.job;
    let features = job.features().map(|feature| {
        json!({
            "id": feature.spec.id,
            "name": feature.spec.name,
            "priority": feature.spec.priority,
            "depends_on": feature.spec.depends_on,
            "planning": feature.planning.as_str(),
            "files": files(feature.counts),
            "committed": feature.committed,
        })
    });
    let features: Vec<Value> = features.collect();
    let running: Vec<Value> = job.in_flight().map(task).collect();
    let mut value = brief(view, updated_at);
    let more = json!({
        "origin": view.watched.origin(),
        "git": job.submission().map(|submission| submission.settings.git),
        "tasks": counts(job.totals().all),
        "features": features,
        "running": running,
        "usage": job.usage(),
        "active_ms": view.watched.active_ms(),
        "sequential_ms": job.sequential_duration_ms(),
        "critical_path": job.critical_path().0,
        "warnings": job.warnings(),
    });
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
}

fn task(task: &Task) -> Value {
    json!({
        "task": task.id,
        "path": task.path(),
        "agent": task.agent,
        "attempt": task.attempt,
        "dispatched_at": task.dispatched_at.map(|at| at.to_string()),
    })
}

fn files(counts: Counts) -> Value {
    json!({"planned": counts.total, "finished": counts.succeeded, "dead": counts.dead, "skipped": counts.skipped})
}

fn counts(counts: Counts) -> Value {
    json!({
        "total": counts.total,
        "succeeded": counts.succeeded,
        "dead": counts.dead,
        "skipped": counts.skipped,
        "running": counts.running,
    })
}

/// A balance.
pub(super) fn balance(balance: &Balance) -> Value {
    json!({
        "limit_micro_usd": balance.limit,
        "spent_micro_usd": balance.spent,
        "reserved_micro_usd": balance.reserved,
        "hold_back_micro_usd": balance.hold_back,
        "available_micro_usd": balance.available(),
        "frozen": balance.frozen,
    })
}

/// A balance of a scope that counts tokens.
pub(super) fn tokens(balance: &Balance) -> Value {
    json!({
        "limit_tokens": balance.limit,
        "spent_tokens": balance.spent,
        "reserved_tokens": balance.reserved,
        "available_tokens": balance.available(),
        "frozen": balance.frozen,
    })
}

/// A line of the ledger.
pub(super) fn entry(entry: &Entry) -> Value {
    json!({
        "id": entry.id,
        "at": entry.at.to_string(),
        "kind": entry.kind,
        "reservation": entry.reservation,
        "job": entry.job,
        "task": entry.task,
        "agent": entry.agent,
        "model": entry.model,
        "reserved_micro_usd": entry.reserved,
        "charged_micro_usd": entry.charged,
        "usage": entry.usage,
        "note": entry.note,
    })
}

/// An event.
pub(super) fn event(recorded: &RecordedEvent) -> Value {
    // An event is plain data; it always has a JSON form.
    let mut value = serde_json::to_value(recorded).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        rename(fields);
        if let Some(Value::Object(failure)) = fields.get_mut("failure") {
            rename(failure);
        }
    }
    value
}

fn rename(fields: &mut Map<String, Value>) {
    for (from, to) in MONEY {
        if let Some(amount) = fields.remove(from) {
            fields.insert(to.to_owned(), amount);
        }
    }
    for key in INSTANTS {
        if let Some(at) = fields.get_mut(key)
            && let Some(milliseconds) = at.as_i64()
        {
            *at = Value::String(Timestamp(milliseconds).to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Event, MicroUsd};

    #[test]
    fn events_name_the_unit_of_money_and_print_times_for_people() {
        let changed = Event::BudgetChanged { limit: MicroUsd(5) };
        let value = event(&RecordedEvent { seq: 3, at: Timestamp(0), event: changed });
        let wanted =
            json!({"seq": 3, "at": "1970-01-01T00:00:00.000Z", "event": "budget-changed", "limit_micro_usd": 5});
        assert_eq!(value, wanted);
    }
}
