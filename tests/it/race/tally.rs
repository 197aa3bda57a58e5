//! The books of a job, added up entry by entry by somebody who has not kept them.
//!
//! Shares no code with any store and none with the library's own audit, so that no mistake is its own witness.

use std::collections::BTreeMap;

use codeswarm::backend::{Entry, EntryKind};

/// What the entries of a job add up to, in micro-dollars.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// By how much `spent + reserved` was ever above the limit, less what calls cost more than their bound.
    pub(super) overshoot: u64,
    pub(super) spent: u64,
    pub(super) granted: u64,
    /// Reservations that ran out, and those of them that were settled after all.
    pub(super) expired: u64,
    pub(super) late: u64,
    /// What calls cost more than was reserved for them.
    pub(super) overrun: u64,
    /// What is set aside and not ended.
    pub(super) reserved: u64,
    open: BTreeMap<String, u64>,
    charged: BTreeMap<String, u64>,
}

impl Tally {
    /// Adds up `entries`, the oldest first.
    #[track_caller]
    pub(super) fn of(entries: &[Entry], limit: u64) -> Self {
        let mut tally = Self::default();
        for entry in entries {
            tally.take(entry);
            let committed = tally.spent + tally.reserved;
            tally.overshoot = tally.overshoot.max(committed.saturating_sub(limit + tally.overrun));
        }
        // A thousand rounds are kept, and nobody asks for single reservations again.
        (tally.open, tally.charged) = Default::default();
        tally
    }

    #[track_caller]
    fn take(&mut self, entry: &Entry) {
        let id = entry.reservation.clone();
        match entry.kind {
            EntryKind::Reserve => {
                self.granted += 1;
                self.reserved += entry.reserved.0;
                assert_eq!(self.open.insert(id.clone(), entry.reserved.0), None, "{id} was reserved twice");
                assert!(!self.charged.contains_key(&id), "{id} was reserved after it was charged");
            }
            EntryKind::Expire => {
                self.expired += 1;
                assert_eq!(self.close(&id), Some(entry.charged.0), "{id} expired for another amount");
                self.charge(id, entry.charged.0);
            }
            EntryKind::Settle => {
                let was_open = self.close(&id).is_some();
                assert!(was_open || self.charged.contains_key(&id), "{id} was settled and never reserved");
                self.late += u64::from(!was_open);
                self.overrun += entry.charged.0.saturating_sub(entry.reserved.0);
                self.charge(id, entry.charged.0);
            }
            EntryKind::Release => assert!(self.close(&id).is_some(), "{id} was released and not open"),
            EntryKind::Adjust => {}
        }
    }

    /// Takes a reservation out of what is set aside.
    fn close(&mut self, id: &str) -> Option<u64> {
        let amount = self.open.remove(id);
        self.reserved -= amount.unwrap_or(0);
        amount
    }

    /// The newest charge of a reservation replaces the one before.
    fn charge(&mut self, id: String, amount: u64) {
        self.spent += amount;
        self.spent -= self.charged.insert(id, amount).unwrap_or(0);
    }
}
