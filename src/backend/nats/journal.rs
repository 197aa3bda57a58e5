//! [`Journal`] on a stream: many records in one message, one message under way at a time.
//!
//! Whatever is waiting when a message has been acknowledged goes into the next one, so that a busy process pays for few
//! messages and a quiet one waits for nobody. A message is sent until it is stored, under one id, and those behind it wait:
//! records of one process stay in their order, and none is forgotten while the process lives. A reservation whose caller has
//! been told that it was not written down, or no longer waits, is taken back before anything else is written. Nothing may
//! ever be removed from this stream: it is what the counters are rebuilt from.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::link::{Link, Post, Posted, headers};
use super::names::{EXPECTED_LAST, MESSAGE_ID, StreamKind};
use super::stored::{Reader, Stored};
use crate::backend::BackendError;
use crate::backend::journal::{Journal, Name, Record};
use crate::clock::random_token;

/// Most records of one message: about a third of the smallest `max_payload` that is accepted.
const MAX_RECORDS: usize = 128;

/// Records that may wait to be written; callers wait beyond that.
const WAITING: usize = 4_096;

/// Messages read at once.
const PAGE: usize = 128;

/// Messages at the journal's end among which the newest entry is looked for: each record carries one, and processes are
/// never that far behind one another.
const TAIL: u64 = 32;

/// First and longest pause before a message is sent again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

type Answer = oneshot::Sender<Result<(), String>>;

/// A record and who waits for it to be written.
type Order = (Record, Option<Answer>);

/// The journal of a namespace.
pub(in crate::backend) struct StreamJournal {
    link: Link,
    reader: Reader,
    orders: mpsc::Sender<Order>,
}

impl StreamJournal {
    /// Starts the task that writes; it ends when the journal is dropped and everything is written that can be.
    pub(super) async fn start(link: &Link) -> Result<Self, BackendError> {
        let reader = Reader::new(link, StreamKind::Journal).await?;
        let (orders, waiting) = mpsc::channel(WAITING);
        tokio::spawn(write(link.clone(), waiting));
        Ok(Self { link: link.clone(), reader, orders })
    }

    fn records(&self, stored: &Stored) -> Result<Vec<Record>, BackendError> {
        serde_json::from_slice(&stored.payload).map_err(|error| {
            let stream = self.link.names.stream(StreamKind::Journal);
            BackendError::Corrupt {
                what: format!("message {} of stream {stream}", stored.sequence),
                why: error.to_string(),
            }
        })
    }
}

async fn write(link: Link, mut waiting: mpsc::Receiver<Order>) {
    let mut orders: Vec<Order> = Vec::with_capacity(MAX_RECORDS);
    let mut unwanted: Vec<Order> = Vec::new();
    loop {
        if unwanted.is_empty() && waiting.recv_many(&mut orders, MAX_RECORDS).await == 0 {
            return;
        }
        while orders.len() + unwanted.len() < MAX_RECORDS
            && let Ok(order) = waiting.try_recv()
        {
            orders.push(order);
        }
        // Whoever no longer waits makes no call.
        let is_wanted = |(record, answer): &Order| {
            record.announces().is_none() || answer.as_ref().is_none_or(|answer| !answer.is_closed())
        };
        let message: Vec<Order> = unwanted.drain(..).chain(orders.drain(..).filter(is_wanted)).collect();
        if !message.is_empty() {
            unwanted = store(&link, &waiting, message).await;
        }
    }
}

/// Sends a message until it is stored, and tells those who wait after the first attempt. Answers what takes the reservations
/// back whose callers do not know of it. Gives up when the journal is dropped, or the message can never be stored.
async fn store(link: &Link, waiting: &mpsc::Receiver<Order>, message: Vec<Order>) -> Vec<Order> {
    let (records, mut answers): (Vec<Record>, Vec<Option<Answer>>) = message.into_iter().unzip();
    let tell = |answers: &mut [Option<Answer>], outcome: Result<(), &BackendError>| -> Vec<bool> {
        let outcome = outcome.map_err(ToString::to_string);
        answers
            .iter_mut()
            .map(|answer| answer.take().is_some_and(|answer| answer.send(outcome.clone()).is_ok()))
            .collect()
    };
    let post = match post(link, &records) {
        Ok(post) => post,
        Err(error) => {
            tracing::error!(%error, "records of the ledger's journal cannot be written");
            tell(&mut answers, Err(&error));
            return Vec::new();
        }
    };
    let mut pause = PAUSES.0;
    loop {
        let Err(error) = link.publish(vec![post.clone()]).await else {
            let told = tell(&mut answers, Ok(()));
            let untold = records.iter().zip(told).filter(|(_, is_told)| !is_told);
            let reservations = untold.filter_map(|(record, _)| record.announces());
            return reservations.map(|id| (Record::Void { id: id.to_owned() }, None)).collect();
        };
        tell(&mut answers, Err(&error));
        tracing::warn!(%error, records = records.len(), "the ledger's journal was not written");
        if waiting.is_closed() || !matches!(error, BackendError::Unavailable { .. }) {
            return Vec::new();
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

fn post(link: &Link, records: &[Record]) -> Result<Post, BackendError> {
    let payload = serde_json::to_vec(records)
        .map_err(|error| BackendError::Invalid { field: "journal record", why: error.to_string() })?;
    let headers = headers([(MESSAGE_ID, random_token(24))]);
    Ok(Post { subject: link.names.journal("records"), headers, payload: Bytes::from(payload) })
}

#[async_trait]
impl Journal for StreamJournal {
    async fn append(&self, record: Record) -> Result<(), BackendError> {
        let (answer, outcome) = oneshot::channel();
        let ended = || self.link.unavailable("the journal's writer has ended");
        let waiting = async {
            self.orders.send((record, Some(answer))).await.map_err(|_| ended())?;
            outcome.await.map_err(|_| ended())?.map_err(|why| self.link.unavailable(why))
        };
        // One message may be under way, and then its own.
        timeout(self.link.timeout * 2, waiting).await.unwrap_or_else(|_| Err(self.link.late("a record of the journal")))
    }

    async fn note(&self, record: Record) {
        if timeout(self.link.timeout, self.orders.send((record, None))).await.is_err() {
            tracing::warn!("the ledger's journal falls behind; a rebuild would charge one call in full");
        }
    }

    async fn read(&self, after: u64) -> Result<Option<(u64, Vec<Record>)>, BackendError> {
        let subject = self.link.names.journal("records");
        let mut scan = self.reader.scan(&subject, after + 1).await?;
        let (mut last, mut records) = (after, Vec::new());
        for stored in scan.read(PAGE).await? {
            last = stored.sequence;
            records.append(&mut self.records(&stored)?);
        }
        if last > after {
            return Ok(Some((last, records)));
        }
        // The stream's leader knows where it ends; whichever copy was read from may be behind.
        match self.reader.last(&subject).await? {
            Some(Stored { sequence: end, .. }) if end > after => Err(self
                .link
                .unavailable(format!("the journal ends at message {end}, the copy that was read at {after}"))),
            _ => Ok(None),
        }
    }

    async fn newest(&self) -> Result<Option<u64>, BackendError> {
        let subject = self.link.names.journal("records");
        let Some(last) = self.reader.last(&subject).await? else { return Ok(None) };
        let mut scan = self.reader.scan(&subject, last.sequence.saturating_sub(TAIL - 1)).await?;
        let mut newest = 0;
        loop {
            let page = scan.read(PAGE).await?;
            if page.is_empty() {
                return Ok(Some(newest));
            }
            for stored in &page {
                newest = self.records(stored)?.iter().map(Record::entry).fold(newest, u64::max);
            }
        }
    }

    async fn name(&self) -> Result<Option<Name>, BackendError> {
        let stored = self.reader.last(&self.link.names.journal("epoch")).await?;
        Ok(stored.map(|stored| Name { epoch: text(&stored), place: stored.sequence }))
    }

    async fn first_name(&self) -> Result<Option<String>, BackendError> {
        let stored = self.reader.next(&self.link.names.journal("epoch"), 1).await?;
        Ok(stored.as_ref().map(text))
    }

    async fn rename(&self, epoch: &str, place: u64) -> Result<bool, BackendError> {
        let headers = headers([(EXPECTED_LAST, place.to_string())]);
        let payload = Bytes::copy_from_slice(epoch.as_bytes());
        let posted =
            self.link.publish(vec![Post { subject: self.link.names.journal("epoch"), headers, payload }]).await?;
        Ok(posted.first().is_some_and(|posted| matches!(posted, Posted::Stored(_))))
    }
}

fn text(stored: &Stored) -> String {
    String::from_utf8_lossy(&stored.payload).into_owned()
}
