//! From what a person types to a scope of the ledger.
//!
//! A job is named as in every other command. A feature or an agent type has to be one of the job's: a limit on a misspelt
//! name would silently limit nothing.

use super::super::live::Watched;
use super::super::{Failure, jobs};
use crate::backend::{Backend, Scope};
use crate::protocol::JobId;

/// A scope, and the job it belongs to.
pub(super) struct Named {
    pub(super) scope: Scope,
    pub(super) job: Option<JobId>,
}

/// True when amounts of the scope called `given` are tokens.
pub(super) fn counts_tokens(given: &str) -> bool {
    given == "tokens" || given.ends_with("/tokens")
}

/// Finds the scope called `given`, in the words of the help or as the ledger prints it.
pub(super) async fn find(backend: &Backend, given: &str) -> Result<Named, Failure> {
    let of_account = |scope| Ok(Named { scope, job: None });
    match given {
        "account" => return of_account(Scope::Account),
        "day" | "account/day" => return of_account(Scope::PerDay),
        "month" | "account/month" => return of_account(Scope::PerMonth),
        "tokens" => return of_account(Scope::Tokens),
        // One day or month: its limit is that of all of them.
        _ if given.starts_with("account/day:") => return of_account(Scope::PerDay),
        _ if given.starts_with("account/month:") => return of_account(Scope::PerMonth),
        _ => {}
    }
    let (job, part) = given.split_once('/').map_or((given, None), |(job, part)| (job, Some(part)));
    let job = jobs::find(backend, Some(job)).await?.job;
    let scope = match part {
        None => Scope::Job(job.clone()),
        Some("tokens") => Scope::JobTokens(job.clone()),
        Some(part) => part_of(&Watched::load(backend, &job).await?, part)?,
    };
    Ok(Named { scope, job: Some(job) })
}

/// A feature or an agent type of a job.
fn part_of(watched: &Watched, part: &str) -> Result<Scope, Failure> {
    let job = &watched.job;
    let (found, known): (Option<Scope>, Vec<String>) = match part.split_once(':') {
        Some(("feature" | "slice", name)) => {
            let ids: Vec<_> = job.features().map(|feature| feature.spec.id.clone()).collect();
            let found = ids.iter().find(|id| id.as_str() == name);
            (found.map(|id| Scope::Slice(job.id().clone(), id.clone())), ids.iter().map(ToString::to_string).collect())
        }
        Some(("agent", name)) => {
            let types: std::collections::BTreeSet<_> = job.tasks().iter().map(|task| task.agent.clone()).collect();
            let found = types.iter().find(|agent| agent.as_str() == name);
            let scope = found.map(|agent| Scope::Agent(job.id().clone(), agent.clone()));
            (scope, types.iter().map(ToString::to_string).collect())
        }
        _ => (None, vec!["feature:ID".into(), "agent:TYPE".into(), "tokens".into()]),
    };
    found.ok_or_else(|| {
        let what = format!("{part:?} is no part of job {}", job.id());
        Failure::usage("CS-CLI-035", what, format!("it has {}", known.join(", ")))
    })
}
