//! Hints that state has changed, over Redis' publish and subscribe, on a connection of their own.
//!
//! A hint only saves waiting: whoever follows changes looks at the feed itself, again at least once per second, so a hint that
//! is lost with a broken connection costs a second and no change. Processes that follow nothing never subscribe.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::PubSub;
use redis::{Client, RedisError};
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::random_token;

/// Hints that a slow follower may lag behind before it looks at everything.
const BUFFER: usize = 1_024;

/// A follower looks again after this time, hint or not.
pub(super) const POLL: Duration = Duration::from_secs(1);

/// How often a silent connection is asked whether it still is one.
const PROBE: Duration = Duration::from_secs(10);

/// Keys that were written, one per line; `None` when hints may have been missed.
type Hint = Option<Arc<str>>;

/// Where hints come from.
pub(super) struct Hints {
    client: Client,
    channel: String,
    patience: Duration,
    sender: broadcast::Sender<Hint>,
    listens: AtomicBool,
    ending: CancellationToken,
}

impl Hints {
    /// Hints of `channel`, until `ending`.
    pub(super) fn new(client: Client, channel: String, patience: Duration, ending: CancellationToken) -> Self {
        let (sender, _) = broadcast::channel(BUFFER);
        Self { client, channel, patience, sender, listens: AtomicBool::new(false), ending }
    }

    /// Starts to follow; the first call starts to listen.
    pub(super) fn follow(&self) -> Follower {
        let receiver = self.sender.subscribe();
        if !self.listens.swap(true, Ordering::SeqCst) {
            let listener = Listener {
                client: self.client.clone(),
                channel: self.channel.clone(),
                patience: self.patience,
                sender: self.sender.clone(),
            };
            let ending = self.ending.clone();
            tokio::spawn(async move { ending.run_until_cancelled(listener.run()).await });
        }
        Follower(receiver)
    }
}

/// Somebody who waits for changes.
pub(super) struct Follower(broadcast::Receiver<Hint>);

impl Follower {
    /// Returns when something under `prefix` may have changed, after [`POLL`], or at `until`, whichever comes first.
    pub(super) async fn look_again(&mut self, prefix: &str, until: Instant) {
        let concerned = async {
            loop {
                match self.0.recv().await {
                    Ok(Some(keys)) if keys.lines().all(|key| !key.starts_with(prefix)) => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let wait = POLL.min(until.saturating_duration_since(Instant::now()));
        // Nothing came: time to look all the same.
        let _ = timeout(wait, concerned).await;
    }
}

/// Keeps a subscription.
struct Listener {
    client: Client,
    channel: String,
    patience: Duration,
    sender: broadcast::Sender<Hint>,
}

impl Listener {
    async fn run(&self) {
        let mut is_warned = false;
        loop {
            match timeout(self.patience, self.subscribe()).await {
                Ok(Ok(subscription)) => {
                    is_warned = false;
                    self.tell(None);
                    self.listen(subscription).await;
                }
                Ok(Err(error)) => {
                    if !std::mem::replace(&mut is_warned, true) {
                        tracing::warn!(%error, "no hints about changes from Redis; looking once per second instead");
                    }
                }
                Err(_) => tracing::debug!("Redis does not answer a subscription in time"),
            }
            // Half a second to one, so that processes do not come back in one instant.
            let share = u64::from_str_radix(&random_token(2), 16).unwrap_or_default();
            sleep(Duration::from_millis(500 + share * 2)).await;
        }
    }

    async fn subscribe(&self) -> Result<PubSub, RedisError> {
        let mut subscription = self.client.get_async_pubsub().await?;
        subscription.subscribe(&self.channel).await?;
        Ok(subscription)
    }

    /// Passes hints on until the connection is gone.
    async fn listen(&self, subscription: PubSub) {
        let (mut sink, mut messages) = subscription.split();
        loop {
            match timeout(PROBE, messages.next()).await {
                Ok(Some(message)) => {
                    self.tell(message.get_payload::<String>().ok().map(Arc::from));
                }
                Ok(None) => return,
                Err(_) => match timeout(self.patience, sink.ping::<redis::Value>()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => return,
                },
            }
        }
    }

    fn tell(&self, hint: Hint) {
        // Nobody follows just now.
        let _ = self.sender.send(hint);
    }
}
