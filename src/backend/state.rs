//! `StateStore`: versioned keys with multi-key compare-and-set, history, snapshots and a change feed.
//!
//! What processes share while they work: claims, cards, stops. Versions rather than locks, so that a process that dies
//! leaves nothing behind. What a job did never lives here alone: that belongs to the event log.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::BackendError;
use super::bound::check_text;
use crate::clock::Timestamp;
use crate::protocol::InstanceId;

/// A value at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The key.
    pub key: String,
    /// 1 for the first write of the key; grows by one per write, deletions included.
    pub version: u64,
    /// `None` once deleted.
    pub value: Option<Bytes>,
    /// Who wrote it.
    pub writer: InstanceId,
    /// When.
    pub at: Timestamp,
}

/// What a write requires of the key's present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Any,
    /// The key has no value: never written, or deleted.
    Absent,
    /// The key is at exactly this version.
    Version(u64),
}

/// One write of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The key, 1 to 512 bytes without control characters.
    pub key: String,
    /// The condition.
    pub expected: Expected,
    /// The new value, or `None` to delete.
    pub value: Option<Bytes>,
}

/// Something a commit requires of a key that it does not write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The key.
    pub key: String,
    /// What must hold of it.
    pub expected: Expected,
}

/// All keys under a prefix at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Store-wide revision of that moment; pass it to [`StateStore::changes`] to go on from here without a gap.
    pub revision: u64,
    /// Living keys in key order.
    pub entries: Vec<Versioned>,
}

/// One change in the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Store-wide revision of the change.
    pub revision: u64,
    /// The value as written.
    pub entry: Versioned,
}

/// Versioned keys.
///
/// Promises: a commit applies all its writes or none; versions of a key have no gaps; `snapshot` is one moment; the feed
/// shows every change once, in revision order, writer included so that a reader can skip its own.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// Present values of `keys`, in order; `None` for keys without a value.
    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Versioned>>, BackendError>;

    /// Applies all `writes` if every condition holds, the writes' own included, else [`BackendError::Conflict`] naming the
    /// first key that failed, `conditions` first (with the actual version, 0 when absent). Answers the new versions in
    /// order. A key stands in at most one of them.
    async fn commit_if(
        &self,
        writer: &InstanceId,
        conditions: Vec<Condition>,
        writes: Vec<Write>,
    ) -> Result<Vec<u64>, BackendError>;

    /// [`StateStore::commit_if`] without further conditions.
    async fn commit(&self, writer: &InstanceId, writes: Vec<Write>) -> Result<Vec<u64>, BackendError> {
        self.commit_if(writer, Vec::new(), writes).await
    }

    /// Past values of `key`, newest first, at most `limit`.
    async fn history(&self, key: &str, limit: usize) -> Result<Vec<Versioned>, BackendError>;

    /// All living keys that start with `prefix`.
    async fn snapshot(&self, prefix: &str) -> Result<Snapshot, BackendError>;

    /// Changes under `prefix` after `revision`; waits up to `wait` for the first one. At most `limit`.
    async fn changes(
        &self,
        prefix: &str,
        revision: u64,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Change>, BackendError>;
}

/// Longest key, in bytes.
const MAX_KEY_BYTES: usize = 512;

/// Largest value, in bytes; larger ones travel as artifacts.
const MAX_VALUE_BYTES: usize = 10 * 1024 * 1024;

/// Refuses a commit that breaks a bound or names a key twice. Every backend asks here first.
pub(super) fn check_commit(conditions: &[Condition], writes: &[Write]) -> Result<(), BackendError> {
    let mut keys = HashSet::with_capacity(conditions.len() + writes.len());
    for key in conditions.iter().map(|condition| &condition.key).chain(writes.iter().map(|write| &write.key)) {
        check_text("key", key, MAX_KEY_BYTES)?;
        if !keys.insert(key) {
            return Err(BackendError::Invalid { field: "writes", why: format!("{key} stands in the commit twice") });
        }
    }
    for bytes in writes.iter().filter_map(|write| write.value.as_ref()).map(Bytes::len) {
        if bytes > MAX_VALUE_BYTES {
            let why = format!("{bytes} bytes are more than {MAX_VALUE_BYTES}");
            return Err(BackendError::Invalid { field: "value", why });
        }
    }
    Ok(())
}
