//! The connection of one process: requests with a time limit, publishing with acknowledgements, and what the server's
//! refusals mean.
//!
//! Everything that goes over the wire passes here, so that nothing waits without a limit and every error names the server
//! and never a credential. A write that was not answered in time is *unknown* (research: engines §3a, 4), which is what
//! [`BackendError::Unavailable`] says. When the connection is made anew, the answers to what was asked on the old one are lost;
//! whatever may be repeated is then asked again at once, instead of waiting in vain. Nothing else may be.

use std::fmt::Display;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{Context, PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::{Client, HeaderMap, HeaderValue};
use bytes::Bytes;
use tokio::sync::watch;

use super::names::{MESSAGE_ID, Names};
use crate::backend::BackendError;

/// How the stores are called in errors.
pub(super) const STORE: &str = "NATS";

/// A connected client and how to use it.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) context: Context,
    pub(super) names: Names,
    /// Host and port of the servers, for people.
    pub(super) at: String,
    /// How long a request may take.
    pub(super) timeout: Duration,
    /// Copies of every stream.
    pub(super) replicas: usize,
    /// Grows whenever the connection is made anew.
    pub(super) epoch: watch::Receiver<u64>,
}

/// Pause before a step is repeated that a server has refused which has just been started.
const STARTING: Duration = Duration::from_millis(50);

/// A message to publish to a stream.
#[derive(Debug, Clone)]
pub(super) struct Post {
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

/// What became of a published message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Posted {
    /// It is stored under this sequence, or a duplicate of it is.
    Stored(u64),
    /// Its subject has another newest message than the one it expected.
    Overtaken,
}

impl Posted {
    /// The sequence it is stored under, if it is.
    pub(super) const fn stored(self) -> Option<u64> {
        match self {
            Self::Stored(sequence) => Some(sequence),
            Self::Overtaken => None,
        }
    }
}

impl Link {
    /// The error of a step that failed or may have failed.
    pub(super) fn unavailable(&self, reason: impl Display) -> BackendError {
        BackendError::Unavailable { store: STORE, reason: format!("{}: {reason}", self.at) }
    }

    /// The error of a step that was not answered in time.
    pub(super) fn late(&self, what: &str) -> BackendError {
        let state = if self.is_connected() { "connected" } else { "not connected" };
        self.unavailable(format!("{what} was not answered within {} ms ({state})", self.timeout.as_millis()))
    }

    /// Whether the connection is up, as far as anybody knows.
    pub(super) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Runs `step` for as long as a request may take.
    pub(super) async fn within<T>(
        &self,
        what: &str,
        step: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        tokio::time::timeout(self.timeout, step).await.map_err(|_| self.late(what))?
    }

    /// Runs `step`, which may be repeated, for as long as a request may take: again whenever the connection is made anew,
    /// and then also while the server refuses it, for it may only be starting.
    pub(super) async fn repeating<T, F>(&self, what: &str, step: impl Fn() -> F) -> Result<T, BackendError>
    where
        F: Future<Output = Result<T, BackendError>>,
    {
        let (mut epoch, mut is_anew) = (self.epoch.clone(), false);
        epoch.mark_unchanged();
        let repeating = async {
            loop {
                tokio::select! {
                    biased;
                    outcome = step() => match outcome {
                        Err(BackendError::Unavailable { .. }) if is_anew => tokio::time::sleep(STARTING).await,
                        outcome => return outcome,
                    },
                    Ok(()) = epoch.changed() => is_anew = true,
                }
            }
        };
        self.within(what, repeating).await
    }

    /// Publishes messages in order, all in flight at once, and waits for all their acknowledgements. Messages that all have
    /// an id are sent again when the connection was lost meanwhile: the server drops those that it has already.
    pub(super) async fn publish(&self, posts: Vec<Post>) -> Result<Vec<Posted>, BackendError> {
        if posts.iter().all(|post| post.headers.get(MESSAGE_ID).is_some()) {
            return self.publish_repeatedly(posts).await;
        }
        self.within("a publish", self.publish_once(posts)).await
    }

    /// [`Link::publish`] for messages that say themselves when they are not to be stored again, and whose sender takes
    /// [`Posted::Overtaken`] for an answer.
    pub(super) async fn publish_repeatedly(&self, posts: Vec<Post>) -> Result<Vec<Posted>, BackendError> {
        self.repeating("a publish", || self.publish_once(posts.clone())).await
    }

    async fn publish_once(&self, posts: Vec<Post>) -> Result<Vec<Posted>, BackendError> {
        let mut acks = Vec::with_capacity(posts.len());
        for post in posts {
            acks.push(self.post(post).await?);
        }
        let mut posted = Vec::with_capacity(acks.len());
        for ack in acks {
            posted.push(match ack.await {
                Ok(ack) => Posted::Stored(ack.sequence),
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Posted::Overtaken,
                Err(error) => return Err(self.publish_failed(&error)),
            });
        }
        Ok(posted)
    }

    async fn post(&self, post: Post) -> Result<PublishAckFuture, BackendError> {
        let message = PublishMessage::build().headers(post.headers).payload(post.payload);
        self.context.send_publish(post.subject, message).await.map_err(|error| self.publish_failed(&error))
    }

    fn publish_failed(&self, error: &PublishError) -> BackendError {
        match error.kind() {
            PublishErrorKind::TimedOut => self.late("a publish"),
            PublishErrorKind::StreamNotFound => {
                self.unavailable("no stream takes the message: JetStream is starting, or the stream was deleted")
            }
            PublishErrorKind::MaxPayloadExceeded => {
                BackendError::Invalid { field: "message body", why: error.to_string() }
            }
            _ => {
                let text = error.to_string();
                let is_full = text.contains("maximum bytes exceeded") || text.contains("maximum messages exceeded");
                let hint = if is_full { "; the stream is full, see nats.max_queue_bytes" } else { "" };
                self.unavailable(format!("{text}{hint}"))
            }
        }
    }

    /// Sends a message that nobody acknowledges. It is on its way once [`Link::flush`] has answered.
    pub(super) async fn send(&self, subject: impl async_nats::ToSubject, payload: Bytes) -> Result<(), BackendError> {
        self.client.publish(subject, payload).await.map_err(|error| self.unavailable(error))
    }

    /// Waits until everything sent so far has left this process.
    pub(super) async fn flush(&self) -> Result<(), BackendError> {
        self.client.flush().await.map_err(|error| self.unavailable(error))
    }
}

/// A header map with these entries.
pub(super) fn headers<const N: usize>(entries: [(&'static str, String); N]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in entries {
        set(&mut map, name, value);
    }
    map
}

/// Sets a header. A line break would end it, so one becomes a space.
pub(super) fn set(map: &mut HeaderMap, name: &'static str, value: String) {
    let plain = if value.contains(['\r', '\n']) { value.replace(['\r', '\n'], " ") } else { value };
    map.insert(name, HeaderValue::from(plain));
}

/// A header's text.
pub(super) fn header<'a>(headers: Option<&'a HeaderMap>, name: &'static str) -> Option<&'a str> {
    headers?.get(name).map(HeaderValue::as_str)
}

/// A header's number.
pub(super) fn number<T: std::str::FromStr>(headers: Option<&HeaderMap>, name: &'static str) -> Option<T> {
    header(headers, name)?.parse().ok()
}
