//! A request as the bytes of a Messages API body.
//!
//! Whatever has no bound on its cost cannot be expressed here: no images, no server tools, no fallbacks, no fast mode.
//! Region and service tier are pinned, because a workspace default could otherwise raise the price behind our back; where a
//! model takes no region, the bound is told so.
//! Sampling parameters, assistant prefill and forced tools answer 400 on current models and are never sent. Which model
//! accepts what stands in the table of models; one that the table says nothing about counts as newer than all of it: the
//! pins are then sent rather than forgotten.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::budget::price::ThinkingGate;
use crate::budget::{ModelPrice, PriceTable, Unpinned, WorstCaseInput};
use crate::llm::{Effort, LlmError, LlmRequest, Prepared, Role, Thinking, check};

/// The API accepts at most four cache breakpoints.
const MOST_BREAKPOINTS: usize = 4;

/// The least budget that models with a manual one accept, in tokens.
const LEAST_THINKING_BUDGET: u32 = 1_024;

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
    thinking: Option<ThinkingField>,
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
struct ThinkingField {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_tokens: Option<u32>,
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
pub(super) fn prepare(request: &LlmRequest, models: &PriceTable) -> Result<Prepared, LlmError> {
    check::request(request)?;
    let gates = models.get(&request.model);
    let accepts = |gate: fn(&ModelPrice) -> Option<bool>| gates.and_then(gate).unwrap_or(true);
    let schema = match &request.schema {
        Some(schema) if accepts(|model| model.structured_output) => {
            Some(serde_json::value::to_raw_value(schema).map_err(check::unwritable)?)
        }
        Some(_) => return Err(LlmError::Unsupported(format!("{} cannot be bound to a schema", request.model))),
        None => None,
    };
    let format = schema.as_deref().map(|schema| Format { r#type: "json_schema", schema });
    let effort = accepts(|model| model.effort).then_some(match request.effort {
        Effort::Low => "low",
        Effort::Medium => "medium",
        Effort::High => "high",
    });
    let system: Vec<_> = request.system.iter().filter(|block| !block.text.is_empty()).map(text_block).collect();
    let breakpoints = system.iter().filter(|block| block.cache_control.is_some()).count();
    if breakpoints > MOST_BREAKPOINTS {
        return Err(check::unsupported("a request can have at most four cached system blocks"));
    }
    let is_region_pinned = accepts(|model| model.geo);
    let body = Body {
        model: &request.model,
        max_tokens: request.max_tokens,
        stream: true,
        inference_geo: is_region_pinned.then_some("global"),
        service_tier: "standard_only",
        messages: request.messages.iter().map(turn).collect(),
        thinking: thinking(request, gates.and_then(|model| model.thinking))?,
        output_config: (effort.is_some() || format.is_some()).then_some(OutputConfig { effort, format }),
        system,
    };
    let blocks = body.system.len() + body.messages.len();
    let text = serde_json::to_string(&body).map_err(check::unwritable)?;
    check::size(&text)?;
    let worst_case = WorstCaseInput {
        messages: u32::try_from(blocks).unwrap_or(u32::MAX),
        schema_bytes: schema.as_ref().map_or(0, |schema| schema.get().len() as u64),
        writes_5m: breakpoints > 0,
        unpinned: Unpinned { region: !is_region_pinned, service_tier: false },
        ..WorstCaseInput::from_body(&request.model, &text, request.max_tokens)
    };
    Ok(Prepared::new(text, worst_case))
}

/// How the model is told to think or not to; nothing where it does by itself what is wanted.
fn thinking(request: &LlmRequest, gate: Option<ThinkingGate>) -> Result<Option<ThinkingField>, LlmError> {
    let plain = |r#type| Ok(Some(ThinkingField { r#type, budget_tokens: None }));
    match (request.thinking, gate) {
        (Thinking::Default, _)
        | (Thinking::Off, Some(ThinkingGate::OptInAdaptive | ThinkingGate::ManualBudget))
        | (
            Thinking::On,
            Some(ThinkingGate::AlwaysOn | ThinkingGate::DefaultOn | ThinkingGate::DefaultOnBetweenTools) | None,
        ) => Ok(None),
        (Thinking::Off, Some(ThinkingGate::DefaultOn)) => plain("disabled"),
        (Thinking::Off, Some(ThinkingGate::DefaultOnBetweenTools)) => plain("between_tools"),
        (Thinking::On, Some(ThinkingGate::OptInAdaptive)) => plain("adaptive"),
        (Thinking::On, Some(ThinkingGate::ManualBudget)) => {
            let budget = request.max_tokens / 2;
            // Below the least the model accepts there is no room to think.
            Ok((budget >= LEAST_THINKING_BUDGET)
                .then_some(ThinkingField { r#type: "enabled", budget_tokens: Some(budget) }))
        }
        (Thinking::Off, Some(ThinkingGate::AlwaysOn) | None) => {
            Err(LlmError::Unsupported(format!("the thinking of {} cannot be switched off", request.model)))
        }
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
