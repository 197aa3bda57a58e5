//! The worst case of a call, from the bytes of its request.
//!
//! Nobody publishes the current tokenizer, so the bound rests on what holds for every byte-level one: each token
//! consumes at least one byte of the tokenizer's input. The last tokenizer that was published normalised its input to
//! NFKC first, which can make text longer (U+FDFA grows from 3 bytes to 33), hence the larger of both lengths. What the
//! provider itself adds (role markers, tool and schema instructions) is covered by the constants of
//! `PriceTable::worst_case`. A guess of the kind "four characters per token" must never replace this: it is known to be
//! 34 % too low on code and 54 % on dense JSON.

use unicode_normalization::UnicodeNormalization;

use super::price::Unpinned;
use crate::protocol::MicroUsd;

/// The most that a call can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorstCase {
    /// Money, nothing for a model that is free.
    pub amount: MicroUsd,
    /// Tokens, input and output together, for a model that is free; 0 where money bounds the call.
    pub tokens: u64,
}

impl From<MicroUsd> for WorstCase {
    fn from(amount: MicroUsd) -> Self {
        Self { amount, tokens: 0 }
    }
}

/// What the bound is computed from; see `PriceTable::worst_case`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorstCaseInput {
    /// Model name as in the price table.
    pub model: String,
    /// Larger of the body's bytes and the bytes of its NFKC form.
    pub body_bytes: u64,
    /// Messages, system blocks included.
    pub messages: u32,
    /// Tools offered.
    pub tools: u32,
    /// Bytes of the JSON schema, 0 without one.
    pub schema_bytes: u64,
    /// Cap on output tokens that the body carries.
    pub max_tokens: u32,
    /// The body asks for 5-minute cache writes.
    pub writes_5m: bool,
    /// The body asks for 1-hour cache writes.
    pub writes_1h: bool,
    /// Input tokens that the provider has counted, where it was asked and is believed. An estimate of its own, so the bound is
    /// no longer proven by the bytes alone; nothing may put a guess of ours here.
    pub counted_input: Option<u64>,
    /// What may raise the price and is not pinned in the body.
    pub unpinned: Unpinned,
}

impl WorstCaseInput {
    /// Measures a final JSON body, the very text that will be sent. Whatever else the body carries (messages, tools, a
    /// schema, cache writes, things left open) starts at none and has to be filled in by the provider that built it.
    #[must_use]
    pub fn from_body(model: &str, body: &str, max_tokens: u32) -> Self {
        Self {
            model: model.to_owned(),
            body_bytes: normalised_bytes(body).max(body.len() as u64),
            messages: 0,
            tools: 0,
            schema_bytes: 0,
            max_tokens,
            writes_5m: false,
            writes_1h: false,
            counted_input: None,
            unpinned: Unpinned::default(),
        }
    }
}

/// At least the bytes of the NFKC form, counted without building it.
///
/// ASCII is its own NFKC form and requests are nearly all ASCII, so only what is not is normalised, run by run. Taking the
/// runs apart can only count more: what would have been composed across a border (a letter and the accent after it)
/// is counted in its parts.
fn normalised_bytes(text: &str) -> u64 {
    let bytes = text.as_bytes();
    let (mut total, mut at) = (0, 0);
    while at < bytes.len() {
        let ascii = bytes[at..].iter().position(|byte| !byte.is_ascii()).unwrap_or(bytes.len() - at);
        let run = at + ascii;
        let end = bytes[run..].iter().position(u8::is_ascii).map_or(bytes.len(), |length| run + length);
        let grown: u64 = text[run..end].nfkc().map(|character| character.len_utf8() as u64).sum();
        total += ascii as u64 + grown;
        at = end;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_counts_at_least_its_own_bytes_even_if_normalising_shrinks_it() {
        for body in ["", "{\"a\":1}", "e\u{301}", "日本語", "\u{1F600}"] {
            assert!(WorstCaseInput::from_body("m", body, 1).body_bytes >= body.len() as u64, "{body:?}");
        }
        assert_eq!(WorstCaseInput::from_body("m", "e\u{301}", 1).body_bytes, 3);
    }

    #[test]
    fn counting_run_by_run_is_never_less_than_normalising_the_whole() {
        for text in
            ["e\u{301}x\u{FDFA}y", "a\u{323}\u{301}b…c", "\u{FDFA}", "…", "plain", "ﬁx ﬁ", "\u{1112}\u{1161}\u{11ab}a"]
        {
            let whole: u64 = text.nfkc().map(|character| character.len_utf8() as u64).sum();
            assert!(normalised_bytes(text) >= whole, "{text:?}");
        }
        assert_eq!(normalised_bytes("ab…"), 5);
    }

    #[test]
    fn text_that_grows_when_normalised_counts_with_its_grown_length() {
        assert_eq!(WorstCaseInput::from_body("m", "\u{FDFA}", 1).body_bytes, 33);
        assert_eq!(WorstCaseInput::from_body("m", "x\u{FDFA}", 1).body_bytes, 34);
    }
}
