//! The wire formats the server speaks, and how each of them says that something is wrong.
//!
//! What is the same in both (looking a reply up, waiting, billing) must not know of them.

use axum::http::{HeaderMap, StatusCode};
use serde::Serialize;

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `/v1/messages`.
    Anthropic,
    /// `/v1/chat/completions`.
    OpenAi,
}

/// An error of the API: status, type and message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) message: String,
    /// Tells one error of a type from another, where the API has such a code.
    pub(super) code: Option<&'static str>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), code: None }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    pub(super) fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message)
    }

    pub(super) fn unknown_model(model: &str) -> Self {
        let model: String = model.chars().take(100).collect();
        Self::new(StatusCode::NOT_FOUND, "not_found_error", format!("model: {model}"))
    }
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    r#type: &'static str,
    error: AnthropicDetail<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Serialize)]
struct AnthropicDetail<'a> {
    r#type: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

#[derive(Serialize)]
struct Details {
    error_code: &'static str,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    error: OpenAiDetail<'a>,
}

#[derive(Serialize)]
struct OpenAiDetail<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

impl Dialect {
    /// Name of the header that holds the request's id.
    pub(super) const fn request_id_header(self) -> &'static str {
        match self {
            Self::Anthropic => "request-id",
            Self::OpenAi => "x-request-id",
        }
    }

    /// Checks the headers that every call needs.
    pub(super) fn check_headers(self, headers: &HeaderMap) -> Result<(), ApiError> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").trim();
        let bearer = text("authorization").strip_prefix("Bearer ").is_some_and(|token| !token.trim().is_empty());
        match self {
            Self::OpenAi if !bearer => Err(ApiError {
                code: Some("invalid_api_key"),
                ..ApiError::unauthorized("You didn't provide an API key in the Authorization header.")
            }),
            Self::Anthropic if text("x-api-key").is_empty() && !bearer => {
                Err(ApiError::unauthorized("x-api-key header is required"))
            }
            Self::Anthropic if text("anthropic-version").is_empty() => {
                Err(ApiError::invalid("anthropic-version: header is required"))
            }
            _ => Ok(()),
        }
    }

    /// The body of an error, as an answer of its own or as the data of an event.
    #[expect(
        clippy::expect_used,
        reason = "plain structs with string keys, written to memory: serialising cannot fail"
    )]
    pub(super) fn error_json(self, error: &ApiError, request_id: Option<&str>) -> Vec<u8> {
        let (kind, message) = (error.kind, error.message.as_str());
        let json = match self {
            Self::Anthropic => {
                let details = error.code.map(|error_code| Details { error_code });
                let error = AnthropicDetail { r#type: kind, message, details };
                serde_json::to_vec(&AnthropicError { r#type: "error", error, request_id })
            }
            Self::OpenAi => serde_json::to_vec(&OpenAiError {
                error: OpenAiDetail { message, r#type: kind, param: None, code: error.code },
            }),
        };
        json.expect("serialises")
    }

    /// An error in the middle of a stream.
    pub(super) fn error_event(self, error: &ApiError) -> Vec<u8> {
        let start: &[u8] = match self {
            Self::Anthropic => b"event: error\ndata: ",
            Self::OpenAi => b"data: ",
        };
        [start, &self.error_json(error, None), b"\n\n"].concat()
    }
}
