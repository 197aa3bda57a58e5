//! The worst case of a call, from the bytes of its request.

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
}
