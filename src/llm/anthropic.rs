//! The Anthropic Messages API, streaming always (API version 2023-06-01; facts as of 2026-10).
//!
//! Streaming keeps a long generation from looking like a dead connection and reports the input tokens before the first
//! word, which is what a cut reply is charged by. Everything that changes the price is pinned in the body. There is no
//! retry in here, nor in the HTTP client beneath: each attempt is paid for one level up. HTTP/1.1 with one connection per
//! stream, because closing the connection is the only way to cancel a generation. The key must never be printed.

mod errors;
mod request;
#[cfg(test)]
mod socket_tests;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Response, Url};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::sse::{Event, Parser, TooLong};
use super::{LlmError, LlmReply, LlmRequest, Prepared, Provider};
use crate::budget::Reservation;
use crate::config::Secret;
use stream::Assembler;

/// Where the API is reached unless the configuration says otherwise.
pub const DEFAULT_BASE_URL: &str = "https://api.anthropic.com";

/// The version of the wire format this file speaks.
const API_VERSION: &str = "2023-06-01";

/// Idle connections kept: one for each of the 250 streams a process is sized for, with a few to spare.
const IDLE_CONNECTIONS: usize = 256;

/// How long an idle connection is kept; shorter than what servers and middleboxes usually allow, because a request
/// written into a connection that is just being closed has to be charged in full.
const IDLE_CONNECTION_LIFE: Duration = Duration::from_secs(55);

/// How long to wait for the end of the body after the terminal event, so that the connection can be used again.
const END_OF_BODY_WAIT: Duration = Duration::from_millis(100);

/// What an event may weigh beyond the text it carries: its JSON frame, ids, signatures of thinking blocks.
const EVENT_FRAME_BYTES: usize = 256 * 1024;

/// How to reach the API.
#[derive(Debug, Clone)]
pub struct AnthropicConfig {
    /// Scheme, host and port, and a path prefix if there is one; `/v1/messages` is appended.
    pub base_url: String,
    /// Sent as `x-api-key`.
    pub api_key: Secret,
    /// Longest silence, before the headers as well as between two reads of the body.
    pub idle_timeout: Duration,
    /// Longest attempt from connecting to the terminal event.
    pub total_timeout: Duration,
    /// Longest time to connect, TLS included.
    pub connect_timeout: Duration,
    /// Largest text of a reply, in bytes.
    pub max_reply_bytes: usize,
}

impl AnthropicConfig {
    /// The defaults: the public API, 60 s of silence, 600 s in all (as anthropic-sdk-python), 10 s to connect, 4 MiB.
    #[must_use]
    pub fn new(api_key: Secret) -> Self {
        Self {
            base_url: DEFAULT_BASE_URL.to_owned(),
            api_key,
            idle_timeout: Duration::from_secs(60),
            total_timeout: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(10),
            max_reply_bytes: 4 * 1024 * 1024,
        }
    }
}

/// The API behind the [`Provider`] trait.
pub struct Anthropic {
    client: reqwest::Client,
    endpoint: Url,
    idle_timeout: Duration,
    total_timeout: Duration,
    max_reply_bytes: usize,
}

impl fmt::Debug for Anthropic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anthropic").field("endpoint", &self.endpoint.as_str()).finish_non_exhaustive()
    }
}

impl Anthropic {
    /// A client for the API. Installs the process-wide TLS provider (ring) unless there is one already.
    ///
    /// # Errors
    /// [`LlmError::Unsupported`] for an address or a key that cannot be used, or when the system has no CA certificates.
    pub fn new(config: &AnthropicConfig) -> Result<Self, LlmError> {
        let endpoint = endpoint(&config.base_url)?;
        // An error only says that a provider is installed already, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("codeswarm/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers(&config.api_key)?)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_only()
            .connect_timeout(config.connect_timeout)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_CONNECTION_LIFE)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30));
        if endpoint.scheme() == "http" {
            // No TLS, so a system without CA certificates is no obstacle.
            builder = builder.tls_certs_only([]);
        }
        if is_loopback(&endpoint) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| {
            LlmError::Unsupported(format!("the HTTP client cannot be set up: {}", errors::chain(error)))
        })?;
        Ok(Self {
            client,
            endpoint,
            idle_timeout: config.idle_timeout,
            total_timeout: config.total_timeout,
            max_reply_bytes: config.max_reply_bytes,
        })
    }

    async fn exchange(&self, prepared: &Prepared) -> Result<LlmReply, LlmError> {
        let request = self.client.post(self.endpoint.clone()).body(prepared.body.clone());
        let response = timeout(self.idle_timeout, request.send())
            .await
            .map_err(|_| LlmError::Timeout { reason: format!("no answer within {:?}", self.idle_timeout) })?
            .map_err(errors::before_reply)?;
        if !response.status().is_success() {
            return Err(errors::from_status(response, self.idle_timeout).await);
        }
        self.read(response, &prepared.worst_case.model).await
    }

    async fn read(&self, mut response: Response, model: &str) -> Result<LlmReply, LlmError> {
        let request_id = text_header(response.headers(), "request-id");
        let mut parser = Parser::new(self.max_reply_bytes.saturating_add(EVENT_FRAME_BYTES));
        let mut assembler = Assembler::new(model, self.max_reply_bytes);
        while !assembler.is_complete() {
            let read = timeout(self.idle_timeout, response.chunk()).await.map_err(|_| LlmError::Timeout {
                reason: format!("nothing arrived for {:?} in the middle of a reply", self.idle_timeout),
            })?;
            match read {
                Ok(Some(bytes)) => parser.feed(&bytes, |event: Event<'_>| assembler.take(event.data))?,
                Ok(None) => return Err(assembler.ended(text_header(response.headers(), "content-type"))),
                Err(error) => return Err(assembler.cut(errors::chain(error))),
            }
        }
        // Only for the sake of the connection: a body that is read to its end leaves it reusable.
        drop(timeout(END_OF_BODY_WAIT, response.chunk()).await);
        assembler.finish(request_id)
    }
}

#[async_trait]
impl Provider for Anthropic {
    fn prepare(&self, request: &LlmRequest) -> Result<Prepared, LlmError> {
        request::prepare(request)
    }

    async fn send(
        &self,
        prepared: &Prepared,
        reservation: &Reservation,
        cancel: &CancellationToken,
    ) -> Result<LlmReply, LlmError> {
        tracing::debug!(reservation = reservation.id(), bytes = prepared.body.len(), "sending a model call");
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(LlmError::Cancelled),
            result = timeout(self.total_timeout, self.exchange(prepared)) => result.unwrap_or_else(|_| {
                Err(LlmError::Timeout { reason: format!("no complete reply within {:?}", self.total_timeout) })
            }),
        }
    }
}

impl From<TooLong> for LlmError {
    fn from(cause: TooLong) -> Self {
        Self::Malformed { reason: cause.to_string() }
    }
}

fn endpoint(base_url: &str) -> Result<Url, LlmError> {
    let unusable = |why: &str| LlmError::Unsupported(format!("the provider's base URL cannot be used: {why}"));
    let mut url = Url::parse(base_url.trim()).map_err(|error| unusable(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(unusable("it has to begin with https:// or http:// and name a host"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(unusable("it must not contain credentials, a query or a fragment"));
    }
    let path = format!("{}/v1/messages", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn headers(api_key: &Secret) -> Result<HeaderMap, LlmError> {
    let mut key = HeaderValue::from_str(api_key.expose())
        .map_err(|_| LlmError::Unsupported("the API key contains characters that no key has".into()))?;
    key.set_sensitive(true);
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", key);
    headers.insert("anthropic-version", HeaderValue::from_static(API_VERSION));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    Ok(headers)
}

/// A header as text of at most 200 characters.
fn text_header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.chars().take(200).collect())
}
