//! Usage of the Messages API: token counters, and what else it says about the price.
//!
//! Counters are totals so far, so the highest report of each counts: one that falls again has not become cheaper. Names of regions, tiers and speeds are collected, because whichever
//! was dearest may have been billed. What cannot be read must not be skipped: it makes the price unknown.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::stream::malformed;
use crate::budget::Terms;
use crate::budget::price::{Named, Part};
use crate::llm::LlmError;
use crate::llm::counter::{MOST_TOKENS, tokens, tokens_or_zero};
use crate::llm::http::errors::short as bounded;
use crate::protocol::Usage;

/// No reply has more parts, or uses more kinds of tools, than this.
const MOST_MEMBERS: usize = 1_000;

#[derive(Deserialize)]
pub(super) struct WireUsage {
    #[serde(default, deserialize_with = "tokens")]
    input_tokens: Option<u64>,
    #[serde(default, deserialize_with = "tokens")]
    cache_creation_input_tokens: Option<u64>,
    #[serde(default, deserialize_with = "tokens")]
    cache_read_input_tokens: Option<u64>,
    cache_creation: Option<WireSplit>,
    #[serde(default, deserialize_with = "tokens")]
    output_tokens: Option<u64>,
    service_tier: Option<String>,
    inference_geo: Option<String>,
    speed: Option<String>,
    iterations: Option<Value>,
    server_tool_use: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
struct WireSplit {
    #[serde(default, deserialize_with = "tokens_or_zero")]
    ephemeral_5m_input_tokens: u64,
    #[serde(default, deserialize_with = "tokens_or_zero")]
    ephemeral_1h_input_tokens: u64,
}

/// What has been reported so far.
#[derive(Debug, Default)]
pub(super) struct Counters {
    input: Option<u64>,
    written: Option<u64>,
    read: Option<u64>,
    split: Option<(u64, u64)>,
    /// Output by the end of the reply.
    output: Option<u64>,
    /// The most output that was said at any time.
    most_output: Option<u64>,
    terms: Terms,
}

impl Counters {
    pub(super) fn report(&mut self, usage: &WireUsage) -> Result<(), LlmError> {
        let counted = self.count(usage);
        // Nobody can tell what it costs, and it may be more than was set aside.
        self.terms.is_unreadable |= counted.is_err();
        note(&mut self.terms, usage);
        match &usage.iterations {
            None | Some(Value::Null) => {}
            Some(iterations) => match parts(iterations, &mut self.terms) {
                Some(parts) => self.terms.parts = parts,
                None => self.terms.is_unreadable = true,
            },
        }
        counted
    }

    fn count(&mut self, usage: &WireUsage) -> Result<(), LlmError> {
        self.input = usage.input_tokens.max(self.input);
        self.written = usage.cache_creation_input_tokens.max(self.written);
        self.read = usage.cache_read_input_tokens.max(self.read);
        self.most_output = usage.output_tokens.max(self.most_output);
        let (mut split_5m, mut split_1h) = self.split.unwrap_or_default();
        if let Some(split) = &usage.cache_creation {
            split_5m = split_5m.max(split.ephemeral_5m_input_tokens);
            split_1h = split_1h.max(split.ephemeral_1h_input_tokens);
            self.split = Some((split_5m, split_1h));
        }
        let counts = [self.input, self.written, self.read, self.most_output, Some(split_5m), Some(split_1h)];
        if counts.into_iter().flatten().any(|count| count > MOST_TOKENS) {
            return Err(malformed("a token counter is out of all proportion"));
        }
        Ok(())
    }

    /// Output as the end of the reply reports it; what `message_start` says about it is a placeholder.
    pub(super) fn end(&mut self, usage: &WireUsage) {
        self.output = usage.output_tokens.max(self.output);
    }

    /// What changes the price besides tokens.
    pub(super) const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The most that was reported of each kind, if anything was.
    pub(super) fn most(&self) -> Option<Usage> {
        let said = [self.input, self.written, self.read, self.most_output, self.split.map(|_| 0)];
        said.iter()
            .any(Option::is_some)
            .then(|| self.input_side(self.input.unwrap_or(0), self.most_output.unwrap_or(0)))
    }

    /// The input side, if it is known. A prompt is never empty, so one of no tokens is not known.
    pub(super) fn input(&self) -> Option<Usage> {
        Some(self.input_side(self.input?, 0)).filter(|usage| usage.total() > 0)
    }

    fn input_side(&self, input: u64, output: u64) -> Usage {
        let written = self.written.unwrap_or(0);
        // Writes that the split does not explain are 5-minute ones: no request asks for others.
        let (split_5m, split_1h) = self.split.unwrap_or_default();
        let cache_write_5m = split_5m.saturating_add(written.saturating_sub(split_5m.saturating_add(split_1h)));
        Usage { input, cache_write_5m, cache_write_1h: split_1h, cache_read: self.read.unwrap_or(0), output }
    }

    pub(super) fn total(&self) -> Option<Usage> {
        Some(self.input_side(self.input?, self.output?))
    }
}

/// Collects what `usage` says about the price besides tokens.
fn note(terms: &mut Terms, usage: &WireUsage) {
    for (kind, name) in
        [(Named::Region, &usage.inference_geo), (Named::Tier, &usage.service_tier), (Named::Speed, &usage.speed)]
    {
        terms.note(kind, &name.as_deref().map(bounded).unwrap_or_default());
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
