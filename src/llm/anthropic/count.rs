//! Counting the input tokens of a call before it is made (`POST /v1/messages/count_tokens`).
//!
//! The question is the call's own body without what only a call has; the API refuses fields that it does not know there. The
//! parts are taken over byte by byte, so that what is counted is what will be sent. The answer is free, has rate limits of
//! its own and is, by the API's own word, an estimate; whether it is believed is decided one level up.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::llm::{LlmError, check};

/// Where it is asked, below the base URL.
pub(super) const PATH: &str = "v1/messages/count_tokens";

/// How long an answer may take; a call that can be made smaller must not wait long for a larger size.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What of a call's body is counted.
#[derive(Serialize, Deserialize)]
struct Question<'a> {
    #[serde(borrow)]
    model: &'a RawValue,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    system: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: &'a RawValue,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    thinking: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    output_config: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Answer {
    input_tokens: u64,
}

/// The question about a call with this body.
pub(super) fn body(call: &[u8]) -> Result<Vec<u8>, LlmError> {
    let question: Question<'_> = serde_json::from_slice(call).map_err(check::unwritable)?;
    serde_json::to_vec(&question).map_err(check::unwritable)
}

/// The number that was answered.
pub(super) fn tokens(answer: &[u8]) -> Result<u64, LlmError> {
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|error| LlmError::Malformed { reason: format!("a count of tokens cannot be read: {error}") })?;
    Ok(answer.input_tokens)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::budget::PriceTable;
    use crate::llm::{LlmRequest, SystemBlock};

    #[test]
    fn the_question_is_the_call_without_what_only_a_call_has() {
        let system = vec![SystemBlock { text: "Gr\u{fc}\u{df}e \\ \"x\"".into(), cache: true }];
        let schema = Arc::new(serde_json::json!({"type": "object", "b": 1, "a": 2}));
        let request = LlmRequest { system, schema: Some(schema), ..LlmRequest::of("claude-sonnet-5-5", "hello") };
        let call = super::super::request::prepare(&request, &PriceTable::builtin().unwrap()).unwrap().body;
        let question: serde_json::Value = serde_json::from_slice(&body(&call).unwrap()).unwrap();
        let call: serde_json::Value = serde_json::from_slice(&call).unwrap();
        let mut names: Vec<_> = question.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["messages", "model", "output_config", "system"]);
        assert!(names.iter().all(|name| question[name] == call[name]), "{question}");
    }

    #[test]
    fn only_a_number_is_an_answer() {
        assert_eq!(tokens(br#"{"input_tokens":14,"new_field":1}"#).unwrap(), 14);
        for answer in ["", "{}", "[]", r#"{"input_tokens":-1}"#, r#"{"input_tokens":"14"}"#, r#"{"input_tokens":1.5}"#]
        {
            assert!(matches!(tokens(answer.as_bytes()), Err(LlmError::Malformed { .. })), "{answer}");
        }
    }
}
