//! The ledger's record: one row per event, added and never changed (the table's triggers refuse anything else).
//!
//! A line is written in the transaction whose outcome it states, so record and balances cannot disagree after a crash.
//! Nothing here may decide about money: what a step is allowed to do is settled before it is written down.

use rusqlite::{Row, params};

use crate::backend::embedded::column::{loaded, rows, stored};
use crate::backend::embedded::sql::statement;
use crate::backend::embedded::step::Step;
use crate::backend::{Entry, EntryKind};
use crate::clock::Timestamp;
use crate::protocol::{MicroUsd, Usage};

const SQL: &str = include_str!("../sql/ledger.sql");

const KINDS: [EntryKind; 5] =
    [EntryKind::Reserve, EntryKind::Settle, EntryKind::Release, EntryKind::Expire, EntryKind::Adjust];

/// A line to add to the record.
pub(super) struct NewEntry<'a> {
    pub(super) kind: EntryKind,
    pub(super) reservation: &'a str,
    /// Job, task, agent type and model.
    pub(super) about: [Option<&'a str>; 4],
    pub(super) reserved: u64,
    pub(super) charged: u64,
    pub(super) usage: Usage,
    pub(super) note: &'a str,
}

/// Adds a line.
pub(super) fn enter(step: &Step<'_>, entry: &NewEntry<'_>) -> rusqlite::Result<()> {
    const ENTER: &str = statement(SQL, "enter");
    let kind = KINDS.iter().position(|kind| *kind == entry.kind).map(rows);
    let [job, task, agent, model] = entry.about;
    step.db.prepare_cached(ENTER)?.execute(params![
        step.now.0,
        kind,
        entry.reservation,
        job,
        task,
        agent,
        model,
        stored(entry.reserved),
        stored(entry.charged),
        stored(entry.usage.input),
        stored(entry.usage.cache_write_5m),
        stored(entry.usage.cache_write_1h),
        stored(entry.usage.cache_read),
        stored(entry.usage.output),
        entry.note,
    ])?;
    Ok(())
}

/// Reads a line from the columns of the `entries` statements.
pub(super) fn read_entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let number = |column| row.get(column).map(loaded);
    let kind: usize = row.get::<_, u32>(2)? as usize;
    let out_of_range = || rusqlite::Error::IntegralValueOutOfRange(2, rows(kind));
    Ok(Entry {
        id: number(0)?,
        at: Timestamp(row.get(1)?),
        kind: *KINDS.get(kind).ok_or_else(out_of_range)?,
        reservation: row.get(3)?,
        job: row.get(4)?,
        task: row.get(5)?,
        agent: row.get(6)?,
        model: row.get(7)?,
        reserved: MicroUsd(number(8)?),
        charged: MicroUsd(number(9)?),
        usage: Usage {
            input: number(10)?,
            cache_write_5m: number(11)?,
            cache_write_1h: number(12)?,
            cache_read: number(13)?,
            output: number(14)?,
        },
        note: row.get(15)?,
    })
}
