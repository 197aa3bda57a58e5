//! What an attempt cost, decided against the budget wherever it is not clear.
//!
//! A reply is charged by the model that was asked or one that answered, whichever is dearest, on the terms it reported.
//! What nobody can know counts as all that was set aside; what may have been even more counts as more than that, so that
//! the ledger records it as an overrun and freezes its scopes. Nothing here may ever be cheaper than what was reported,
//! however the reply ended.

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
    // A reply that did not come to its end may have gone on for as long as it was allowed to.
    let most_output = |usage: Usage| Usage { output: usage.output.max(sent.max_tokens.into()), ..usage };
    let reported = told.usage.map(most_output);
    let known = match result {
        Ok(reply) => reply.usage,
        Err(error) if error.charge() == Charge::Nothing => return None,
        // The input is known exactly and the output at most what the request allowed, or was said to be.
        Err(LlmError::Cut { input: Some(input), .. }) => Some(reported.unwrap_or_else(|| most_output(*input))),
        Err(_) => None,
    };
    let answered = result.as_ref().ok().map(|reply| reply.model.as_str());
    let others: Vec<&str> = told.models.iter().map(String::as_str).chain(answered).collect();
    // An entry of its own is a price of its own, also under a dated name.
    let others: Vec<&str> =
        others.into_iter().filter(|other| !is_same_model(&sent.model, other) || prices.get(other).is_some()).collect();
    let charge = |usage: Option<&Usage>| prices.charge_reply(sent, &others, usage, &told.terms);
    let amount = match (known, reported) {
        (Some(known), _) => charge(Some(&known)),
        (None, None) => charge(None).map(|most| most.max(reserved)),
        (None, Some(reported)) => {
            charge(None).zip(charge(Some(&reported))).map(|(most, said)| most.max(said).max(reserved))
        }
    };
    let usage = known.or_else(|| reported.filter(|said| exceeds(prices, sent, said))).unwrap_or_default();
    let amount = amount.unwrap_or_else(|| {
        let models = std::iter::once(sent.model.as_str()).chain(others.iter().copied());
        let plain =
            known.or(reported).and_then(|usage| models.filter_map(|model| prices.charge(model, &usage).ok()).max());
        tracing::error!(
            asked = sent.model,
            answered = others.join(", "),
            terms = told.terms.in_words(),
            "a reply was made by a model or on terms that have no price: it counts as dearer than what was reserved"
        );
        beyond(reserved).max(plain.unwrap_or_default())
    });
    Some(Settlement { amount, usage })
}

/// True when so many tokens are more than what was set aside of them, so that they must be counted themselves.
fn exceeds(prices: &PriceTable, sent: &WorstCaseInput, usage: &Usage) -> bool {
    prices.worst(sent).is_ok_and(|worst| usage.total() > worst.tokens)
}

/// The least amount that the ledger takes for an overrun.
const fn beyond(reserved: MicroUsd) -> MicroUsd {
    MicroUsd(reserved.0.saturating_add(1))
}
