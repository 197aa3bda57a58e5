//! A message that came out of a queue, between the server and whoever gets it.
//!
//! All that JetStream tells about a delivery stands in the subject for its acknowledgement. A message without one that can
//! be read is nobody's delivery: it must be ignored, since anyone may publish to an inbox.

use std::sync::Arc;
use std::time::Instant;

use async_nats::{HeaderMap, Message, Subject};
use bytes::Bytes;

use super::link::number;
use super::names::DELIVERIES;
use super::sources::Source;

/// A delivery as it arrived.
#[derive(Debug)]
pub(super) struct Caught {
    /// Where it came from.
    pub(super) source: Arc<Source>,
    /// Its headers.
    pub(super) headers: Option<HeaderMap>,
    /// Its payload.
    pub(super) payload: Bytes,
    /// Where to acknowledge it.
    pub(super) reply: Subject,
    /// Place in the stream.
    pub(super) sequence: u64,
    /// Number of this delivery among all of the consumer.
    pub(super) delivery: u64,
    /// New messages of the queue behind it.
    pub(super) pending: u64,
    /// How often it has reached somebody, this time included.
    pub(super) deliveries: u32,
    /// When it arrived.
    pub(super) at: Instant,
}

impl Caught {
    /// Reads a message of `source`.
    pub(super) fn read(source: &Arc<Source>, message: Message, at: Instant) -> Option<Self> {
        let reply = message.reply?;
        let [delivered, sequence, delivery, pending] = numbers(&reply)?;
        let before: u32 = number(message.headers.as_ref(), DELIVERIES).unwrap_or(0);
        let delivered = u32::try_from(delivered).unwrap_or(u32::MAX);
        Some(Self {
            source: Arc::clone(source),
            headers: message.headers,
            payload: message.payload,
            reply,
            sequence,
            delivery,
            pending,
            deliveries: delivered.saturating_add(before),
            at,
        })
    }
}

/// Deliveries, stream sequence, consumer sequence and pending messages in the subject of an acknowledgement:
/// `$JS.ACK.<stream>.<consumer>.<…>.<…>.<…>.<time>.<pending>`, newer servers with domain and account before the stream.
fn numbers(reply: &str) -> Option<[u64; 4]> {
    let mut tokens = reply.strip_prefix("$JS.ACK.")?.split('.');
    let skipped = match tokens.clone().count() {
        7 => 2,
        9.. => 4,
        _ => return None,
    };
    let mut next = |skip: usize| tokens.nth(skip)?.parse::<u64>().ok();
    Some([next(skipped)?, next(0)?, next(0)?, next(1)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_acknowledgement_are_read_and_garbage_is_not() {
        let numbers_of = [2, 17, 40, 3];
        assert_eq!(numbers("$JS.ACK.S.C.2.17.40.1795265601622520078.3"), Some(numbers_of));
        assert_eq!(numbers("$JS.ACK.hub.ABCD.S.C.2.17.40.1795265601622520078.3"), Some(numbers_of));
        assert_eq!(numbers("$JS.ACK._.ABCD.S.C.2.17.40.1795265601622520078.3.tail"), Some(numbers_of));
        for garbage in ["", "$JS.ACK.S.C.2.17.40", "$JS.ACK.S.C.a.b.c.d.e", "_INBOX.x.1", "$JS.ACK.S.C.2.17.40.1.-3"] {
            assert_eq!(numbers(garbage), None, "{garbage}");
        }
    }
}
