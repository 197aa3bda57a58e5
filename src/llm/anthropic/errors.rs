//! Errors in the format of the Messages API.
//!
//! Whoever understands an error body decides that it is free, so anything that only looks like one is no error of the API.

use serde::Deserialize;

use crate::llm::http::errors::{bounded_message, short};

#[derive(Deserialize)]
struct Envelope {
    error: WireError,
}

#[derive(Deserialize)]
struct WireError {
    r#type: String,
    #[serde(default)]
    message: String,
    details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    error_code: Option<String>,
}

/// Type and message of an error in the provider's format; `None` for anything else.
pub(super) fn describe(body: &[u8]) -> Option<(String, String)> {
    let error = serde_json::from_slice::<Envelope>(body).ok()?.error;
    let mut message = bounded_message(&error.message);
    // The code tells a spending cap from a rate limit, so it must survive into the message.
    if let Some(code) = error.details.and_then(|details| details.error_code) {
        message.push_str(&format!(" ({})", short(&code)));
    }
    Some((short(&error.r#type), message))
}
