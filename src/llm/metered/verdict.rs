//! What an attempt cost, decided against the budget wherever it is not clear.
//!
//! A reply is charged by the model that was asked or the one that answered, whichever is dearer, on the terms it reported.
//! What nobody can know counts as all that was set aside; what may have been even more counts as more than that, so that
//! the ledger records it as an overrun and freezes its scopes. Nothing here may ever be cheaper than what was reported.

use super::{Charge, LlmError, LlmReply, is_same_model};
use crate::backend::Settlement;
use crate::budget::{PriceTable, WorstCaseInput};
use crate::llm::told::Told;
use crate::protocol::{MicroUsd, Usage};

/// What an attempt costs: `None` is provably nothing, anything unknown at least the whole reservation.
pub(super) fn verdict(
    prices: &PriceTable,
    sent: &WorstCaseInput,
    result: &Result<LlmReply, LlmError>,
    told: &Told,
    reserved: MicroUsd,
) -> Option<Settlement> {
    let usage = match result {
        Ok(reply) => reply.usage,
        // The input is known exactly and the output at most what the request allowed.
        Err(LlmError::Cut { input: Some(input), .. }) => Some(Usage { output: u64::from(sent.max_tokens), ..*input }),
        Err(error) if error.charge() == Charge::Nothing => return None,
        Err(_) => None,
    };
    let answered = result.as_ref().ok().map(|reply| reply.model.as_str()).or(told.model.as_deref());
    let another = answered.filter(|model| !is_same_model(&sent.model, model));
    let amount = match prices.charge_reply(sent, another, usage.as_ref(), &told.terms) {
        Some(known) if usage.is_some() => known,
        Some(most) => most.max(reserved),
        None => {
            tracing::error!(
                asked = sent.model, answered, terms = ?told.terms,
                "a reply was made by a model or on terms that have no price: it counts as dearer than what was reserved"
            );
            beyond(reserved)
        }
    };
    Some(Settlement { amount, usage: usage.unwrap_or_default() })
}

/// The least amount that the ledger takes for an overrun.
const fn beyond(reserved: MicroUsd) -> MicroUsd {
    MicroUsd(reserved.0.saturating_add(1))
}
