//! Counting the input tokens of a call: free, never on the bill, and as strict as the real endpoint.
//!
//! The count is what a call with the same prompt would be billed, so it is a good estimate and no more: the real one is not
//! exact either. A fault strikes every count, because a count is nobody's line of the script.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::de::IgnoredAny;

use super::dialect::{ApiError, Dialect};
use super::script::Reply;
use super::server::{Endpoint, Shared, name};
use super::{Fault, cache, deliver, request};

/// What a question may say; the rest is only for calls.
const FIELDS: [&str; 8] =
    ["model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control"];

/// The id of every answer.
const ID: &str = "req_count";

pub(super) async fn count_tokens(
    State(shared): State<Arc<Shared>>,
    endpoint: Endpoint,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    shared.counts.fetch_add(1, Ordering::Relaxed);
    let Ok(body) = body else { return deliver::too_large(Dialect::Anthropic, ID) };
    match shared.count(name(endpoint.as_ref()), &headers, &body) {
        Ok(tokens) => answer(&shared, tokens).await,
        Err(error) => deliver::error_response(Dialect::Anthropic, &error, ID),
    }
}

impl Shared {
    /// How many tokens the prompt of a request has.
    fn count(&self, endpoint: Option<&str>, headers: &HeaderMap, body: &[u8]) -> Result<u64, ApiError> {
        if self.needs_key {
            Dialect::Anthropic.check_headers(headers)?;
        }
        let fields: BTreeMap<String, IgnoredAny> =
            serde_json::from_slice(body).map_err(|error| ApiError::invalid(error.to_string()))?;
        if let Some(field) = fields.keys().find(|field| !FIELDS.contains(&field.as_str())) {
            return Err(ApiError::invalid(format!("{field}: Extra inputs are not permitted")));
        }
        request::parse(body, endpoint, &self.prices, true).map(|request| cache::tokens(request.prompt_bytes))
    }
}

/// The count, or what the fault makes of it.
async fn answer(shared: &Shared, tokens: u64) -> Response {
    let Some(fault) = shared.count_fault else { return Json(json!({"input_tokens": tokens})).into_response() };
    match fault {
        fault if fault.is_status() => deliver::status(Dialect::Anthropic, fault, &Reply::new(""), ID),
        Fault::StallBeforeHeaders | Fault::LateHeaders | Fault::StallMidStream => {
            shared.stopped.cancelled().await;
            deliver::error_response(Dialect::Anthropic, &deliver::stopping(), ID)
        }
        Fault::ZeroUsage => Json(json!({"input_tokens": 0})).into_response(),
        Fault::UsageOverBound => Json(json!({"input_tokens": tokens.saturating_mul(1_000)})).into_response(),
        Fault::NoUsage => Json(json!({})).into_response(),
        Fault::InvalidUtf8 => b"{\"input_tokens\xC3\x28\": 7}".into_response(),
        Fault::CutMidStream | Fault::EofBeforeStop => "{\"input_tok".into_response(),
        Fault::Huge => format!("{{\"input_tokens\": {tokens}}}{}", " ".repeat(5_000_000)).into_response(),
        _ => Json(json!({"input_tokens": tokens})).into_response(),
    }
}
