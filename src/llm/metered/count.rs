//! Letting the provider count the input of a call that does not fit into the budget by its bytes.
//!
//! The bound by bytes needs nobody's word and always comes first; where it fits, nobody is asked. A count is an estimate, so a
//! bound that rests on it is only as good as the provider's word, and only taken where the settings say so. It is asked for
//! once per call, never again: whatever goes wrong with it leaves the bound by bytes, and is no attempt, no failure of the
//! provider and no reason to stop.

use tokio_util::sync::CancellationToken;

use super::{Metered, unpriced};
use crate::budget::WorstCaseInput;
use crate::llm::{LlmError, Prepared};
use crate::metric;

/// Bytes that a token has at most, on average over a whole body: eight times what prose has. Fewer tokens are no count.
const MOST_BYTES_PER_TOKEN: u64 = 32;

/// What is known of the count of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Count {
    /// Nobody has been asked.
    #[default]
    Open,
    /// The question was asked; a number only if it is believed.
    Asked(Option<u64>),
}

impl Metered {
    /// The count of `prepared`, asked for unless `count` knows the answer; `None` where it must not be asked for or is of no use.
    ///
    /// # Errors
    /// [`LlmError::Cancelled`]; [`LlmError::Unsupported`] for a model without a price.
    pub(super) async fn counted(
        &self,
        prepared: &Prepared,
        count: &mut Count,
        cancel: &CancellationToken,
    ) -> Result<Option<u64>, LlmError> {
        match *count {
            Count::Asked(known) => return Ok(known),
            Count::Open if !self.counts_input => return Ok(None),
            Count::Open => {}
        }
        let answered = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(LlmError::Cancelled),
            answered = self.provider.count_input(prepared) => answered,
        };
        let model = &prepared.worst_case.model;
        let most = |counted_input| {
            let input = WorstCaseInput { counted_input, ..prepared.worst_case.clone() };
            self.treasurer.prices().most_input(&input).map_err(unpriced)
        };
        let known = match answered {
            Ok(Some(tokens)) if !is_believable(tokens, prepared.worst_case.body_bytes, most(None)?) => {
                tracing::warn!(%model, tokens, "the provider's count of a call's input is absurd; its bytes count");
                metric::input_counted(model, "absurd");
                None
            }
            Ok(Some(tokens)) if most(Some(tokens))? < most(None)? => {
                metric::input_counted(model, "smaller");
                Some(tokens)
            }
            Ok(Some(_)) => {
                metric::input_counted(model, "no_smaller");
                None
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%model, %error, "the input of a call could not be counted; its bytes count");
                metric::input_counted(model, "failed");
                None
            }
        };
        *count = Count::Asked(known);
        Ok(known)
    }
}

/// Whether a count of a body of so many bytes can be one; `most` is what its bytes prove.
const fn is_believable(tokens: u64, bytes: u64, most: u64) -> bool {
    tokens > 0 && tokens <= most && tokens >= bytes / MOST_BYTES_PER_TOKEN
}
