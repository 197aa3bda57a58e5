//! `StateStore`: versioned keys with multi-key compare-and-set, history, snapshots and a change feed.
//!
//! What processes share while they work: claims, cards, stops. Versions rather than locks, so that a process that dies
//! leaves nothing behind. What a job did never lives here alone: that belongs to the event log.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::BackendError;
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

    /// Applies all `writes` if every condition holds, else [`BackendError::Conflict`] naming the first key that failed
    /// (with the actual version, 0 when absent). Answers the new versions in order.
    async fn commit(&self, writer: &InstanceId, writes: Vec<Write>) -> Result<Vec<u64>, BackendError>;

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
