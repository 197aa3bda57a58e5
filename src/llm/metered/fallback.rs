//! Falling back from one model to the next, each of them paid for on its own.
//!
//! Only what another model or provider can be better at moves on: attempts that are used up, a provider that wants a long
//! pause, a model that does not exist or may not be used, a refusal. A budget that says no, a ledger that does not answer
//! and a cancellation are never answered by a call to somebody else. What all models cost together is one outcome.

use tokio_util::sync::CancellationToken;

use super::{CallOutcome, Metered};
use crate::budget::CallContext;
use crate::error::{Coded, Retry};
use crate::llm::{LlmError, LlmReply, LlmRequest, StopReason};
use crate::protocol::{MicroUsd, Usage};

impl Metered {
    /// Makes one call: of the request's model and, if that cannot answer, of its fallbacks one after another, each in as
    /// many attempts as the retry policy allows.
    ///
    /// `request.max_tokens` may be lowered to what the budget allows, but not below `min_output_tokens`. Errors before
    /// an attempt is sent (no price, no money, no ledger) end the call at once. A provider that asks for a longer wait
    /// than the policy honours ends it too: its [`LlmError::Status`] then says [`Retry::After`].
    pub async fn call(
        &self,
        mut request: LlmRequest,
        context: &CallContext,
        min_output_tokens: u32,
        cancel: &CancellationToken,
    ) -> CallOutcome {
        let mut models = std::mem::take(&mut request.fallbacks).into_iter();
        let mut outcome = self.call_model(request.clone(), context, min_output_tokens, cancel).await;
        while moves_on(&outcome.result) && !cancel.is_cancelled() {
            let Some(model) = models.next() else { break };
            tracing::warn!(job = %context.job, task = %context.task, from = request.model, to = model, "falling back");
            request.model = model;
            // What failed before says nothing about this model.
            let context = &context.clone().after_failed_calls(0);
            let next = self.call_model(request.clone(), context, min_output_tokens, cancel).await;
            outcome = joined(outcome, next);
        }
        outcome.model = request.model;
        outcome
    }
}

/// True for an end after which another model may do better.
fn moves_on(result: &Result<LlmReply, LlmError>) -> bool {
    match result {
        Ok(reply) => matches!(reply.stop, StopReason::Refusal(_)),
        Err(LlmError::Exhausted { .. } | LlmError::Unsupported(_) | LlmError::NotAdmitted { .. }) => true,
        // The same bytes are too large for everybody in front of whom the same proxy stands.
        Err(LlmError::Status { status: 413, .. }) => false,
        Err(error @ LlmError::Status { .. }) => matches!(error.retry(), Retry::Never | Retry::After(_)),
        Err(_) => false,
    }
}

/// Both calls as one. Of two failures the one that says when to come back is kept, because it burns no attempt.
fn joined(first: CallOutcome, second: CallOutcome) -> CallOutcome {
    let result = match (first.result, second.result) {
        (Err(first), Err(second)) if says_when(&first) && !is_final(&second) && !says_when(&second) => Err(first),
        (_, result) => result,
    };
    CallOutcome {
        result,
        cost: MicroUsd(first.cost.0.saturating_add(second.cost.0)),
        usage: Usage::plus(first.usage, second.usage),
        attempts: first.attempts + second.attempts,
        failed: first.failed + second.failed,
        overrun: second.overrun.or(first.overrun),
        model: second.model,
    }
}

fn says_when(error: &LlmError) -> bool {
    matches!(error.retry(), Retry::After(_))
}

/// Errors that have to reach the caller as they are, whatever happened before.
fn is_final(error: &LlmError) -> bool {
    matches!(
        error,
        LlmError::BudgetRefused { .. }
            | LlmError::TokensRefused { .. }
            | LlmError::Frozen { .. }
            | LlmError::Ledger(_)
            | LlmError::Cancelled
    )
}
