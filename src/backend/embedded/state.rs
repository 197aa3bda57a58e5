//! [`StateStore`] on two tables: a log of every write, and a pointer per key to its newest.
//!
//! The row number of the log is the store-wide revision, so the change feed is the log itself and a snapshot plus the
//! feed after its revision cannot miss anything. Each row points to its key's row before, which makes history a walk
//! and needs no index. Nothing here may delete from the log.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::oneshot;

use super::Store;
use super::column::{PrefixEnd, id, loaded, rows, stored};
use super::fault::{Halt, closed};
use super::inbox::{Follower, Request};
use super::sql::statement;
use super::step::Step;
use crate::backend::state::check_commit;
use crate::backend::{BackendError, Change, Condition, Expected, Snapshot, StateStore, Versioned, Write};
use crate::clock::Timestamp;
use crate::protocol::InstanceId;

const SQL: &str = include_str!("sql/state.sql");

/// Newest store-wide revision.
pub(super) fn revision(db: &Connection) -> rusqlite::Result<u64> {
    const REVISION: &str = statement(SQL, "revision");
    db.prepare_cached(REVISION)?.query_row([], |row| row.get(0)).map(loaded)
}

/// Where a key stands: version and revision of its newest write, and whether it has a value.
#[derive(Clone, Copy, Default)]
struct Present {
    version: u64,
    revision: i64,
    living: bool,
}

fn present(db: &Connection, key: &str) -> rusqlite::Result<Present> {
    const PRESENT: &str = statement(SQL, "present");
    let read = |row: &Row<'_>| Ok(Present { version: loaded(row.get(0)?), revision: row.get(1)?, living: row.get(2)? });
    Ok(db.prepare_cached(PRESENT)?.query_row([key], read).optional()?.unwrap_or_default())
}

fn write_over(
    step: &mut Step<'_>,
    writer: &InstanceId,
    key: &str,
    before: Present,
    value: Option<&[u8]>,
) -> rusqlite::Result<u64> {
    const LOG: &str = statement(SQL, "log");
    const POINT: &str = statement(SQL, "point");
    let version = before.version + 1;
    let row = params![key, stored(version), value, writer.as_str(), step.now.0, before.revision];
    step.db.prepare_cached(LOG)?.execute(row)?;
    let revision = step.db.last_insert_rowid();
    step.db.prepare_cached(POINT)?.execute(params![key, stored(version), revision, value.is_some()])?;
    step.effects.written.push(key.to_owned());
    Ok(version)
}

/// Writes `value` under `key`, whatever is there.
pub(super) fn put(step: &mut Step<'_>, writer: &InstanceId, key: &str, value: &[u8]) -> rusqlite::Result<u64> {
    let before = present(step.db, key)?;
    write_over(step, writer, key, before, Some(value))
}

/// Where `key` stands, if that is as `expected`.
fn standing(db: &Connection, key: &str, expected: Expected) -> Result<Present, Halt> {
    let found = present(db, key)?;
    let actual = if found.living { found.version } else { 0 };
    let failed = match expected {
        Expected::Any => None,
        Expected::Absent => found.living.then_some(0),
        Expected::Version(version) => (found.version != version).then_some(version),
    };
    match failed {
        Some(expected) => Err(BackendError::Conflict { what: key.to_owned(), expected, actual }.into()),
        None => Ok(found),
    }
}

fn commit(
    step: &mut Step<'_>,
    writer: &InstanceId,
    conditions: &[Condition],
    writes: &[Write],
) -> Result<Vec<u64>, Halt> {
    for condition in conditions {
        standing(step.db, &condition.key, condition.expected)?;
    }
    let mut before = Vec::with_capacity(writes.len());
    for write in writes {
        before.push(standing(step.db, &write.key, write.expected)?);
    }
    let apply =
        |(write, before): (&Write, Present)| write_over(step, writer, &write.key, before, write.value.as_deref());
    Ok(writes.iter().zip(before).map(apply).collect::<Result<_, _>>()?)
}

fn versioned(row: &Row<'_>) -> rusqlite::Result<Versioned> {
    Ok(Versioned {
        key: row.get(0)?,
        version: loaded(row.get(1)?),
        value: row.get::<_, Option<Vec<u8>>>(2)?.map(Bytes::from),
        writer: id(row, 3)?,
        at: Timestamp(row.get(4)?),
    })
}

/// Changes after `after`, and the revision up to which they are complete.
fn changes(db: &Connection, prefix: &str, after: u64, limit: usize) -> Result<(Vec<Change>, u64), Halt> {
    const CHANGES: &str = statement(SQL, "changes");
    let newest = revision(db)?;
    let mut select = db.prepare_cached(CHANGES)?;
    let found = select.query_map(params![stored(after), prefix, PrefixEnd::of(prefix), rows(limit)], |row| {
        Ok(Change { revision: loaded(row.get(5)?), entry: versioned(row)? })
    })?;
    Ok((found.collect::<Result<_, _>>()?, newest))
}

#[async_trait]
impl StateStore for Store {
    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Versioned>>, BackendError> {
        const GET: &str = statement(SQL, "get");
        let keys = keys.to_vec();
        self.reader
            .read(move |db| {
                let mut select = db.prepare_cached(GET)?;
                let values = keys.iter().map(|key| select.query_row([key], versioned).optional());
                Ok(values.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn commit_if(
        &self,
        writer: &InstanceId,
        conditions: Vec<Condition>,
        writes: Vec<Write>,
    ) -> Result<Vec<u64>, BackendError> {
        check_commit(&conditions, &writes)?;
        let writer = writer.clone();
        self.inbox.write(move |step| commit(step, &writer, &conditions, &writes)).await
    }

    async fn history(&self, key: &str, limit: usize) -> Result<Vec<Versioned>, BackendError> {
        const HISTORY: &str = statement(SQL, "history");
        let key = key.to_owned();
        self.reader
            .read(move |db| {
                let mut select = db.prepare_cached(HISTORY)?;
                let past = select.query_map(params![key, rows(limit)], versioned)?;
                Ok(past.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn snapshot(&self, prefix: &str) -> Result<Snapshot, BackendError> {
        const SNAPSHOT: &str = statement(SQL, "snapshot");
        let prefix = prefix.to_owned();
        self.reader
            .read(move |db| {
                let revision = revision(db)?;
                let mut select = db.prepare_cached(SNAPSHOT)?;
                let entries = select.query_map(params![prefix, PrefixEnd::of(&prefix)], versioned)?;
                Ok(Snapshot { revision, entries: entries.collect::<Result<_, _>>()? })
            })
            .await
    }

    async fn changes(
        &self,
        prefix: &str,
        revision: u64,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Change>, BackendError> {
        let until = Instant::now() + wait.min(super::MAX_WAIT);
        let mut after = revision;
        loop {
            let text = prefix.to_owned();
            let (found, looked) = self.reader.read(move |db| changes(db, &text, after, limit)).await?;
            if !found.is_empty() || limit == 0 || Instant::now() >= until {
                return Ok(found);
            }
            after = after.max(looked);
            let (answer, outcome) = oneshot::channel();
            let prefix = prefix.to_owned();
            self.inbox.send(Request::Follow(Follower { prefix, revision: after, until, fresh: true, answer }))?;
            if !outcome.await.map_err(|_| closed())? {
                return Ok(Vec::new());
            }
        }
    }
}
