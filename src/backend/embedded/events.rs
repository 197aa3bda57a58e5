//! [`EventLog`] on tables: one row per event, placed by job number and sequence.
//!
//! The single writer makes compare-and-set a plain comparison. Events are encoded before they reach the writer thread
//! and decoded on a reader, so that JSON costs the writer nothing.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::oneshot;

use super::Store;
use super::column::{damaged, id, loaded, rows, stored};
use super::fault::{Halt, closed};
use super::inbox::{Request, Tailer};
use super::sql::statement;
use super::step::Step;
use crate::backend::{BackendError, EventLog, JobEntry};
use crate::clock::Timestamp;
use crate::protocol::{Event, JobId, RecordedEvent};

const SQL: &str = include_str!("sql/events.sql");

/// Bits of a place that hold the sequence.
const SEQ_BITS: u32 = 32;

/// Newest sequence of `job`, 0 when it is unknown.
pub(super) fn last_seq(db: &Connection, job: &JobId) -> rusqlite::Result<u64> {
    const LAST_SEQ: &str = statement(SQL, "last seq");
    let last = db.prepare_cached(LAST_SEQ)?.query_row([job.as_str()], |row| row.get(0)).optional()?;
    Ok(last.map_or(0, loaded))
}

fn append(step: &mut Step<'_>, job: &JobId, expected: u64, events: &[Vec<u8>]) -> Result<u64, Halt> {
    const NUMBER: &str = statement(SQL, "number");
    const BEGIN: &str = statement(SQL, "begin");
    const ADVANCE: &str = statement(SQL, "advance");
    const APPEND: &str = statement(SQL, "append");
    step.must_not_be_undone();
    let (db, now) = (step.db, step.now.0);
    let known = db
        .prepare_cached(NUMBER)?
        .query_row([job.as_str()], |row| Ok((row.get::<_, i64>(0)?, loaded(row.get(1)?))))
        .optional()?;
    let actual = known.map_or(0, |(_, last)| last);
    if actual != expected {
        return Err(BackendError::Conflict { what: format!("the log of job {job}"), expected, actual }.into());
    }
    if events.is_empty() {
        return Ok(actual);
    }
    let last = actual + events.len() as u64;
    let number = match known {
        Some((number, _)) => {
            db.prepare_cached(ADVANCE)?.execute([number, stored(last), now])?;
            number
        }
        None => {
            db.prepare_cached(BEGIN)?.execute(params![job.as_str(), stored(last), now])?;
            db.last_insert_rowid()
        }
    };
    let mut insert = db.prepare_cached(APPEND)?;
    for (seq, body) in (actual + 1..).zip(events) {
        insert.execute(params![(number << SEQ_BITS) + stored(seq), now, body])?;
    }
    step.effects.appended.push((job.clone(), last));
    Ok(last)
}

fn read(db: &Connection, job: &JobId, after: u64, limit: usize) -> Result<Vec<RecordedEvent>, Halt> {
    const NUMBER: &str = statement(SQL, "number");
    const READ: &str = statement(SQL, "read");
    let known = db
        .prepare_cached(NUMBER)?
        .query_row([job.as_str()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    let Some((number, last)) = known else { return Ok(Vec::new()) };
    let start = number << SEQ_BITS;
    let mut select = db.prepare_cached(READ)?;
    let events = select.query_map(params![start + stored(after).min(last), start + last, rows(limit)], |row| {
        let event = serde_json::from_slice(row.get_ref(2)?.as_blob()?).map_err(|error| damaged(2, error))?;
        Ok(RecordedEvent { seq: loaded(row.get(0)?), at: Timestamp(row.get(1)?), event })
    })?;
    Ok(events.collect::<Result<_, _>>()?)
}

#[async_trait]
impl EventLog for Store {
    async fn append(&self, job: &JobId, expected: u64, events: Vec<Event>) -> Result<u64, BackendError> {
        let encoded = events.iter().map(serde_json::to_vec).collect::<Result<Vec<_>, _>>();
        let encoded = encoded.map_err(|error| BackendError::Invalid { field: "event", why: error.to_string() })?;
        let job = job.clone();
        self.inbox.write(move |step| append(step, &job, expected, &encoded)).await
    }

    async fn read(&self, job: &JobId, after: u64, limit: usize) -> Result<Vec<RecordedEvent>, BackendError> {
        let job = job.clone();
        self.reader.read(move |db| read(db, &job, after, limit)).await
    }

    async fn wait(&self, job: &JobId, after: u64, wait: Duration) -> Result<bool, BackendError> {
        let (answer, outcome) = oneshot::channel();
        self.inbox.send(Request::Tail(Tailer {
            job: job.clone(),
            after,
            until: Instant::now() + wait.min(super::MAX_WAIT),
            fresh: true,
            answer,
        }))?;
        outcome.await.map_err(|_| closed())
    }

    async fn jobs(&self) -> Result<Vec<JobEntry>, BackendError> {
        const JOBS: &str = statement(SQL, "jobs");
        self.reader
            .read(|db| {
                let mut select = db.prepare_cached(JOBS)?;
                let jobs = select.query_map([], |row| {
                    Ok(JobEntry {
                        job: id(row, 0)?,
                        last_seq: loaded(row.get(1)?),
                        created_at: Timestamp(row.get(2)?),
                        updated_at: Timestamp(row.get(3)?),
                    })
                })?;
                Ok(jobs.collect::<Result<_, _>>()?)
            })
            .await
    }
}
