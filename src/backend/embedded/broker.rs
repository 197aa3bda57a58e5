//! [`Broker`] on tables: a message is a row, a lease is a phase of it with a due time and a token.
//!
//! The token in a [`DeliveryTag`] is never used twice, so an old tag cannot touch a later delivery. A message becomes
//! available in exactly four ways (published, retried, due, put back or orphaned), each of which tells the waiting
//! pulls in the same transaction.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{broadcast, oneshot};

use super::Store;
use super::column::{damaged, ends, loaded, rows, stored};
use super::fault::{Halt, closed};
use super::inbox::{Puller, Request};
use super::sql::statement;
use super::step::Step;
use crate::backend::bound::{bounded, check_message};
use crate::backend::broker::LEASE;
use crate::backend::{
    BackendError, Broker, DeadLetter, Delivery, DeliveryTag, Depth, Disposition, Outgoing, Queue, Signal,
};
use crate::clock::Timestamp;
use crate::protocol::InstanceId;

const SQL: &str = include_str!("sql/broker.sql");

/// Bodies over this many bytes have a row of their own.
const LARGE_BYTES: usize = 4 * 1024;

/// Most messages of one pull.
const MAX_PULL: usize = 1_024;

/// How long dedupe ids and signals are kept.
const MEMORY: Duration = Duration::from_secs(150);

/// Row and lease token of a tag.
fn parse_tag(tag: &DeliveryTag) -> Option<(i64, i64)> {
    let (seq, lease) = tag.0.split_once('-')?;
    Some((i64::from_str(seq).ok()?, i64::from_str_radix(lease, 16).ok()?))
}

fn publish(step: &mut Step<'_>, messages: &[(String, Outgoing)]) -> Result<(), Halt> {
    const REMEMBER: &str = statement(SQL, "remember");
    const PUBLISH: &str = statement(SQL, "publish");
    const PUBLISH_BODY: &str = statement(SQL, "publish body");
    // What a person asked for is not forgotten; tasks and results can be made again from the log.
    if messages.iter().any(|(_, message)| matches!(message.queue, Queue::Command { .. })) {
        step.must_not_be_undone();
    }
    for (queue, message) in messages {
        let new = step.db.prepare_cached(REMEMBER)?.execute(params![queue, message.dedupe, step.now.0])?;
        if new == 0 {
            continue;
        }
        let body: &[u8] = &message.body;
        let inline = (body.len() <= LARGE_BYTES).then_some(body);
        step.db.prepare_cached(PUBLISH)?.execute(params![queue, message.dedupe, inline])?;
        if inline.is_none() {
            step.db.prepare_cached(PUBLISH_BODY)?.execute(params![step.db.last_insert_rowid(), body])?;
        }
        step.effects.is_ready(queue);
    }
    Ok(())
}

/// Whether `queue` has something to pull at once.
pub(super) fn is_ready(db: &Connection, queue: &str) -> rusqlite::Result<bool> {
    const IS_READY: &str = statement(SQL, "is ready");
    db.prepare_cached(IS_READY)?.exists([queue])
}

/// Whether some lease or delay is over.
pub(super) fn is_due(db: &Connection, now: Timestamp) -> rusqlite::Result<bool> {
    const IS_DUE: &str = statement(SQL, "is due");
    db.prepare_cached(IS_DUE)?.exists([now.0])
}

/// Makes messages available whose lease or delay is over.
pub(super) fn return_due(step: &mut Step<'_>) -> rusqlite::Result<()> {
    const RETURN_DUE: &str = statement(SQL, "return due");
    let mut returning = step.db.prepare_cached(RETURN_DUE)?;
    for queue in returning.query_map([step.now.0], |row| row.get::<_, String>(0))? {
        step.effects.is_ready(&queue?);
    }
    Ok(())
}

/// Leases the first `max` messages of `queue` to `consumer`.
pub(super) fn claim(
    step: &mut Step<'_>,
    consumer: &InstanceId,
    queue: &Queue,
    name: &str,
    max: usize,
) -> rusqlite::Result<Vec<Delivery>> {
    const FIRST_READY: &str = statement(SQL, "first ready");
    const BODY: &str = statement(SQL, "body");
    const LEASE_ROW: &str = statement(SQL, "lease");
    let mut select = step.db.prepare_cached(FIRST_READY)?;
    let found = select.query_map(params![name, rows(max)], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, Option<Vec<u8>>>(1)?, row.get::<_, i64>(2)?))
    })?;
    let mut deliveries = Vec::new();
    for row in found {
        let (seq, inline, before) = row?;
        let body = match inline {
            Some(body) => body,
            None => step.db.prepare_cached(BODY)?.query_row([seq], |row| row.get(0))?,
        };
        deliveries.push((seq, body, before));
    }
    let mut update = step.db.prepare_cached(LEASE_ROW)?;
    let due = ends(step.now, LEASE);
    let lease = |(seq, body, before): (i64, Vec<u8>, i64)| {
        let token = *step.next_lease;
        *step.next_lease = token.checked_add(1).unwrap_or(1);
        update.execute(params![seq, due, token, consumer.as_str(), step.process.as_str()])?;
        Ok(Delivery {
            tag: DeliveryTag(format!("{seq}-{token:x}")),
            queue: queue.clone(),
            body: Bytes::from(body),
            deliveries: u32::try_from(before + 1).unwrap_or(u32::MAX),
        })
    };
    deliveries.into_iter().map(lease).collect()
}

/// Returns messages that never reached their puller.
pub(super) fn put_back(step: &mut Step<'_>, tags: &[DeliveryTag]) -> Result<(), Halt> {
    const PUT_BACK: &str = statement(SQL, "put back");
    for (seq, lease) in tags.iter().filter_map(parse_tag) {
        let queue = step.db.prepare_cached(PUT_BACK)?.query_row([seq, lease], |row| row.get::<_, String>(0));
        if let Some(queue) = queue.optional()? {
            step.effects.is_ready(&queue);
        }
    }
    Ok(())
}

/// Makes the messages available that a dead process held.
pub(super) fn orphan(step: &mut Step<'_>, instance: &InstanceId) -> rusqlite::Result<()> {
    const RETURN: &str = statement(SQL, "return of the dead");
    let mut returning = step.db.prepare_cached(RETURN)?;
    for queue in returning.query_map([instance.as_str()], |row| row.get::<_, String>(0))? {
        step.effects.is_ready(&queue?);
    }
    Ok(())
}

/// Disposes of one delivery; false when it is no longer held.
fn dispose_one(step: &mut Step<'_>, tag: &DeliveryTag, disposition: &Disposition) -> rusqlite::Result<bool> {
    const PROGRESS: &str = statement(SQL, "progress");
    const RETRY: &str = statement(SQL, "retry");
    const BURY: &str = statement(SQL, "bury");
    let (db, now) = (step.db, step.now);
    let Some((seq, lease)) = parse_tag(tag) else { return Ok(false) };
    match disposition {
        Disposition::Progress => Ok(db.prepare_cached(PROGRESS)?.execute([seq, lease, ends(now, LEASE), now.0])? > 0),
        Disposition::Ack => delete(db, seq, lease),
        Disposition::RetryLater(delay) => {
            let (phase, due) = if delay.is_zero() { (0, now.0) } else { (2, ends(now, *delay)) };
            let retried = db
                .prepare_cached(RETRY)?
                .query_row([seq, lease, phase, due, now.0], |row| row.get::<_, String>(0))
                .optional()?;
            if let (0, Some(queue)) = (phase, &retried) {
                step.effects.is_ready(queue);
            }
            Ok(retried.is_some())
        }
        Disposition::DeadLetter(reason) => {
            let buried = db.prepare_cached(BURY)?.execute(params![seq, lease, bounded(reason), now.0])?;
            Ok(buried > 0 && delete(db, seq, lease)?)
        }
    }
}

fn delete(db: &Connection, seq: i64, lease: i64) -> rusqlite::Result<bool> {
    const ACK: &str = statement(SQL, "ack");
    const DELETE_BODY: &str = statement(SQL, "delete body");
    let large = db.prepare_cached(ACK)?.query_row([seq, lease], |row| row.get::<_, bool>(0)).optional()?;
    if large == Some(true) {
        db.prepare_cached(DELETE_BODY)?.execute([seq])?;
    }
    Ok(large.is_some())
}

/// The newest signal of the store.
pub(super) fn newest_signal(db: &Connection) -> rusqlite::Result<i64> {
    const NEWEST: &str = statement(SQL, "newest signal");
    db.query_row(NEWEST, [], |row| row.get(0))
}

/// Signals after `after` that others than `process` sent, and the newest one seen.
pub(super) fn signals_after(db: &Connection, after: i64, process: &InstanceId) -> rusqlite::Result<(i64, Vec<Signal>)> {
    const SIGNALS: &str = statement(SQL, "signals");
    let (mut last, mut signals) = (after, Vec::new());
    let mut select = db.prepare_cached(SIGNALS)?;
    let mut found = select.query([after])?;
    while let Some(row) = found.next()? {
        last = row.get(0)?;
        if row.get_ref(1)?.as_str()? != process.as_str() {
            signals.push(serde_json::from_str(row.get_ref(2)?.as_str()?).map_err(|error| damaged(2, error))?);
        }
    }
    Ok((last, signals))
}

/// Whether there is something to [`forget`].
pub(super) fn has_old(db: &Connection, now: Timestamp) -> rusqlite::Result<bool> {
    const HAS_OLD: &str = statement(SQL, "has old");
    db.prepare_cached(HAS_OLD)?.query_row([before(now)], |row| row.get(0))
}

/// Removes dedupe ids and signals that are too old to matter, a bounded number at a time.
pub(super) fn forget(step: &mut Step<'_>) -> Result<(), Halt> {
    const FORGET_DEDUPE: &str = statement(SQL, "forget dedupe");
    const FORGET_SIGNALS: &str = statement(SQL, "forget signals");
    step.db.prepare_cached(FORGET_DEDUPE)?.execute([before(step.now)])?;
    step.db.prepare_cached(FORGET_SIGNALS)?.execute([before(step.now)])?;
    Ok(())
}

fn before(now: Timestamp) -> i64 {
    now.0.saturating_sub(ends(Timestamp(0), MEMORY))
}

#[async_trait]
impl Broker for Store {
    async fn publish(&self, messages: Vec<Outgoing>) -> Result<(), BackendError> {
        for message in &messages {
            check_message(message)?;
        }
        let named: Vec<_> = messages.into_iter().map(|message| (message.queue.to_string(), message)).collect();
        self.inbox.write(move |step| publish(step, &named)).await
    }

    async fn pull(
        &self,
        consumer: &InstanceId,
        queues: &[Queue],
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>, BackendError> {
        if max == 0 || queues.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, outcome) = oneshot::channel();
        self.inbox.send(Request::Pull(Puller {
            consumer: consumer.clone(),
            queues: queues.iter().map(|queue| (queue.clone(), queue.to_string())).collect(),
            max: max.min(MAX_PULL),
            until: Instant::now() + wait.min(super::MAX_WAIT),
            fresh: true,
            answer,
            inbox: Arc::downgrade(&self.inbox),
        }))?;
        Ok(outcome.await.map_err(|_| closed())??.take())
    }

    async fn dispose(&self, deliveries: Vec<(DeliveryTag, Disposition)>) -> Result<(), BackendError> {
        self.inbox
            .write(move |step| {
                let mut lost = None;
                for (tag, disposition) in &deliveries {
                    if !dispose_one(step, tag, disposition)? && *disposition != Disposition::Ack {
                        lost.get_or_insert_with(|| format!("delivery {}", tag.0));
                    }
                }
                lost.map_or(Ok(()), |what| Err(BackendError::LeaseLost { what }.into()))
            })
            .await
    }

    async fn depth(&self, queue: &Queue) -> Result<Depth, BackendError> {
        const DEPTH: &str = statement(SQL, "depth");
        let (queue, now) = (queue.to_string(), self.clock.now());
        self.reader
            .read(move |db| {
                let depth = db.prepare_cached(DEPTH)?.query_row(params![queue, now.0], |row| {
                    let count = |column| row.get(column).map(loaded);
                    Ok(Depth { waiting: count(0)? + count(1)?, in_flight: count(2)? })
                })?;
                Ok(depth)
            })
            .await
    }

    async fn dead_letters(&self, after: u64, limit: usize) -> Result<Vec<DeadLetter>, BackendError> {
        const DEAD_LETTERS: &str = statement(SQL, "dead letters");
        self.reader
            .read(move |db| {
                let mut select = db.prepare_cached(DEAD_LETTERS)?;
                let letters = select.query_map([stored(after), rows(limit)], |row| {
                    Ok(DeadLetter {
                        id: loaded(row.get(0)?),
                        queue: row.get(1)?,
                        dedupe: row.get(2)?,
                        body: Bytes::from(row.get::<_, Vec<u8>>(3)?),
                        reason: row.get(4)?,
                        at: Timestamp(row.get(5)?),
                    })
                })?;
                Ok(letters.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn dead_letter(&self, letters: Vec<(Outgoing, String)>) -> Result<(), BackendError> {
        const KEEP: &str = statement(SQL, "keep dead letter");
        for (message, _) in &letters {
            check_message(message)?;
        }
        self.inbox
            .write(move |step| {
                for (message, reason) in &letters {
                    let (queue, body): (_, &[u8]) = (message.queue.to_string(), &message.body);
                    let row = params![queue, message.dedupe, body, bounded(reason), step.now.0];
                    step.db.prepare_cached(KEEP)?.execute(row)?;
                }
                Ok(())
            })
            .await
    }

    async fn purge_dead_letters(&self, ids: &[u64]) -> Result<u64, BackendError> {
        const PURGE: &str = statement(SQL, "purge dead letter");
        let ids = ids.to_vec();
        self.inbox
            .write(move |step| {
                let mut purged = 0;
                for id in &ids {
                    purged += step.db.prepare_cached(PURGE)?.execute([stored(*id)])?;
                }
                Ok(u64::try_from(purged).unwrap_or(u64::MAX))
            })
            .await
    }

    async fn signal(&self, signal: Signal) -> Result<(), BackendError> {
        const SIGNAL: &str = statement(SQL, "signal");
        let body = serde_json::to_string(&signal)
            .map_err(|error| BackendError::Invalid { field: "signal", why: error.to_string() })?;
        self.inbox
            .write(move |step| {
                step.db.prepare_cached(SIGNAL)?.execute(params![step.now.0, step.process.as_str(), body])?;
                step.effects.signals.push(signal.clone());
                Ok(())
            })
            .await
    }

    fn signals(&self) -> broadcast::Receiver<Signal> {
        self.signals.subscribe()
    }
}
