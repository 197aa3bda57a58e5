//! `codeswarm status`: one job at a glance.
//!
//! It shows the fold of the log and the ledger's balance as of one moment, and says what a person can do next.

use super::args::{Common, JobArgs};
use super::jobs::{self, JobView};
use super::screen::Screen;
use super::story::first_line;
use super::table::{Fit, Table, facts, hang};
use super::words::{ago, clock, files_are, instant, money};
use super::{Exit, Failure, json as values, opened, pause};
use crate::clock::Timestamp;
use crate::job::{FeatureRollup, JobStatus, TaskStatus};
use crate::protocol::{JobOutcome, Origin};

/// Most running tasks that are listed one by one.
const MAX_RUNNING: usize = 20;

pub(super) async fn run(screen: &Screen, common: &Common, args: JobArgs) -> Result<Exit, Failure> {
    let (backend, _) = opened::open_existing(common, "status").await?;
    let entry = jobs::find(&backend, args.job.as_deref()).await?;
    let view = JobView::load(&backend, &entry.job).await?;
    if args.output.json {
        screen.result(&values::whole(&view, entry.updated_at).to_string());
    } else {
        screen.result(&text(screen, &view, backend.clock.now()));
    }
    Ok(Exit::Done)
}

fn text(screen: &Screen, view: &JobView, now: Timestamp) -> String {
    let head = screen.bold(&format!("Job {} {}", view.watched.job.id(), view.state()));
    let mut parts = vec![format!("{head}\n{}", facts(&overview(view, now), screen.width))];
    let features = features(view);
    if !features.is_empty() {
        parts.push(features.render(screen.width));
    }
    let running = running(view, now);
    if !running.is_empty() {
        parts.push(running.render(screen.width));
    }
    let warnings: Vec<String> = view.watched.job.warnings();
    if !warnings.is_empty() {
        let lines = warnings.iter().map(|warning| format!("warning: {}", hang(&first_line(warning), 9, screen.width)));
        parts.push(lines.collect::<Vec<_>>().join("\n"));
    }
    if let Some(next) = next_step(view) {
        parts.push(format!("next: {}", hang(&next, 6, screen.width)));
    }
    parts.join("\n\n")
}

fn overview(view: &JobView, now: Timestamp) -> Vec<(&'static str, String)> {
    let (watched, balance) = (&view.watched, &view.balance);
    let job = &watched.job;
    let mut pairs = Vec::new();
    if let Some(submission) = job.submission() {
        pairs.push(("name", submission.name.clone()));
        pairs.push(("output", files_are(&submission.settings, job.id())));
    }
    let files = job.totals().files;
    let planned =
        if files.total == 0 { "none planned yet".into() } else { format!("{} of {}", files.succeeded, files.total) };
    pairs.push(("files", planned));
    let limit = balance.limit.unwrap_or(watched.limit());
    let mut cost = format!("{} of {limit}", money(balance.spent));
    if balance.reserved.0 > 0 {
        cost.push_str(&format!(", {} reserved for running calls", money(balance.reserved)));
    }
    if balance.frozen {
        cost.push_str(", frozen");
    }
    pairs.push(("cost", cost));
    pairs.push(("started", format!("{} ({})", instant(job.submitted_at()), ago(job.submitted_at(), now))));
    pairs.push(("worked", clock(std::time::Duration::from_millis(watched.active_ms()))));
    if let Some((outcome, reason, at)) = job.end() {
        pairs.push(("ended", format!("{} ({})", instant(at), ago(at, now))));
        if outcome != JobOutcome::Completed {
            pairs.push(("reason", reason.to_owned()));
        }
    }
    pairs.extend(job.pause_reason().map(|reason| ("reason", reason.to_owned())));
    if let Some(Origin::Replay { path }) = watched.origin() {
        pairs.push(("replies", format!("recorded, not from a live model ({path})")));
    }
    pairs
}

fn features(view: &JobView) -> Table {
    let mut table = Table::new(&[("feature", Fit::Shrink), ("files", Fit::Right), ("state", Fit::Shrink)]);
    for feature in view.watched.job.features() {
        let files = format!("{}/{}", feature.counts.succeeded, feature.counts.total);
        table.row([feature.spec.id.to_string(), files, feature_state(&feature, view.active)]);
    }
    table
}

fn feature_state(feature: &FeatureRollup<'_>, active: bool) -> String {
    let counts = feature.counts;
    let gone = counts.dead + counts.skipped;
    let mut notes = Vec::new();
    if counts.running > 0 {
        notes.push(format!("{} {}", counts.running, if active { "running" } else { "interrupted" }));
    }
    if gone > 0 {
        notes.push(format!("{gone} given up"));
    }
    match feature.committed {
        Some(commit) if commit.complete => notes.push("written".into()),
        Some(_) => notes.push("partly written".into()),
        None if notes.is_empty() => notes.push(
            match feature.planning {
                TaskStatus::Succeeded if counts.succeeded > 0 => "in work",
                TaskStatus::Succeeded => "planned",
                TaskStatus::Dispatched { .. } if active => "being planned",
                TaskStatus::Dead | TaskStatus::Skipped => "not planned: given up",
                _ => "waiting",
            }
            .into(),
        ),
        None => {}
    }
    notes.join(", ")
}

fn running(view: &JobView, now: Timestamp) -> Table {
    let mut table =
        Table::new(&[("running", Fit::Shrink), ("agent", Fit::Shrink), ("attempt", Fit::Right), ("for", Fit::Right)]);
    let tasks = view.watched.job.in_flight().filter(|_| view.active);
    for task in tasks.take(MAX_RUNNING) {
        let what = task.path().unwrap_or(task.id.as_str()).to_owned();
        let since = task.dispatched_at.map(|at| clock(now.since(at))).unwrap_or_default();
        table.row([what, task.agent.to_string(), task.attempt.to_string(), since]);
    }
    let more = view.watched.job.in_flight().len().saturating_sub(MAX_RUNNING);
    if view.active && more > 0 {
        table.row([format!("and {more} more"), String::new(), String::new(), String::new()]);
    }
    table
}

/// What a person may want to do next, if anything.
fn next_step(view: &JobView) -> Option<String> {
    let id = view.watched.job.id();
    match view.watched.job.status() {
        JobStatus::Ended(JobOutcome::Completed) => None,
        JobStatus::Ended(JobOutcome::BudgetExhausted) => Some(jobs::after_exhaustion(&view.watched)),
        JobStatus::Ended(JobOutcome::CompletedWithWarnings) => {
            let dead = view.watched.job.tasks().iter().find(|task| task.status == TaskStatus::Dead)?;
            Some(format!("codeswarm retry {id} {}, then codeswarm resume {id}", dead.id))
        }
        JobStatus::Paused if view.watched.job.pause_reason().is_some() => Some(pause::remedy(id)),
        JobStatus::AwaitingApproval => Some(format!("codeswarm approve {id}, or codeswarm cancel {id}")),
        _ if view.active && view.watched.job.status() != JobStatus::Paused => Some(format!("codeswarm watch {id}")),
        _ => Some(format!("codeswarm resume {id}")),
    }
}
