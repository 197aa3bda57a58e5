//! Replies as bytes of chat completions: chunks that end with `[DONE]`, or one JSON document.
//!
//! Prompt tokens include the cached and the written ones, reasoning tokens are part of the completion, and usage is told only
//! to those who asked. Where a fault has to strike is remembered as an offset while writing.

use serde::Serialize;
use serde_json::value::RawValue;

use super::script::Stop;
use super::wire::{Events, Outgoing, PARTIAL_JSON, pieces, write_json};
use super::{Fault, Faults};
use crate::protocol::{MicroUsd, Usage};

/// Seconds since the epoch in every reply; nobody may depend on it.
const CREATED: u64 = 1_790_000_000;

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    service_tier: &'static str,
    choices: Vec<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<WireUsage>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Delta<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Delta<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize, Default)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCall<'a>; 1]>,
}

#[derive(Serialize)]
struct ToolCall<'a> {
    index: u32,
    id: &'static str,
    r#type: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'static str,
    arguments: &'a str,
}

#[derive(Serialize)]
struct WireUsage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: u64,
    cache_write_tokens: u64,
}

#[derive(Serialize)]
struct CompletionDetails {
    reasoning_tokens: u64,
}

const fn finish_reason(stop: Stop) -> &'static str {
    match stop {
        Stop::EndTurn | Stop::StopSequence | Stop::PauseTurn => "stop",
        Stop::MaxTokens | Stop::ModelContextWindowExceeded => "length",
        Stop::ToolUse => "tool_calls",
        Stop::Refusal => "content_filter",
    }
}

/// Both forms of a reply.
pub(super) struct Chat<'a> {
    outgoing: &'a Outgoing<'a>,
    id: String,
}

impl<'a> Chat<'a> {
    pub(super) fn of(outgoing: &'a Outgoing<'a>) -> Self {
        Self { outgoing, id: format!("chatcmpl-fake{:08}", outgoing.number) }
    }

    fn usage(&self, output: u64) -> WireUsage {
        let Usage { input, cache_write_5m, cache_write_1h, cache_read, .. } = self.outgoing.usage;
        let written = cache_write_5m + cache_write_1h;
        let prompt_tokens = input + written + cache_read;
        WireUsage {
            prompt_tokens,
            completion_tokens: output,
            total_tokens: prompt_tokens + output,
            prompt_tokens_details: PromptDetails { cached_tokens: cache_read, cache_write_tokens: written },
            completion_tokens_details: CompletionDetails {
                reasoning_tokens: self.outgoing.thinking_tokens.min(output),
            },
            cost: self.outgoing.stated.and_then(|cost| dollars(cost, self.outgoing.faults)),
        }
    }

    fn chunk(&self, choices: Vec<Choice<'a>>, usage: Option<WireUsage>) -> Chunk<'_> {
        Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: CREATED,
            model: self.outgoing.model,
            service_tier: self.outgoing.extras.tier.unwrap_or("default"),
            choices,
            usage,
        }
    }

    fn write_delta(&self, out: &mut Vec<u8>, delta: Delta<'a>, finish_reason: Option<&'static str>) {
        let choice = Choice { index: 0, delta: Some(delta), message: None, finish_reason };
        let is_told = self.outgoing.running_usage && self.outgoing.reports_usage;
        write_chunk(out, &self.chunk(vec![choice], is_told.then(|| self.usage(self.outgoing.usage.output))));
    }

    /// The reply as server-sent events.
    pub(super) fn events(&self) -> Events {
        let outgoing = self.outgoing;
        let mut events = Events { bytes: Vec::with_capacity(outgoing.text.len() * 2 + 4_096), ..Events::default() };
        let out = &mut events.bytes;
        self.write_delta(out, Delta { role: Some("assistant"), content: Some(""), ..Delta::default() }, None);
        (events.begun, events.half) = (out.len(), out.len());
        let mut is_half = false;
        for (end, text) in pieces(outgoing.text) {
            let at = out.len();
            self.write_delta(out, Delta { content: Some(text), ..Delta::default() }, None);
            let is_first = end == text.len();
            if is_first && outgoing.faults.has(Fault::InvalidUtf8) {
                break_content(out, at, text);
            }
            if !is_half && end * 2 >= outgoing.text.len() {
                (is_half, events.half) = (true, out.len());
            }
        }
        if outgoing.faults.has(Fault::ToolCut) {
            let function = Function { name: "write_file", arguments: PARTIAL_JSON };
            let call = ToolCall { index: 0, id: "call_fake", r#type: "function", function };
            self.write_delta(out, Delta { tool_calls: Some([call]), ..Delta::default() }, None);
        }
        if outgoing.stop == Stop::Refusal {
            self.write_delta(out, Delta { refusal: Some("I cannot help with that."), ..Delta::default() }, None);
        }
        if outgoing.faults.has(Fault::SeveralUsages) && outgoing.reports_usage {
            write_chunk(out, &self.chunk(Vec::new(), Some(self.usage(outgoing.usage.output / 2))));
        }
        events.before_end = out.len();
        self.write_delta(out, Delta::default(), Some(finish_reason(outgoing.stop)));
        if outgoing.reports_usage {
            write_chunk(out, &self.chunk(Vec::new(), Some(self.usage(outgoing.usage.output))));
        }
        events.before_stop = out.len();
        out.extend_from_slice(b"data: [DONE]\n\n");
        events
    }

    /// The reply as one JSON document.
    pub(super) fn json(&self) -> Vec<u8> {
        let outgoing = self.outgoing;
        let refusal = (outgoing.stop == Stop::Refusal).then_some("I cannot help with that.");
        let message = Delta { role: Some("assistant"), content: Some(outgoing.text), refusal, ..Delta::default() };
        let finish_reason = Some(finish_reason(outgoing.stop));
        let choice = Choice { index: 0, delta: None, message: Some(message), finish_reason };
        let usage = outgoing.reports_usage.then(|| self.usage(outgoing.usage.output));
        let document = Chunk { object: "chat.completion", ..self.chunk(vec![choice], usage) };
        let mut bytes = Vec::with_capacity(outgoing.text.len() + 1_024);
        write_json(&mut bytes, &document);
        bytes
    }
}

/// The charge as a number of dollars, the way programs print them.
fn dollars(cost: MicroUsd, faults: Faults) -> Option<Box<RawValue>> {
    let number = format!("{}.{:06}", cost.0 / 1_000_000, cost.0 % 1_000_000);
    RawValue::from_string(if faults.has(Fault::OddCost) { format!("-{number}") } else { number }).ok()
}

fn write_chunk(out: &mut Vec<u8>, chunk: &Chunk<'_>) {
    out.extend_from_slice(b"data: ");
    write_json(out, chunk);
    out.extend_from_slice(b"\n\n");
}

/// Puts bytes that are not UTF-8 at the start of the content of the chunk at `at`.
fn break_content(out: &mut Vec<u8>, at: usize, text: &str) {
    let needle = b"\"content\":\"";
    if let Some(found) =
        out[at..].windows(needle.len()).position(|window| window == needle).filter(|_| !text.is_empty())
    {
        let place = at + found + needle.len();
        out.splice(place..place, super::wire::NOT_UTF8);
    }
}
