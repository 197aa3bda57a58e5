//! Reading a chat completions request as strictly as the real API does.
//!
//! Unknown fields, other numbers of choices and contents that are not text are refused. The prompt's cacheable prefix is the
//! system message, which these providers cache without being asked.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::cache::Prefix;
use super::dialect::{ApiError, Dialect};
use super::request::{CacheTtl, Request, bytes, check_sampling, priced, request_key};
use crate::budget::PriceTable;

/// What a model writes when nobody caps it and it has no limit of its own, in tokens.
const UNCAPPED: u64 = 128_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    model: Option<String>,
    messages: Option<Vec<Turn>>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    response_format: Option<ResponseFormat>,
    n: Option<u64>,
    reasoning_effort: Option<String>,
    #[serde(rename = "service_tier")]
    _service_tier: Option<IgnoredAny>,
    #[serde(rename = "store")]
    _store: Option<IgnoredAny>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    #[serde(rename = "stop")]
    _stop: Option<IgnoredAny>,
    #[serde(rename = "seed")]
    _seed: Option<IgnoredAny>,
    #[serde(rename = "tools")]
    _tools: Option<IgnoredAny>,
    #[serde(rename = "tool_choice")]
    _tool_choice: Option<IgnoredAny>,
    #[serde(rename = "user")]
    _user: Option<IgnoredAny>,
    #[serde(rename = "metadata")]
    _metadata: Option<IgnoredAny>,
    #[serde(rename = "prompt_cache_options")]
    _prompt_cache_options: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
    #[serde(default)]
    continuous_usage_stats: bool,
}

#[derive(Deserialize)]
struct ResponseFormat {
    json_schema: Option<NamedSchema>,
    schema: Option<Value>,
}

#[derive(Deserialize)]
struct NamedSchema {
    schema: Option<Value>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: Content,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    #[serde(default)]
    text: String,
}

impl Content {
    fn text(&self) -> Result<String, ApiError> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Parts(parts) => match parts.iter().find(|part| part.r#type != "text") {
                Some(part) => Err(ApiError::invalid(format!("this server has no price for {:?} parts", part.r#type))),
                None => Ok(parts.iter().map(|part| part.text.as_str()).collect::<Vec<_>>().join("\n")),
            },
        }
    }
}

/// Reads and checks a body.
pub(super) fn parse(body: &[u8], endpoint: Option<&str>, prices: &PriceTable) -> Result<Request, ApiError> {
    let body: Body = serde_json::from_slice(body).map_err(|error| ApiError::invalid(error.to_string()))?;
    let required = |name: &str| ApiError::invalid(format!("Missing required parameter: '{name}'."));
    let model = body.model.ok_or_else(|| required("model"))?;
    let messages = body.messages.filter(|messages| !messages.is_empty()).ok_or_else(|| required("messages"))?;
    let (name, price) = priced(&model, endpoint, prices)?;
    if body.n.is_some_and(|n| n != 1) {
        return Err(ApiError::invalid("n: this server answers with one choice"));
    }
    check_sampling(price, [("temperature", body.temperature), ("top_p", body.top_p)])?;
    if body.reasoning_effort.is_some() && price.effort == Some(false) {
        return Err(ApiError::invalid("Unsupported parameter: 'reasoning_effort' is not supported with this model."));
    }
    let most = price.max_output.map_or(UNCAPPED, u64::from);
    let max_tokens = body.max_completion_tokens.or(body.max_tokens).unwrap_or(most);
    if max_tokens == 0 || max_tokens > most.max(UNCAPPED) {
        return Err(ApiError::invalid(format!(
            "max_tokens is too large: {max_tokens}. This model supports at most {most} completion tokens."
        )));
    }
    let mut prompt_bytes = 0;
    let mut prefixes = Vec::new();
    let mut last = String::new();
    for (index, turn) in messages.iter().enumerate() {
        if !["system", "developer", "user", "assistant"].contains(&turn.role.as_str()) {
            return Err(ApiError::invalid(format!("Invalid value: '{}'.", turn.role)));
        }
        last = turn.content.text()?;
        prompt_bytes += bytes(&last);
        if index == 0 && turn.role == "system" && price.writes_cache_unasked() {
            let mut hasher = DefaultHasher::new();
            (&model, &last).hash(&mut hasher);
            prefixes.push(Prefix { hash: hasher.finish(), bytes: prompt_bytes, ttl: CacheTtl::FiveMinutes });
        }
    }
    let format = body.response_format;
    let schema = format.and_then(|format| format.schema.or(format.json_schema.and_then(|named| named.schema)));
    let (key, id) = request_key(&last).unwrap_or_default();
    let options = body.stream_options.unwrap_or(StreamOptions { include_usage: false, continuous_usage_stats: false });
    Ok(Request {
        dialect: Dialect::OpenAi,
        priced: name,
        max_tokens,
        stream: body.stream,
        wants_usage: options.include_usage,
        wants_running_usage: options.continuous_usage_stats,
        schema,
        key: key.to_owned(),
        id: id.to_owned(),
        prompt_bytes,
        prefixes,
        states_cost: endpoint == Some("openrouter"),
        model,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(body: &str) -> Result<Request, ApiError> {
        parse(body.as_bytes(), None, &PriceTable::builtin().expect("valid"))
    }

    #[test]
    fn what_a_client_asks_for_is_understood() {
        let request = parsed(
            r#"{"model":"gpt-6.1-sol","max_completion_tokens":9,"stream":true,"stream_options":{"include_usage":true},
                "service_tier":"default","store":false,"reasoning_effort":"low",
                "response_format":{"type":"json_schema","json_schema":{"name":"x","strict":true,"schema":{"type":"object"}}},
                "messages":[{"role":"system","content":"abc"},{"role":"user","content":[{"type":"text","text":"Request: plan"}]}]}"#,
        )
        .expect("valid");
        assert_eq!((request.key.as_str(), request.max_tokens, request.prompt_bytes), ("plan", 9, 16));
        assert!(request.stream && request.wants_usage && !request.wants_running_usage);
        assert_eq!((request.prefixes.len(), request.prefixes[0].bytes), (1, 3));
        assert_eq!(request.schema, Some(serde_json::json!({"type": "object"})));
    }

    #[test]
    fn what_the_real_api_refuses_is_refused() {
        let user = r#"[{"role":"user","content":"Request: plan"}]"#;
        for (body, part) in [
            ("{".to_owned(), "EOF"),
            (format!(r#"{{"messages":{user}}}"#), "'model'"),
            (r#"{"model":"gpt-6.1-sol"}"#.into(), "'messages'"),
            (r#"{"model":"gpt-6.1-sol","messages":[]}"#.into(), "'messages'"),
            (format!(r#"{{"model":"gpt-0","messages":{user}}}"#), "gpt-0"),
            (format!(r#"{{"model":"gpt-6.1-sol","n":2,"messages":{user}}}"#), "one choice"),
            (format!(r#"{{"model":"gpt-6.1-sol","max_tokens":999999,"messages":{user}}}"#), "too large"),
            (format!(r#"{{"model":"gpt-6.1-sol","fallbacks":[],"messages":{user}}}"#), "unknown field"),
            (r#"{"model":"gpt-6.1-sol","messages":[{"role":"tool","content":"x"}]}"#.into(), "'tool'"),
            (
                r#"{"model":"gpt-6.1-sol","messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#.into(),
                "no price",
            ),
        ] {
            let error = parsed(&body).expect_err(&body);
            assert!(error.message.contains(part), "{body}: {}", error.message);
        }
    }
}
