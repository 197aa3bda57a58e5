//! Why money could not be set aside or accounted for.
//!
//! All of these mean that no call may be made. They must never be read as "probably fine": a ledger that does not
//! answer refuses.

use super::price::PriceError;
use crate::backend::{BackendError, Scope};
use crate::error::{Coded, Retry};
use crate::protocol::MicroUsd;

/// Money could not be set aside or accounted for.
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    /// The amount does not fit into a scope.
    #[error("{scope} has {available} left, this call may need {needed}")]
    Refused {
        /// What was asked for.
        needed: MicroUsd,
        /// What the scope could still give.
        available: MicroUsd,
        /// The first scope that had too little.
        scope: Scope,
    },
    /// The tokens do not fit into the ceiling of a scope.
    #[error("{scope} has {available} tokens left, this call may need {needed}")]
    TokensRefused {
        /// What was asked for.
        needed: u64,
        /// What the scope could still give.
        available: u64,
        /// The first scope that had too little.
        scope: Scope,
    },
    /// Spending is frozen.
    #[error("spending is frozen in scope {scope}")]
    Frozen {
        /// Which scope.
        scope: Scope,
    },
    /// The ledger did not answer, or refused the request itself.
    #[error("the budget ledger did not answer")]
    Ledger(#[source] BackendError),
    /// The call has no price.
    #[error("this call has no price")]
    Price(#[from] PriceError),
}

impl Coded for BudgetError {
    fn code(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "CS-BUDGET-001",
            Self::Frozen { .. } => "CS-BUDGET-002",
            Self::Ledger(_) => "CS-BUDGET-003",
            Self::Price(_) => "CS-BUDGET-004",
            Self::TokensRefused { .. } => "CS-BUDGET-005",
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::Refused { needed, available, .. } => format!(
                "top the budget up by at least {} (`codeswarm budget top-up`) and resume the job",
                needed.saturating_sub(*available)
            ),
            Self::TokensRefused { needed, available, .. } => format!(
                "raise the ceiling by at least {} tokens (`codeswarm budget top-up`) and resume the job",
                needed.saturating_sub(*available)
            ),
            Self::Frozen { .. } => "find out why it was frozen (`codeswarm budget show`), then thaw it".into(),
            Self::Ledger(cause) => cause.remedy(),
            Self::Price(_) => "name a model of the price table, or add its price to the configuration".into(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            // The treasurer has already tried more than once.
            Self::Ledger(cause) if cause.retry().is_retryable() => Retry::Exhausted,
            _ => Retry::Never,
        }
    }
}
