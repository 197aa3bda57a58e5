//! What a job came to: files, money, time, and what is missing.

use serde_json::json;

use super::live::{Watched, seconds};
use super::screen::Screen;
use super::{Exit, Failure};
use crate::backend::{Backend, Balance, Scope};
use crate::job::JobStatus;
use crate::protocol::{JobOutcome, Origin};

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
            JobStatus::Ended(outcome) => {
                let name = match outcome {
                    JobOutcome::Completed => "completed",
                    JobOutcome::CompletedWithWarnings => "completed with warnings",
                    JobOutcome::BudgetExhausted => "budget exhausted",
                    JobOutcome::Failed => "failed",
                    JobOutcome::Cancelled => "cancelled",
                };
                (name, self.watched.job.end().map(|(_, reason, _)| reason.to_owned()).unwrap_or_default())
            }
            _ => ("interrupted", "the job goes on where it stopped when it is resumed".into()),
        }
    }

    fn text(&self, screen: &Screen) -> String {
        let job = &self.watched.job;
        let (name, reason) = self.headline();
        let (done, all) = self.files();
        let (sequential, active) = self.times_ms();
        let mut lines =
            vec![String::new(), format!("{} {}", screen.bold(&format!("Job {}", job.id())), screen.bold(name))];
        if !reason.is_empty() && name != "completed" {
            lines.push(format!("  reason         {reason}"));
        }
        if let Some(submitted) = job.submission() {
            lines.push(format!("  files          {done} of {all} in {}", submitted.settings.output));
        }
        let limit = self.balance.limit.unwrap_or(self.watched.limit());
        lines.push(format!("  cost           {} of {limit}", self.balance.spent));
        if active > 0 && sequential > 0 {
            #[allow(clippy::cast_precision_loss)] // display only
            let factor = sequential as f64 / active as f64;
            lines.push(format!(
                "  time           {:.1} s; one call after the other {:.1} s: {factor:.1} times as fast",
                seconds(active),
                seconds(sequential)
            ));
        }
        let (path, _) = job.critical_path();
        if path.len() > 1 {
            let shown: Vec<String> = path
                .iter()
                .map(|id| job.task(id).and_then(|task| task.path()).unwrap_or(id.as_str()).to_owned())
                .collect();
            lines.push(format!("  critical path  {}", shown.join(" > ")));
        }
        for warning in job.warnings() {
            lines.push(format!("  warning        {warning}"));
        }
        if let Some(Origin::Replay { path }) = self.watched.origin() {
            lines.push(format!("  replies        recorded in {path}, not from a live model; costs are what the recording would have cost"));
        }
        if !matches!(self.exit(), Exit::Done | Exit::Warnings) {
            lines.push(format!("  next           {}", self.next_step()));
        }
        lines.join("\n")
    }

    fn next_step(&self) -> String {
        let id = self.watched.job.id();
        match self.exit() {
            Exit::BudgetExhausted => format!("codeswarm budget top-up {id} USD && codeswarm resume {id}"),
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
            "output": job.submission().map(|submission| &submission.settings.output),
            "files": {"finished": done, "planned": all},
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
