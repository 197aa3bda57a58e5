//! A job's events as sentences, for plain lines and for `codeswarm events`.
//!
//! Each sentence is told about the job as it was right after that event, so that counters in consecutive lines count.

use super::live::Watched;
use super::pause;
use super::words::{money, scope, seconds};
use crate::protocol::{Event, FailureKind, JobOutcome, RecordedEvent, TaskFailure, TaskKind};

/// Longest message of a failure that is repeated in a line, in characters.
const MAX_MESSAGE: usize = 300;

/// One line for an event that people want to see while it happens; `None` for the others.
pub(super) fn describe(watched: &Watched, recorded: &RecordedEvent) -> Option<String> {
    match &recorded.event {
        // The line about the planning task has just said it, or the summary is going to.
        Event::TaskDispatched { .. } | Event::FeaturePlanned { .. } | Event::JobEnded { .. } => None,
        _ => Some(tell(watched, recorded)),
    }
}

/// One line for any event.
pub(super) fn tell(watched: &Watched, recorded: &RecordedEvent) -> String {
    match &recorded.event {
        Event::JobSubmitted { name, .. } => format!("submitted: {name}"),
        Event::TaskDispatched { task, attempt } => format!("dispatched {task}, attempt {attempt}"),
        Event::TaskSucceeded { .. }
        | Event::TaskFailed { .. }
        | Event::TaskDead { .. }
        | Event::TaskSkipped { .. }
        | Event::TaskRevived { .. } => task(watched, &recorded.event),
        Event::PlanAccepted { plan, .. } => {
            let files: usize = plan.features.iter().map(|feature| feature.files.len()).sum();
            format!("plan: {} features, {files} files: {}", plan.features.len(), plan.summary)
        }
        Event::FeaturePlanned { feature, plan } => format!("feature {feature}: {} tasks", plan.tasks.len()),
        Event::ApprovalRequested { estimate } => {
            format!("the plan waits for approval; the rest will cost about {}", money(*estimate))
        }
        Event::PlanApproved => "plan approved".into(),
        Event::FeatureCommitted { feature, files, complete, .. } => {
            let kind = if *complete { "complete" } else { "partial" };
            let noun = if *files == 1 { "file" } else { "files" };
            format!("wrote feature {feature}: {files} {noun} ({kind})")
        }
        Event::BudgetWarning { spent, limit } => {
            format!("warning: {} of the budget of {limit} is spent", money(*spent))
        }
        Event::BudgetOverrun { task, reserved, charged, .. } => format!(
            "alarm: a call of {task} cost {charged}, more than its worst case of {reserved}; spending is frozen and running calls \
             are cut off. Compare with the provider's bill, then `codeswarm budget thaw`"
        ),
        Event::BudgetChanged { limit } => format!("the budget is {limit} now"),
        Event::JobPaused { reason: None } => "paused".into(),
        Event::JobPaused { reason: Some(reason) } => format!("paused: {reason} ({})", pause::remedy(watched.job.id())),
        Event::JobResumed => "resumed".into(),
        Event::JobEnded { outcome, reason } => format!("ended: {} ({reason})", outcome_name(*outcome)),
    }
}

fn task(watched: &Watched, event: &Event) -> String {
    let job = &watched.job;
    match event {
        Event::TaskSucceeded { task: id, cost, duration_ms, .. } => {
            let Some(task) = job.task(id) else { return format!("finished {id}") };
            let files = job.totals().files;
            let took = format!("{}, {:.1} s, {}", money(*cost), seconds(*duration_ms), task.agent);
            match &task.kind {
                TaskKind::File { path, .. } => format!("[{}/{}] {path} ({took})", files.succeeded, files.total),
                TaskKind::FeaturePlan { feature, .. } => format!("planned feature {feature} ({took})"),
                TaskKind::Plan { .. } => format!("planned the job ({took})"),
            }
        }
        Event::TaskFailed { task, attempt, failure, retry_at, .. } => {
            let (code, message) = (&failure.code, scope(&first_line(&failure.message)));
            if failure.kind == FailureKind::Budget {
                // Without what to do about it: most of what is set aside comes back. The job's end says it, if it comes to that.
                let (lack, _) = message.split_once(" (").unwrap_or((&message, ""));
                let is_held = failure.needed.is_some() && job.in_flight().len() > 0;
                let held = if is_held { " that running calls may give back" } else { "" };
                return format!("{task} waits for money{held}: [{code}] {lack}");
            }
            let next = if retry_at.is_some() { "will be tried again" } else { "is not tried again for now" };
            format!("{task} attempt {attempt} failed, {next}: [{code}] {message}")
        }
        Event::TaskDead { task, reason } => format!("gave up on {task}: {}", first_line(reason)),
        Event::TaskSkipped { task, because } => format!("skipped {task}: it needs {because}"),
        Event::TaskRevived { task } => format!("{task} gets new attempts"),
        other => format!("{other:?}"),
    }
}

/// What of a refusal for want of money is worth a line once: what is lacking and in which scope, but not whose call it was.
pub(super) fn lack(failure: &TaskFailure) -> String {
    let scope = failure.message.split_once(" left in ").and_then(|(_, rest)| rest.split_once(", "));
    format!("{} {}", failure.code, scope.map_or("", |(scope, _)| scope))
}

/// An outcome in words.
pub(super) const fn outcome_name(outcome: JobOutcome) -> &'static str {
    match outcome {
        JobOutcome::Completed => "completed",
        JobOutcome::CompletedWithWarnings => "completed with warnings",
        JobOutcome::BudgetExhausted => "budget exhausted",
        JobOutcome::Failed => "failed",
        JobOutcome::Cancelled => "cancelled",
    }
}

pub(super) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(MAX_MESSAGE).collect()
}
