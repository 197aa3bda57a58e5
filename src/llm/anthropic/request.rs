//! A request as the bytes of a Messages API body.
//!
//! Whatever has no bound on its cost cannot be expressed here: no images, no server tools, no fallbacks, no fast mode.
//! Region and service tier are pinned, because a workspace default could otherwise raise the price behind our back.
//! Sampling parameters, assistant prefill and forced tools answer 400 on current models and are never sent; thinking is
//! left at each model's default, which `max_tokens` caps.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::budget::WorstCaseInput;
use crate::llm::{Effort, LlmError, LlmRequest, Prepared, Role};

/// The API accepts at most four cache breakpoints.
const MOST_BREAKPOINTS: usize = 4;

/// The API accepts bodies of up to 32 MB.
const MOST_BODY_BYTES: usize = 32_000_000;

/// From this generation on `inference_geo` and `output_config.effort` are accepted; older models answer 400.
const PINNED_GEO_SINCE: (u32, u32) = (4, 6);

/// From this generation on replies can be bound to a schema.
const SCHEMA_SINCE: (u32, u32) = (4, 5);

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    max_tokens: u32,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    inference_geo: Option<&'static str>,
    service_tier: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<TextBlock<'a>>,
    messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<OutputConfig<'a>>,
}

#[derive(Serialize)]
struct TextBlock<'a> {
    r#type: &'static str,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
}

#[derive(Serialize)]
struct CacheControl {
    r#type: &'static str,
    ttl: &'static str,
}

#[derive(Serialize)]
struct Turn<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct OutputConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Format<'a>>,
}

#[derive(Serialize)]
struct Format<'a> {
    r#type: &'static str,
    schema: &'a RawValue,
}

/// Builds the body and measures it.
pub(super) fn prepare(request: &LlmRequest) -> Result<Prepared, LlmError> {
    check(request)?;
    let generation = generation(&request.model);
    let is_since = |first| generation.is_none_or(|generation| generation >= first);
    let schema = match &request.schema {
        Some(schema) if is_since(SCHEMA_SINCE) => Some(serde_json::value::to_raw_value(schema).map_err(unwritable)?),
        Some(_) => return Err(LlmError::Unsupported(format!("{} cannot be bound to a schema", request.model))),
        None => None,
    };
    let format = schema.as_deref().map(|schema| Format { r#type: "json_schema", schema });
    let effort = is_since(PINNED_GEO_SINCE).then_some(match request.effort {
        Effort::Low => "low",
        Effort::Medium => "medium",
        Effort::High => "high",
    });
    let system: Vec<_> = request.system.iter().filter(|block| !block.text.is_empty()).map(text_block).collect();
    let breakpoints = system.iter().filter(|block| block.cache_control.is_some()).count();
    if breakpoints > MOST_BREAKPOINTS {
        return Err(unsupported("a request can have at most four cached system blocks"));
    }
    let body = Body {
        model: &request.model,
        max_tokens: request.max_tokens,
        stream: true,
        inference_geo: is_since(PINNED_GEO_SINCE).then_some("global"),
        service_tier: "standard_only",
        messages: request.messages.iter().map(turn).collect(),
        output_config: (effort.is_some() || format.is_some()).then_some(OutputConfig { effort, format }),
        system,
    };
    let blocks = body.system.len() + body.messages.len();
    let text = serde_json::to_string(&body).map_err(unwritable)?;
    if text.len() > MOST_BODY_BYTES {
        return Err(unsupported("the request is larger than the 32 MB the API accepts"));
    }
    let worst_case = WorstCaseInput {
        messages: u32::try_from(blocks).unwrap_or(u32::MAX),
        schema_bytes: schema.as_ref().map_or(0, |schema| schema.get().len() as u64),
        writes_5m: breakpoints > 0,
        ..WorstCaseInput::from_body(&request.model, &text, request.max_tokens)
    };
    Ok(Prepared { body: text.into(), worst_case })
}

fn check(request: &LlmRequest) -> Result<(), LlmError> {
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

fn text_block(block: &crate::llm::SystemBlock) -> TextBlock<'_> {
    let cache_control = block.cache.then_some(CacheControl { r#type: "ephemeral", ttl: "5m" });
    TextBlock { r#type: "text", text: &block.text, cache_control }
}

fn turn(message: &crate::llm::Message) -> Turn<'_> {
    let role = match message.role {
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    Turn { role, content: &message.text }
}

fn unsupported(why: &str) -> LlmError {
    LlmError::Unsupported(why.to_owned())
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
fn unwritable(cause: serde_json::Error) -> LlmError {
    LlmError::Unsupported(format!("it cannot be written as JSON: {cause}"))
}

/// Generation of a Claude model: `claude-opus-4-6` is (4, 6), `claude-sonnet-5` is (5, 0). A date is no version, and an
/// unknown name counts as newer than all: the pins are then sent rather than forgotten.
fn generation(model: &str) -> Option<(u32, u32)> {
    let mut numbers =
        model.strip_prefix("claude-")?.split('-').filter(|part| part.len() <= 2).filter_map(|part| part.parse().ok());
    let major = numbers.next()?;
    Some((major, numbers.next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generation_is_read_from_every_style_of_name() {
        for (model, expected) in [
            ("claude-opus-4-6", Some((4, 6))),
            ("claude-sonnet-5", Some((5, 0))),
            ("claude-haiku-4-5-20251001", Some((4, 5))),
            ("claude-sonnet-4-20250514", Some((4, 0))),
            ("claude-3-5-sonnet-20241022", Some((3, 5))),
            ("claude-next", None),
            ("local-model", None),
        ] {
            assert_eq!(generation(model), expected, "{model}");
        }
    }
}
