//! A reply put together from the chunks of a chat completion.
//!
//! Prompt tokens include the cached and the written ones here, so they are taken apart before anybody prices them. Counters
//! are totals so far, so the dearest report of each counts. Usage counts as the total only when it came with or after the reason to stop; an earlier one is a running count, good for
//! the input of a stream that is cut. Complete means that `[DONE]` arrived. Usage that contradicts itself is reported as
//! absent, so that it is charged by the reservation instead. A charge that the provider states is read to the last digit.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::Deserialize;

use super::cost::{self, BadCost};
use super::errors::WireError;
use super::usage::{Counts, WireUsage};
use crate::budget::Terms;
use crate::budget::price::{Named, keep};
use crate::llm::http::Assemble;
use crate::llm::http::errors::short;
use crate::llm::{LlmError, LlmReply, StopReason, Told};
use crate::protocol::Usage;

#[derive(Deserialize)]
struct Chunk<'a> {
    id: Option<String>,
    model: Option<String>,
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    #[serde(borrow)]
    usage: Option<WireUsage<'a>>,
    service_tier: Option<String>,
    error: Option<WireError>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow, default)]
    delta: Delta<'a>,
    finish_reason: Option<String>,
}

/// Reasoning comes under several names and is not part of the answer.
#[derive(Deserialize, Default)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    refusal: Option<Cow<'a, str>>,
}

/// What has been said about tokens so far.
#[derive(Debug, Clone, Copy)]
enum Reported {
    /// Before the end: only the input is final.
    Running(Usage),
    /// With or after the reason to stop.
    Total(Usage),
}

/// Puts a reply together; take chunks in order until it is complete.
#[derive(Debug)]
pub(super) struct Assembler {
    /// The model writes its cache unasked.
    writes: bool,
    max_bytes: usize,
    text: String,
    refusal: bool,
    /// The model that was named last, and every one that was named.
    model: Option<String>,
    models: BTreeSet<String>,
    id: Option<String>,
    counts: Counts,
    reported: Option<Reported>,
    terms: Terms,
    stop: Option<StopReason>,
    /// The provider says that it stopped because of an error of its own.
    has_failed: bool,
    complete: bool,
}

impl Assembler {
    /// `states_charge`: the cost that usage states is all that this endpoint charges.
    pub(super) fn new(writes: bool, states_charge: bool, max_bytes: usize) -> Self {
        Self {
            writes,
            max_bytes,
            text: String::new(),
            refusal: false,
            model: None,
            models: BTreeSet::new(),
            id: None,
            counts: Counts::default(),
            reported: None,
            terms: Terms { is_charge: states_charge, ..Terms::default() },
            stop: None,
            has_failed: false,
            complete: false,
        }
    }

    fn choice(&mut self, choice: &Choice<'_>) -> Result<(), LlmError> {
        if choice.index != 0 {
            return Err(malformed("it has more than the one choice that was asked for"));
        }
        self.refusal |= choice.delta.refusal.as_ref().is_some_and(|text| !text.is_empty());
        if let Some(text) = &choice.delta.content {
            if self.text.len() + text.len() > self.max_bytes {
                return Err(malformed(&format!("its text is longer than {} bytes", self.max_bytes)));
            }
            self.text.push_str(text);
        }
        if let Some(reason) = &choice.finish_reason {
            self.has_failed |= reason == "error";
            self.stop = Some(match reason.as_str() {
                "stop" => StopReason::EndTurn,
                "length" => StopReason::MaxTokens,
                "content_filter" => StopReason::Refusal(Some("content_filter".into())),
                other => StopReason::Other(short(other)),
            });
        }
        Ok(())
    }

    fn usage(&mut self, usage: &WireUsage<'_>) {
        self.counts.raise(usage);
        // Nobody can tell what it costs, and it may be more than was set aside.
        self.terms.is_unreadable |= self.counts.are_absurd();
        let stated = usage.cost.map(|cost| cost::micro_dollars(cost.get())).transpose();
        let tokens = match &stated {
            Ok(cost) => {
                self.terms.stated = self.terms.stated.max(*cost);
                Counts::of(usage).split(self.writes).and_then(|_| self.counts.split(self.writes))
            }
            // A charge that is none leaves nothing to go by; one beyond all measure may be beyond the reservation, too.
            Err(bad) => {
                self.terms.is_unreadable |= *bad == BadCost::Beyond;
                None
            }
        };
        self.reported = match (tokens, &self.stop) {
            (Some(usage), Some(_)) => Some(Reported::Total(usage)),
            (Some(usage), None) => Some(Reported::Running(usage)),
            // What cannot be read takes back what was known: it would be charged by a count that was not the last.
            (None, _) => None,
        };
    }
}

impl Assemble for Assembler {
    fn take(&mut self, data: &[u8]) -> Result<(), LlmError> {
        if self.complete {
            return Ok(());
        }
        if data.trim_ascii() == b"[DONE]" {
            self.complete = true;
            return Ok(());
        }
        let chunk: Chunk<'_> = serde_json::from_slice(data)
            .map_err(|error| malformed(&format!("a chunk is not what it should be: {error}")))?;
        if let Some(model) = chunk.model.filter(|model| !model.is_empty()) {
            let model = short(&model);
            self.terms.is_unreadable |= !keep(&mut self.models, &model);
            self.model = Some(model);
        }
        self.id = self.id.take().or(chunk.id.as_deref().map(short));
        if let Some(tier) = chunk.service_tier {
            self.terms.note(Named::Tier, &short(&tier));
        }
        let read = chunk.choices.iter().try_for_each(|choice| self.choice(choice));
        // Whatever else went wrong, what it costs was said.
        if let Some(usage) = &chunk.usage {
            self.usage(usage);
        }
        if let Some(error) = chunk.error {
            let (kind, message) = error.describe();
            return Err(self.cut(format!("the provider reported {kind}: {message}")));
        }
        if self.has_failed {
            return Err(self.cut("the provider stopped with an error".into()));
        }
        read
    }

    fn has_begun(&self) -> bool {
        self.id.is_some() || self.model.is_some()
    }

    fn told(&self) -> Told {
        Told { models: self.models.clone(), usage: self.counts.most(self.writes), terms: self.terms.clone() }
    }

    fn is_complete(&self) -> bool {
        self.complete
    }

    fn cut(&self, reason: String) -> LlmError {
        let reported = self.reported.map(|(Reported::Running(usage) | Reported::Total(usage))| usage);
        // A prompt is never empty, so one of no tokens is not known.
        let input = reported.map(|usage| Usage { output: 0, ..usage }).filter(|usage| usage.total() > 0);
        LlmError::Cut { reason, input }
    }

    fn ended(&self, content_type: Option<String>) -> LlmError {
        let content_type = content_type.unwrap_or_default();
        if !self.has_begun() && !content_type.starts_with("text/event-stream") {
            return malformed(&format!("it is no event stream but {content_type:?}"));
        }
        self.cut("it ended before [DONE]".into())
    }

    fn finish(self, request_id: Option<String>) -> Result<LlmReply, LlmError> {
        let (Some(model), Some(stop)) = (self.model, self.stop) else {
            return Err(malformed("it does not say which model answered and why it stopped"));
        };
        let usage = match self.reported {
            Some(Reported::Total(usage)) => Some(usage),
            _ => None,
        };
        let stop = if self.refusal { StopReason::Refusal(None) } else { stop };
        Ok(LlmReply { text: self.text, stop, usage, model, request_id: request_id.or(self.id) })
    }
}

fn malformed(reason: &str) -> LlmError {
    LlmError::Malformed { reason: reason.to_owned() }
}
