//! [`DelayStore`] on a sorted set of due times beside the messages themselves.
//!
//! | Key below `<namespace>:{delay}:` | What |
//! |---|---|
//! | `due` | sorted set of message ids by when they are due |
//! | `messages` | hash by id: `deliveries queue body` |
//! | `waiting` | hash by queue: how many messages |
//! | `mover` | hash: the one `process` that moves messages at present, and `until` when |
//!
//! Taking moves the due time on instead of removing anything, so a mover that dies loses nothing and is replaced when it is
//! buried, or when its time is over.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::Value;

use super::Store;
use super::fault::unexpected;
use super::reply::{Reply, bytes, number, parsed, text};
use super::script::{DELAY_ORPHAN, DELAY_PUT, DELAY_REMOVE, DELAY_TAKE, millis};
use crate::backend::BackendError;
use crate::backend::delay::{DelayStore, Delayed};
use crate::protocol::InstanceId;

/// How long a process stays the one that moves messages after it has last moved some.
const MOVER_LEASE: Duration = Duration::from_secs(5);

/// After this time a message that was taken and not removed is due again.
const TAKEN_LEASE: Duration = Duration::from_secs(5);

/// Messages, and bytes of their bodies, after which a script is done; the rest goes into the next.
const STEP: (usize, usize) = (256, 8 << 20);

/// A message from "deliveries queue body".
fn delayed(id: String, packed: &Bytes) -> Result<Delayed, BackendError> {
    let damaged = || unexpected(&Value::BulkString(packed.to_vec()));
    let mut parts = packed.splitn(3, |byte| *byte == b' ');
    let mut head = || parts.next().and_then(|part| std::str::from_utf8(part).ok()).ok_or_else(damaged);
    let (deliveries, queue) = (parsed(head()?)?, head()?.to_owned());
    let body = packed.slice_ref(parts.next().ok_or_else(damaged)?);
    Ok(Delayed { id, queue, body, deliveries })
}

impl Store {
    /// Ends what waits because of a dead process: its turn as the mover, messages it took and never moved, and retries of
    /// attempts that it held. Which of the retries those are nobody knows here, so all that are due within seconds go; one
    /// that waits for somebody else is put away again.
    pub(super) async fn orphan_delays(&self, dead: &InstanceId) -> Result<(), BackendError> {
        loop {
            let mut call = self.call(&DELAY_ORPHAN, &self.space.delay);
            call.arg(dead.as_str()).arg(millis(TAKEN_LEASE)).arg(STEP.0);
            if number(self.links.ask(call).await?)? < STEP.0 as u64 {
                return Ok(());
            }
        }
    }
}

#[async_trait]
impl DelayStore for Store {
    async fn put(&self, messages: Vec<(Delayed, Duration)>) -> Result<(), BackendError> {
        let mut rest = messages.as_slice();
        while !rest.is_empty() {
            let mut call = self.call(&DELAY_PUT, &self.space.delay);
            let (mut count, mut size) = (0, 0);
            for (message, delay) in rest {
                size += message.body.len();
                if count > 0 && (count >= STEP.0 || size > STEP.1) {
                    break;
                }
                call.arg(&message.id).arg(millis(*delay)).arg(message.deliveries).arg(&message.queue);
                call.arg(message.body.as_ref());
                count += 1;
            }
            self.links.ask(call).await?;
            rest = &rest[count..];
        }
        Ok(())
    }

    async fn take_due(&self, limit: usize) -> Result<Vec<Delayed>, BackendError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut call = self.call(&DELAY_TAKE, &self.space.delay);
        call.arg(self.process.as_str()).arg(millis(MOVER_LEASE)).arg(limit.min(STEP.0));
        call.arg(millis(TAKEN_LEASE)).arg(STEP.1);
        let mut found = Reply::of(self.links.ask(call).await?)?.rest();
        let mut taken = Vec::new();
        while let (Some(id), Some(packed)) = (found.next(), found.next()) {
            taken.push(delayed(text(id)?, &bytes(packed)?)?);
        }
        Ok(taken)
    }

    async fn remove(&self, ids: Vec<String>) -> Result<(), BackendError> {
        for ids in ids.chunks(STEP.0) {
            let mut call = self.call(&DELAY_REMOVE, &self.space.delay);
            call.arg(ids);
            self.links.ask(call).await?;
        }
        Ok(())
    }

    async fn waiting(&self, queue: &str) -> Result<u64, BackendError> {
        let mut get = redis::cmd("HGET");
        get.arg(format!("{}:waiting", self.space.delay)).arg(queue);
        match self.links.ask(get).await? {
            Value::Nil => Ok(0),
            found => number(found),
        }
    }

    async fn all_waiting(&self) -> Result<HashMap<String, u64>, BackendError> {
        let mut get = redis::cmd("HGETALL");
        get.arg(format!("{}:waiting", self.space.delay));
        let mut found = Reply::of(self.links.ask(get).await?)?.rest();
        let mut waiting = HashMap::new();
        while let (Some(queue), Some(count)) = (found.next(), found.next()) {
            waiting.insert(text(queue)?, number(count)?);
        }
        Ok(waiting)
    }
}
