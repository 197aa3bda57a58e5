//! `codeswarm budget show`: the tree of scopes with limits and spending.
//!
//! What it prints is read from the ledger, scope by scope, so the sums are the ledger's own. The tree's shape comes from
//! the job's plan; it must never invent a scope that nothing can be charged to.

use serde_json::{Value, json};

use super::super::args::JobArgs;
use super::super::jobs::shown_id;
use super::super::live::Watched;
use super::super::screen::Screen;
use super::super::table::{Fit, Table};
use super::super::words::money;
use super::super::{Exit, Failure, jobs, json as values, opened};
use super::Common;
use crate::backend::{Backend, Balance, Scope};
use crate::protocol::{JobId, MicroUsd};

pub(super) async fn show(screen: &Screen, common: &Common, args: JobArgs) -> Result<Exit, Failure> {
    let (backend, _) = opened::open_existing(common, "budget").await?;
    match args.job {
        Some(given) => {
            let id = jobs::find(&backend, Some(&given)).await?.job;
            show_job(screen, &backend, &id, args.output.json).await?;
        }
        None => show_all(screen, &backend, args.output.json).await?,
    }
    Ok(Exit::Done)
}

fn table() -> Table {
    Table::new(&[
        ("scope", Fit::Left),
        ("limit", Fit::Right),
        ("spent", Fit::Right),
        ("reserved", Fit::Right),
        ("available", Fit::Right),
        ("state", Fit::Shrink),
    ])
}

/// A row of a scope that counts tokens, if anybody has set a ceiling or used one.
fn token_row(table: &mut Table, name: &str, balance: &Balance, thaw: &str) {
    if *balance == Balance::default() {
        return;
    }
    let tokens = |amount: MicroUsd| format!("{} tok", amount.0);
    let state = if balance.frozen { thawed_by(thaw) } else { String::new() };
    table.row([
        name.to_owned(),
        balance.limit.map_or_else(|| "none".into(), tokens),
        tokens(balance.spent),
        tokens(balance.reserved),
        balance.available().map_or_else(String::new, tokens),
        state,
    ]);
}

/// A row of everything, or of a window of it.
fn row(table: &mut Table, name: String, balance: &Balance) {
    let state = if balance.frozen { thawed_by("codeswarm budget thaw") } else { String::new() };
    money_row(table, name, balance, state);
}

/// A row of a job or of a part of one. `share` says how much of the limit is held back, if that is known.
fn job_row(table: &mut Table, name: String, job: &JobId, balance: &Balance, share: &str) {
    let mut states = Vec::new();
    if balance.frozen {
        states.push(thawed_by(&format!("codeswarm budget thaw {job}")));
    }
    if balance.hold_back > MicroUsd::ZERO {
        states.push(format!("{} held back for verification and repair{share}", money(balance.hold_back)));
    }
    money_row(table, name, balance, states.join("; "));
}

fn thawed_by(command: &str) -> String {
    format!("frozen: `{command}` allows calls again")
}

fn money_row(table: &mut Table, name: String, balance: &Balance, state: String) {
    let limit = balance.limit.map_or_else(|| "none".into(), money);
    let available = balance.available().map_or_else(String::new, money);
    table.row([name, limit, money(balance.spent), money(balance.reserved), available, state]);
}

async fn show_all(screen: &Screen, backend: &Backend, as_json: bool) -> Result<(), Failure> {
    let ledger = backend.ledger.as_ref();
    let account = ledger.balance(&Scope::Account).await?;
    let [day, month] = Scope::windows(backend.clock.now());
    let windows = [("today", ledger.balance(&day).await?), ("this month", ledger.balance(&month).await?)];
    let jobs = backend.events.jobs().await?;
    let mut table = table();
    row(&mut table, "everything".into(), &account);
    for (name, balance) in &windows {
        row(&mut table, format!("  {name}"), balance);
    }
    let tokens = ledger.balance(&Scope::Tokens).await?;
    token_row(&mut table, "  tokens of free models", &tokens, "codeswarm budget thaw");
    let mut listed = Vec::with_capacity(jobs.len());
    for entry in jobs.iter().rev() {
        let balance = ledger.balance(&Scope::Job(entry.job.clone())).await?;
        let name = format!("  job {}", shown_id(&entry.job, &jobs, screen.width.is_some()));
        job_row(&mut table, name, &entry.job, &balance, "");
        listed.push(json!({"job": entry.job, "balance": values::balance(&balance)}));
    }
    if as_json {
        let [day, month] = windows.each_ref().map(|(_, balance)| values::balance(balance));
        let (account, tokens) = (values::balance(&account), values::tokens(&tokens));
        let all = json!({"account": account, "day": day, "month": month, "tokens": tokens, "jobs": listed});
        screen.result(&all.to_string());
    } else {
        screen.result(&table.render(screen.width));
    }
    Ok(())
}

async fn show_job(screen: &Screen, backend: &Backend, id: &JobId, as_json: bool) -> Result<(), Failure> {
    let ledger = backend.ledger.as_ref();
    let balance = ledger.balance(&Scope::Job(id.clone())).await?;
    let job = Watched::load(backend, id).await?.job;
    let mut table = table();
    let percent = job.submission().map_or(0, |submission| submission.settings.hold_back_percent);
    let share = (percent > 0).then(|| format!(" ({percent} % of the limit)"));
    job_row(&mut table, format!("job {id}"), id, &balance, share.as_deref().unwrap_or_default());
    let tokens = ledger.balance(&Scope::JobTokens(id.clone())).await?;
    token_row(&mut table, "  tokens of free models", &tokens, &format!("codeswarm budget thaw {id}"));
    let (mut features, mut agents): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for feature in job.features() {
        let of = ledger.balance(&Scope::Slice(id.clone(), feature.spec.id.clone())).await?;
        job_row(&mut table, format!("  feature {}", feature.spec.id), id, &of, "");
        features.push(json!({"feature": feature.spec.id, "balance": values::balance(&of)}));
    }
    let types: std::collections::BTreeSet<_> = job.tasks().iter().map(|task| &task.agent).collect();
    for agent in types {
        let of = ledger.balance(&Scope::Agent(id.clone(), agent.clone())).await?;
        job_row(&mut table, format!("  agent {agent}"), id, &of, "");
        agents.push(json!({"agent": agent, "balance": values::balance(&of)}));
    }
    if as_json {
        let (balance, tokens) = (values::balance(&balance), values::tokens(&tokens));
        let all = json!({"job": id, "balance": balance, "tokens": tokens, "features": features, "agents": agents});
        screen.result(&all.to_string());
    } else {
        screen.result(&table.render(screen.width));
    }
    Ok(())
}
