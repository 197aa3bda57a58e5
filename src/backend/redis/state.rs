//! [`StateStore`] on hashes: one per key with its newest version, a list of its past, and one stream of all changes.
//!
//! | Key below `<namespace>:{state}:` | What |
//! |---|---|
//! | `key:<key>` | hash: `version living at writer commit revision value`; stays when the key is deleted, so that versions have no gaps |
//! | `history:<key>` | list, newest first, of the versions before that one; the newest 100 in all are kept |
//! | `keys` | sorted set of the living keys, in byte order |
//! | `revision` | the newest store-wide revision |
//! | `feed` | stream of changes, their revision as id; the newest 20,000 or a few more are kept |
//! | `changed` | channel on which the keys of a commit are told |
//!
//! A reader of changes that comes back too late is told so and takes a snapshot; it never gets a feed with a gap. A commit
//! carries a token of its own, so that repeating it after a lost answer finds what it did.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::Value;
use tokio::time::Instant;

use super::Store;
use super::fault::{STORE, unexpected};
use super::reply::{Reply, entry, parsed, revision, text};
use super::script::{STATE_CHANGES, STATE_COMMIT, STATE_GET, STATE_HISTORY, STATE_SNAPSHOT};
use crate::backend::state::check_commit;
use crate::backend::{BackendError, Change, Condition, Expected, Snapshot, StateStore, Versioned, Write};
use crate::clock::random_token;
use crate::protocol::InstanceId;

/// Changes that one script looks at.
const LOOKS: usize = 1_000;

/// Longest wait for changes; a longer one is cut to it.
const MAX_WAIT: Duration = Duration::from_secs(3_600);

fn expectation(expected: Expected) -> String {
    match expected {
        Expected::Any => "*".into(),
        Expected::Absent => "-".into(),
        Expected::Version(version) => version.to_string(),
    }
}

const fn expected_version(expected: Expected) -> u64 {
    match expected {
        Expected::Version(version) => version,
        Expected::Any | Expected::Absent => 0,
    }
}

/// A living key from version, time, writer and value.
fn living(key: String, reply: &mut Reply) -> Result<Versioned, BackendError> {
    let (version, at, writer) = (reply.number()?, reply.time()?, reply.id()?);
    Ok(Versioned { key, version, at, writer, value: Some(reply.bytes()?) })
}

/// A past value from "version at writer commit living value".
fn past(key: &str, value: Value) -> Result<Versioned, BackendError> {
    let Value::BulkString(packed) = value else { return Err(unexpected(&value)) };
    let packed = Bytes::from(packed);
    let mut start = 0;
    let mut parts = [""; 5];
    for part in &mut parts {
        let length = packed[start..].iter().position(|byte| *byte == b' ');
        let found = length.and_then(|length| std::str::from_utf8(&packed[start..start + length]).ok());
        *part = found.ok_or_else(|| unexpected(&Value::BulkString(packed.to_vec())))?;
        start += part.len() + 1;
    }
    let [version, at, writer, _, is_living] = parts;
    let value = (is_living == "+").then(|| packed.slice(start..));
    Ok(Versioned { key: key.to_owned(), version: parsed(version)?, at: time(at)?, writer: parsed(writer)?, value })
}

fn time(text: &str) -> Result<crate::clock::Timestamp, BackendError> {
    parsed(text).map(crate::clock::Timestamp)
}

/// A change from an entry of the stream.
fn change(value: Value) -> Result<Change, BackendError> {
    let (revision, fields) = entry(value)?;
    let field = |name: &str| fields.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    let text = |name: &str| {
        let value = field(name).ok_or_else(|| unexpected(&Value::Nil))?;
        String::from_utf8(value.to_vec()).map_err(|_| unexpected(&Value::BulkString(value.to_vec())))
    };
    let entry = Versioned {
        key: text("key")?,
        version: parsed(&text("version")?)?,
        at: time(&text("at")?)?,
        writer: parsed(&text("writer")?)?,
        value: field("value").cloned(),
    };
    Ok(Change { revision, entry })
}

/// Changes that one look has found, and the revision up to which it has looked.
struct Looked {
    found: Vec<Change>,
    upto: u64,
    newest: u64,
}

impl Store {
    async fn look(&self, prefix: &str, after: u64, limit: usize) -> Result<Looked, BackendError> {
        let mut call = self.call(&STATE_CHANGES, &self.space.state);
        call.arg(prefix).arg(format!("{}-0", after.saturating_add(1))).arg(limit).arg(LOOKS);
        let mut reply = Reply::of(self.links.ask(call).await?)?;
        let (newest, oldest, upto) = (reply.number()?, reply.text()?, revision(&reply.text()?)?);
        if newest < after {
            let why = format!("the newest change is {newest}, and this process has seen {after}");
            return Err(BackendError::DataLost { store: STORE, why });
        }
        let oldest = if oldest.is_empty() { newest + 1 } else { revision(&oldest)? };
        if oldest > after.saturating_add(1) {
            return Err(BackendError::Compacted { what: "the state's changes".into(), asked: after, oldest });
        }
        Ok(Looked { found: reply.rest().map(change).collect::<Result<_, _>>()?, upto, newest })
    }

    /// Looks on until something is found or everything was looked at.
    async fn look_through(&self, prefix: &str, after: u64, limit: usize) -> Result<Looked, BackendError> {
        let mut looked = self.look(prefix, after, limit).await?;
        while looked.found.is_empty() && looked.upto < looked.newest {
            looked = self.look(prefix, looked.upto, limit).await?;
        }
        Ok(looked)
    }
}

#[async_trait]
impl StateStore for Store {
    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Versioned>>, BackendError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut call = self.call(&STATE_GET, &self.space.state);
        call.arg(keys);
        let found = Reply::of(self.links.ask(call).await?)?;
        let mut values = Vec::with_capacity(keys.len());
        for value in found.rest() {
            values.push(match value {
                Value::Nil => None,
                value => {
                    let mut reply = Reply::of(value)?;
                    let key = reply.text()?;
                    Some(living(key, &mut reply)?)
                }
            });
        }
        Ok(values)
    }

    async fn commit_if(
        &self,
        writer: &InstanceId,
        conditions: Vec<Condition>,
        writes: Vec<Write>,
    ) -> Result<Vec<u64>, BackendError> {
        check_commit(&conditions, &writes)?;
        let mut call = self.call(&STATE_COMMIT, &self.space.state);
        call.arg(writer.as_str()).arg(random_token(16)).arg(conditions.len());
        for condition in &conditions {
            call.arg(&condition.key).arg(expectation(condition.expected));
        }
        call.arg(writes.len());
        for write in &writes {
            call.arg(&write.key).arg(expectation(write.expected));
            call.arg(if write.value.is_some() { "+" } else { "-" }).arg(write.value.as_deref().unwrap_or_default());
        }
        let mut reply = Reply::of(self.links.ask(call).await?)?;
        if reply.number()? == 1 {
            return reply.rest().map(super::reply::number).collect();
        }
        let place = usize::try_from(reply.number()?).unwrap_or(0);
        let actual = reply.number()?;
        let all = conditions.iter().map(|one| (&one.key, one.expected));
        let all = all.chain(writes.iter().map(|one| (&one.key, one.expected)));
        let failed = all.into_iter().nth(place.saturating_sub(1));
        let (key, expected) = failed.ok_or_else(|| unexpected(&Value::Nil))?;
        Err(BackendError::Conflict { what: key.clone(), expected: expected_version(expected), actual })
    }

    async fn history(&self, key: &str, limit: usize) -> Result<Vec<Versioned>, BackendError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut call = self.call(&STATE_HISTORY, &self.space.state);
        call.arg(key).arg(i64::try_from(limit).unwrap_or(i64::MAX).min(1 << 30));
        Reply::of(self.links.ask(call).await?)?.rest().map(|value| past(key, value)).collect()
    }

    async fn snapshot(&self, prefix: &str) -> Result<Snapshot, BackendError> {
        let mut call = self.call(&STATE_SNAPSHOT, &self.space.state);
        call.arg(prefix);
        let mut reply = Reply::of(self.links.ask(call).await?)?;
        let revision = reply.number()?;
        let mut entries = Vec::new();
        for value in reply.rest() {
            let mut entry = Reply::of(value)?;
            let key = text(entry.value()?)?;
            entries.push(living(key, &mut entry)?);
        }
        Ok(Snapshot { revision, entries })
    }

    async fn changes(
        &self,
        prefix: &str,
        revision: u64,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Change>, BackendError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let until = Instant::now() + wait.min(MAX_WAIT);
        // Before the first look, so that no hint falls between the two.
        let mut follower = (!wait.is_zero()).then(|| self.hints.follow());
        let mut after = revision;
        loop {
            let looked = self.look_through(prefix, after, limit).await?;
            let Some(follower) = follower.as_mut().filter(|_| looked.found.is_empty() && Instant::now() < until) else {
                return Ok(looked.found);
            };
            after = after.max(looked.upto);
            follower.look_again(prefix, until).await;
        }
    }
}
