//! What every dialect refuses before money is set aside.
//!
//! A request that a provider would answer with 400 is refused here, for free and with a reason. The rules are the strictest of
//! all dialects, so that a fallback to another provider does not fail for reasons of form.

use super::{LlmError, LlmRequest, Role};

/// The strictest API accepts bodies of up to 32 MB.
const MOST_BODY_BYTES: usize = 32_000_000;

/// Refuses what no provider could answer.
pub(super) fn request(request: &LlmRequest) -> Result<(), LlmError> {
    let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/@".contains(&b);
    if request.model.is_empty() || request.model.len() > 100 || !request.model.bytes().all(is_name_byte) {
        return Err(unsupported("the model name is not one"));
    }
    if request.max_tokens == 0 {
        return Err(unsupported("max_tokens has to be at least 1"));
    }
    if request.messages.iter().any(|message| message.text.trim().is_empty()) {
        return Err(unsupported("a message is empty"));
    }
    match request.messages.last() {
        Some(last) if last.role == Role::User => Ok(()),
        _ => Err(unsupported("the last message has to be the user's")),
    }
}

/// Refuses a body that is too large.
pub(super) fn size(body: &str) -> Result<(), LlmError> {
    if body.len() > MOST_BODY_BYTES {
        return Err(unsupported("the request is larger than the 32 MB the API accepts"));
    }
    Ok(())
}

pub(super) fn unsupported(why: &str) -> LlmError {
    LlmError::Unsupported(why.to_owned())
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
pub(super) fn unwritable(cause: serde_json::Error) -> LlmError {
    LlmError::Unsupported(format!("it cannot be written as JSON: {cause}"))
}
