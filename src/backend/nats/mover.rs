//! Retries: put away until they are due, then published again.
//!
//! JetStream's own delayed redelivery would keep a place among the unacknowledged and is forgotten when the server restarts
//! (research: engines §3a, 7). Every process looks what is due; the delay store sees to it that one at a time moves messages,
//! and message ids make moving one twice harmless. A message must be in its queue before it leaves the store.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio_util::sync::CancellationToken;

use super::held::{Hand, Held};
use super::link::{Link, Post, header, headers, set};
use super::names::{BODY, DEDUPE, DELIVERIES, MESSAGE_ID};
use crate::backend::BackendError;
use crate::backend::delay::{DelayStore, Delayed};

/// How often to look.
const PERIOD: Duration = Duration::from_millis(250);

/// Most messages moved at once.
const BATCH: usize = 256;

/// What the first byte of a body that is put away says about the rest.
const PLAIN: u8 = 0;
const REFERENCE: u8 = 1;

/// What to put away of a delivery.
pub(super) fn delayed(held: &Held) -> Delayed {
    let reference = header(held.headers.as_ref(), BODY);
    let (kind, rest) = match reference {
        Some(text) => (REFERENCE, text.as_bytes()),
        None => (PLAIN, &held.payload[..]),
    };
    let mut body = BytesMut::with_capacity(rest.len() + 1);
    body.put_u8(kind);
    body.extend_from_slice(rest);
    Delayed {
        // A place in a stream is used once, so two messages with one dedupe id are never taken for each other.
        id: format!("{}/{}.{}/{}", held.queue, held.sequence, held.deliveries, held.dedupe()),
        queue: held.queue.clone(),
        body: body.freeze(),
        deliveries: held.deliveries,
    }
}

/// The message that brings it back; `None` when somebody else has put it away.
fn post(link: &Link, message: &Delayed) -> Option<Post> {
    let dedupe = message.id.splitn(3, '/').nth(2)?;
    let (kind, rest) = message.body.split_first()?;
    let mut headers = headers([
        (MESSAGE_ID, message.id.clone()),
        (DEDUPE, dedupe.to_owned()),
        (DELIVERIES, message.deliveries.to_string()),
    ]);
    let payload = match *kind {
        PLAIN => message.body.slice(1..),
        REFERENCE => {
            set(&mut headers, BODY, std::str::from_utf8(rest).ok()?.to_owned());
            Bytes::new()
        }
        _ => return None,
    };
    Some(Post { subject: link.names.queue_named(&message.queue), headers, payload })
}

/// Moves what is due until `stop`.
pub(super) fn start(link: &Link, delays: Arc<dyn DelayStore>, hand: Arc<Hand>, stop: CancellationToken) {
    let link = link.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
            hand.forget_lost();
            loop {
                match move_due(&link, delays.as_ref()).await {
                    Ok(moved) if moved == BATCH => {}
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(%error, "retries that are due were not moved; trying again");
                        break;
                    }
                }
            }
        }
    });
}

async fn move_due(link: &Link, delays: &dyn DelayStore) -> Result<usize, BackendError> {
    if !link.is_connected() {
        return Ok(0);
    }
    let due = delays.take_due(BATCH).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let posts: Vec<Post> = due.iter().filter_map(|message| post(link, message)).collect();
    if posts.len() < due.len() {
        tracing::error!(count = due.len() - posts.len(), "retries that cannot be read are dropped");
    }
    link.publish(posts).await?;
    let count = due.len();
    delays.remove(due.into_iter().map(|message| message.id).collect()).await?;
    Ok(count)
}
