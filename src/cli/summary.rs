//! What a job came to: files, money, time, and what is missing.
//!
//! Costs come from the ledger, which knows of calls that never reported; the rest is the fold of the log.

use serde_json::json;

use super::live::Watched;
use super::screen::Screen;
use super::story::outcome_name;
use super::table::facts;
use super::words::{files_are, money, seconds};
use super::{Exit, Failure, jobs, pause};
use crate::backend::{Backend, Balance, Scope};
use crate::job::{JobStatus, TaskStatus};
use crate::protocol::Origin;

/// Most missing files that are named; `--json` names them all.
const MOST_NAMES: usize = 12;

/// The end of a job, or of a run that was interrupted.
pub(super) struct Summary<'a> {
    watched: &'a Watched,
    balance: Balance,
}

impl<'a> Summary<'a> {
    pub(super) async fn of(watched: &'a Watched, backend: &Backend) -> Result<Self, Failure> {
        let balance = backend.ledger.balance(&Scope::Job(watched.job.id().clone())).await?;
        Ok(Self { watched, balance })
    }

    /// The process's exit code.
    pub(super) fn exit(&self) -> Exit {
        match self.watched.job.status() {
            JobStatus::Ended(outcome) => outcome.into(),
            _ if self.watched.job.pause_reason().is_some() => Exit::BudgetExhausted,
            _ => Exit::Cancelled,
        }
    }

    pub(super) fn show(&self, screen: &Screen, as_json: bool) {
        if as_json {
            screen.result(&self.json().to_string());
        } else {
            screen.result(&self.text(screen));
        }
    }

    fn files(&self) -> (u32, u32) {
        let files = self.watched.job.totals().files;
        (files.succeeded, files.total)
    }

    /// Time the calls would have taken one after the other, and the time they took, in milliseconds.
    fn times_ms(&self) -> (u64, u64) {
        let job = &self.watched.job;
        (job.sequential_duration_ms(), self.watched.active_ms())
    }

    fn headline(&self) -> (&'static str, String) {
        match self.watched.job.status() {
            JobStatus::Ended(outcome) => (
                outcome_name(outcome),
                self.watched.job.end().map(|(_, reason, _)| reason.to_owned()).unwrap_or_default(),
            ),
            JobStatus::Paused if self.watched.job.pause_reason().is_some() => {
                ("paused", self.watched.job.pause_reason().unwrap_or_default().to_owned())
            }
            JobStatus::AwaitingApproval => {
                ("waiting for approval", "nothing more is paid before the plan is accepted".into())
            }
            _ => {
                ("interrupted", "it goes on where it stopped once it is resumed; nothing that was paid is lost".into())
            }
        }
    }

    fn text(&self, screen: &Screen) -> String {
        let job = &self.watched.job;
        let (name, reason) = self.headline();
        let (done, all) = self.files();
        let mut pairs: Vec<(&str, String)> = Vec::new();
        if !reason.is_empty() && name != "completed" {
            pairs.push(("reason", reason));
        }
        if let Some(submitted) = job.submission() {
            let planned = if all == 0 { "none planned yet".into() } else { format!("{done} of {all}") };
            pairs.push(("files", format!("{planned}, in {}", files_are(&submitted.settings, job.id()))));
        }
        let limit = self.balance.limit.unwrap_or(self.watched.limit());
        pairs.push(("cost", format!("{} of {limit}", money(self.balance.spent))));
        pairs.extend(self.time().map(|time| ("time", time)));
        let (path, _) = job.critical_path();
        if path.len() > 1 {
            let name = |id| job.task(id).and_then(|task| task.path()).unwrap_or(id.as_str()).to_owned();
            pairs.push(("critical path", path.iter().map(name).collect::<Vec<_>>().join(" > ")));
        }
        pairs.extend(listed(&self.missing()).map(|missing| ("missing", missing)));
        pairs.extend(job.warnings().into_iter().map(|warning| ("warning", warning)));
        if let Some(Origin::Replay { path }) = self.watched.origin() {
            let what = "recorded, not from a live model; the cost is what these calls would have cost";
            pairs.push(("replies", format!("{what} ({path})")));
        }
        if !matches!(self.exit(), Exit::Done | Exit::Warnings) {
            pairs.push(("next", self.next_step()));
        }
        let head = format!("Job {} {name}", job.id());
        format!("\n{}\n{}", screen.bold(&head), facts(&pairs, screen.width))
    }

    /// Planned files that are not written, and features whose files are not planned.
    fn missing(&self) -> Vec<String> {
        let job = &self.watched.job;
        let unplanned = job.features().filter(|feature| feature.planning != TaskStatus::Succeeded);
        let unwritten = job.tasks().iter().filter(|task| task.status != TaskStatus::Succeeded);
        let paths = unwritten.filter_map(|task| task.path()).map(str::to_owned);
        paths.chain(unplanned.map(|feature| format!("feature {}", feature.spec.id))).collect()
    }

    fn time(&self) -> Option<String> {
        let (sequential, active) = self.times_ms();
        if active == 0 || sequential == 0 {
            return None;
        }
        let took = format!("{:.1} s; the calls one after the other: {:.1} s", seconds(active), seconds(sequential));
        if sequential <= active {
            return Some(took);
        }
        #[expect(clippy::cast_precision_loss, reason = "display only")]
        let factor = sequential as f64 / active as f64;
        Some(format!("{took}, {factor:.1} times as long"))
    }

    fn next_step(&self) -> String {
        let id = self.watched.job.id();
        match self.exit() {
            _ if self.watched.job.status() == JobStatus::AwaitingApproval => {
                format!("codeswarm approve {id}, then codeswarm resume {id}")
            }
            _ if self.watched.job.pause_reason().is_some() => pause::remedy(id),
            Exit::BudgetExhausted => jobs::after_exhaustion(self.watched),
            _ => format!("codeswarm resume {id}"),
        }
    }

    fn json(&self) -> serde_json::Value {
        let job = &self.watched.job;
        let (name, reason) = self.headline();
        let (done, all) = self.files();
        let (sequential, active) = self.times_ms();
        json!({
            "job": job.id(),
            "outcome": name.replace(' ', "-"),
            "reason": reason,
            "exit_code": self.exit() as u8,
            "output": job.submission().and_then(|submission| submission.settings.output()),
            "files": {"finished": done, "planned": all},
            "missing": self.missing(),
            "cost_micro_usd": self.balance.spent,
            "budget_micro_usd": self.balance.limit,
            "active_ms": active,
            "sequential_ms": sequential,
            "critical_path": job.critical_path().0,
            "warnings": job.warnings(),
            "origin": self.watched.origin(),
        })
    }
}

/// The first few names and the number of the others; `None` for none.
fn listed(names: &[String]) -> Option<String> {
    let (shown, others) = names.split_at(names.len().min(MOST_NAMES));
    let text = shown.join(", ");
    match others.len() {
        0 if text.is_empty() => None,
        0 => Some(text),
        more => Some(format!("{text} and {more} more")),
    }
}
