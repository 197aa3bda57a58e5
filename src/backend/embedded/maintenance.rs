//! What the writer does about once a second besides its callers' operations.
//!
//! It only decides *what* to do; the work runs as ordinary operations of the next transaction. A second in which there
//! is nothing to do must not start a transaction.

use rusqlite::Connection;

use super::alive::Lives;
use super::broker;
use super::step::{Call, Operation};
use crate::clock::Timestamp;

/// Operations that are due: taking over from dead processes, forgetting what is too old to matter.
pub(super) fn operations(db: &Connection, lives: &Lives, now: Timestamp) -> Vec<Box<dyn Operation>> {
    let mut operations: Vec<Box<dyn Operation>> = Vec::new();
    match lives.find_dead() {
        Ok(Some(reap)) => operations.push(Box::new(reap)),
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "cannot look for dead processes"),
    }
    match broker::has_old(db, now) {
        // Nobody waits for the outcome: what is not forgotten now is forgotten a second later.
        Ok(true) => operations.push(Box::new(Call::new(broker::forget, None).0)),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "cannot look for old messages"),
    }
    operations
}
