//! Replies as bytes of the Messages API: server-sent events or one JSON document, exactly as the real API writes them.
//!
//! Events are plain structs that borrow their text and are serialised straight into one buffer, so a reply costs one
//! allocation that matters. Where a fault has to strike is remembered as an offset while writing, never searched for
//! afterwards.

use serde::Serialize;

use super::pricer::Extras;
use super::script::Stop;
use super::{Fault, Faults};
use crate::protocol::{MicroUsd, Usage};

/// Smallest and largest text of one delta, in bytes.
const DELTA_BYTES: (usize, usize) = (16, 4_096);
/// A reply of middling size is told in about so many deltas.
const DELTAS: usize = 32;
/// The start of a two-byte character followed by a byte that cannot continue it.
pub(super) const NOT_UTF8: [u8; 2] = [0xC3, 0x28];

/// A tool call's input, cut off.
pub(super) const PARTIAL_JSON: &str = "{\"path\": \"a.py\", \"content\": \"impo";

/// A reply, ready to be written.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    /// Makes the ids of the message unique.
    pub(super) number: u64,
    pub(super) model: &'a str,
    pub(super) text: &'a str,
    pub(super) thinking_tokens: u64,
    pub(super) stop: Stop,
    pub(super) usage: Usage,
    /// False leaves all token counts out.
    pub(super) reports_usage: bool,
    /// Tells the counts with every piece of the reply.
    pub(super) running_usage: bool,
    /// What goes wrong in the shape of the reply.
    pub(super) faults: Faults,
    /// What the reply says about its price besides tokens.
    pub(super) extras: Extras,
    /// Parts of the reply: who made each of them, and its tokens.
    pub(super) parts: Vec<(&'static str, Usage)>,
    /// The charge as the provider states it, if it does.
    pub(super) stated: Option<MicroUsd>,
}

/// A reply as server-sent events.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) bytes: Vec<u8>,
    /// End of the event with which the reply begins.
    pub(super) begun: usize,
    /// End of the event with which half of the text is out.
    pub(super) half: usize,
    /// Start of the event that says why the reply ends.
    pub(super) before_end: usize,
    /// Start of the terminal event.
    pub(super) before_stop: usize,
}

#[derive(Serialize)]
struct Message<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    model: &'a str,
    content: Vec<Content<'a>>,
    stop_reason: Option<Stop>,
    stop_sequence: Option<&'a str>,
    stop_details: Option<StopDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<WireUsage>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Content<'a> {
    Thinking { thinking: &'a str, signature: &'a str },
    Text { text: &'a str },
    ToolUse { id: &'a str, name: &'a str, input: Empty },
}

/// `{}`
#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct StopDetails {
    #[serde(rename = "type")]
    kind: &'static str,
    category: Option<&'static str>,
    explanation: &'static str,
}

#[derive(Serialize, Default)]
struct WireUsage {
    input_tokens: u64,
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_creation: Option<CacheCreation>,
    output_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens_details: Option<OutputDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inference_geo: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speed: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_tool_use: Option<ServerToolUse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iterations: Option<Vec<Iteration>>,
}

#[derive(Serialize)]
struct ServerToolUse {
    web_search_requests: u64,
}

/// A part of the reply.
#[derive(Serialize, Default)]
struct Iteration {
    #[serde(rename = "type")]
    kind: &'static str,
    model: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_tokens: Option<u64>,
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    output_tokens: u64,
}

#[derive(Serialize)]
struct CacheCreation {
    ephemeral_5m_input_tokens: u64,
    ephemeral_1h_input_tokens: u64,
}

#[derive(Serialize)]
struct OutputDetails {
    thinking_tokens: u64,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event<'a> {
    MessageStart {
        message: Message<'a>,
    },
    ContentBlockStart {
        index: usize,
        content_block: Content<'a>,
    },
    Ping,
    ContentBlockDelta {
        index: usize,
        delta: Delta<'a>,
    },
    ContentBlockStop {
        index: usize,
    },
    MessageDelta {
        delta: Ending,
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<WireUsage>,
    },
    MessageStop,
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum Delta<'a> {
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'a str },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: &'a str },
}

#[derive(Serialize)]
struct Ending {
    stop_reason: Option<Stop>,
    stop_sequence: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_details: Option<StopDetails>,
}

impl Event<'_> {
    const fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::Ping => "ping",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop => "message_stop",
        }
    }
}

#[expect(clippy::expect_used, reason = "plain structs with string keys, written to memory: serialising cannot fail")]
pub(super) fn write_json(buffer: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(buffer, value).expect("serialises");
}

fn write_event(buffer: &mut Vec<u8>, event: &Event<'_>) {
    buffer.extend_from_slice(b"event: ");
    buffer.extend_from_slice(event.name().as_bytes());
    buffer.extend_from_slice(b"\ndata: ");
    write_json(buffer, event);
    // The real API pads its lines against traffic analysis; readers must not mind.
    let padding = buffer.len() % 4;
    buffer.extend_from_slice(&b"   "[..padding]);
    buffer.extend_from_slice(b"\n\n");
}

impl Outgoing<'_> {
    const SIGNATURE: &'static str = "RmFrZVNpZ25hdHVyZQ==";

    fn message<'a>(&'a self, content: Vec<Content<'a>>, stop: Option<Stop>, usage: WireUsage) -> Message<'a> {
        Message {
            id: format!("msg_fake_{:08}", self.number),
            kind: "message",
            role: "assistant",
            model: self.model,
            content,
            stop_reason: stop,
            stop_sequence: None,
            stop_details: stop.and_then(stop_details),
            usage: self.reports_usage.then_some(usage),
        }
    }

    /// Cumulative usage with `output` tokens so far; `last` adds what only the end knows.
    fn wire_usage(&self, output: u64, last: bool) -> WireUsage {
        WireUsage {
            input_tokens: self.usage.input,
            cache_creation_input_tokens: self.usage.cache_write_5m + self.usage.cache_write_1h,
            cache_read_input_tokens: self.usage.cache_read,
            output_tokens: output,
            output_tokens_details: last.then_some(OutputDetails { thinking_tokens: self.thinking_tokens }),
            server_tool_use: (last && self.extras.searches > 0)
                .then_some(ServerToolUse { web_search_requests: self.extras.searches }),
            iterations: (last && !self.parts.is_empty()).then(|| self.iterations()),
            ..WireUsage::default()
        }
    }

    fn iterations(&self) -> Vec<Iteration> {
        let is_odd = self.faults.has(Fault::OddIterations);
        let iteration = |(model, usage): &(&'static str, Usage)| Iteration {
            kind: "message",
            model,
            input_tokens: Some(usage.input).filter(|_| !is_odd),
            cache_creation_input_tokens: usage.cache_write_5m + usage.cache_write_1h,
            cache_read_input_tokens: usage.cache_read,
            output_tokens: usage.output,
        };
        self.parts.iter().map(iteration).collect()
    }

    /// With what stands only in `message_start` and in a reply that is not streamed.
    fn first_usage(&self, output: u64, last: bool) -> WireUsage {
        WireUsage {
            cache_creation: Some(CacheCreation {
                ephemeral_5m_input_tokens: self.usage.cache_write_5m,
                ephemeral_1h_input_tokens: self.usage.cache_write_1h,
            }),
            service_tier: self.extras.tier.or(Some("standard")),
            inference_geo: self.extras.region.or(Some("global")),
            speed: self.extras.is_fast.then_some("fast"),
            ..self.wire_usage(output, last)
        }
    }

    /// The reply as one JSON document.
    pub(super) fn json(&self) -> Vec<u8> {
        let mut content = Vec::new();
        if self.thinking_tokens > 0 {
            content.push(Content::Thinking { thinking: "", signature: Self::SIGNATURE });
        }
        if !self.text.is_empty() {
            content.push(Content::Text { text: self.text });
        }
        let mut bytes = Vec::with_capacity(self.text.len() + 1_024);
        write_json(&mut bytes, &self.message(content, Some(self.stop), self.first_usage(self.usage.output, true)));
        if self.faults.has(Fault::InvalidUtf8) {
            bytes.splice(1..1, NOT_UTF8);
        }
        bytes
    }

    /// The reply as server-sent events.
    pub(super) fn events(&self) -> Events {
        let mut events = Events { bytes: Vec::with_capacity(self.text.len() * 5 / 4 + 4_096), ..Events::default() };
        let out = &mut events.bytes;
        let message = self.message(Vec::new(), None, self.first_usage(1, false));
        write_event(out, &Event::MessageStart { message });
        events.begun = out.len();
        let mut index = 0;
        if self.thinking_tokens > 0 {
            let content_block = Content::Thinking { thinking: "", signature: "" };
            write_event(out, &Event::ContentBlockStart { index, content_block });
            write_event(out, &Event::Ping);
            let delta = Delta::Signature { signature: Self::SIGNATURE };
            write_event(out, &Event::ContentBlockDelta { index, delta });
            write_event(out, &Event::ContentBlockStop { index });
            index += 1;
        }
        events.half = out.len();
        if !self.text.is_empty() {
            write_event(out, &Event::ContentBlockStart { index, content_block: Content::Text { text: "" } });
            write_event(out, &Event::Ping);
            events.half = self.write_text(out, index);
            write_event(out, &Event::ContentBlockStop { index });
        }
        if self.faults.has(Fault::ToolCut) {
            let content_block = Content::ToolUse { id: "toolu_fake", name: "write_file", input: Empty {} };
            write_event(out, &Event::ContentBlockStart { index, content_block });
            let delta = Delta::InputJson { partial_json: PARTIAL_JSON };
            write_event(out, &Event::ContentBlockDelta { index, delta });
            events.half = out.len();
        }
        if self.faults.has(Fault::SeveralUsages) {
            let delta = Ending { stop_reason: None, stop_sequence: None, stop_details: None };
            let usage = self.reports_usage.then(|| self.wire_usage(self.usage.output / 2, false));
            write_event(out, &Event::MessageDelta { delta, usage });
        }
        events.before_end = out.len();
        let delta = Ending { stop_reason: Some(self.stop), stop_sequence: None, stop_details: stop_details(self.stop) };
        let usage = self.reports_usage.then(|| self.wire_usage(self.usage.output, true));
        write_event(out, &Event::MessageDelta { delta, usage });
        events.before_stop = out.len();
        write_event(out, &Event::MessageStop);
        events
    }

    /// Writes the text in deltas; returns the offset at which half of it is out.
    fn write_text(&self, out: &mut Vec<u8>, index: usize) -> usize {
        let mut half = None;
        for (end, text) in pieces(self.text) {
            let at = out.len();
            write_event(out, &Event::ContentBlockDelta { index, delta: Delta::Text { text } });
            self.break_encoding(out, at, end == text.len());
            if end * 2 >= self.text.len() {
                half.get_or_insert(out.len());
            }
        }
        half.unwrap_or(out.len())
    }

    /// Puts bytes that are not UTF-8 at the end of the last string since `at`, in the first piece only.
    pub(super) fn break_encoding(&self, out: &mut Vec<u8>, at: usize, is_first: bool) {
        if !self.faults.has(Fault::InvalidUtf8) || !is_first {
            return;
        }
        if let Some(quote) = out[at..].iter().rposition(|byte| *byte == b'"') {
            out.splice(at + quote..at + quote, NOT_UTF8);
        }
    }
}

/// The text in the pieces in which it is told, each with the offset of its end.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let length = text.len();
    let step = length.div_ceil(DELTAS).clamp(DELTA_BYTES.0, DELTA_BYTES.1).min(length.div_ceil(2)).max(1);
    let mut start = 0;
    std::iter::from_fn(move || {
        if start >= length {
            return None;
        }
        let mut end = (start + step).min(length);
        while !text.is_char_boundary(end) {
            end += 1;
        }
        let piece = &text[start..end];
        start = end;
        Some((end, piece))
    })
}

fn stop_details(stop: Stop) -> Option<StopDetails> {
    let explanation = "The scripted model declined to continue.";
    (stop == Stop::Refusal).then_some(StopDetails { kind: "refusal", category: None, explanation })
}
