//! Reading a request as strictly as the real API does.
//!
//! What the provider answers with 400, 401 or 404 is answered so here, in its words, because a client that only ever met
//! a lenient server fails on the first real call. The request key, by which the script is looked up, stands in the last
//! line of the last user message that begins with `Request: `.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::cache::Prefix;
use super::dialect::{ApiError, Dialect};
use crate::budget::PriceTable;
use crate::budget::price::{ModelPrice, ThinkingGate};

/// What a line that names the request begins with.
const KEY_PREFIX: &str = "Request: ";
/// Cache breakpoints a request may have.
const MAX_BREAKPOINTS: usize = 4;

/// How long a prefix is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(super) enum CacheTtl {
    /// The default.
    #[default]
    #[serde(rename = "5m")]
    FiveMinutes,
    /// At a higher price.
    #[serde(rename = "1h")]
    OneHour,
}

/// What the server needs to know of a valid request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) dialect: Dialect,
    /// The model as the client names it.
    pub(super) model: String,
    /// The same as the price table names it.
    pub(super) priced: String,
    pub(super) max_tokens: u64,
    pub(super) stream: bool,
    /// The client asked for usage in the stream; the Messages API always tells it.
    pub(super) wants_usage: bool,
    /// The client asked for usage with every chunk.
    pub(super) wants_running_usage: bool,
    /// The JSON schema the reply has to follow.
    pub(super) schema: Option<serde_json::Value>,
    /// `plan`, `feature-plan ID` or `file PATH`; empty when the request names none.
    pub(super) key: String,
    /// The id in parentheses behind the key; empty without one.
    pub(super) id: String,
    /// Bytes of all system blocks and messages.
    pub(super) prompt_bytes: u64,
    /// Cacheable prefixes, shortest first.
    pub(super) prefixes: Vec<Prefix>,
    /// The provider states its charge with the usage.
    pub(super) states_cost: bool,
}

/// The body as the API defines it; unknown fields are refused there, too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    model: Option<String>,
    max_tokens: Option<u64>,
    #[serde(borrow)]
    messages: Option<Vec<Turn<'a>>>,
    #[serde(borrow)]
    system: Option<&'a RawValue>,
    #[serde(default)]
    stream: bool,
    thinking: Option<Kind>,
    tool_choice: Option<Kind>,
    #[serde(rename = "tools")]
    _tools: Option<IgnoredAny>,
    #[serde(rename = "stop_sequences")]
    _stop_sequences: Option<IgnoredAny>,
    output_config: Option<OutputConfig>,
    #[serde(rename = "cache_control")]
    _cache_control: Option<IgnoredAny>,
    #[serde(rename = "metadata")]
    _metadata: Option<IgnoredAny>,
    #[serde(rename = "service_tier")]
    _service_tier: Option<IgnoredAny>,
    #[serde(rename = "inference_geo")]
    _inference_geo: Option<IgnoredAny>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<f64>,
}

#[derive(Deserialize)]
struct OutputConfig {
    format: Option<Format>,
}

#[derive(Deserialize)]
struct Format {
    schema: Option<serde_json::Value>,
}

/// An object of which only the type matters.
#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Turn<'a> {
    role: String,
    #[serde(borrow)]
    content: &'a RawValue,
}

#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: String,
    cache_control: Option<CacheControl>,
}

#[derive(Deserialize)]
struct CacheControl {
    #[serde(default)]
    ttl: CacheTtl,
}

/// Text that is either a string or a list of text blocks.
fn blocks(field: &str, raw: &RawValue) -> Result<Vec<Block>, ApiError> {
    let invalid = |error: serde_json::Error| ApiError::invalid(format!("{field}: {error}"));
    let blocks = if raw.get().starts_with('"') {
        let text = serde_json::from_str(raw.get()).map_err(invalid)?;
        vec![Block { kind: "text".into(), text, cache_control: None }]
    } else {
        serde_json::from_str::<Vec<Block>>(raw.get()).map_err(invalid)?
    };
    match blocks.iter().find(|block| block.kind == "text" && block.text.is_empty()) {
        Some(_) => Err(ApiError::invalid(format!("{field}: text content blocks must be non-empty"))),
        None => Ok(blocks),
    }
}

/// The model's name in the price table and its entry. `endpoint` is the part of the address that stands for the name of
/// an endpoint.
pub(super) fn priced<'a>(
    model: &str,
    endpoint: Option<&str>,
    prices: &'a PriceTable,
) -> Result<(String, &'a ModelPrice), ApiError> {
    let name = endpoint.map_or_else(|| model.to_owned(), |endpoint| format!("{endpoint}/{model}"));
    match prices.get(&name) {
        Some(price) => Ok((name, price)),
        None => Err(ApiError::unknown_model(model)),
    }
}

/// Reads and checks a body of the Messages API. `counts` is true for a count of tokens, which has no cap.
pub(super) fn parse(
    body: &[u8],
    endpoint: Option<&str>,
    prices: &PriceTable,
    counts: bool,
) -> Result<Request, ApiError> {
    let body: Body<'_> = serde_json::from_slice(body).map_err(|error| ApiError::invalid(error.to_string()))?;
    let required = |name: &str| ApiError::invalid(format!("{name}: Field required"));
    let model = body.model.ok_or_else(|| required("model"))?;
    let max_tokens = if counts { 1 } else { body.max_tokens.ok_or_else(|| required("max_tokens"))? };
    let messages = body.messages.ok_or_else(|| required("messages"))?;
    let (name, price) = priced(&model, endpoint, prices)?;
    check_model(&model, price, max_tokens, body.thinking.as_ref(), body.tool_choice.as_ref())?;
    check_sampling(price, [("temperature", body.temperature), ("top_p", body.top_p), ("top_k", body.top_k)])?;

    let mut prompt_bytes = 0;
    let mut prefixes = Vec::new();
    if let Some(system) = body.system {
        let mut hasher = DefaultHasher::new();
        model.hash(&mut hasher);
        for block in blocks("system", system)? {
            block.text.hash(&mut hasher);
            prompt_bytes += bytes(&block.text);
            if let Some(control) = block.cache_control {
                prefixes.push(Prefix { hash: hasher.finish(), bytes: prompt_bytes, ttl: control.ttl });
            }
        }
    }
    if prefixes.len() > MAX_BREAKPOINTS {
        let count = prefixes.len();
        return Err(ApiError::invalid(format!(
            "A maximum of 4 blocks with cache_control may be provided. Found {count}."
        )));
    }
    let last_user = last_user_text(&messages, &mut prompt_bytes)?;
    let (key, id) = request_key(&last_user).unwrap_or_default();
    let (key, id) = (key.to_owned(), id.to_owned());
    Ok(Request {
        dialect: Dialect::Anthropic,
        model,
        priced: name,
        max_tokens,
        stream: body.stream,
        wants_usage: true,
        wants_running_usage: false,
        schema: body.output_config.and_then(|config| config.format).and_then(|format| format.schema),
        key,
        id,
        prompt_bytes,
        prefixes,
        states_cost: false,
    })
}

/// Refuses what this model does not support.
fn check_model(
    model: &str,
    price: &ModelPrice,
    max_tokens: u64,
    thinking: Option<&Kind>,
    tool_choice: Option<&Kind>,
) -> Result<(), ApiError> {
    if max_tokens == 0 {
        return Err(ApiError::invalid("max_tokens: this server does not simulate cache pre-warming"));
    }
    if let Some(most) = price.max_output.filter(|most| max_tokens > u64::from(*most)) {
        return Err(ApiError::invalid(format!(
            "max_tokens: {max_tokens} > {most}, which is the maximum allowed number of output tokens for {model}"
        )));
    }
    let cannot_disable = matches!(price.thinking, Some(ThinkingGate::AlwaysOn | ThinkingGate::DefaultOnBetweenTools));
    if cannot_disable && thinking.is_some_and(|thinking| thinking.kind == "disabled" || thinking.kind == "enabled") {
        return Err(ApiError::invalid("thinking.type: \"disabled\" and \"enabled\" are not supported for this model."));
    }
    let forced = tool_choice.is_some_and(|choice| choice.kind == "any" || choice.kind == "tool");
    if forced && price.forced_tool_choice == Some(false) {
        return Err(ApiError::invalid("tool_choice: type \"tool\" and \"any\" are not supported for this model."));
    }
    Ok(())
}

/// Refuses sampling parameters other than the default where the model does. The default of the first two is 1; the third has
/// none that can be named.
pub(super) fn check_sampling<const N: usize>(
    price: &ModelPrice,
    parameters: [(&str, Option<f64>); N],
) -> Result<(), ApiError> {
    let is_other = |(name, value): &(&str, Option<f64>)| {
        value.is_some_and(|value| *name == "top_k" || (value - 1.0).abs() > f64::EPSILON)
    };
    match parameters.iter().find(|parameter| is_other(parameter)).filter(|_| price.sampling == Some(false)) {
        Some((name, _)) => {
            Err(ApiError::invalid(format!("{name}: sampling parameters are not supported for this model.")))
        }
        None => Ok(()),
    }
}

/// The text of the last message, which must be the user's; adds the size of all messages to `prompt_bytes`.
fn last_user_text(messages: &[Turn<'_>], prompt_bytes: &mut u64) -> Result<String, ApiError> {
    let mut last = None;
    for (index, turn) in messages.iter().enumerate() {
        if turn.role != "user" && turn.role != "assistant" {
            return Err(ApiError::invalid(format!("messages.{index}.role: use \"user\" or \"assistant\"")));
        }
        let blocks = blocks(&format!("messages.{index}.content"), turn.content)?;
        *prompt_bytes += blocks.iter().map(|block| bytes(&block.text)).sum::<u64>();
        last = Some((turn.role.as_str(), blocks));
    }
    match last {
        None => Err(ApiError::invalid("messages: at least one message is required")),
        Some(("user", blocks)) => Ok(blocks.iter().map(|block| block.text.as_str()).collect::<Vec<_>>().join("\n")),
        Some(_) => Err(ApiError::invalid(
            "This model does not support assistant message prefill. The conversation must end with a user message.",
        )),
    }
}

/// The key and the id (or nothing) of `Request: KEY (id ID)`.
pub(in crate::llm) fn request_key(text: &str) -> Option<(&str, &str)> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix(KEY_PREFIX))?.trim();
    let with_id = line.strip_suffix(')').and_then(|line| line.rsplit_once(" (id "));
    Some(with_id.unwrap_or((line, ""))).filter(|(key, _)| !key.is_empty())
}

pub(super) fn bytes(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(body: &str) -> Result<Request, ApiError> {
        parse(body.as_bytes(), None, &PriceTable::builtin().expect("valid"), false)
    }

    #[test]
    fn the_key_is_in_the_last_line_that_names_a_request() {
        for (text, expected) in [
            ("Request: plan", Some(("plan", ""))),
            ("Request: plan\nRequest: feature-plan links\nthanks", Some(("feature-plan links", ""))),
            ("hi\nRequest: file a/b.py (id 7f3a)\n", Some(("file a/b.py", "7f3a"))),
            ("Request: file odd (id 1) (id 2)", Some(("file odd (id 1)", "2"))),
            ("Request: file odd (1)", Some(("file odd (1)", ""))),
            (" Request: plan", None),
            ("Request: ", None),
            ("", None),
        ] {
            assert_eq!(request_key(text), expected, "{text:?}");
        }
    }

    #[test]
    fn sizes_and_cacheable_prefixes_are_measured() {
        let request = parsed(
            r#"{"model":"claude-sonnet-5-5","max_tokens":9,"stream":true,
                "system":[{"type":"text","text":"abc","cache_control":{"type":"ephemeral","ttl":"1h"}},
                          {"type":"text","text":"de","cache_control":{"type":"ephemeral"}},{"type":"text","text":"f"}],
                "messages":[{"role":"user","content":"hello"},{"role":"assistant","content":[{"type":"text","text":"yes"}]},
                            {"role":"user","content":[{"type":"text","text":"Request: plan"}]}]}"#,
        )
        .expect("valid");
        assert_eq!((request.key.as_str(), request.stream, request.prompt_bytes), ("plan", true, 6 + 5 + 3 + 13));
        let prefixes: Vec<_> = request.prefixes.iter().map(|prefix| (prefix.bytes, prefix.ttl)).collect();
        assert_eq!(prefixes, [(3, CacheTtl::OneHour), (5, CacheTtl::FiveMinutes)]);
    }

    #[test]
    fn what_the_real_api_refuses_is_refused() {
        let user = r#"[{"role":"user","content":"Request: plan"}]"#;
        for (body, part) in [
            ("{".to_owned(), "EOF"),
            (format!(r#"{{"max_tokens":9,"messages":{user}}}"#), "model: Field required"),
            (format!(r#"{{"model":"claude-sonnet-5-5","messages":{user}}}"#), "max_tokens: Field required"),
            (r#"{"model":"claude-sonnet-5-5","max_tokens":9}"#.into(), "messages: Field required"),
            (r#"{"model":"claude-sonnet-5-5","max_tokens":9,"messages":[]}"#.into(), "at least one message"),
            (format!(r#"{{"model":"claude-0","max_tokens":9,"messages":{user}}}"#), "model: claude-0"),
            (format!(r#"{{"model":"claude-sonnet-5-5","max_tokens":128001,"messages":{user}}}"#), "128001 > 128000"),
            (format!(r#"{{"model":"claude-sonnet-5-5","max_tokens":0,"messages":{user}}}"#), "max_tokens"),
            (format!(r#"{{"model":"claude-sonnet-5-5","max_tokens":9,"n":2,"messages":{user}}}"#), "unknown field `n`"),
            (
                format!(
                    r#"{{"model":"claude-opus-5-5","max_tokens":9,"thinking":{{"type":"disabled"}},"messages":{user}}}"#
                ),
                "thinking",
            ),
            (
                format!(
                    r#"{{"model":"claude-opus-5-5","max_tokens":9,"tool_choice":{{"type":"any"}},"messages":{user}}}"#
                ),
                "tool_choice",
            ),
            (
                format!(r#"{{"model":"claude-sonnet-5-5","max_tokens":9,"temperature":0.2,"messages":{user}}}"#),
                "temperature: sampling",
            ),
            (format!(r#"{{"model":"claude-opus-5","max_tokens":9,"top_p":0.9,"messages":{user}}}"#), "top_p: sampling"),
            (
                format!(r#"{{"model":"claude-opus-4-7","max_tokens":9,"top_k":40,"messages":{user}}}"#),
                "top_k: sampling",
            ),
            (
                r#"{"model":"claude-sonnet-5-5","max_tokens":9,"messages":[{"role":"assistant","content":"{"}]}"#
                    .into(),
                "prefill",
            ),
            (
                r#"{"model":"claude-sonnet-5-5","max_tokens":9,"messages":[{"role":"user","content":""}]}"#.into(),
                "non-empty",
            ),
        ] {
            let error = parsed(&body).expect_err(&body);
            assert!(error.message.contains(part), "{body}: {}", error.message);
        }
        for (model, parameter) in
            [("claude-sonnet-5-5", "\"temperature\":1,\"top_p\":1.0"), ("claude-opus-4-6", "\"top_k\":40")]
        {
            let body = format!(r#"{{"model":"{model}","max_tokens":9,{parameter},"messages":{user}}}"#);
            parsed(&body).expect("the default, or a model that takes others");
        }
    }
}
