//! Usage of the Messages API: token counters, and what else it says about the price.
//!
//! Counters are totals so far and overwrite one another; names of regions, tiers and speeds are collected, because whichever
//! was dearest may have been billed. What cannot be read must not be skipped: it makes the price unknown.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::stream::malformed;
use crate::budget::Terms;
use crate::budget::price::Part;
use crate::llm::LlmError;
use crate::llm::http::errors::short as bounded;
use crate::protocol::Usage;

/// No counter is larger than this; a thousand contexts of a million tokens.
const MOST_TOKENS: u64 = 1_000_000_000;

/// No reply has more parts, or uses more kinds of tools, than this.
const MOST_MEMBERS: usize = 1_000;

#[derive(Deserialize)]
pub(super) struct WireUsage {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation: Option<WireSplit>,
    output_tokens: Option<u64>,
    service_tier: Option<String>,
    inference_geo: Option<String>,
    speed: Option<String>,
    iterations: Option<Value>,
    server_tool_use: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
struct WireSplit {
    #[serde(default)]
    ephemeral_5m_input_tokens: u64,
    #[serde(default)]
    ephemeral_1h_input_tokens: u64,
}

/// What has been reported so far.
#[derive(Debug, Default)]
pub(super) struct Counters {
    input: Option<u64>,
    written: Option<u64>,
    read: Option<u64>,
    split: Option<(u64, u64)>,
    output: Option<u64>,
    terms: Terms,
}

impl Counters {
    pub(super) fn report(&mut self, usage: &WireUsage) -> Result<(), LlmError> {
        self.count(usage)?;
        note(&mut self.terms, usage);
        match &usage.iterations {
            None | Some(Value::Null) => {}
            Some(iterations) => match parts(iterations, &mut self.terms) {
                Some(parts) => self.terms.parts = parts,
                None => self.terms.is_unreadable = true,
            },
        }
        Ok(())
    }

    fn count(&mut self, usage: &WireUsage) -> Result<(), LlmError> {
        self.input = usage.input_tokens.or(self.input);
        self.written = usage.cache_creation_input_tokens.or(self.written);
        self.read = usage.cache_read_input_tokens.or(self.read);
        let split = usage.cache_creation.as_ref();
        self.split =
            split.map(|split| (split.ephemeral_5m_input_tokens, split.ephemeral_1h_input_tokens)).or(self.split);
        let (split_5m, split_1h) = self.split.unwrap_or_default();
        let counts = [self.input, self.written, self.read, usage.output_tokens, Some(split_5m), Some(split_1h)];
        if counts.into_iter().flatten().any(|count| count > MOST_TOKENS) {
            return Err(malformed("a token counter is out of all proportion"));
        }
        Ok(())
    }

    /// Output as the end of the reply reports it; what `message_start` says about it is a placeholder.
    pub(super) fn end(&mut self, usage: &WireUsage) {
        self.output = usage.output_tokens.or(self.output);
    }

    /// What changes the price besides tokens.
    pub(super) const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The input side, if it is known.
    pub(super) fn input(&self) -> Option<Usage> {
        let written = self.written.unwrap_or(0);
        // Writes that the split does not explain are 5-minute ones: no request asks for others.
        let (split_5m, split_1h) = self.split.unwrap_or_default();
        let cache_write_5m = split_5m + written.saturating_sub(split_5m + split_1h);
        Some(Usage {
            input: self.input?,
            cache_write_5m,
            cache_write_1h: split_1h,
            cache_read: self.read.unwrap_or(0),
            output: 0,
        })
    }

    pub(super) fn total(&self) -> Option<Usage> {
        Some(Usage { output: self.output?, ..self.input()? })
    }
}

/// Collects what `usage` says about the price besides tokens.
fn note(terms: &mut Terms, usage: &WireUsage) {
    for (said, name) in [
        (&mut terms.regions, &usage.inference_geo),
        (&mut terms.tiers, &usage.service_tier),
        (&mut terms.speeds, &usage.speed),
    ] {
        said.extend(name.as_deref().filter(|name| !name.is_empty()).map(bounded));
    }
    for (tool, count) in usage.server_tool_use.iter().flatten() {
        let count = if count.is_null() { Some(0) } else { count.as_u64() };
        match count.filter(|count| *count <= MOST_TOKENS && terms.uses.len() < MOST_MEMBERS) {
            Some(count) => {
                let most = terms.uses.entry(bounded(tool)).or_default();
                *most = count.max(*most);
            }
            None => terms.is_unreadable = true,
        }
    }
}

/// The parts that `iterations` lists; `None` unless every one of them has a price.
fn parts(iterations: &Value, terms: &mut Terms) -> Option<Vec<Part>> {
    let iterations = iterations.as_array().filter(|list| list.len() <= MOST_MEMBERS)?;
    let mut parts = Vec::with_capacity(iterations.len());
    for iteration in iterations {
        let usage = WireUsage::deserialize(iteration).ok()?;
        let model = match iteration.get("model") {
            None | Some(Value::Null) => None,
            Some(model) => Some(bounded(model.as_str()?)),
        };
        let mut counters = Counters::default();
        counters.count(&usage).ok()?;
        counters.end(&usage);
        note(terms, &usage);
        parts.push(Part { model, usage: counters.total()? });
    }
    Some(parts)
}
