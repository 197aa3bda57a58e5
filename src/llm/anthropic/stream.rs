//! A reply put together from its stream of events.
//!
//! Counters in `message_delta` are totals so far: they rise, they do not add. The split of cache writes by lifetime
//! comes only with `message_start`, whose output count is a placeholder and is never charged by. Content is told apart by
//! type and index, never by position. A reply without `message_stop` is cut, whatever it looks like. What changes the price
//! of the tokens is handed on as it was said; what cannot be read is handed on as that, never left out.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::usage::{Counters, WireUsage};
use crate::budget::price::keep;
use crate::llm::http::Assemble;
use crate::llm::http::errors::short as bounded;
use crate::llm::{LlmError, LlmReply, StopReason, Told};

/// No reply has more content blocks than this; the bound is for replies that are not replies.
const MOST_BLOCKS: usize = 1_000;

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
}

#[derive(Deserialize)]
struct MessageStart {
    message: StartedMessage,
}

#[derive(Deserialize)]
struct StartedMessage {
    model: String,
    id: Option<String>,
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct BlockStart<'a> {
    index: u64,
    #[serde(borrow)]
    content_block: Piece<'a>,
}

#[derive(Deserialize)]
struct BlockDelta<'a> {
    index: u64,
    #[serde(borrow)]
    delta: Piece<'a>,
}

/// A content block or a delta of one: only the text of text is of interest.
#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Cow<'a, str>,
}

#[derive(Deserialize)]
struct MessageDelta {
    delta: Option<Stop>,
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct Stop {
    stop_reason: Option<String>,
    stop_details: Option<StopDetails>,
}

#[derive(Deserialize)]
struct StopDetails {
    category: Option<String>,
}

/// Puts a reply together; take events in order until [`Assembler::is_complete`].
#[derive(Debug)]
pub(super) struct Assembler {
    max_bytes: usize,
    bytes: usize,
    /// Model and message id, once `message_start` was seen.
    started: Option<(String, Option<String>)>,
    /// Every model that was named.
    models: BTreeSet<String>,
    /// More of them than can be kept.
    too_many: bool,
    /// Text by block index; `None` for blocks of other types.
    blocks: BTreeMap<u64, Option<String>>,
    counters: Counters,
    stop: Option<StopReason>,
    complete: bool,
}

impl Assembler {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            bytes: 0,
            started: None,
            models: BTreeSet::new(),
            too_many: false,
            blocks: BTreeMap::new(),
            counters: Counters::default(),
            stop: None,
            complete: false,
        }
    }

    fn start(&mut self, event: &MessageStart) -> Result<(), LlmError> {
        let model = bounded(&event.message.model);
        self.too_many |= !keep(&mut self.models, &model);
        if let Some(usage) = &event.message.usage {
            self.counters.report(usage)?;
        }
        if self.started.is_some() {
            return Err(malformed("it begins twice"));
        }
        self.started = Some((model, event.message.id.as_deref().map(bounded)));
        Ok(())
    }

    fn block(&mut self, event: &BlockStart<'_>) -> Result<(), LlmError> {
        if self.blocks.len() == MOST_BLOCKS || self.blocks.contains_key(&event.index) {
            return Err(malformed("its content blocks cannot be told apart"));
        }
        let is_text = event.content_block.r#type == "text";
        self.blocks.insert(event.index, is_text.then(String::new));
        if is_text { self.append(event.index, &event.content_block.text) } else { Ok(()) }
    }

    fn block_delta(&mut self, event: &BlockDelta<'_>) -> Result<(), LlmError> {
        if event.delta.r#type == "text_delta" { self.append(event.index, &event.delta.text) } else { Ok(()) }
    }

    fn append(&mut self, index: u64, text: &str) -> Result<(), LlmError> {
        let Some(Some(block)) = self.blocks.get_mut(&index) else {
            return Err(malformed("text arrived for a block that is not text"));
        };
        self.bytes += text.len();
        if self.bytes > self.max_bytes {
            return Err(malformed(&format!("its text is longer than {} bytes", self.max_bytes)));
        }
        block.push_str(text);
        Ok(())
    }

    fn delta(&mut self, event: MessageDelta) -> Result<(), LlmError> {
        if let Some(usage) = &event.usage {
            self.counters.report(usage)?;
            // Only here: what `message_start` says about output is a placeholder.
            self.counters.end(usage);
        }
        if let Some(Stop { stop_reason: Some(reason), stop_details }) = event.delta {
            self.stop = Some(match reason.as_str() {
                "end_turn" => StopReason::EndTurn,
                "max_tokens" => StopReason::MaxTokens,
                "model_context_window_exceeded" => StopReason::ContextWindow,
                "refusal" => {
                    StopReason::Refusal(stop_details.and_then(|details| details.category).as_deref().map(bounded))
                }
                other => StopReason::Other(bounded(other)),
            });
        }
        Ok(())
    }

    fn error_event(&self, data: &[u8]) -> LlmError {
        let (kind, message) = super::errors::describe(data).unwrap_or(("unknown".into(), String::new()));
        self.cut(format!("the provider reported {kind}: {message}"))
    }
}

impl Assemble for Assembler {
    fn has_begun(&self) -> bool {
        self.started.is_some()
    }

    fn told(&self) -> Told {
        let mut terms = self.counters.terms().clone();
        terms.is_unreadable |= self.too_many;
        Told { models: self.models.clone(), usage: self.counters.most(), terms }
    }

    /// True once `message_stop` was seen; nothing after it counts.
    fn is_complete(&self) -> bool {
        self.complete
    }

    /// Takes the data of one event.
    fn take(&mut self, data: &[u8]) -> Result<(), LlmError> {
        if self.complete {
            return Ok(());
        }
        match parse::<Kind<'_>>(data)?.r#type.as_ref() {
            "message_start" => self.start(&parse(data)?),
            "error" => Err(self.error_event(data)),
            "content_block_start" | "content_block_delta" | "message_delta" | "message_stop"
                if self.started.is_none() =>
            {
                Err(malformed("it does not begin with message_start"))
            }
            "content_block_start" => self.block(&parse(data)?),
            "content_block_delta" => self.block_delta(&parse(data)?),
            "message_delta" => self.delta(parse(data)?),
            "message_stop" => {
                self.complete = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The error for a stream that broke off now.
    fn cut(&self, reason: String) -> LlmError {
        LlmError::Cut { reason, input: self.counters.input() }
    }

    /// The error for a body that ended before `message_stop`.
    fn ended(&self, content_type: Option<String>) -> LlmError {
        let content_type = content_type.unwrap_or_default();
        if self.started.is_none() && !content_type.starts_with("text/event-stream") {
            return malformed(&format!("it is no event stream but {content_type:?}"));
        }
        self.cut("it ended before message_stop".into())
    }

    /// The whole reply.
    fn finish(self, request_id: Option<String>) -> Result<LlmReply, LlmError> {
        let (Some((model, message_id)), Some(stop)) = (self.started, self.stop) else {
            return Err(malformed("it does not say why it stopped"));
        };
        let mut texts = self.blocks.into_values().flatten();
        let mut text = texts.next().unwrap_or_default();
        texts.for_each(|more| text.push_str(&more));
        Ok(LlmReply { text, stop, usage: self.counters.total(), model, request_id: request_id.or(message_id) })
    }
}

fn parse<'a, T: Deserialize<'a>>(data: &'a [u8]) -> Result<T, LlmError> {
    serde_json::from_slice(data).map_err(|error| malformed(&format!("an event is not what it should be: {error}")))
}

pub(super) fn malformed(reason: &str) -> LlmError {
    LlmError::Malformed { reason: reason.to_owned() }
}
