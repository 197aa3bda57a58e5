//! Reporting outcomes: publish the results, then acknowledge the messages, many at a time.
//!
//! By the time a result comes here it is stored in its claim, so the slot that made it can already work on the next
//! task; whatever arrives while one batch is being written goes out in the next. A crash in between redelivers
//! the message, whose claim then answers with the stored result.

use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, BackendError, DeliveryTag, Disposition, Outgoing, Queue};
use crate::error::Coded;
use crate::metric;
use crate::protocol::{Envelope, InstanceId, MessageKind, Recipient, TaskResult};
use crate::resilience::RetryPolicy;

/// Results that may wait to be written; slots wait beyond that.
const QUEUE: usize = 256;

/// Attempts to write a batch before it is left to redelivery.
const WRITE_ATTEMPTS: u32 = 8;

/// A finished attempt: its result and the message it came from.
pub(super) struct Report {
    pub(super) result: TaskResult,
    pub(super) tag: DeliveryTag,
}

/// The task that writes reports.
pub(super) struct Reporter {
    sender: Mutex<Option<mpsc::Sender<Report>>>,
    task: Mutex<Option<JoinHandle<()>>>,
    /// Cancelled when the task ends, in whatever way.
    ended: CancellationToken,
}

impl Reporter {
    pub(super) fn start(backend: &Backend, instance: &InstanceId) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let ended = CancellationToken::new();
        let (backend, instance, at_end) = (backend.clone(), instance.clone(), ended.clone().drop_guard());
        let task = tokio::spawn(async move {
            let _at_end = at_end;
            write_reports(backend, instance, receiver).await;
        });
        Self { sender: Mutex::new(Some(sender)), task: Mutex::new(Some(task)), ended }
    }

    /// Waits until reports are no longer written. Before [`Reporter::drain`] that is a fault: a worker must not go on.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Hands a report over; waits while too many are waiting already.
    pub(super) async fn report(&self, report: Report) {
        let sender = self.sender.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        if let Some(sender) = sender {
            // The writer only ends after `drain`, and then redelivery reports instead.
            let _ = sender.send(report).await;
        }
    }

    /// Writes what is waiting and ends.
    pub(super) async fn drain(&self) {
        drop(self.sender.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        let task = self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the report writer died; unreported results come back by redelivery");
        }
    }
}

async fn write_reports(backend: Backend, instance: InstanceId, mut receiver: mpsc::Receiver<Report>) {
    let mut batch = Vec::with_capacity(QUEUE);
    // Deliveries whose results are published; acknowledged beside the next results, or at once if there are none.
    let mut published = Vec::new();
    while receiver.recv_many(&mut batch, QUEUE).await > 0 {
        let mut messages = Vec::with_capacity(batch.len());
        let mut acks = Vec::with_capacity(batch.len());
        for report in batch.drain(..) {
            match encode(&backend, &instance, report.result, &report.tag) {
                Ok(message) => {
                    messages.push(message);
                    acks.push((report.tag, Disposition::Ack));
                }
                Err(error) => acks.push((report.tag, Disposition::DeadLetter(error.to_string()))),
            }
        }
        let (written, ()) =
            tokio::join!(publish(&backend, messages), dispose(&backend, std::mem::take(&mut published)));
        if written {
            published = acks;
        }
        if receiver.is_empty() {
            dispose(&backend, std::mem::take(&mut published)).await;
        }
    }
}

/// Publishes results; false when they have to come back by redelivery. Repeating it changes nothing.
async fn publish(backend: &Backend, messages: Vec<Outgoing>) -> bool {
    for attempt in 1..=WRITE_ATTEMPTS {
        match backend.broker.publish(messages.clone()).await {
            Ok(()) => return true,
            Err(error) if error.retry().is_retryable() => {
                metric::store_failed(error.store());
                tracing::warn!(%error, attempt, "results not written yet");
                tokio::time::sleep(RetryPolicy::store().delay(attempt)).await;
            }
            Err(error) => {
                tracing::error!(%error, "results cannot be written; they come back by redelivery");
                return false;
            }
        }
    }
    false
}

/// Disposes of deliveries whose results are published. One that fails is delivered again and answered from its claim.
async fn dispose(backend: &Backend, deliveries: Vec<(DeliveryTag, Disposition)>) {
    if deliveries.is_empty() {
        return;
    }
    match backend.broker.dispose(deliveries).await {
        Ok(()) | Err(BackendError::LeaseLost { .. }) => {}
        Err(error) => tracing::warn!(%error, "deliveries were not acknowledged; they come back and are answered again"),
    }
}

/// The message of a result. Its id names the delivery: a message that is published again after its first result was read
/// by a coordinator that did not lead the job must be answered again, not swallowed as a duplicate.
fn encode(
    backend: &Backend,
    instance: &InstanceId,
    result: TaskResult,
    tag: &DeliveryTag,
) -> Result<Outgoing, serde_json::Error> {
    let dedupe = format!("{}:{}:{}:{}", result.job, result.task, result.attempt, tag.0);
    let job = result.job.to_string();
    let envelope =
        Envelope::new(MessageKind::Response, instance.clone(), Recipient::Broadcast, job, backend.clock.now(), result);
    let body = Bytes::from(serde_json::to_vec(&envelope)?);
    Ok(Outgoing { queue: Queue::Result { shard: 0 }, dedupe, body })
}
