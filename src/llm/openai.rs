//! Chat completions as OpenAI defined them and others speak them, streaming always (facts as of 2026-11).
//!
//! Every server of this family obeys slightly other fields, and a cap that a server does not know is no cap. So what differs
//! is a [`Style`] per endpoint, with a [`Preset`] for each server that was looked at. An endpoint that does not report usage
//! in its stream is charged the whole reservation for every call: unknown is never free. The same rules as for every
//! dialect: no retry in here, nothing without a bound can be expressed, the key is never printed.

mod cost;
mod errors;
mod request;
mod stream;
#[cfg(test)]
mod tests;
mod usage;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::http::{Connection, Limits, secret_header};
use super::{LlmError, LlmReply, LlmRequest, Prepared, Provider};
use crate::budget::{ModelPrice, PriceTable, Reservation};
use crate::config::Secret;
use stream::Assembler;

/// The field by which a server lets its output be capped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    /// Obeyed by local servers.
    MaxTokens,
    /// OpenAI's own; reasoning counts inside it.
    MaxCompletionTokens,
}

/// How a reply is bound to a JSON schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaStyle {
    /// `response_format.json_schema.schema`.
    JsonSchema,
    /// `response_format.schema`, as llama.cpp reads it.
    JsonSchemaFlat,
    /// The server only promises some JSON object; the schema stands in the prompt.
    JsonObject,
    /// The server promises nothing; the schema stands in the prompt.
    None,
}

/// In what an endpoint differs from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Where the output cap goes.
    pub max_tokens_field: MaxTokensField,
    /// Whether the stream ends with a usage chunk when asked for one.
    pub usage_in_stream: bool,
    /// Whether every chunk can carry usage, so that the input of a cut stream is known.
    pub running_usage: bool,
    /// How a schema is sent.
    pub schema_style: SchemaStyle,
    /// Pin what changes the price: `service_tier` and `store`. Only OpenAI itself knows both.
    pub pins: bool,
    /// The `cost` in its usage is the charge, as OpenRouter defines it. Elsewhere a stated cost counts only when it is higher
    /// than the price of the table.
    pub states_charge: bool,
}

/// Servers whose differences are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Preset {
    /// api.openai.com.
    #[serde(rename = "openai")]
    OpenAi,
    /// openrouter.ai.
    #[serde(rename = "openrouter")]
    OpenRouter,
    /// A vLLM server.
    #[serde(rename = "vllm")]
    Vllm,
    /// `llama-server` of llama.cpp.
    #[serde(rename = "llama-cpp")]
    LlamaCpp,
    /// Ollama.
    #[serde(rename = "ollama")]
    Ollama,
}

impl Preset {
    /// Every preset with its name in the configuration.
    pub const ALL: [(&'static str, Self); 5] = [
        ("openai", Self::OpenAi),
        ("openrouter", Self::OpenRouter),
        ("vllm", Self::Vllm),
        ("llama-cpp", Self::LlamaCpp),
        ("ollama", Self::Ollama),
    ];

    /// The preset with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, preset)| *preset)
    }

    /// Where the server is found unless the configuration says otherwise.
    #[must_use]
    pub const fn base_url(self) -> &'static str {
        match self {
            Self::OpenAi => "https://api.openai.com/v1",
            Self::OpenRouter => "https://openrouter.ai/api/v1",
            Self::Vllm => "http://127.0.0.1:8000/v1",
            Self::LlamaCpp => "http://127.0.0.1:8080/v1",
            Self::Ollama => "http://127.0.0.1:11434/v1",
        }
    }

    /// True for servers that refuse calls without a key.
    #[must_use]
    pub const fn needs_key(self) -> bool {
        matches!(self, Self::OpenAi | Self::OpenRouter)
    }

    /// What the server obeys.
    #[must_use]
    pub const fn style(self) -> Style {
        let usual = Style {
            max_tokens_field: MaxTokensField::MaxTokens,
            usage_in_stream: true,
            running_usage: false,
            schema_style: SchemaStyle::JsonSchema,
            pins: false,
            states_charge: false,
        };
        match self {
            Self::OpenAi => Style { max_tokens_field: MaxTokensField::MaxCompletionTokens, pins: true, ..usual },
            Self::OpenRouter => Style { states_charge: true, ..usual },
            Self::Ollama => usual,
            Self::Vllm => Style { running_usage: true, ..usual },
            Self::LlamaCpp => Style { schema_style: SchemaStyle::JsonSchemaFlat, ..usual },
        }
    }
}

/// How to reach an endpoint.
#[derive(Debug, Clone)]
pub struct OpenAiConfig {
    /// Scheme, host, port and path prefix; `/chat/completions` is appended.
    pub base_url: String,
    /// Sent as a bearer token; none for servers that want none.
    pub api_key: Option<Secret>,
    /// Timeouts and sizes.
    pub limits: Limits,
    /// In what the endpoint differs.
    pub style: Style,
    /// What each model accepts; the built-in table when `None`.
    pub models: Option<Arc<PriceTable>>,
}

impl OpenAiConfig {
    /// The server of a preset at its usual address.
    #[must_use]
    pub fn of(preset: Preset, api_key: Option<Secret>) -> Self {
        Self {
            base_url: preset.base_url().to_owned(),
            api_key,
            limits: Limits::default(),
            style: preset.style(),
            models: None,
        }
    }
}

/// An endpoint behind the [`Provider`] trait.
pub struct OpenAi {
    connection: Connection,
    style: Style,
    models: Arc<PriceTable>,
    max_reply_bytes: usize,
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAi")
            .field("connection", &self.connection)
            .field("style", &self.style)
            .finish_non_exhaustive()
    }
}

impl OpenAi {
    /// A client for the endpoint.
    ///
    /// # Errors
    /// [`LlmError::Unsupported`] for an address or a key that cannot be used, or when the system has no CA certificates.
    pub fn new(config: &OpenAiConfig) -> Result<Self, LlmError> {
        let models = match &config.models {
            Some(models) => Arc::clone(models),
            None => Arc::new(PriceTable::builtin().map_err(|error| LlmError::Unsupported(error.to_string()))?),
        };
        let mut headers = HeaderMap::new();
        if let Some(key) = &config.api_key {
            headers.insert(AUTHORIZATION, secret_header("Bearer ", key)?);
        }
        let connection = Connection::new(
            &config.base_url,
            "chat/completions",
            headers,
            config.limits,
            errors::describe,
            "x-request-id",
            config.api_key.clone(),
        )?;
        Ok(Self { connection, style: config.style, models, max_reply_bytes: config.limits.max_reply_bytes })
    }
}

#[async_trait]
impl Provider for OpenAi {
    fn prepare(&self, request: &LlmRequest) -> Result<Prepared, LlmError> {
        request::prepare(request, self.style, &self.models)
    }

    async fn send(
        &self,
        prepared: &Prepared,
        reservation: &Reservation,
        cancel: &CancellationToken,
    ) -> Result<LlmReply, LlmError> {
        tracing::debug!(reservation = reservation.id(), bytes = prepared.body.len(), "sending a model call");
        let model = &prepared.worst_case.model;
        let writes = self.models.get(model).is_some_and(ModelPrice::writes_cache_unasked);
        let assembler = Assembler::new(writes, self.style.states_charge, self.max_reply_bytes);
        self.connection.exchange(prepared, assembler, cancel).await
    }
}
