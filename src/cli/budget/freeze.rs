//! `codeswarm budget freeze` and `thaw`: the kill switch, and the way back.
//!
//! Freezing takes one scope, because that is enough to stop every call that falls in it. Thawing looks at all parts, because a
//! call that costs more than its worst case freezes every scope it fell in: whoever follows the advice to thaw must be able
//! to go on. A freeze holds as soon as the counters know it, so it waits for no journal and no NATS. It must never say that
//! something is allowed which is not.

use std::collections::BTreeSet;

use super::super::live::Watched;
use super::super::screen::Screen;
use super::super::{Exit, Failure, jobs, opened, words};
use super::args::FreezeArgs;
use super::{Common, adjust, request, tell};
use crate::backend::{Adjustment, Backend, Ledger, Scope, Signal};
use crate::protocol::JobId;

/// What a command is about, in words.
fn what(job: Option<&JobId>) -> String {
    job.map_or_else(|| "all spending".to_owned(), |id| format!("spending of job {id}"))
}

pub(super) async fn freeze(screen: &Screen, common: &Common, args: FreezeArgs) -> Result<Exit, Failure> {
    let backend = match opened::open_existing(common, "budget").await {
        Ok((backend, _)) => backend,
        Err(failure) => return freeze_counters(screen, common, &args, failure).await,
    };
    let job = named(&backend, &args).await?;
    let scope = job.clone().map_or(Scope::Account, Scope::Job);
    let what = what(job.as_ref());
    if let Err(failure) = adjust(&backend, &scope, Adjustment::Freeze).await {
        // The counters come before the journal: what they say holds.
        if !backend.ledger.balance(&scope).await.is_ok_and(|balance| balance.frozen) {
            return Err(failure);
        }
        warn_unwritten(screen, &failure.report());
    }
    match backend.broker.signal(job.map_or(Signal::Freeze, |job| Signal::CancelJob { job })).await {
        Ok(()) => screen
            .result(&format!("{what} is frozen: no new call is made, and running calls are cut off (they stay paid)")),
        Err(error) => {
            screen.error(&format!("warning: running calls could not be told and go on: {error}"));
            screen.result(&format!("{what} is frozen: no new call is made"));
        }
    }
    Ok(Exit::Done)
}

/// Freezes in the counters alone, because the other stores cannot be opened for the reason in `failure`.
async fn freeze_counters(
    screen: &Screen,
    common: &Common,
    args: &FreezeArgs,
    failure: Failure,
) -> Result<Exit, Failure> {
    let Ok(Some(ledger)) = opened::open_counters(common, "budget").await else { return Err(failure) };
    let job = match &args.job {
        Some(given) => Some(whole_id(ledger.as_ref(), given).await?),
        None => None,
    };
    let scope = job.clone().map_or(Scope::Account, Scope::Job);
    ledger.adjust(&request(), &scope, Adjustment::Freeze).await?;
    warn_unwritten(screen, &failure.report());
    screen.result(&format!(
        "{} is frozen: no new call is made; running calls could not be told and go on",
        what(job.as_ref())
    ));
    Ok(Exit::Done)
}

/// The job that has the id `given`: beginnings of ids cannot be looked up in the ledger.
async fn whole_id(ledger: &dyn Ledger, given: &str) -> Result<JobId, Failure> {
    if let Ok(id) = JobId::new(given.strip_prefix("job:").unwrap_or(given))
        && ledger.balance(&Scope::Job(id.clone())).await?.limit.is_some()
    {
        return Ok(id);
    }
    let what =
        format!("the ledger knows no job {given:?}, and while NATS is away no beginning of an id can be looked up");
    Err(Failure::error("CS-CLI-042", what, "give the whole id, or freeze everything with `codeswarm budget freeze`"))
}

fn warn_unwritten(screen: &Screen, why: &str) {
    screen.error(&format!(
        "warning: frozen; not yet in the journal: a rebuild of the books would forget it. Run the command again once NATS \
         answers\n  because: {}",
        why.lines().next().unwrap_or_default()
    ));
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
            thawed.push(words::scope(&scope.to_string()));
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
