//! The attempts this process is claiming or working on.
//!
//! A message may come twice to one process (a new leader publishes again, a lease has run out). The claim in the state store
//! cannot tell two slots of one process apart, so the second delivery has to be held back here. This must never decide
//! between processes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The keys of the attempts. Std mutex: held for a set operation only.
#[derive(Debug, Clone, Default)]
pub(super) struct Underway(Arc<Mutex<HashSet<String>>>);

/// One attempt, until dropped.
#[derive(Debug)]
pub(super) struct Entered {
    underway: Underway,
    key: String,
}

impl Underway {
    /// Notes that `key` is being worked on; `None` when it is already.
    pub(super) fn enter(&self, key: String) -> Option<Entered> {
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        is_new.then(|| Entered { underway: self.clone(), key })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.underway.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_can_be_entered_again_only_after_it_was_left() {
        let underway = Underway::default();
        let entered = underway.enter("a".into());
        assert!(entered.is_some() && underway.enter("a".into()).is_none() && underway.enter("b".into()).is_some());
        drop(entered);
        assert!(underway.enter("a".into()).is_some());
    }
}
