//! `codeswarm budget entries`: the ledger line by line, for people, spreadsheets and programs.
//!
//! Amounts are exact micro-dollars everywhere but in the table. Pages are read one after the other, so that a long
//! ledger needs little memory; nothing is summed up here.

use std::collections::VecDeque;

use serde_json::json;

use super::super::screen::Screen;
use super::super::table::{Fit, Table};
use super::super::words::{instant, money, scope};
use super::super::{Exit, Failure, jobs, json as values, opened};
use super::Common;
use super::args::{EntriesArgs, Format};
use crate::backend::{Backend, Entry, EntryFilter, EntryKind};
use crate::clock::Timestamp;
use crate::fleet;
use crate::protocol::{AgentType, MicroUsd};

/// Entries read at once.
const PAGE: usize = 1_000;

pub(super) async fn entries(screen: &Screen, common: &Common, args: EntriesArgs) -> Result<Exit, Failure> {
    let (backend, _) = opened::open_existing(common, "budget").await?;
    let model = match &args.model {
        Some(name) => Some(fleet::canonical(&opened::settings(common, Vec::new())?.settings, name)),
        None => None,
    };
    let filter = EntryFilter { model, ..filter(&backend, &args).await? };
    let newest = newest(&backend, &filter, usize::try_from(args.limit).unwrap_or(usize::MAX)).await?;
    match if args.output.json { Format::Json } else { args.format } {
        Format::Json => {
            let listed: Vec<_> = newest.iter().map(values::entry).collect();
            screen.result(&json!({ "entries": listed }).to_string());
        }
        Format::Csv => screen.records(&csv(&newest)?),
        Format::Table if newest.is_empty() => screen.result("the ledger has no such entries"),
        Format::Table => screen.result(&table(&newest, screen.width).render(screen.width)),
    }
    Ok(Exit::Done)
}

async fn filter(backend: &Backend, args: &EntriesArgs) -> Result<EntryFilter, Failure> {
    let job = match args.job.as_ref().or(args.of_job.as_ref()) {
        Some(given) => Some(jobs::find(backend, Some(given)).await?.job),
        None => None,
    };
    let agent = args.agent.as_ref().map(|name| {
        let wrong = |error| Failure::usage("CS-CLI-036", format!("--agent: {error}"), "name an agent type");
        AgentType::new(name).map_err(wrong)
    });
    let instant = |flag: &str, text: &Option<String>| {
        let wrong = |text: &String| {
            let what = format!("{flag}: {text:?} is not a time");
            Failure::usage("CS-CLI-036", what, "write a day (2026-11-21) or a time in UTC (2026-11-21T09:30:00Z)")
        };
        text.as_ref().map(|text| text.parse::<Timestamp>().map_err(|_| wrong(text))).transpose()
    };
    let (since, before) = (instant("--since", &args.since)?, instant("--before", &args.before)?);
    if let (Some(since), Some(before)) = (since, before)
        && since >= before
    {
        let what = format!("--since {since} is not before --before {before}: no entry can be both");
        return Err(Failure::usage("CS-CLI-036", what, "exchange the two"));
    }
    Ok(EntryFilter { job, agent: agent.transpose()?, model: None, since, before, after: 0, limit: PAGE })
}

/// The newest `limit` entries, oldest first.
async fn newest(backend: &Backend, filter: &EntryFilter, limit: usize) -> Result<VecDeque<Entry>, Failure> {
    let mut newest = VecDeque::new();
    let mut after = 0;
    loop {
        let page = backend.ledger.entries(EntryFilter { after, ..filter.clone() }).await?;
        let Some(last) = page.last() else { return Ok(newest) };
        after = last.id;
        newest.extend(page);
        let surplus = newest.len().saturating_sub(limit);
        newest.drain(..surplus);
    }
}

/// Narrowest terminal on which agent type and model have columns of their own.
const WIDE: usize = 110;

fn table(entries: &VecDeque<Entry>, width: Option<usize>) -> Table {
    let mut columns =
        vec![("when (UTC)", Fit::Left), ("kind", Fit::Left), ("reserved", Fit::Right), ("charged", Fit::Right)];
    let is_wide = width.is_none_or(|width| width >= WIDE);
    if is_wide {
        columns.extend([("agent", Fit::Left), ("model", Fit::Left)]);
    }
    columns.push(("about", Fit::Shrink));
    let mut table = Table::new(&columns);
    for entry in entries {
        let shown = |amount: MicroUsd| if amount == MicroUsd::ZERO { String::new() } else { money(amount) };
        let about = entry.task.clone().unwrap_or_else(|| scope(&entry.note));
        let (when, kind) = (instant(entry.at), kind(entry.kind).to_owned());
        let (reserved, charged) = (shown(entry.reserved), shown(entry.charged));
        if is_wide {
            let (agent, model) = (entry.agent.clone().unwrap_or_default(), entry.model.clone().unwrap_or_default());
            table.row([when, kind, reserved, charged, agent, model, about]);
        } else {
            table.row([when, kind, reserved, charged, about]);
        }
    }
    table
}

fn csv(entries: &VecDeque<Entry>) -> Result<String, Failure> {
    let bug = |error: String| Failure::error("CS-CLI-022", error, "report this as a bug");
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let header = [
        "id",
        "at",
        "kind",
        "reservation",
        "job",
        "task",
        "agent",
        "model",
        "reserved_micro_usd",
        "charged_micro_usd",
        "input_tokens",
        "cache_write_5m_tokens",
        "cache_write_1h_tokens",
        "cache_read_tokens",
        "output_tokens",
        "note",
    ];
    writer.write_record(header).map_err(|error| bug(error.to_string()))?;
    for entry in entries {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let usage = &entry.usage;
        let record = [
            entry.id.to_string(),
            entry.at.to_string(),
            kind(entry.kind).to_owned(),
            entry.reservation.clone(),
            text(&entry.job),
            text(&entry.task),
            text(&entry.agent),
            text(&entry.model),
            entry.reserved.0.to_string(),
            entry.charged.0.to_string(),
            usage.input.to_string(),
            usage.cache_write_5m.to_string(),
            usage.cache_write_1h.to_string(),
            usage.cache_read.to_string(),
            usage.output.to_string(),
            entry.note.clone(),
        ];
        writer.write_record(record).map_err(|error| bug(error.to_string()))?;
    }
    let bytes = writer.into_inner().map_err(|error| bug(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| bug(error.to_string()))
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
