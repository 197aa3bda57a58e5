//! Usage of chat completions: token counters that include one another.
//!
//! Running reports repeat the totals so far, and some servers add details only at the end. Of every counter the report counts
//! that makes the call dearest: the most tokens, the fewest that came from the cache. A counter that is out of all proportion
//! must not be skipped: nobody can tell what it costs.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::llm::counter::{MOST_TOKENS, tokens};
use crate::protocol::Usage;

#[derive(Deserialize)]
pub(super) struct WireUsage<'a> {
    #[serde(default, deserialize_with = "tokens")]
    prompt_tokens: Option<u64>,
    #[serde(default, deserialize_with = "tokens")]
    completion_tokens: Option<u64>,
    #[serde(default, deserialize_with = "tokens")]
    total_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    /// Dollars, as some providers state their charge.
    #[serde(borrow)]
    pub(super) cost: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default, deserialize_with = "tokens")]
    cached_tokens: Option<u64>,
    #[serde(default, deserialize_with = "tokens")]
    cache_write_tokens: Option<u64>,
}

/// Counters as they were reported, `None` while nothing was.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    prompt: Option<u64>,
    completion: Option<u64>,
    total: Option<u64>,
    cached: Option<u64>,
    written: Option<u64>,
}

impl Counts {
    /// Those of one report.
    pub(super) fn of(usage: &WireUsage<'_>) -> Self {
        let mut counts = Self::default();
        counts.raise(usage);
        counts
    }

    /// Takes in a further report.
    pub(super) fn raise(&mut self, usage: &WireUsage<'_>) {
        self.prompt = self.prompt.max(usage.prompt_tokens);
        self.completion = self.completion.max(usage.completion_tokens);
        self.total = self.total.max(usage.total_tokens);
        if let Some(details) = &usage.prompt_tokens_details {
            // The cache makes tokens cheaper, so here the lowest report counts.
            self.cached = self.cached.into_iter().chain(details.cached_tokens).min();
            self.written = self.written.max(details.cache_write_tokens);
        }
    }

    /// True when a counter is larger than any call can make it.
    pub(super) fn are_absurd(&self) -> bool {
        let all = [self.prompt, self.completion, self.total, self.cached, self.written];
        all.into_iter().flatten().any(|count| count > MOST_TOKENS)
    }

    /// By kind; `None` when a count is missing or they contradict one another. `writes`: tokens of unknown kind may have
    /// been written to the cache, which is dearer.
    pub(super) fn split(&self, writes: bool) -> Option<Usage> {
        let (prompt, output) = (self.prompt?, self.output(self.completion?));
        let cached = self.cached.unwrap_or(0);
        let plain = prompt.checked_sub(cached)?;
        let written = self.written.unwrap_or(if writes { plain } else { 0 });
        let usage = Usage {
            input: plain.checked_sub(written)?,
            cache_write_5m: written,
            cache_write_1h: 0,
            cache_read: cached,
            output,
        };
        (!self.are_absurd()).then_some(usage)
    }

    /// The most that was reported of each kind, if anything was; what contradicts itself counts as dearly as it can.
    pub(super) fn most(&self, writes: bool) -> Option<Usage> {
        if self.prompt.is_none() && self.completion.is_none() && self.total.is_none() {
            return None;
        }
        let whole = Self { prompt: self.prompt.or(Some(0)), completion: self.completion.or(Some(0)), ..*self };
        let careful = || Usage {
            input: self.prompt.unwrap_or(0),
            cache_write_5m: self.written.unwrap_or(0),
            output: whole.output(self.completion.unwrap_or(0)),
            ..Usage::default()
        };
        Some(whole.split(writes).unwrap_or_else(careful))
    }

    /// Some servers count reasoning only in the total.
    fn output(&self, completion: u64) -> u64 {
        completion.max(self.total.unwrap_or(0).saturating_sub(self.prompt.unwrap_or(0)))
    }
}
