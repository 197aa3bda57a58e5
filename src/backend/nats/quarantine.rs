//! Messages that would end the connection of whoever gets them: found without being delivered, and put among the dead letters.
//!
//! No NATS client writes such headers, but the server stores whatever a stranger sends, and delivers it again to one process
//! after the other (see [`get`](super::get)). So what is in flight is looked at when a connection ended for no visible reason,
//! and when a queue is first used whose messages come again. Only messages that cannot be read are ever touched.

use async_nats::jetstream::consumer;

use super::letters::LetterWriter;
use super::link::Link;
use super::names::StreamKind;
use super::stored::Reader;
use crate::backend::{BackendError, Queue};

/// Most messages looked at in one go.
const LIMIT: usize = 1_024;

/// Looks at what is in flight.
pub(super) struct Quarantine {
    link: Link,
    letters: LetterWriter,
}

impl Quarantine {
    pub(super) fn new(link: &Link, letters: LetterWriter) -> Self {
        Self { link: link.clone(), letters }
    }

    /// Removes what cannot be read from among the messages of `queue` that were delivered and not acknowledged.
    pub(super) async fn inspect(&self, queue: &Queue, info: &consumer::Info) -> Result<(), BackendError> {
        if info.num_ack_pending == 0 {
            return Ok(());
        }
        let reader = Reader::new(&self.link, StreamKind::of(queue)).await?;
        let subject = self.link.names.queue(queue);
        let mut sequence = info.ack_floor.stream_sequence + 1;
        for _ in 0..LIMIT {
            if sequence > info.delivered.stream_sequence {
                break;
            }
            let Some(found) = reader.next(&subject, sequence).await? else { break };
            if !found.is_sound {
                tracing::error!(%queue, sequence = found.sequence, "a message with unreadable headers goes to the dead letters");
                self.letters.bury_unreadable(queue, &found).await?;
                reader.delete(found.sequence).await?;
            }
            sequence = found.sequence + 1;
        }
        Ok(())
    }
}
