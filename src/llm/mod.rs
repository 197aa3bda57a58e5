//! Talking to language models: one small trait, its request and reply, and the errors with what they cost.
//!
//! A provider turns a request into bytes ([`Provider::prepare`]) before it may send them ([`Provider::send`]), because the
//! worst case is bounded from exactly those bytes. `send` demands the [`Reservation`]: a call without money set aside
//! does not compile. There is no retry inside a provider; each attempt has its own reservation.

pub mod anthropic;
mod check;
mod counter;
pub mod error;
pub mod guards;
pub mod headroom;
pub mod http;
pub mod metered;
pub mod openai;
pub mod record;
pub mod replay;
pub mod router;
pub mod sse;
pub mod told;
pub mod warm;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

pub use error::{Charge, Guard, LlmError};
pub use guards::{Guards, REPLAY};
pub use headroom::HeadroomSlot;
pub use metered::{CallOutcome, Metered};
pub use router::Router;
pub use told::{Told, ToldSlot};
pub use warm::Began;

use crate::budget::{Reservation, WorstCaseInput};
use crate::protocol::Usage;

/// A block of the system prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemBlock {
    /// The text; byte-identical across calls where `cache` is set.
    pub text: Arc<str>,
    /// Ends a cacheable prefix.
    pub cache: bool,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The program.
    User,
    /// The model.
    Assistant,
}

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub text: String,
}

/// How hard the model should think; providers map it to their own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effort {
    /// Least.
    Low,
    /// Usual.
    #[default]
    Medium,
    /// Much.
    High,
}

/// Whether a model may think before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Thinking {
    /// As the model does by itself.
    #[default]
    Default,
    /// As little as the model can be made to.
    Off,
    /// Also where the model has to be asked.
    On,
}

/// A call, independent of any provider's wire format.
#[derive(Debug, Clone)]
pub struct LlmRequest {
    /// Model name as in the price table: plain, or `provider/model` for a named endpoint.
    pub model: String,
    /// Models to try, in this order, when that one cannot answer.
    pub fallbacks: Vec<String>,
    /// System prompt, cacheable prefix first.
    pub system: Vec<SystemBlock>,
    /// The conversation; the last message is the user's.
    pub messages: Vec<Message>,
    /// Hard cap on output, thinking included.
    pub max_tokens: u32,
    /// JSON schema that the reply must follow.
    pub schema: Option<Arc<serde_json::Value>>,
    /// How hard to think.
    pub effort: Effort,
    /// Whether to think.
    pub thinking: Thinking,
}

impl LlmRequest {
    /// A request of one user message: no system prompt, no schema, at most 4,096 tokens.
    #[must_use]
    pub fn of(model: &str, text: &str) -> Self {
        Self {
            model: model.to_owned(),
            fallbacks: Vec::new(),
            system: Vec::new(),
            messages: vec![Message { role: Role::User, text: text.to_owned() }],
            max_tokens: 4_096,
            schema: None,
            effort: Effort::default(),
            thinking: Thinking::default(),
        }
    }
}

/// A request as bytes, with what the worst-case bound needs to know about it.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The final JSON body.
    pub body: Bytes,
    /// Sizes and prices the bound is computed from.
    pub worst_case: WorstCaseInput,
    /// Told when the reply begins: from then on the provider's cache holds the prompt.
    pub began: Began,
    /// Told what the provider says about its limits.
    pub headroom: HeadroomSlot,
    /// Told what the reply says about its price while it is being read.
    pub told: ToldSlot,
}

impl Prepared {
    /// Bytes with their measures; nobody waits for the reply to begin.
    #[must_use]
    pub fn new(body: impl Into<Bytes>, worst_case: WorstCaseInput) -> Self {
        Self {
            body: body.into(),
            worst_case,
            began: Began::default(),
            headroom: HeadroomSlot::default(),
            told: ToldSlot::default(),
        }
    }
}

/// Why the model stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// It was done.
    EndTurn,
    /// `max_tokens` was reached: the reply is truncated.
    MaxTokens,
    /// It declined; the category, if given.
    Refusal(Option<String>),
    /// The context window was full: the reply is truncated.
    ContextWindow,
    /// Anything else, by its wire name.
    Other(String),
}

/// A complete reply: the terminal event was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlmReply {
    /// All text blocks, joined.
    pub text: String,
    /// Why the model stopped.
    pub stop: StopReason,
    /// Tokens by kind; `None` when the provider did not report any (zero is not absent).
    pub usage: Option<Usage>,
    /// The model that answered, as it names itself.
    pub model: String,
    /// The provider's id for the call.
    pub request_id: Option<String>,
}

/// Something that answers requests and bills for them.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Turns a request into the exact bytes that would be sent.
    ///
    /// # Errors
    /// [`LlmError::Unsupported`] for anything whose cost has no bound.
    fn prepare(&self, request: &LlmRequest) -> Result<Prepared, LlmError>;

    /// Asks the provider how many input tokens a prepared call has, which costs nothing; `None` where it cannot be asked. The
    /// answer is the provider's estimate, and an error says nothing about the call. Dropping the future ends the question.
    ///
    /// # Errors
    /// [`LlmError`] when no answer came that could be read.
    async fn count_input(&self, _prepared: &Prepared) -> Result<Option<u64>, LlmError> {
        Ok(None)
    }

    /// Sends prepared bytes once and reads the whole reply. Dropping the future or cancelling `cancel` closes the
    /// connection; the caller still has to settle.
    ///
    /// # Errors
    /// Every [`LlmError`] says what the attempt may have cost ([`LlmError::charge`]).
    async fn send(
        &self,
        prepared: &Prepared,
        reservation: &Reservation,
        cancel: &CancellationToken,
    ) -> Result<LlmReply, LlmError>;
}

/// Providers answer an alias with the dated name of the same model: `claude-haiku-4-5` with `claude-haiku-4-5-20251001`,
/// `gpt-6.1-sol` with `gpt-6.1-sol-2026-09-30`.
pub(crate) fn is_same_model(asked: &str, answered: &str) -> bool {
    let is_date = |text: &str| {
        let digits: String = text.split('-').collect();
        let is_dashed = text.len() == 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-';
        (text.len() == 8 || is_dashed) && digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit())
    };
    match answered.strip_prefix(asked) {
        Some("") => true,
        Some(rest) => rest.strip_prefix('-').is_some_and(is_date),
        None => false,
    }
}
