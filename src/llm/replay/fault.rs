//! The ways in which a scripted reply can go wrong.
//!
//! Each is one that a provider or the network between was seen to produce; the names are those of the script. A fault
//! belongs to one line of the script and strikes whenever that line is the answer, in either wire format.

use serde::{Deserialize, Serialize};

macro_rules! faults {
    ($($(#[doc = $about:literal])+ $name:literal $fault:ident,)+) => {
        /// A way in which a reply goes wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Fault {
            $($(#[doc = $about])+ #[serde(rename = $name)] $fault,)+
        }

        impl Fault {
            /// Every fault, for tests that go through all of them.
            pub const ALL: [Self; [$(Self::$fault),+].len()] = [$(Self::$fault),+];

            /// Its name in a script.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$fault => $name,)+ }
            }

            /// What happens, in one sentence.
            #[must_use]
            pub fn about(self) -> String {
                let lines: &[&str] = match self { $(Self::$fault => &[$($about),+],)+ };
                lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
            }
        }
    };
}

faults! {
    /// 400, the request is not valid.
    "status-400" Status400,
    /// 401, the key is wrong.
    "status-401" Status401,
    /// 402, the account has no credit.
    "status-402" Status402,
    /// 403, the key may not do this.
    "status-403" Status403,
    /// 404, there is no such model.
    "status-404" Status404,
    /// 413 with an HTML page, as a proxy in front of the provider sends it.
    "html-413" Html413,
    /// 429 rate limit, with `retry-after` in seconds when the line says how long.
    "status-429" Status429,
    /// 429 rate limit, with `retry-after` as an HTTP date.
    "status-429-date" Status429Date,
    /// 429 rate limit, with `retry-after-ms`.
    "status-429-ms" Status429Ms,
    /// 429 without `retry-after`: a spending cap or an empty account, which no waiting mends.
    "spend-cap-429" SpendCap429,
    /// 500 after the reply was generated, so it is billed.
    "status-500" Status500,
    /// 503 with an HTML page after the reply was generated, so it is billed.
    "html-503" Html503,
    /// 504 after the reply was generated, so it is billed.
    "status-504" Status504,
    /// 529 overloaded (429 in chat completions), with `retry-after` when the line says how long.
    "status-529" Status529,
    /// The reply is generated and billed, but not one byte of it is sent.
    "stall-before-headers" StallBeforeHeaders,
    /// The reply is billed at once and delivered only after the line's delay.
    "late-headers" LateHeaders,
    /// Nothing comes after half of the text; the connection stays open.
    "stall-mid-stream" StallMidStream,
    /// The connection is closed after half of the text, in the middle of an event.
    "cut-mid-stream" CutMidStream,
    /// A clean end of the stream, with everything but the terminal event.
    "eof-before-stop" EofBeforeStop,
    /// An error event after half of the text.
    "error-event" ErrorEvent,
    /// The stream arrives in pieces of a few bytes, so that characters are split over reads.
    "utf8-split" Utf8Split,
    /// Lines end with CR and LF.
    "crlf" Crlf,
    /// Data lines are padded with many spaces.
    "padded" Padded,
    /// Events and comments that nobody has heard of.
    "unknown-event" UnknownEvent,
    /// Usage is told several times, each time as the total so far.
    "several-usages" SeveralUsages,
    /// A complete reply that never says how many tokens it took.
    "no-usage" NoUsage,
    /// A complete reply that says it took no tokens, and is billed so.
    "zero-usage" ZeroUsage,
    /// A complete reply that took, and is billed, twice the output that was allowed.
    "usage-over-bound" UsageOverBound,
    /// A refusal before any text; usage is told, nothing is billed.
    "refusal-before" RefusalBefore,
    /// Half of the text, then a refusal.
    "refusal" Refusal,
    /// Thinking that uses up the cap, and no text.
    "thinking-only" ThinkingOnly,
    /// Half of the text, then the cap.
    "max-tokens" MaxTokens,
    /// A tool call whose JSON the cap cuts off; its block never ends.
    "tool-cut" ToolCut,
    /// No text at all, and the model says that it is done.
    "empty-end-turn" EmptyEndTurn,
    /// Another, dearer model answers, and is billed.
    "other-model" OtherModel,
    /// A byte sequence inside the text that is not UTF-8.
    "invalid-utf8" InvalidUtf8,
    /// Five megabytes of text, whatever was asked for.
    "huge" Huge,
}

impl Fault {
    /// True for answers that are nothing but a status.
    pub(super) const fn is_status(self) -> bool {
        self.is_free_status() || matches!(self, Self::Status500 | Self::Html503 | Self::Status504)
    }

    const fn is_free_status(self) -> bool {
        matches!(
            self,
            Self::Status400
                | Self::Status401
                | Self::Status402
                | Self::Status403
                | Self::Status404
                | Self::Html413
                | Self::Status429
                | Self::Status429Date
                | Self::Status429Ms
                | Self::SpendCap429
                | Self::Status529
        )
    }

    /// Whether a call that ends so is on the bill. Only what a provider refuses before it generates is free; what it
    /// might bill, this server does bill, so that a client that trusts its luck is found out.
    #[must_use]
    pub const fn is_billed(self) -> bool {
        !self.is_free_status() && !matches!(self, Self::RefusalBefore)
    }

    /// Whether a stream with it is told bit by bit over its time, as one without a fault is.
    pub(super) const fn is_told(self) -> bool {
        !self.is_status() && !matches!(self, Self::StallBeforeHeaders | Self::LateHeaders)
    }

    /// Whether a line with this fault needs no text of its own.
    pub(super) const fn needs_no_text(self) -> bool {
        self.is_status()
            || matches!(
                self,
                Self::StallBeforeHeaders
                    | Self::RefusalBefore
                    | Self::ThinkingOnly
                    | Self::EmptyEndTurn
                    | Self::ToolCut
                    | Self::Huge
            )
    }

    /// Whether `retry-after` can go with it.
    pub(super) const fn takes_retry_after(self) -> bool {
        matches!(
            self,
            Self::Status429
                | Self::Status429Date
                | Self::Status429Ms
                | Self::Status500
                | Self::Html503
                | Self::Status529
        )
    }
}
