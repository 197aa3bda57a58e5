//! `codeswarm budget freeze` and `thaw`: the kill switch, and the way back.
//!
//! Freezing takes one scope, because that is enough to stop every call that falls in it. Thawing looks at all parts, because a
//! call that costs more than its worst case freezes every scope it fell in: whoever follows the advice to thaw must be able
//! to go on. It must never say that something is allowed which is not.

use std::collections::BTreeSet;

use super::super::live::Watched;
use super::super::screen::Screen;
use super::super::{Exit, Failure, jobs, opened};
use super::args::FreezeArgs;
use super::{Common, adjust, tell};
use crate::backend::{Adjustment, Backend, Scope, Signal};
use crate::protocol::JobId;

/// What a command is about, in words.
fn what(job: Option<&JobId>) -> String {
    job.map_or_else(|| "all spending".to_owned(), |id| format!("spending of job {id}"))
}

pub(super) async fn freeze(screen: &Screen, common: &Common, args: FreezeArgs) -> Result<Exit, Failure> {
    let (backend, _) = opened::open_existing(common, "budget").await?;
    let job = named(&backend, &args).await?;
    let scope = job.clone().map_or(Scope::Account, Scope::Job);
    adjust(&backend, &scope, Adjustment::Freeze).await?;
    let what = what(job.as_ref());
    backend.broker.signal(job.map_or(Signal::Freeze, |job| Signal::CancelJob { job })).await?;
    screen.result(&format!("{what} is frozen: no new call is made, and running calls are cut off (they stay paid)"));
    Ok(Exit::Done)
}

pub(super) async fn thaw(screen: &Screen, common: &Common, args: FreezeArgs) -> Result<Exit, Failure> {
    let (backend, instance) = opened::open_existing(common, "budget").await?;
    let job = named(&backend, &args).await?;
    let jobs: Vec<JobId> = match &job {
        Some(id) => vec![id.clone()],
        None => backend.events.jobs().await?.into_iter().map(|entry| entry.job).collect(),
    };
    let mut scopes = match job {
        Some(_) => Vec::new(),
        None => vec![Scope::Account, Scope::PerDay, Scope::PerMonth, Scope::Tokens],
    };
    let mut read = Vec::with_capacity(jobs.len());
    for id in &jobs {
        scopes.push(Scope::Job(id.clone()));
        scopes.push(Scope::JobTokens(id.clone()));
        match Watched::load(&backend, id).await {
            Ok(watched) => {
                scopes.extend(parts(&watched));
                read.push(watched);
            }
            // One damaged log must not keep the others frozen.
            Err(failure) => screen.error(&failure.report()),
        }
    }
    let mut thawed = Vec::new();
    for scope in scopes {
        if backend.ledger.balance(&scope).await?.frozen {
            adjust(&backend, &scope, Adjustment::Thaw).await?;
            thawed.push(scope.to_string());
        }
    }
    for watched in read {
        if jobs::is_active(&backend, &watched).await? {
            tell(&backend, &instance, watched.job.id(), watched.limit()).await?;
        }
    }
    match thawed.is_empty() {
        true => screen.note("nothing of it was frozen"),
        false => screen.note(&format!("thawed: {}", thawed.join(", "))),
    }
    let what = what(job.as_ref());
    if job.is_some() && backend.ledger.balance(&Scope::Account).await?.frozen {
        screen.result(&format!(
            "{what} is no longer frozen by itself, but everything is: `codeswarm budget thaw` allows it"
        ));
    } else {
        screen.result(&format!("{what} is allowed again, within the budgets"));
    }
    Ok(Exit::Done)
}

async fn named(backend: &Backend, args: &FreezeArgs) -> Result<Option<JobId>, Failure> {
    match &args.job {
        Some(given) => Ok(Some(jobs::find(backend, Some(given)).await?.job)),
        None => Ok(None),
    }
}

/// The slices and agent types of a job.
fn parts(watched: &Watched) -> Vec<Scope> {
    let (job, id) = (&watched.job, watched.job.id());
    let features = job.features().map(|feature| Scope::Slice(id.clone(), feature.spec.id.clone()));
    let types: BTreeSet<_> = job.tasks().iter().map(|task| task.agent.clone()).collect();
    features.chain(types.into_iter().map(|agent| Scope::Agent(id.clone(), agent))).collect()
}
