//! `codeswarm budget`: limits, spending and the ledger.
//!
//! The ledger is changed first and the job is told afterwards, so a crash in between leaves a limit that holds; telling
//! the job again changes nothing.

mod args;
mod entries;
mod freeze;
mod scope;
mod show;

pub(super) use args::BudgetCommand;

use args::{AmountArgs, RebuildArgs};
use scope::Named;

use super::args::Common;
use super::live::Watched;
use super::screen::Screen;
use super::story::outcome_name;
use super::words::{self, money};
use super::{Exit, Failure, jobs, opened, plan};
use crate::backend::{Adjustment, Backend, Balance, Scope};
use crate::clock;
use crate::coordinator;
use crate::error::Coded;
use crate::job::{Decision, JobStatus};
use crate::protocol::{Command, InstanceId, JobId, MicroUsd};

pub(super) async fn run(screen: &Screen, common: &Common, command: BudgetCommand) -> Result<Exit, Failure> {
    match command {
        BudgetCommand::Show(args) => show::show(screen, common, args).await,
        BudgetCommand::TopUp(args) => change(screen, common, args, true).await,
        BudgetCommand::Set(args) => change(screen, common, args, false).await,
        BudgetCommand::Freeze(args) => freeze::freeze(screen, common, args).await,
        BudgetCommand::Thaw(args) => freeze::thaw(screen, common, args).await,
        BudgetCommand::Rebuild(args) => rebuild(screen, common, &args).await,
        BudgetCommand::Entries(args) => entries::entries(screen, common, args).await,
    }
}

/// What the arguments ask for, `None` for no limit: dollars, or tokens where the scope counts those.
fn amount(args: &AmountArgs, adds: bool) -> Result<Option<MicroUsd>, Failure> {
    let counts_tokens = scope::counts_tokens(&args.scope);
    let remedy = match counts_tokens {
        true => "give a whole number of tokens above zero, for example 2000000",
        false => "give US dollars above zero, for example 5 or 0.25",
    };
    let wrong = |what: String| Failure::usage("CS-CLI-003", what, remedy);
    let amount = match (args.amount.as_str(), counts_tokens) {
        ("none", _) if !adds => return Ok(None),
        (text, true) => tokens(text).map_err(wrong)?,
        (text, false) => text.parse::<MicroUsd>().map_err(|error| wrong(format!("amount: {error}")))?,
    };
    if amount == MicroUsd::ZERO {
        return Err(wrong("amount: nothing at all changes nothing that could be used".into()));
    }
    Ok(Some(amount))
}

/// Highest ceiling in tokens, as in the configuration; no fleet gets there.
const MOST_TOKENS: u64 = 1_000_000_000_000_000;

/// A number of tokens.
fn tokens(text: &str) -> Result<MicroUsd, String> {
    if text.is_empty() || text.contains(|c: char| !c.is_ascii_digit()) {
        return Err(format!("amount: {text:?} is not a whole number of tokens"));
    }
    let counted = text.parse::<u64>().ok().filter(|tokens| *tokens <= MOST_TOKENS).map(MicroUsd);
    counted.ok_or_else(|| format!("amount: {text} tokens are more than the highest ceiling, {MOST_TOKENS}"))
}

async fn change(screen: &Screen, common: &Common, args: AmountArgs, adds: bool) -> Result<Exit, Failure> {
    let amount = amount(&args, adds)?;
    let (backend, instance) = opened::open_existing(common, "budget").await?;
    let named = scope::find(&backend, &args.scope).await?;
    let adjustment = match (amount, adds) {
        (Some(amount), true) => Adjustment::TopUp(amount),
        (amount, _) => Adjustment::SetLimit(amount),
    };
    let (Scope::Job(id), Some(amount)) = (&named.scope, amount) else {
        return change_other(screen, &backend, &instance, &named, adjustment).await;
    };
    let watched = Watched::load(&backend, id).await?;
    // Asks the job before any money moves: a completed one has no use for it.
    let limit = if adds { watched.limit().saturating_add(amount) } else { amount };
    watched
        .job
        .decide(Decision::BudgetChanged { limit }, backend.clock.now())
        .map_err(|refusal| Failure::error(refusal.code(), format!("job {id}: {refusal}"), refusal.remedy()))?;
    let balance = set_limit(&backend, &watched, adjustment).await?;
    let limit = balance.limit.unwrap_or(limit);
    tell(&backend, &instance, id, limit).await?;
    screen.result(&format!("job {id}: the budget is {limit} now, {} of it spent", money(balance.spent)));
    warn_if_less(screen, &balance);
    match watched.job.status() {
        JobStatus::Ended(outcome) => {
            let how = outcome_name(outcome);
            screen.note(&format!("the job has ended ({how}); go on with `codeswarm resume {id}`"));
        }
        _ if jobs::is_active(&backend, &watched).await? => {}
        _ => screen.note(&format!("no process works on the job; go on with `codeswarm resume {id}`")),
    }
    Ok(Exit::Done)
}

/// Raises a job's limit by `amount`, for a person who was asked by the process that leads it: that process is told through its
/// queue, because a delivery would take the lead from it.
pub(super) async fn raise(
    screen: &Screen,
    backend: &Backend,
    instance: &InstanceId,
    watched: &Watched,
    amount: MicroUsd,
) -> Result<(), Failure> {
    let limit = set_limit(backend, watched, Adjustment::TopUp(amount)).await?.limit.unwrap_or_default();
    coordinator::command(backend, instance, watched.job.id(), Command::BudgetChanged { limit }).await?;
    screen.note(&format!("the budget is {limit} now"));
    Ok(())
}

/// Changes a job's limit, and with it what is held back of it.
async fn set_limit(backend: &Backend, watched: &Watched, adjustment: Adjustment) -> Result<Balance, Failure> {
    let scope = Scope::Job(watched.job.id().clone());
    let balance = adjust(backend, &scope, adjustment).await?;
    let percent = watched.job.submission().map_or(0, |submission| submission.settings.hold_back_percent);
    let Some(limit) = balance.limit.filter(|_| percent > 0) else { return Ok(balance) };
    // What is held back is a share of whatever the limit is.
    adjust(backend, &scope, Adjustment::HoldBack(limit.percent(percent))).await
}

/// Changes the limit of the account, of its windows, or of a part of a job.
async fn change_other(
    screen: &Screen,
    backend: &Backend,
    instance: &InstanceId,
    named: &Named,
    adjustment: Adjustment,
) -> Result<Exit, Failure> {
    if named.scope.needs_limit() && adjustment == Adjustment::SetLimit(None) {
        let what = "a job without a limit may spend nothing".to_owned();
        return Err(Failure::usage("CS-CLI-003", what, "give US dollars above zero, for example 5 or 0.25"));
    }
    let is_unlimited = || async { Ok::<_, Failure>(backend.ledger.balance(&named.scope).await?.limit.is_none()) };
    if matches!(adjustment, Adjustment::TopUp(_)) && is_unlimited().await? {
        let what = format!("{} has no limit: there is nothing to raise", words::scope(&named.scope.to_string()));
        return Err(Failure::error("CS-CLI-039", what, "set one with `codeswarm budget set`, if there is to be one"));
    }
    let balance = adjust(backend, &named.scope, adjustment).await?;
    if let Some(job) = &named.job {
        // What was refused before is tried again.
        tell(backend, instance, job, Watched::load(backend, job).await?.limit()).await?;
    }
    let scope = &named.scope;
    // The limit of every day or month is kept in one place, what is spent in the present one in another.
    let [day, month] = Scope::windows(backend.clock.now());
    let balance = match scope {
        Scope::PerDay => Balance { limit: balance.limit, ..backend.ledger.balance(&day).await? },
        Scope::PerMonth => Balance { limit: balance.limit, ..backend.ledger.balance(&month).await? },
        _ => balance,
    };
    let limit = balance.limit.map_or_else(|| "no limit".into(), |limit| format!("a limit of {}", scope.show(limit)));
    let spent = if scope.counts_tokens() { scope.show(balance.spent) } else { money(balance.spent) };
    screen.result(&format!("{} has {limit} now, {spent} spent", words::scope(&scope.to_string())));
    warn_if_less(screen, &balance);
    Ok(Exit::Done)
}

fn warn_if_less(screen: &Screen, balance: &Balance) {
    if balance.limit.is_some_and(|limit| balance.spent.saturating_add(balance.reserved) > limit) {
        screen.note("that is less than what is spent and reserved already: no new call will be made");
    }
}

async fn adjust(backend: &Backend, scope: &Scope, adjustment: Adjustment) -> Result<Balance, Failure> {
    Ok(backend.ledger.adjust(&request(), scope, adjustment).await?)
}

/// A name for one change of a person's.
fn request() -> String {
    format!("person:{}", clock::unique_id())
}

/// Tells whoever works on the job that its money has changed; tasks that were refused are tried again.
async fn tell(backend: &Backend, instance: &InstanceId, id: &JobId, limit: MicroUsd) -> Result<(), Failure> {
    coordinator::deliver(backend, instance, id, Command::BudgetChanged { limit }).await?;
    Ok(())
}

async fn rebuild(screen: &Screen, common: &Common, args: &RebuildArgs) -> Result<Exit, Failure> {
    if !args.yes {
        if !screen.interactive {
            let what = "nobody can be asked whether the books are to be made anew";
            return Err(Failure::usage("CS-CLI-037", what, "add --yes to do it without being asked"));
        }
        screen.note("Make the books anew? Nothing can be spent meanwhile. [y/N]");
        if plan::read_line().await? != plan::Answer::Yes {
            return Ok(Exit::Cancelled);
        }
    }
    let (backend, _) = opened::open_existing(common, "budget").await?;
    match backend.ledger.rebuild(args.force).await? {
        Some(rebuilt) => {
            screen.result(&format!("the books are rebuilt from {} records of their journal", rebuilt.records));
            screen.note(
                "what was in flight is counted in full until its call reports; `codeswarm doctor` adds it all up",
            );
        }
        None => screen.result("the books and their journal are one file here: there is nothing to rebuild"),
    }
    Ok(Exit::Done)
}
