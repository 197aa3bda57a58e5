//! What can go wrong in a call, whether repeating it helps, and what it may have cost.
//!
//! The cost rule is conservative (research cases 7 to 10): only a well-formed refusal before any body, or a request that
//! was never written, is free. Everything ambiguous is charged in full.

use std::time::Duration;

use crate::backend::BackendError;
use crate::error::{Coded, Retry};
use crate::protocol::{MicroUsd, Usage};

/// What a failed attempt may have cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// Provably nothing.
    Nothing,
    /// Unknown: the whole reservation is spent.
    Everything,
}

/// A guard that a call passes before it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// The circuit breaker of the provider and model.
    Breaker,
    /// The places for calls of this process.
    Places,
    /// The fleet's requests and tokens per minute.
    Rates,
}

impl Guard {
    /// One word, for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Breaker => "breaker",
            Self::Places => "places",
            Self::Rates => "rates",
        }
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::Breaker => "the provider has failed too often and is left alone for a while",
            Self::Places => "no place among the calls under way became free in time",
            Self::Rates => "the provider's limit per minute is used up",
        }
    }
}

/// Why a call brought no complete reply.
#[derive(Debug, thiserror::Error)]
pub enum LlmError {
    /// The request cannot be sent as it is: no bound, unknown model, bad value.
    #[error("this request cannot be sent: {0}")]
    Unsupported(String),
    /// The budget has no room for the worst case of this call.
    #[error("the budget has {available} left in {scope}, this call may need {needed}")]
    BudgetRefused {
        /// The worst case of the smallest acceptable call.
        needed: MicroUsd,
        /// What was left in the first scope that had too little.
        available: MicroUsd,
        /// Which scope that is.
        scope: String,
    },
    /// The ceiling for models without prices has no room for the most tokens this call can use.
    #[error("the budget has {available} tokens left in {scope}, this call may need {needed}")]
    TokensRefused {
        /// Tokens of the smallest acceptable call.
        needed: u64,
        /// What was left in the first scope that had too little.
        available: u64,
        /// Which scope that is.
        scope: String,
    },
    /// Spending is frozen.
    #[error("spending is frozen in scope {scope}")]
    Frozen {
        /// Which scope.
        scope: String,
    },
    /// The ledger could not be asked; no call was made.
    #[error("the budget ledger did not answer")]
    Ledger(#[source] BackendError),
    /// It would have waited for too long before it could be sent; no attempt was made.
    #[error("{}; to be tried again in {} s", guard.reason(), retry_after.as_secs())]
    NotAdmitted {
        /// Where it would have waited.
        guard: Guard,
        /// When to come back.
        retry_after: Duration,
    },
    /// The provider could not be connected to; nothing was sent.
    #[error("cannot connect to the provider: {reason}")]
    Connect {
        /// What the transport said.
        reason: String,
    },
    /// The provider answered with an error status before any body of a reply.
    #[error("the provider answered {status} {kind}: {message}")]
    Status {
        /// HTTP status.
        status: u16,
        /// The provider's error type, or `unknown`.
        kind: String,
        /// The provider's message, bounded.
        message: String,
        /// Delay it asked for.
        retry_after: Option<Duration>,
        /// True when the body was a well-formed error of the provider's format.
        well_formed: bool,
    },
    /// The reply stopped before its terminal event, or an error came inside the stream.
    #[error("the reply was cut: {reason}")]
    Cut {
        /// How.
        reason: String,
        /// The input tokens, when they were reported before the cut; `output` is then 0, because nobody knows it.
        input: Option<Usage>,
    },
    /// Nothing arrived for too long.
    #[error("the provider stalled: {reason}")]
    Timeout {
        /// Which limit was reached.
        reason: String,
    },
    /// The reply is not what the wire format allows, or larger than allowed.
    #[error("the reply is malformed: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// The caller cancelled.
    #[error("the call was cancelled")]
    Cancelled,
    /// All attempts failed; the last one like this.
    #[error("all {attempts} attempts failed")]
    Exhausted {
        /// How many were made.
        attempts: u32,
        /// The last failure.
        #[source]
        last: Box<LlmError>,
    },
}

impl LlmError {
    /// The same error with every text that comes from outside rewritten.
    #[must_use]
    pub(super) fn rewritten(mut self, rewrite: impl Fn(&mut String)) -> Self {
        match &mut self {
            Self::Status { kind, message, .. } => {
                rewrite(kind);
                rewrite(message);
            }
            Self::Connect { reason }
            | Self::Cut { reason, .. }
            | Self::Timeout { reason }
            | Self::Malformed { reason } => rewrite(reason),
            _ => {}
        }
        self
    }

    /// What the attempt may have cost.
    #[must_use]
    pub fn charge(&self) -> Charge {
        match self {
            Self::Unsupported(_)
            | Self::BudgetRefused { .. }
            | Self::TokensRefused { .. }
            | Self::Frozen { .. }
            | Self::Ledger(_)
            | Self::NotAdmitted { .. }
            | Self::Connect { .. } => Charge::Nothing,
            // 5xx other than 529 may have been billed: the provider can fail after generating.
            Self::Status { status, well_formed, .. } if *well_formed && (*status < 500 || *status == 529) => {
                Charge::Nothing
            }
            Self::Exhausted { last, .. } => last.charge(),
            _ => Charge::Everything,
        }
    }
}

impl Coded for LlmError {
    fn code(&self) -> &'static str {
        match self {
            Self::Unsupported(_) => "CS-LLM-001",
            Self::BudgetRefused { .. } => "CS-BUDGET-001",
            Self::Frozen { .. } => "CS-BUDGET-002",
            Self::Ledger(_) => "CS-BUDGET-003",
            Self::TokensRefused { .. } => "CS-BUDGET-005",
            Self::Connect { .. } => "CS-LLM-002",
            Self::Status { .. } => "CS-LLM-003",
            Self::Cut { .. } => "CS-LLM-004",
            Self::Timeout { .. } => "CS-LLM-005",
            Self::Malformed { .. } => "CS-LLM-006",
            Self::Cancelled => "CS-LLM-007",
            Self::Exhausted { .. } => "CS-LLM-008",
            Self::NotAdmitted { .. } => "CS-LLM-009",
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::Unsupported(_) => {
                "correct the model or the request; `codeswarm config check` names the faulty setting".into()
            }
            Self::BudgetRefused { needed, available, scope } => format!(
                "raise the limit of {scope} by at least {} (`codeswarm budget top-up`) and resume the job",
                needed.saturating_sub(*available)
            ),
            Self::TokensRefused { needed, available, scope } => format!(
                "raise the ceiling by at least {} (`codeswarm budget top-up {} TOKENS`) and resume the job",
                needed.saturating_sub(*available),
                scope.strip_prefix("job:").unwrap_or(scope)
            ),
            Self::Frozen { .. } => "find out why it was frozen (`codeswarm budget show`), then thaw it".into(),
            Self::Ledger(_) => "check the data directory; no money was spent by this call".into(),
            Self::Connect { .. } => "check the network and ANTHROPIC_BASE_URL".into(),
            Self::Status { status: 401 | 403, .. } => {
                "check ANTHROPIC_API_KEY (or the file named by ANTHROPIC_API_KEY_FILE)".into()
            }
            Self::Status { status: 402, .. } => {
                "the provider account has no credit left; add some, then resume the job".into()
            }
            Self::Status { status: 404, .. } => "check the model name in the configuration".into(),
            Self::Exhausted { last, .. } => last.remedy(),
            Self::NotAdmitted { .. } => {
                "nothing to do: the task waits in its queue; `codeswarm doctor` shows limits and breakers".into()
            }
            _ => "resume the job later; `codeswarm events` shows every attempt".into(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Status { status, kind, retry_after, message, .. } => {
                let retryable = matches!(status, 408 | 409 | 429) || *status >= 500;
                // A spend cap is announced as 429 without a delay; trying again only makes noise.
                let capped = message.contains("enforced_spend_limit_reached") || kind == "insufficient_quota";
                match (retryable && !capped, retry_after) {
                    (false, _) => Retry::Never,
                    (true, Some(delay)) => Retry::After(*delay),
                    (true, None) => Retry::Now,
                }
            }
            Self::Connect { .. }
            | Self::Cut { .. }
            | Self::Timeout { .. }
            | Self::Malformed { .. }
            | Self::Ledger(_) => Retry::Now,
            Self::Exhausted { .. } => Retry::Exhausted,
            Self::NotAdmitted { retry_after, .. } => Retry::After(*retry_after),
            _ => Retry::Never,
        }
    }
}
