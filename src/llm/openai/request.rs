//! A request as the bytes of a chat completions body.
//!
//! The cap on output goes into the one field that this endpoint obeys, because an unknown field is silently ignored by
//! half of these servers. One choice, no tools, no images, no sampling parameters. A schema that the endpoint cannot
//! enforce stands in the prompt, where it costs input tokens that the bound counts like all bytes.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{MaxTokensField, SchemaStyle, Style};
use crate::budget::{PriceTable, Unpinned, WorstCaseInput};
use crate::llm::{Effort, LlmError, LlmRequest, Prepared, Role, Thinking, check};

/// What the schema is called on the wire; servers demand a name and do nothing with it.
const SCHEMA_NAME: &str = "reply";

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'static str>,
    messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat<'a>>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    continuous_usage_stats: bool,
}

#[derive(Serialize)]
struct Turn<'a> {
    role: &'static str,
    content: std::borrow::Cow<'a, str>,
}

#[derive(Serialize)]
struct ResponseFormat<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    json_schema: Option<NamedSchema<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct NamedSchema<'a> {
    name: &'static str,
    strict: bool,
    schema: &'a RawValue,
}

/// Builds the body and measures it.
pub(super) fn prepare(request: &LlmRequest, style: Style, models: &PriceTable) -> Result<Prepared, LlmError> {
    check::request(request)?;
    let gates = models.get(&request.model);
    if request.thinking == Thinking::Off {
        let why = format!("the thinking of {} cannot be switched off over this wire format", request.model);
        return Err(LlmError::Unsupported(why));
    }
    let schema = request.schema.as_ref().map(serde_json::value::to_raw_value).transpose().map_err(check::unwritable)?;
    let schema = schema.as_deref();
    let is_bound = matches!(style.schema_style, SchemaStyle::JsonSchema | SchemaStyle::JsonSchemaFlat);
    if schema.is_some() && is_bound && gates.and_then(|model| model.structured_output) == Some(false) {
        return Err(LlmError::Unsupported(format!("{} cannot be bound to a schema", request.model)));
    }
    let cap = Some(request.max_tokens);
    let is_completion = style.max_tokens_field == MaxTokensField::MaxCompletionTokens;
    let body = Body {
        model: &request.model,
        max_tokens: cap.filter(|_| !is_completion),
        max_completion_tokens: cap.filter(|_| is_completion),
        stream: true,
        stream_options: style
            .usage_in_stream
            .then_some(StreamOptions { include_usage: true, continuous_usage_stats: style.running_usage }),
        service_tier: style.pins.then_some("default"),
        store: style.pins.then_some(false),
        // Sent only to models that are known to have it: others answer 400, or think in ways nobody asked for.
        reasoning_effort: (gates.and_then(|model| model.effort) == Some(true)).then_some(match request.effort {
            Effort::Low => "low",
            Effort::Medium => "medium",
            Effort::High => "high",
        }),
        messages: turns(request, schema.filter(|_| !is_bound)),
        response_format: schema.and_then(|schema| response_format(style.schema_style, schema)),
    };
    let messages = u32::try_from(body.messages.len()).unwrap_or(u32::MAX);
    let text = serde_json::to_string(&body).map_err(check::unwritable)?;
    check::size(&text)?;
    let worst_case = WorstCaseInput {
        messages,
        schema_bytes: schema.map_or(0, |schema| schema.get().len() as u64),
        // This wire format has no region, and only OpenAI itself obeys a service tier.
        unpinned: Unpinned { region: true, service_tier: !style.pins },
        ..WorstCaseInput::from_body(&request.model, &text, request.max_tokens)
    };
    Ok(Prepared::new(text, worst_case))
}

fn response_format(style: SchemaStyle, schema: &RawValue) -> Option<ResponseFormat<'_>> {
    let plain = ResponseFormat { r#type: "json_schema", json_schema: None, schema: None };
    match style {
        SchemaStyle::JsonSchema => {
            let named = NamedSchema { name: SCHEMA_NAME, strict: true, schema };
            Some(ResponseFormat { json_schema: Some(named), ..plain })
        }
        SchemaStyle::JsonSchemaFlat => Some(ResponseFormat { schema: Some(schema), ..plain }),
        SchemaStyle::JsonObject => Some(ResponseFormat { r#type: "json_object", ..plain }),
        SchemaStyle::None => None,
    }
}

/// The system blocks as one message (prefix caches need no marks here), then the conversation.
fn turns<'a>(request: &'a LlmRequest, schema: Option<&RawValue>) -> Vec<Turn<'a>> {
    let mut system: Vec<&str> =
        request.system.iter().map(|block| &*block.text).filter(|text| !text.is_empty()).collect();
    let demand;
    if let Some(schema) = schema {
        demand = format!("Answer with nothing but one JSON object that follows this JSON schema:\n{}", schema.get());
        system.push(&demand);
    }
    let mut turns = Vec::with_capacity(request.messages.len() + 1);
    if !system.is_empty() {
        turns.push(Turn { role: "system", content: system.join("\n\n").into() });
    }
    turns.extend(request.messages.iter().map(|message| Turn {
        role: match message.role {
            Role::User => "user",
            Role::Assistant => "assistant",
        },
        content: message.text.as_str().into(),
    }));
    turns
}
