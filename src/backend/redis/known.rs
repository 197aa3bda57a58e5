//! Which of the budget's data this process goes by, and how its scripts are called.
//!
//! Every ledger script is told the name of the counters and the newest entry that this process has seen of them, and
//! answers with the newest there is. The server's order is what counts: answers may overtake one another on their way, so
//! only the highest is kept, and only the script compares. Counters that have another name, or have fewer entries than
//! somebody has seen, must never be used.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use redis::{Script, ScriptInvocation, Value};
use tokio::sync::Notify;

use super::Store;
use super::reply::Reply;
use crate::backend::BackendError;

/// A name and the newest entry seen under it.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) epoch: String,
    entry: AtomicU64,
}

impl Seen {
    pub(super) fn entry(&self) -> u64 {
        self.entry.load(Ordering::Relaxed)
    }

    fn see(&self, entry: u64) {
        self.entry.fetch_max(entry, Ordering::Relaxed);
    }
}

/// What this process knows of the counters.
#[derive(Default)]
pub(super) struct Known {
    /// None until it is settled which counters to go by.
    seen: RwLock<Option<Arc<Seen>>>,
    /// Told of every step that was refused because the counters are not those.
    pub(super) losses: Arc<Notify>,
}

impl Known {
    /// Goes by other counters, or by the same with at least `entry`.
    pub(super) fn go_by(&self, epoch: &str, entry: u64) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        match seen.as_ref().filter(|seen| seen.epoch == epoch) {
            Some(seen) => seen.see(entry),
            None => *seen = Some(Arc::new(Seen { epoch: epoch.to_owned(), entry: AtomicU64::new(entry) })),
        }
    }

    pub(super) fn seen(&self) -> Option<Arc<Seen>> {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Store {
    /// Runs one of the ledger's scripts, which all check the counters' name and newest entry first; `fill` adds the rest of
    /// its arguments.
    pub(super) async fn ledger_script(
        &self,
        script: &'static Script,
        fill: impl FnOnce(&mut ScriptInvocation<'static>) + Send,
    ) -> Result<Value, BackendError> {
        let seen = self.known.seen().unwrap_or_default();
        let mut call = self.call(script, &self.space.budget);
        call.arg(format!("{} {}", seen.epoch, seen.entry()));
        fill(&mut call);
        let answer = self.links.ask(call).await;
        if matches!(answer, Err(BackendError::DataLost { .. })) {
            self.known.losses.notify_one();
        }
        let mut reply = Reply::of(answer?)?;
        seen.see(reply.number()?);
        reply.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_highest_number_is_kept_and_another_name_begins_anew() {
        let known = Known::default();
        known.go_by("a", 5);
        let earlier = known.seen().unwrap();
        earlier.see(9);
        earlier.see(7);
        known.go_by("a", 8);
        assert_eq!(known.seen().unwrap().entry(), 9);
        known.go_by("b", 2);
        // An answer of the counters before, however late it comes.
        earlier.see(50);
        let seen = known.seen().unwrap();
        assert_eq!((seen.epoch.as_str(), seen.entry()), ("b", 2));
    }
}
