//! What arrives at a coordinator: results and commands, pulled in batches by a task of their own.
//!
//! Pulling goes on while the last batch is handled, so the loop never waits for the broker. A message that cannot be
//! understood is put aside with the reason, never retried: it would not read better the next time. Nothing is
//! acknowledged here before what follows from it is in the log.

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Coordinator, CoordinatorError, results};
use crate::backend::{Backend, BackendError, Delivery, DeliveryTag, Disposition, Queue};
use crate::error::Coded;
use crate::metric;
use crate::protocol::{CommandMessage, InstanceId, ProtocolError, TaskResult, validate};
use crate::resilience::Absence;

/// Most messages handled in one round.
const BATCH: usize = 256;

/// Longest wait of one pull.
const WAIT: std::time::Duration = std::time::Duration::from_secs(30);

/// Deliveries that were handled, and what is to become of them.
#[derive(Default)]
pub(super) struct Handled(Vec<(DeliveryTag, Disposition)>);

impl Handled {
    pub(super) async fn acknowledge(self, backend: &Backend) -> Result<(), BackendError> {
        if self.0.is_empty() {
            return Ok(());
        }
        match backend.broker.dispose(self.0).await {
            // Redelivered meanwhile: handling a message twice changes nothing.
            Err(BackendError::LeaseLost { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Starts pulling. The channel holds one batch, so at most two are out of the queue at any time.
pub(super) fn start(backend: Backend, instance: InstanceId) -> mpsc::Receiver<Result<Vec<Delivery>, BackendError>> {
    let (sender, receiver) = mpsc::channel(1);
    let queues = [Queue::Command { shard: 0 }, Queue::Result { shard: 0 }];
    tokio::spawn(async move {
        let mut absence = Absence::default();
        loop {
            let began = Instant::now();
            let pulled = tokio::select! {
                () = sender.closed() => return,
                pulled = backend.broker.pull(&instance, &queues, BATCH, WAIT) => pulled,
            };
            let batch = match pulled {
                Ok(batch) => {
                    absence.end();
                    if batch.is_empty() {
                        continue;
                    }
                    Ok(batch)
                }
                Err(error) => {
                    if let Some(pause) = absence.pause(error.retry(), began) {
                        metric::store_failed(error.store());
                        tracing::warn!(%error, failures = absence.failures(), "cannot pull results; trying again");
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                    Err(error)
                }
            };
            if sender.send(batch).await.is_err() {
                return;
            }
        }
    });
    receiver
}

impl Coordinator {
    /// Turns a batch of messages into staged events.
    pub(super) async fn handle(&mut self, batch: Vec<Delivery>) -> Result<Handled, CoordinatorError> {
        let mut handled = Vec::with_capacity(batch.len());
        for delivery in batch {
            let outcome = match delivery.queue {
                Queue::Result { .. } => match self.decode_result(&delivery) {
                    Ok(result) => self.handle_result(result).await,
                    Err(error) => Ok(Err(error)),
                },
                _ => match self.decode_command(&delivery) {
                    Ok(command) => self.handle_command(command).await,
                    Err(error) => Ok(Err(error)),
                },
            };
            let disposition = match outcome? {
                Ok(()) => Disposition::Ack,
                Err(error) => {
                    tracing::error!(%error, queue = %delivery.queue, "a message that cannot be understood goes to the dead letters");
                    Disposition::DeadLetter(error.to_string())
                }
            };
            handled.push((delivery.tag, disposition));
        }
        Ok(Handled(handled))
    }

    fn decode_result(&self, delivery: &Delivery) -> Result<TaskResult, ProtocolError> {
        let envelope = validate::decode_envelope::<TaskResult>(&delivery.body, self.backend.clock.now())?;
        let result = envelope.payload;
        let Err(fault) = validate::task_result(&result) else { return Ok(result) };
        // An outcome that cannot be believed is a failed attempt; without an answer the task would hang for ever.
        let result = results::rejected(result, &format!("the worker's result was refused: {fault}"));
        validate::task_result(&result)?;
        Ok(result)
    }

    fn decode_command(&self, delivery: &Delivery) -> Result<CommandMessage, ProtocolError> {
        let envelope = validate::decode_envelope::<CommandMessage>(&delivery.body, self.backend.clock.now())?;
        validate::command(&envelope.payload)?;
        Ok(envelope.payload)
    }
}
