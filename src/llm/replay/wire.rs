//! Replies as bytes: server-sent events, one JSON document, or an error, exactly as the real API writes them.
//!
//! Events are plain structs that borrow their text and are serialised straight into one buffer, so a reply costs one
//! allocation that matters. Where a fault has to strike is remembered as an offset while writing, never searched for
//! afterwards.

use serde::Serialize;

use super::script::Stop;
use crate::protocol::Usage;

/// Smallest and largest text of one delta, in bytes.
const DELTA_BYTES: (usize, usize) = (16, 4_096);
/// A reply of middling size is told in about so many deltas.
const DELTAS: usize = 32;
/// The start of a two-byte character followed by a byte that cannot continue it.
const NOT_UTF8: [u8; 2] = [0xC3, 0x28];

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
    /// Breaks the text's encoding.
    pub(super) invalid_utf8: bool,
}

/// A reply as server-sent events.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) bytes: Vec<u8>,
    /// End of the event with which half of the text is out.
    pub(super) half: usize,
    /// Start of `message_stop`.
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
}

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
    Error {
        error: ErrorDetail<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Delta<'a> {
    TextDelta { text: &'a str },
    SignatureDelta { signature: &'a str },
}

#[derive(Serialize)]
struct Ending {
    stop_reason: Stop,
    stop_sequence: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_details: Option<StopDetails>,
}

#[derive(Serialize)]
struct ErrorDetail<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    message: &'a str,
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
            Self::Error { .. } => "error",
        }
    }
}

#[expect(clippy::expect_used, reason = "plain structs with string keys, written to memory: serialising cannot fail")]
fn write_json(buffer: &mut Vec<u8>, value: &impl Serialize) {
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
            ..WireUsage::default()
        }
    }

    /// With what stands only in `message_start` and in a reply that is not streamed.
    fn first_usage(&self, output: u64, last: bool) -> WireUsage {
        WireUsage {
            cache_creation: Some(CacheCreation {
                ephemeral_5m_input_tokens: self.usage.cache_write_5m,
                ephemeral_1h_input_tokens: self.usage.cache_write_1h,
            }),
            service_tier: Some("standard"),
            inference_geo: Some("global"),
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
        if self.invalid_utf8 {
            bytes.splice(1..1, NOT_UTF8);
        }
        bytes
    }

    /// The reply as server-sent events.
    pub(super) fn events(&self) -> Events {
        let mut events = Events { bytes: Vec::with_capacity(self.text.len() * 5 / 4 + 4_096), half: 0, before_stop: 0 };
        let out = &mut events.bytes;
        let message = self.message(Vec::new(), None, self.first_usage(1, false));
        write_event(out, &Event::MessageStart { message });
        let mut index = 0;
        if self.thinking_tokens > 0 {
            let content_block = Content::Thinking { thinking: "", signature: "" };
            write_event(out, &Event::ContentBlockStart { index, content_block });
            write_event(out, &Event::Ping);
            let delta = Delta::SignatureDelta { signature: Self::SIGNATURE };
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
        let delta = Ending { stop_reason: self.stop, stop_sequence: None, stop_details: stop_details(self.stop) };
        let usage = self.reports_usage.then(|| self.wire_usage(self.usage.output, true));
        write_event(out, &Event::MessageDelta { delta, usage });
        events.before_stop = out.len();
        write_event(out, &Event::MessageStop);
        events
    }

    /// Writes the text in deltas; returns the offset at which half of it is out.
    fn write_text(&self, out: &mut Vec<u8>, index: usize) -> usize {
        let length = self.text.len();
        let step = length.div_ceil(DELTAS).clamp(DELTA_BYTES.0, DELTA_BYTES.1).min(length.div_ceil(2)).max(1);
        let (mut start, mut half) = (0, None);
        while start < length {
            let mut end = (start + step).min(length);
            while !self.text.is_char_boundary(end) {
                end += 1;
            }
            let delta = Delta::TextDelta { text: &self.text[start..end] };
            let at = out.len();
            write_event(out, &Event::ContentBlockDelta { index, delta });
            let quote = out[at..].iter().rposition(|byte| *byte == b'"');
            if let Some(quote) = quote.filter(|_| self.invalid_utf8 && start == 0) {
                out.splice(at + quote..at + quote, NOT_UTF8);
            }
            start = end;
            if start * 2 >= length {
                half.get_or_insert(out.len());
            }
        }
        half.unwrap_or(out.len())
    }
}

fn stop_details(stop: Stop) -> Option<StopDetails> {
    let explanation = "The scripted model declined to continue.";
    (stop == Stop::Refusal).then_some(StopDetails { kind: "refusal", category: None, explanation })
}

/// The body of an error response.
pub(super) fn error_json(kind: &str, message: &str, request_id: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    write_json(&mut bytes, &Event::Error { error: ErrorDetail { kind, message }, request_id: Some(request_id) });
    bytes
}

/// An error in the middle of a stream.
pub(super) fn error_event(kind: &str, message: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    write_event(&mut bytes, &Event::Error { error: ErrorDetail { kind, message }, request_id: None });
    bytes
}
