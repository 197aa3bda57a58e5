//! The ways in which a scripted reply can go wrong.
//!
//! Each is one that a provider or the network between was seen to produce; the names are those of the script. A fault
//! belongs to one line of the script and strikes whenever that line is the answer.

use serde::{Deserialize, Serialize};

/// A way in which a reply goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// 429 `rate_limit_error`, with `retry-after` when the line says how long.
    #[serde(rename = "status-429")]
    Status429,
    /// 500 `api_error` after the reply was generated, so it is billed.
    #[serde(rename = "status-500")]
    Status500,
    /// 529 `overloaded_error`, with `retry-after` when the line says how long.
    #[serde(rename = "status-529")]
    Status529,
    /// 401 `authentication_error`.
    #[serde(rename = "status-401")]
    Status401,
    /// 413 with an HTML page, as a proxy in front of the provider sends it.
    #[serde(rename = "html-413")]
    Html413,
    /// The reply is generated and billed, but not one byte of it is sent.
    StallBeforeHeaders,
    /// Nothing comes after half of the text; the connection stays open.
    StallMidStream,
    /// The connection is closed after half of the text, in the middle of an event.
    CutMidStream,
    /// A clean end of the stream, with everything but `message_stop`.
    EofBeforeStop,
    /// An `error` event after half of the text.
    ErrorEvent,
    /// Half of the text, then `stop_reason` `refusal`.
    Refusal,
    /// Thinking that uses up `max_tokens`, and no text.
    ThinkingOnly,
    /// Half of the text, then `stop_reason` `max_tokens`.
    MaxTokens,
    /// A complete reply that never says how many tokens it took.
    NoUsage,
    /// A byte sequence inside the text that is not UTF-8.
    InvalidUtf8,
    /// Five megabytes of text, whatever was asked for.
    Huge,
}

impl Fault {
    /// Every fault, for tests that go through all of them.
    pub const ALL: [Self; 16] = [
        Self::Status429,
        Self::Status500,
        Self::Status529,
        Self::Status401,
        Self::Html413,
        Self::StallBeforeHeaders,
        Self::StallMidStream,
        Self::CutMidStream,
        Self::EofBeforeStop,
        Self::ErrorEvent,
        Self::Refusal,
        Self::ThinkingOnly,
        Self::MaxTokens,
        Self::NoUsage,
        Self::InvalidUtf8,
        Self::Huge,
    ];

    /// Whether a call that ends so is on the bill. Only what a provider refuses before it generates is free; what it
    /// might bill, this server does bill, so that a client that trusts its luck is found out.
    #[must_use]
    pub const fn is_billed(self) -> bool {
        !matches!(self, Self::Status429 | Self::Status529 | Self::Status401 | Self::Html413)
    }

    /// Whether a line with this fault needs no text of its own.
    pub(super) const fn needs_no_text(self) -> bool {
        matches!(
            self,
            Self::Status429
                | Self::Status500
                | Self::Status529
                | Self::Status401
                | Self::Html413
                | Self::StallBeforeHeaders
                | Self::ThinkingOnly
                | Self::Huge
        )
    }

    /// Whether `retry-after` can go with it.
    pub(super) const fn takes_retry_after(self) -> bool {
        matches!(self, Self::Status429 | Self::Status500 | Self::Status529)
    }
}
