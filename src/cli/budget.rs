//! `codeswarm budget`: limits, spending and the ledger.
//!
//! The ledger is changed first and the job is told afterwards, so a crash in between leaves a limit that holds; telling
//! the job again changes nothing.

use std::collections::VecDeque;

use serde_json::json;

use super::args::{AmountArgs, BudgetCommand, Common, EntriesArgs, FreezeArgs, JobArgs};
use super::jobs::shown_id;
use super::live::Watched;
use super::screen::Screen;
use super::table::{Fit, Table, facts};
use super::words::{instant, money};
use super::{Exit, Failure, jobs, json as values, opened};
use crate::backend::{Adjustment, Backend, Balance, Entry, EntryFilter, EntryKind, Scope, Signal};
use crate::clock;
use crate::coordinator;
use crate::error::Coded;
use crate::job::Decision;
use crate::protocol::{Command, InstanceId, JobId, MicroUsd};

/// Entries read at once.
const PAGE: usize = 1_000;

pub(super) async fn run(screen: &Screen, common: &Common, command: BudgetCommand) -> Result<Exit, Failure> {
    match command {
        BudgetCommand::Show(args) => show(screen, common, args).await,
        BudgetCommand::TopUp(args) => change(screen, common, args, true).await,
        BudgetCommand::Set(args) => change(screen, common, args, false).await,
        BudgetCommand::Freeze(args) => freeze(screen, common, args, true).await,
        BudgetCommand::Thaw(args) => freeze(screen, common, args, false).await,
        BudgetCommand::Entries(args) => entries(screen, common, args).await,
    }
}

async fn show(screen: &Screen, common: &Common, args: JobArgs) -> Result<Exit, Failure> {
    let (backend, _) = opened::open_existing(common, "budget").await?;
    match args.job {
        Some(given) => {
            let id = jobs::find(&backend, Some(&given)).await?.job;
            let balance = backend.ledger.balance(&Scope::Job(id.clone())).await?;
            if args.output.json {
                screen.result(&json!({"job": id, "balance": values::balance(&balance)}).to_string());
            } else {
                screen.result(&format!("job {id}\n{}", facts(&lines(&balance), screen.width)));
            }
        }
        None => show_all(screen, &backend, args.output.json).await?,
    }
    Ok(Exit::Done)
}

async fn show_all(screen: &Screen, backend: &Backend, as_json: bool) -> Result<(), Failure> {
    let account = backend.ledger.balance(&Scope::Account).await?;
    let jobs = backend.events.jobs().await?;
    let mut table = Table::new(&[
        ("scope", Fit::Left),
        ("limit", Fit::Right),
        ("spent", Fit::Right),
        ("reserved", Fit::Right),
        ("state", Fit::Left),
    ]);
    let mut row = |name: String, balance: &Balance| {
        let limit = balance.limit.map_or_else(|| "none".into(), |limit| limit.to_string());
        let state = if balance.frozen { "frozen".into() } else { String::new() };
        table.row([name, limit, money(balance.spent), money(balance.reserved), state]);
    };
    row("everything".into(), &account);
    let mut listed = Vec::with_capacity(jobs.len());
    for entry in jobs.iter().rev() {
        let balance = backend.ledger.balance(&Scope::Job(entry.job.clone())).await?;
        row(shown_id(&entry.job, &jobs, screen.width.is_some()), &balance);
        listed.push(json!({"job": entry.job, "balance": values::balance(&balance)}));
    }
    if as_json {
        screen.result(&json!({"account": values::balance(&account), "jobs": listed}).to_string());
    } else {
        screen.result(&table.render(screen.width));
    }
    Ok(())
}

fn lines(balance: &Balance) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("limit", balance.limit.map_or_else(|| "none".into(), |limit| limit.to_string())),
        ("spent", money(balance.spent)),
        ("reserved", money(balance.reserved)),
    ];
    if balance.hold_back > MicroUsd::ZERO {
        lines.push(("held back", format!("{} for verification and repair", money(balance.hold_back))));
    }
    if let Some(available) = balance.available() {
        lines.push(("available", money(available)));
    }
    if balance.frozen {
        lines.push(("frozen", "yes: no call is made until `codeswarm budget thaw`".into()));
    }
    lines
}

async fn change(screen: &Screen, common: &Common, args: AmountArgs, adds: bool) -> Result<Exit, Failure> {
    let wrong = |what: String| Failure::usage("CS-CLI-003", what, "give US dollars above zero, for example 5 or 0.25");
    let amount: MicroUsd = args.amount.parse().map_err(|error| wrong(format!("amount: {error}")))?;
    if amount == MicroUsd::ZERO {
        return Err(wrong("amount: $0.00 changes nothing that a job could use".into()));
    }
    let (backend, instance) = opened::open_existing(common, "budget").await?;
    let id = jobs::find(&backend, Some(&args.job.job)).await?.job;
    let watched = Watched::load(&backend, &id).await?;
    // Asks the job before any money moves: a completed one has no use for it.
    let limit = if adds { watched.limit().saturating_add(amount) } else { amount };
    watched
        .job
        .decide(Decision::BudgetChanged { limit }, backend.clock.now())
        .map_err(|refusal| Failure::error(refusal.code(), format!("job {id}: {refusal}"), refusal.remedy()))?;
    let adjustment = if adds { Adjustment::TopUp(amount) } else { Adjustment::SetLimit(Some(amount)) };
    let balance = adjust(&backend, &Scope::Job(id.clone()), adjustment).await?;
    let limit = balance.limit.unwrap_or(limit);
    tell(&backend, &instance, &id, limit).await?;
    screen.result(&format!("job {id}: the budget is {limit} now, {} of it spent", money(balance.spent)));
    if balance.spent.saturating_add(balance.reserved) > limit {
        screen.note("that is less than what is spent and reserved already: no new call will be made");
    }
    if !jobs::is_active(&backend, &watched).await? {
        screen.note(&format!("no process works on the job; go on with `codeswarm resume {id}`"));
    }
    Ok(Exit::Done)
}

async fn adjust(backend: &Backend, scope: &Scope, adjustment: Adjustment) -> Result<Balance, Failure> {
    let request = format!("person:{}", clock::unique_id());
    Ok(backend.ledger.adjust(&request, scope, adjustment).await?)
}

/// Tells whoever works on the job that its money has changed; tasks that were refused are tried again.
async fn tell(backend: &Backend, instance: &InstanceId, id: &JobId, limit: MicroUsd) -> Result<(), Failure> {
    coordinator::deliver(backend, instance, id, Command::BudgetChanged { limit }).await?;
    Ok(())
}

async fn freeze(screen: &Screen, common: &Common, args: FreezeArgs, freezes: bool) -> Result<Exit, Failure> {
    let (backend, instance) = opened::open_existing(common, "budget").await?;
    let job = match &args.job {
        Some(given) => Some(jobs::find(&backend, Some(given)).await?.job),
        None => None,
    };
    let scope = job.clone().map_or(Scope::Account, Scope::Job);
    let adjustment = if freezes { Adjustment::Freeze } else { Adjustment::Thaw };
    adjust(&backend, &scope, adjustment).await?;
    let what = job.as_ref().map_or_else(|| "all spending".to_owned(), |id| format!("spending of job {id}"));
    if freezes {
        backend.broker.signal(job.map_or(Signal::Freeze, |job| Signal::CancelJob { job })).await?;
        screen
            .result(&format!("{what} is frozen: no new call is made, and running calls are cut off (they stay paid)"));
        return Ok(Exit::Done);
    }
    for entry in backend.events.jobs().await?.into_iter().filter(|entry| job.as_ref().is_none_or(|id| *id == entry.job))
    {
        let watched = Watched::load(&backend, &entry.job).await?;
        if jobs::is_active(&backend, &watched).await? {
            tell(&backend, &instance, &entry.job, watched.limit()).await?;
        }
    }
    screen.result(&format!("{what} is allowed again, within the budgets"));
    Ok(Exit::Done)
}

async fn entries(screen: &Screen, common: &Common, args: EntriesArgs) -> Result<Exit, Failure> {
    let (backend, _) = opened::open_existing(common, "budget").await?;
    let job = match &args.job {
        Some(given) => Some(jobs::find(&backend, Some(given)).await?.job),
        None => None,
    };
    let newest = newest(&backend, job, usize::try_from(args.limit).unwrap_or(usize::MAX)).await?;
    if args.output.json {
        let listed: Vec<_> = newest.iter().map(values::entry).collect();
        screen.result(&json!({ "entries": listed }).to_string());
    } else if newest.is_empty() {
        screen.result("the ledger has no entries yet");
    } else {
        screen.result(&entry_table(&newest).render(screen.width));
    }
    Ok(Exit::Done)
}

/// The newest `limit` entries, oldest first.
async fn newest(backend: &Backend, job: Option<JobId>, limit: usize) -> Result<VecDeque<Entry>, Failure> {
    let mut newest = VecDeque::new();
    let mut after = 0;
    loop {
        let filter = EntryFilter { job: job.clone(), after, limit: PAGE, ..EntryFilter::default() };
        let page = backend.ledger.entries(filter).await?;
        let Some(last) = page.last() else { return Ok(newest) };
        after = last.id;
        newest.extend(page);
        let surplus = newest.len().saturating_sub(limit);
        newest.drain(..surplus);
    }
}

fn entry_table(entries: &VecDeque<Entry>) -> Table {
    let mut table = Table::new(&[
        ("when (UTC)", Fit::Left),
        ("kind", Fit::Left),
        ("reserved", Fit::Right),
        ("charged", Fit::Right),
        ("about", Fit::Shrink),
    ]);
    for entry in entries {
        let shown = |amount: MicroUsd| if amount == MicroUsd::ZERO { String::new() } else { money(amount) };
        let about = entry.task.clone().unwrap_or_else(|| entry.note.clone());
        let reserved = shown(entry.reserved);
        table.row([instant(entry.at), kind(entry.kind).to_owned(), reserved, shown(entry.charged), about]);
    }
    table
}

const fn kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Reserve => "reserve",
        EntryKind::Settle => "settle",
        EntryKind::Release => "release",
        EntryKind::Expire => "expire",
        EntryKind::Adjust => "adjust",
    }
}
