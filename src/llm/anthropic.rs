//! The Anthropic Messages API, streaming always (API version 2023-06-01; facts as of 2026-10).
//!
//! Streaming keeps a long generation from looking like a dead connection and reports the input tokens before the first
//! word, which is what a cut reply is charged by. Everything that changes the price is pinned in the body. The exchange
//! itself is the same for every dialect and never retried: each attempt is paid for one level up. What a model accepts is
//! read from the table of models, never guessed from its name.

mod count;
mod errors;
mod request;
#[cfg(test)]
mod socket_tests;
mod stream;
#[cfg(test)]
mod tests;
mod usage;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue};
use tokio_util::sync::CancellationToken;

use super::http::{Connection, Limits, endpoint, secret_header};
use super::{LlmError, LlmReply, LlmRequest, Prepared, Provider};
use crate::budget::{PriceTable, Reservation};
use crate::config::Secret;
use stream::Assembler;

/// Where the API is reached unless the configuration says otherwise.
pub const DEFAULT_BASE_URL: &str = "https://api.anthropic.com";

/// The version of the wire format this file speaks.
const API_VERSION: &str = "2023-06-01";

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
    /// What each model accepts; the built-in table when `None`.
    pub models: Option<Arc<PriceTable>>,
}

impl AnthropicConfig {
    /// The public API within the usual [`Limits`].
    #[must_use]
    pub fn new(api_key: Secret) -> Self {
        Self::within(Limits::default(), api_key)
    }

    /// The public API within these limits.
    #[must_use]
    pub fn within(limits: Limits, api_key: Secret) -> Self {
        Self {
            base_url: DEFAULT_BASE_URL.to_owned(),
            api_key,
            idle_timeout: limits.idle_timeout,
            total_timeout: limits.total_timeout,
            connect_timeout: limits.connect_timeout,
            max_reply_bytes: limits.max_reply_bytes,
            models: None,
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            idle_timeout: self.idle_timeout,
            total_timeout: self.total_timeout,
            connect_timeout: self.connect_timeout,
            max_reply_bytes: self.max_reply_bytes,
        }
    }
}

/// The API behind the [`Provider`] trait.
pub struct Anthropic {
    connection: Connection,
    /// Where input tokens are counted, and how long that may take.
    counter: (Url, Duration),
    models: Arc<PriceTable>,
    max_reply_bytes: usize,
}

impl fmt::Debug for Anthropic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anthropic").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Anthropic {
    /// A client for the API.
    ///
    /// # Errors
    /// [`LlmError::Unsupported`] for an address or a key that cannot be used, or when the system has no CA certificates.
    pub fn new(config: &AnthropicConfig) -> Result<Self, LlmError> {
        let models = match &config.models {
            Some(models) => Arc::clone(models),
            None => Arc::new(PriceTable::builtin().map_err(|error| LlmError::Unsupported(error.to_string()))?),
        };
        let headers = headers(&config.api_key)?;
        let connection = Connection::new(
            &config.base_url,
            "v1/messages",
            headers,
            config.limits(),
            errors::describe,
            "request-id",
            Some(config.api_key.clone()),
        )?;
        let counter = (endpoint(&config.base_url, count::PATH)?, config.idle_timeout.min(count::PATIENCE));
        Ok(Self { connection, counter, models, max_reply_bytes: config.max_reply_bytes })
    }
}

#[async_trait]
impl Provider for Anthropic {
    fn prepare(&self, request: &LlmRequest) -> Result<Prepared, LlmError> {
        request::prepare(request, &self.models)
    }

    async fn count_input(&self, prepared: &Prepared) -> Result<Option<u64>, LlmError> {
        let (counter, patience) = &self.counter;
        let answer = self.connection.ask(counter, count::body(&prepared.body)?, *patience).await?;
        count::tokens(&answer).map(Some)
    }

    async fn send(
        &self,
        prepared: &Prepared,
        reservation: &Reservation,
        cancel: &CancellationToken,
    ) -> Result<LlmReply, LlmError> {
        tracing::debug!(reservation = reservation.id(), bytes = prepared.body.len(), "sending a model call");
        let assembler = Assembler::new(self.max_reply_bytes);
        self.connection.exchange(prepared, assembler, cancel).await
    }
}

fn headers(api_key: &Secret) -> Result<HeaderMap, LlmError> {
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", secret_header("", api_key)?);
    headers.insert("anthropic-version", HeaderValue::from_static(API_VERSION));
    Ok(headers)
}
