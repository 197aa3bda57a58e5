//! Errors in the format of chat completions.
//!
//! Whoever understands an error body decides that it is free. Two shapes are known: OpenAI's envelope, whose `type` and
//! `code` may be missing or a number (OpenRouter), and the flat one of older vLLM servers. Anything else is text.

use serde::Deserialize;
use serde_json::Value;

use crate::llm::http::errors::{bounded_message, short};

#[derive(Deserialize)]
struct Envelope {
    error: WireError,
}

#[derive(Deserialize)]
pub(super) struct WireError {
    message: String,
    #[serde(default)]
    r#type: Value,
    #[serde(default)]
    code: Value,
}

/// The shape of older vLLM servers.
#[derive(Deserialize)]
struct Flat {
    object: String,
    #[serde(flatten)]
    error: WireError,
}

impl WireError {
    /// Type and message; the code goes into the message, because it tells an empty account from a rate limit.
    pub(super) fn describe(self) -> (String, String) {
        let text = |value: &Value| match value {
            Value::String(text) if !text.is_empty() => Some(short(text)),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let (kind, code) = (text(&self.r#type), text(&self.code));
        let mut message = bounded_message(&self.message);
        if let Some(code) = code.as_ref().filter(|code| kind.as_ref() != Some(code)) {
            message.push_str(&format!(" ({code})"));
        }
        (kind.or(code).unwrap_or_else(|| "unknown".into()), message)
    }
}

/// Type and message of an error in the format of this dialect; `None` for anything else.
pub(super) fn describe(body: &[u8]) -> Option<(String, String)> {
    if let Ok(envelope) = serde_json::from_slice::<Envelope>(body) {
        return Some(envelope.error.describe());
    }
    let flat = serde_json::from_slice::<Flat>(body).ok()?;
    (flat.object == "error").then(|| flat.error.describe())
}
