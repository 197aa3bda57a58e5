//! Finding jobs and looking at them as a whole: log, money, and whether a process works on them.
//!
//! Status is derived from these facts in one place, so that two commands can never disagree about a job.

use super::Failure;
use super::live::Watched;
use super::story::outcome_name;
use super::words::short_ids;
use crate::backend::{Backend, Balance, JobEntry, Scope};
use crate::coordinator;
use crate::job::JobStatus;
use crate::protocol::{JobId, JobOutcome};
use crate::worker;

/// Most candidates named for an ambiguous beginning of an id.
const MAX_CANDIDATES: usize = 5;

/// Finds a job by its id or a unique beginning of it; without one, the newest.
///
/// # Errors
/// A name of nothing at all names no job: every id begins with it, and a script whose variable is empty must not freeze,
/// cancel or pay for whatever job happens to be the only one.
pub(super) async fn find(backend: &Backend, given: Option<&str>) -> Result<JobEntry, Failure> {
    // A scope of the ledger is printed with the word before the id, and what is printed may be typed back.
    let given = given.map(|given| given.strip_prefix("job:").unwrap_or(given));
    if given.is_some_and(|given| given.trim().is_empty()) {
        let what = "an empty name names no job";
        return Err(Failure::usage("CS-CLI-038", what, "give the job's id; `codeswarm list` shows the jobs there are"));
    }
    let mut jobs = backend.events.jobs().await?;
    let Some(given) = given else { return jobs.pop().ok_or_else(no_job) };
    if let Some(exact) = jobs.iter().find(|entry| entry.job.as_str() == given) {
        return Ok(exact.clone());
    }
    let mut matching: Vec<&JobEntry> = jobs.iter().filter(|entry| entry.job.as_str().starts_with(given)).collect();
    match (matching.pop(), matching.len()) {
        (Some(entry), 0) => Ok(entry.clone()),
        (Some(last), _) => {
            let all = matching.into_iter().chain([last]).map(|entry| entry.job.as_str());
            let named: Vec<&str> = all.take(MAX_CANDIDATES).collect();
            let what = format!("more than one job begins with {given:?}: {}", named.join(", "));
            Err(Failure::usage("CS-CLI-013", what, "type more of the id; `codeswarm list` shows all"))
        }
        (None, _) => {
            let what = format!("there is no job {given:?}");
            Err(Failure::usage("CS-CLI-014", what, "`codeswarm list` shows the jobs there are"))
        }
    }
}

/// Finds the job to resume: the one that is named, else the newest that is not completed.
pub(super) async fn find_resumable(backend: &Backend, given: Option<&str>) -> Result<Watched, Failure> {
    if given.is_some() {
        return Watched::load(backend, &find(backend, given).await?.job).await;
    }
    let jobs = backend.events.jobs().await?;
    if jobs.is_empty() {
        return Err(no_job());
    }
    for entry in jobs.iter().rev() {
        let watched = Watched::load(backend, &entry.job).await?;
        if watched.job.status() != JobStatus::Ended(JobOutcome::Completed) {
            return Ok(watched);
        }
    }
    let what = "every job is completed: there is nothing to resume";
    Err(Failure::error("CS-CLI-002", what, "start a new job with `codeswarm run PROPOSAL`"))
}

fn no_job() -> Failure {
    Failure::error("CS-CLI-012", "there is no job yet", "start one with `codeswarm run PROPOSAL`")
}

/// A job as a person sees it.
pub(super) struct JobView {
    pub(super) watched: Watched,
    pub(super) balance: Balance,
    /// A process works on it, or waits with it.
    pub(super) active: bool,
}

impl JobView {
    pub(super) async fn load(backend: &Backend, id: &JobId) -> Result<Self, Failure> {
        let watched = Watched::load(backend, id).await?;
        let balance = backend.ledger.balance(&Scope::Job(id.clone())).await?;
        let active = is_active(backend, &watched).await?;
        Ok(Self { watched, balance, active })
    }

    /// Where it stands, in words.
    pub(super) fn state(&self) -> &'static str {
        match self.watched.job.status() {
            JobStatus::Ended(_) if was_frozen(&self.watched) => "stopped by a freeze",
            JobStatus::Ended(outcome) => outcome_name(outcome),
            JobStatus::Paused if self.watched.job.pause_reason().is_some() => "paused, asks about money",
            JobStatus::Paused => "paused",
            JobStatus::AwaitingApproval => "waiting for approval",
            JobStatus::Submitted => "submitted",
            _ if !self.active => "interrupted",
            JobStatus::Planning => "planning",
            JobStatus::Running => "running",
            JobStatus::Verifying => "finishing",
        }
    }
}

/// True when somebody leads and has not set this job aside.
pub(super) async fn is_active(backend: &Backend, watched: &Watched) -> Result<bool, Failure> {
    if watched.is_settled() || coordinator::leader(backend).await?.is_none() {
        return Ok(false);
    }
    let stopped = worker::is_stopped(backend.state.as_ref(), watched.job.id()).await?;
    Ok(!stopped || matches!(watched.job.status(), JobStatus::Ended(_)))
}

/// True when nothing more will happen to the job by itself.
pub(super) async fn is_over(backend: &Backend, watched: &Watched) -> Result<bool, Failure> {
    let ended = matches!(watched.job.status(), JobStatus::Ended(_));
    Ok(watched.is_settled() || (ended && !is_active(backend, watched).await?))
}

/// True when the job was ended by a freeze, and not because money ran out: its end says which.
pub(super) fn was_frozen(watched: &Watched) -> bool {
    let end = watched.job.end();
    end.is_some_and(|(outcome, reason, _)| {
        outcome == JobOutcome::BudgetExhausted && reason.contains("frozen in scope ")
    })
}

/// What a person can do about a job that money has stopped.
pub(super) fn after_exhaustion(watched: &Watched) -> String {
    let id = watched.job.id();
    let reason = watched.job.end().map_or("", |(_, reason, _)| reason);
    if was_frozen(watched) {
        // The scope that stopped it tells how much there is to thaw.
        let is_of_job = reason.contains("frozen in scope job:");
        let thaw = if is_of_job { format!("codeswarm budget thaw {id}") } else { "codeswarm budget thaw".into() };
        return format!("{thaw} (if spending is still frozen), then codeswarm resume {id}");
    }
    // The words of the scopes as the ledger prints them: a limit on everything is not raised by raising the job's.
    let scope = [("in account/day:", "day"), ("in account/month:", "month"), ("in account,", "account")];
    if reason.contains(" tokens left in ") {
        let scope = if reason.contains(" left in tokens,") { "tokens".to_owned() } else { format!("{id}/tokens") };
        return format!("codeswarm budget top-up {scope} TOKENS, then codeswarm resume {id}");
    }
    let tight = scope.iter().find(|(words, _)| reason.contains(words)).map_or(id.as_str(), |(_, name)| name);
    format!("codeswarm budget top-up {tight} USD, then codeswarm resume {id}")
}

/// Ids as a terminal shows them (short, unique) or as a pipe gets them (whole).
pub(super) fn shown_id(entry: &JobId, all: &[JobEntry], short: bool) -> String {
    if !short {
        return entry.to_string();
    }
    let ids = short_ids(all.iter().map(|entry| &entry.job));
    ids.get(entry).map_or_else(|| entry.to_string(), |id| (*id).to_owned())
}
