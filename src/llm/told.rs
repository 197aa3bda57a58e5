//! What a reply has said so far about its price, kept where whoever settles can read it.
//!
//! A call can end in more ways than a reply or an error could tell of: cut, silent, cancelled, given up from outside. In
//! each of them it matters which model had begun to answer and on which terms, so this is noted while the reply is being
//! read. It only grows more exact; what was said once must never be forgotten before the call is settled.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::budget::Terms;
use crate::protocol::Usage;

/// What a reply has said so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// Every model that answers, as it names itself; none until it does.
    pub models: BTreeSet<String>,
    /// The most that was reported of each kind of token, however the reply ends; `None` until something is.
    pub usage: Option<Usage>,
    /// What changes the price besides tokens.
    pub terms: Terms,
}

/// Where it is noted; clones share it.
#[derive(Debug, Clone, Default)]
pub struct ToldSlot {
    /// Name of the endpoint with a slash; nothing for the one that needs no name.
    prefix: Arc<str>,
    told: Arc<Mutex<Told>>,
}

impl ToldSlot {
    /// The same place, for an endpoint that does not know its own name.
    #[must_use]
    pub fn prefixed(&self, prefix: &str) -> Self {
        Self { prefix: prefix.into(), told: Arc::clone(&self.told) }
    }

    /// Notes what has been said up to now.
    pub fn note(&self, mut told: Told) {
        if !self.prefix.is_empty() {
            told.models = told.models.iter().map(|model| format!("{}{model}", self.prefix)).collect();
            for model in told.terms.parts.iter_mut().filter_map(|part| part.model.as_mut()) {
                model.insert_str(0, &self.prefix);
            }
        }
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }

    /// What has been said.
    #[must_use]
    pub fn take(&self) -> Told {
        std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
