//! Hints between processes: plain messages that nobody stores.
//!
//! The server sends a process its own hints back, which is how they arrive exactly once and in the order of the others'.
//! Whatever else arrives on the subject is ignored. Losing a hint must never lose work.

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::link::Link;
use crate::backend::{BackendError, Signal};

/// Signals a slow receiver may lag behind before it misses some.
const BUFFER: usize = 1_024;

/// Sends and receives hints.
pub(super) struct Signals {
    link: Link,
    subject: String,
    sender: broadcast::Sender<Signal>,
}

impl Signals {
    /// Listens until `stop`.
    pub(super) async fn start(link: &Link, stop: CancellationToken) -> Result<Self, BackendError> {
        let (sender, _) = broadcast::channel(BUFFER);
        let subject = link.names.signal();
        let subscribed = link.client.subscribe(subject.clone()).await;
        let mut arriving = subscribed.map_err(|error| link.unavailable(error))?;
        let receivers = sender.clone();
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    () = stop.cancelled() => return,
                    message = arriving.next() => message,
                };
                let Some(message) = message else { return };
                match serde_json::from_slice(&message.payload) {
                    // Without receivers nobody is interested.
                    Ok(signal) => drop(receivers.send(signal)),
                    Err(error) => tracing::debug!(%error, "a hint that cannot be read"),
                }
            }
        });
        Ok(Self { link: link.clone(), subject, sender })
    }

    /// Sends a hint to every process, this one included.
    pub(super) async fn send(&self, signal: &Signal) -> Result<(), BackendError> {
        let body = serde_json::to_vec(signal)
            .map_err(|error| BackendError::Invalid { field: "signal", why: error.to_string() })?;
        let sending = async {
            self.link.send(self.subject.clone(), Bytes::from(body)).await?;
            self.link.flush().await
        };
        self.link.within("a hint", sending).await
    }

    /// Hints from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Signal> {
        self.sender.subscribe()
    }
}
