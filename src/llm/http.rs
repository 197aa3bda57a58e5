//! One HTTP exchange with a provider, whatever its wire format: send the bytes, read the stream, say what went wrong.
//!
//! Shared by all dialects, because what a broken connection costs must not depend on who speaks. There is no retry in here,
//! nor in the HTTP client beneath, and no redirect: each attempt is paid for two levels up. HTTP/1.1 with one connection
//! per stream, because closing the connection is the only way to cancel a generation. Keys must never be printed.

pub(in crate::llm) mod errors;

use std::fmt;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Response, Url};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::errors::Describe;
use super::sse::{Event, Parser, TooLong};
use super::{LlmError, LlmReply, Prepared, Told};
use crate::config::Secret;

/// Idle connections kept: one for each of the 250 streams a process is sized for, with a few to spare.
const IDLE_CONNECTIONS: usize = 256;

/// How long an idle connection is kept; shorter than what servers and middleboxes usually allow, because a request
/// written into a connection that is just being closed has to be charged in full.
const IDLE_CONNECTION_LIFE: Duration = Duration::from_secs(55);

/// How long to wait for the end of the body after the terminal event, so that the connection can be used again.
const END_OF_BODY_WAIT: Duration = Duration::from_millis(100);

/// What an event may weigh beyond the text it carries: its JSON frame, ids, signatures of thinking blocks.
pub(in crate::llm) const EVENT_FRAME_BYTES: usize = 256 * 1024;

/// Limits of an exchange, the same for every dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest silence, before the headers as well as between two reads of the body.
    pub idle_timeout: Duration,
    /// Longest attempt from connecting to the terminal event.
    pub total_timeout: Duration,
    /// Longest time to connect, TLS included.
    pub connect_timeout: Duration,
    /// Largest text of a reply, in bytes.
    pub max_reply_bytes: usize,
}

impl Default for Limits {
    /// 60 s of silence, 600 s in all (as anthropic-sdk-python), 10 s to connect, 4 MiB.
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(60),
            total_timeout: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(10),
            max_reply_bytes: 4 * 1024 * 1024,
        }
    }
}

/// Puts a reply together from the events of one dialect.
pub(in crate::llm) trait Assemble: Send {
    /// Takes the data of one event.
    ///
    /// # Errors
    /// What the event says went wrong, or [`LlmError::Malformed`].
    fn take(&mut self, data: &[u8]) -> Result<(), LlmError>;
    /// True once the provider has begun to answer.
    fn has_begun(&self) -> bool;
    /// What has been said about the price up to now.
    fn told(&self) -> Told;
    /// True once the terminal event was seen; nothing after it counts.
    fn is_complete(&self) -> bool;
    /// The error for a stream that broke off now.
    fn cut(&self, reason: String) -> LlmError;
    /// The error for a body that ended before the terminal event.
    fn ended(&self, content_type: Option<String>) -> LlmError;
    /// The whole reply.
    ///
    /// # Errors
    /// [`LlmError::Malformed`] when something is missing in it.
    fn finish(self, request_id: Option<String>) -> Result<LlmReply, LlmError>;
}

/// A client for one endpoint.
pub(in crate::llm) struct Connection {
    client: reqwest::Client,
    endpoint: Url,
    limits: Limits,
    describe: Describe,
    /// Header under which the provider names the call.
    request_id: &'static str,
    /// What no text of the provider may carry out of here.
    key: Option<Secret>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("endpoint", &self.endpoint.as_str()).finish_non_exhaustive()
    }
}

impl Connection {
    /// A client for `base_url` plus `path`. Installs the process-wide TLS provider (ring) unless there is one already.
    ///
    /// # Errors
    /// [`LlmError::Unsupported`] for an address that cannot be used, or when the system has no CA certificates.
    pub(in crate::llm) fn new(
        base_url: &str,
        path: &str,
        mut headers: HeaderMap,
        limits: Limits,
        describe: Describe,
        request_id: &'static str,
        key: Option<Secret>,
    ) -> Result<Self, LlmError> {
        let endpoint = endpoint(base_url, path)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        // An error only says that a provider is installed already, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("codeswarm/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_only()
            .connect_timeout(limits.connect_timeout)
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
        Ok(Self { client, endpoint, limits, describe, request_id, key })
    }

    /// Sends once and reads the whole reply, within the total timeout, until `cancel`.
    pub(in crate::llm) async fn exchange(
        &self,
        prepared: &Prepared,
        assembler: impl Assemble,
        cancel: &CancellationToken,
    ) -> Result<LlmReply, LlmError> {
        let total = self.limits.total_timeout;
        let result = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(LlmError::Cancelled),
            result = timeout(total, self.call(prepared, assembler)) => result.unwrap_or_else(|_| {
                Err(LlmError::Timeout { reason: format!("no complete reply within {total:?}") })
            }),
        };
        result.map_err(|error| self.without_key(error))
    }

    /// Some servers quote the key that they were sent.
    fn without_key(&self, error: LlmError) -> LlmError {
        match &self.key {
            Some(key) => error.rewritten(|text| key.strike_from(text)),
            None => error,
        }
    }

    /// Asks a side question at another `endpoint` of the same server, and reads a short answer whole within `limit`. What it
    /// says about rate limits is about questions of its kind, so nobody is told.
    pub(in crate::llm) async fn ask(
        &self,
        endpoint: &Url,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<Vec<u8>, LlmError> {
        let asking = async {
            let request = self.client.post(endpoint.clone()).header(ACCEPT, "application/json").body(body);
            let response = request.send().await.map_err(errors::before_reply)?;
            if !response.status().is_success() {
                return Err(errors::from_status(response, self.describe, limit).await);
            }
            errors::short_body(response).await.ok_or_else(|| LlmError::Malformed {
                reason: "an answer broke off or was longer than such answers are".into(),
            })
        };
        let late = || LlmError::Timeout { reason: format!("no answer within {limit:?}") };
        let answer = timeout(limit, asking).await.unwrap_or_else(|_| Err(late()));
        answer.map_err(|error| self.without_key(error))
    }

    async fn call(&self, prepared: &Prepared, assembler: impl Assemble) -> Result<LlmReply, LlmError> {
        let idle = self.limits.idle_timeout;
        let request = self.client.post(self.endpoint.clone()).body(prepared.body.clone());
        let response = timeout(idle, request.send())
            .await
            .map_err(|_| LlmError::Timeout { reason: format!("no answer within {idle:?}") })?
            .map_err(errors::before_reply)?;
        prepared.headroom.note(response.headers());
        if !response.status().is_success() {
            return Err(errors::from_status(response, self.describe, idle).await);
        }
        self.read(response, prepared, assembler).await
    }

    async fn read(
        &self,
        mut response: Response,
        prepared: &Prepared,
        mut assembler: impl Assemble,
    ) -> Result<LlmReply, LlmError> {
        let idle = self.limits.idle_timeout;
        let request_id = text_header(response.headers(), self.request_id);
        let mut parser = Parser::new(self.limits.max_reply_bytes.saturating_add(EVENT_FRAME_BYTES));
        while !assembler.is_complete() {
            let read = timeout(idle, response.chunk()).await.map_err(|_| LlmError::Timeout {
                reason: format!("nothing arrived for {idle:?} in the middle of a reply"),
            })?;
            match read {
                Ok(Some(bytes)) => {
                    let fed = parser.feed(&bytes, |event: Event<'_>| assembler.take(event.data));
                    // Whatever went wrong in it, what was said before still counts.
                    prepared.told.note(assembler.told());
                    fed?;
                }
                Ok(None) => return Err(assembler.ended(text_header(response.headers(), "content-type"))),
                Err(error) => return Err(assembler.cut(errors::chain(error))),
            }
            if assembler.has_begun() {
                prepared.began.tell();
            }
        }
        // Only for the sake of the connection: a body that is read to its end leaves it reusable.
        drop(timeout(END_OF_BODY_WAIT, response.chunk()).await);
        assembler.finish(request_id)
    }
}

impl From<TooLong> for LlmError {
    fn from(cause: TooLong) -> Self {
        Self::Malformed { reason: cause.to_string() }
    }
}

/// A header that holds a key: never printed.
///
/// # Errors
/// [`LlmError::Unsupported`] for characters that no header may have.
pub(in crate::llm) fn secret_header(prefix: &str, key: &Secret) -> Result<HeaderValue, LlmError> {
    let mut value = HeaderValue::from_str(&format!("{prefix}{}", key.expose()))
        .map_err(|_| LlmError::Unsupported("the API key contains characters that no key has".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

pub(in crate::llm) fn endpoint(base_url: &str, path: &str) -> Result<Url, LlmError> {
    let unusable = |why: &str| LlmError::Unsupported(format!("the provider's base URL cannot be used: {why}"));
    let mut url = Url::parse(base_url.trim()).map_err(|error| unusable(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(unusable("it has to begin with https:// or http:// and name a host"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(unusable("it must not contain credentials, a query or a fragment"));
    }
    let path = format!("{}/{path}", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

pub(in crate::llm) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A header as text of at most 200 characters.
fn text_header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.chars().take(200).collect())
}
