//! [`Journal`] on a stream: many records in one message, one message under way at a time.
//!
//! Whatever is waiting when a message has been acknowledged goes into the next one, so that a busy process pays for few
//! messages and a quiet one waits for nobody. Records of one process stay in their order. Nothing may ever be removed from
//! this stream: it is what the counters are rebuilt from.

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::link::{Link, Post, Posted, headers};
use super::names::{EXPECTED_LAST, MESSAGE_ID, StreamKind};
use super::stored::Reader;
use crate::backend::BackendError;
use crate::backend::journal::{Journal, Record};
use crate::clock::random_token;

/// Most records of one message: about a third of the smallest `max_payload` that is accepted.
const MAX_RECORDS: usize = 128;

/// Records that may wait to be written; callers wait beyond that.
const WAITING: usize = 4_096;

/// Messages read at once.
const PAGE: usize = 128;

/// A record and who waits for it to be written.
type Order = (Record, Option<oneshot::Sender<Result<(), String>>>);

/// The journal of a namespace.
pub(in crate::backend) struct StreamJournal {
    link: Link,
    reader: Reader,
    orders: mpsc::Sender<Order>,
}

impl StreamJournal {
    /// Starts the task that writes; it ends when the journal is dropped and everything is written.
    pub(super) async fn start(link: &Link) -> Result<Self, BackendError> {
        let reader = Reader::new(link, StreamKind::Journal).await?;
        let (orders, waiting) = mpsc::channel(WAITING);
        tokio::spawn(write(link.clone(), waiting));
        Ok(Self { link: link.clone(), reader, orders })
    }
}

async fn write(link: Link, mut waiting: mpsc::Receiver<Order>) {
    let mut orders: Vec<Order> = Vec::with_capacity(MAX_RECORDS);
    while waiting.recv_many(&mut orders, MAX_RECORDS).await > 0 {
        let (records, answers): (Vec<Record>, Vec<_>) = orders.drain(..).unzip();
        let outcome = publish(&link, &records).await.map_err(|error| error.to_string());
        if let Err(error) = &outcome {
            tracing::warn!(error, records = records.len(), "the ledger's journal was not written");
        }
        for answer in answers.into_iter().flatten() {
            // Whoever no longer waits learns nothing, and then makes no call either.
            let _ = answer.send(outcome.clone());
        }
    }
}

async fn publish(link: &Link, records: &[Record]) -> Result<(), BackendError> {
    let payload = serde_json::to_vec(records)
        .map_err(|error| BackendError::Invalid { field: "journal record", why: error.to_string() })?;
    let headers = headers([(MESSAGE_ID, random_token(24))]);
    let post = Post { subject: link.names.journal("records"), headers, payload: Bytes::from(payload) };
    link.publish(vec![post]).await.map(drop)
}

#[async_trait]
impl Journal for StreamJournal {
    async fn append(&self, record: Record) -> Result<(), BackendError> {
        let (answer, outcome) = oneshot::channel();
        let ended = || self.link.unavailable("the journal's writer has ended");
        self.orders.send((record, Some(answer))).await.map_err(|_| ended())?;
        outcome.await.map_err(|_| ended())?.map_err(|why| self.link.unavailable(why))
    }

    fn post(&self, record: Record) {
        if self.orders.try_send((record, None)).is_err() {
            tracing::warn!("the ledger's journal falls behind; a rebuild would charge one call in full");
        }
    }

    async fn read(&self, after: u64) -> Result<Option<(u64, Vec<Record>)>, BackendError> {
        let mut scan = self.reader.scan(&self.link.names.journal("records"), after + 1).await?;
        let (mut last, mut records) = (after, Vec::new());
        for stored in scan.read(PAGE).await? {
            last = stored.sequence;
            match serde_json::from_slice::<Vec<Record>>(&stored.payload) {
                Ok(mut page) => records.append(&mut page),
                Err(error) => {
                    let what = format!("message {last} of stream {}", self.link.names.stream(StreamKind::Journal));
                    return Err(BackendError::Corrupt { what, why: error.to_string() });
                }
            }
        }
        Ok((last > after).then_some((last, records)))
    }

    async fn epoch(&self, epoch: Option<&str>) -> Result<Option<String>, BackendError> {
        let subject = self.link.names.journal("epoch");
        if let Some(epoch) = epoch {
            let first = headers([(EXPECTED_LAST, "0".to_owned())]);
            let payload = Bytes::copy_from_slice(epoch.as_bytes());
            let posted = self.link.publish(vec![Post { subject: subject.clone(), headers: first, payload }]).await?;
            if posted.first().is_some_and(|posted| matches!(posted, Posted::Stored(_))) {
                return Ok(Some(epoch.to_owned()));
            }
        }
        let stored = self.reader.last(&subject).await?;
        Ok(stored.map(|stored| String::from_utf8_lossy(&stored.payload).into_owned()))
    }
}
