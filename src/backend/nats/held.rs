//! The deliveries this process holds, by tag, until they are disposed of or their lease ends.
//!
//! JetStream accepts an acknowledgement from anyone at any time (research: engines §3a, 5), so whether a delivery is still
//! ours is decided here, by our own measure of its lease. That measure begins when the message arrives, a moment after the
//! server's, so it only keeps this process from stepping on others; it is no fence.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;

use super::caught::Caught;
use super::link::header;
use super::names::{DEDUPE, MESSAGE_ID};
use crate::backend::DeliveryTag;
use crate::clock::random_token;

/// A delivery in hand.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) reply: Subject,
    /// Its queue, as [`Queue`](crate::backend::Queue) prints.
    pub(super) queue: String,
    pub(super) headers: Option<HeaderMap>,
    pub(super) payload: Bytes,
    pub(super) sequence: u64,
    pub(super) deliveries: u32,
    until: Instant,
}

impl Held {
    /// The dedupe id under which the message was published. A stranger's message is known by its place in the stream.
    pub(super) fn dedupe(&self) -> String {
        let headers = self.headers.as_ref();
        let published = header(headers, DEDUPE).or_else(|| {
            let id = header(headers, MESSAGE_ID)?;
            Some(id.strip_prefix(&self.queue)?.strip_prefix('/').unwrap_or(id))
        });
        match published.or_else(|| header(headers, MESSAGE_ID)).filter(|id| !id.is_empty()) {
            Some(dedupe) => dedupe.to_owned(),
            None => format!("message {}", self.sequence),
        }
    }
}

/// All deliveries in hand.
#[derive(Debug)]
pub(super) struct Hand {
    lease: Duration,
    /// Keeps the tags of one process apart from those of its past selves.
    token: String,
    held: Mutex<HashMap<DeliveryTag, Held>>,
}

impl Hand {
    pub(super) fn new(lease: Duration) -> Self {
        Self { lease, token: random_token(8), held: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeliveryTag, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a message; its tag is never given to another delivery.
    pub(super) fn hold(&self, caught: Caught) -> DeliveryTag {
        let Caught { source, sequence, delivery, .. } = &caught;
        let tag = DeliveryTag(format!("{}{sequence}-{delivery}-{}", source.letter, self.token));
        let held = Held {
            queue: source.queue.to_string(),
            reply: caught.reply,
            headers: caught.headers,
            payload: caught.payload,
            sequence: caught.sequence,
            deliveries: caught.deliveries,
            until: caught.at + self.lease,
        };
        self.lock().insert(tag.clone(), held);
        tag
    }

    /// A delivery that is still held.
    pub(super) fn get(&self, tag: &DeliveryTag) -> Option<Held> {
        self.lock().get(tag).filter(|held| held.until > Instant::now()).cloned()
    }

    /// Starts a delivery's lease anew; where to tell the server.
    pub(super) fn renew(&self, tag: &DeliveryTag) -> Option<Subject> {
        let (mut all, now) = (self.lock(), Instant::now());
        let held = all.get_mut(tag).filter(|held| held.until > now)?;
        held.until = now + self.lease;
        Some(held.reply.clone())
    }

    /// Lets go of a delivery; where to tell the server, if it was still held.
    pub(super) fn release(&self, tag: &DeliveryTag) -> Option<Subject> {
        let held = self.lock().remove(tag)?;
        (held.until > Instant::now()).then_some(held.reply)
    }

    /// Forgets deliveries whose leases have ended.
    pub(super) fn forget_lost(&self) {
        let now = Instant::now();
        self.lock().retain(|_, held| held.until > now);
    }
}
