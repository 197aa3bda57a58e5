//! The ledger's sums done again from its entries, by a second reckoning that shares no code with any store.
//!
//! A balance is what a store has counted; the entries are what it has written down. If the two differ, one of them is
//! wrong, and nobody should spend on either. This only adds up and must never change anything.

use std::collections::{BTreeMap, HashMap};

use crate::backend::{Entry, EntryKind};
use crate::protocol::MicroUsd;

/// What is spent and what is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// Charged.
    pub spent: MicroUsd,
    /// Set aside and not ended.
    pub reserved: MicroUsd,
}

/// A reservation as its entries tell it: its job, what is set aside and what is charged.
#[derive(Debug, Default)]
struct Told {
    job: Option<String>,
    reserved: MicroUsd,
    charged: MicroUsd,
}

/// Adds entries up, page by page.
#[derive(Debug, Default)]
pub struct Audit {
    reservations: HashMap<String, Told>,
}

impl Audit {
    /// Takes one more entry; entries have to come in their order.
    pub fn take(&mut self, entry: Entry) {
        if entry.kind == EntryKind::Adjust {
            return;
        }
        let told = self.reservations.entry(entry.reservation).or_default();
        told.job = told.job.take().or(entry.job);
        // The newest charge of a reservation replaces the ones before.
        (told.reserved, told.charged) = match entry.kind {
            EntryKind::Reserve => (entry.reserved, told.charged),
            _ => (MicroUsd::ZERO, entry.charged),
        };
    }

    /// The sum of everything.
    #[must_use]
    pub fn account(&self) -> Sum {
        self.reservations.values().fold(Sum::default(), add)
    }

    /// The sums of jobs.
    #[must_use]
    pub fn jobs(&self) -> BTreeMap<&str, Sum> {
        let mut jobs: BTreeMap<&str, Sum> = BTreeMap::new();
        for told in self.reservations.values() {
            let sum = jobs.entry(told.job.as_deref().unwrap_or_default()).or_default();
            *sum = add(*sum, told);
        }
        jobs
    }
}

fn add(sum: Sum, told: &Told) -> Sum {
    Sum { spent: sum.spent.saturating_add(told.charged), reserved: sum.reserved.saturating_add(told.reserved) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::protocol::Usage;

    fn entry(kind: EntryKind, reservation: &str, reserved: u64, charged: u64) -> Entry {
        Entry {
            id: 0,
            at: Timestamp(0),
            kind,
            reservation: reservation.into(),
            job: Some(if reservation == "c" { "other" } else { "j" }.into()),
            task: None,
            agent: None,
            model: None,
            reserved: MicroUsd(reserved),
            charged: MicroUsd(charged),
            usage: Usage::default(),
            note: String::new(),
        }
    }

    #[test]
    fn the_newest_charge_of_a_reservation_counts_once() {
        let mut audit = Audit::default();
        for line in [
            entry(EntryKind::Adjust, "limit", 0, 0),
            entry(EntryKind::Reserve, "a", 10, 0),
            entry(EntryKind::Reserve, "b", 20, 0),
            entry(EntryKind::Expire, "a", 10, 10),
            entry(EntryKind::Settle, "a", 10, 4),
            entry(EntryKind::Reserve, "c", 5, 0),
            entry(EntryKind::Release, "c", 5, 0),
        ] {
            audit.take(line);
        }
        assert_eq!(audit.account(), Sum { spent: MicroUsd(4), reserved: MicroUsd(20) });
        assert_eq!(audit.jobs()["j"], audit.account());
        assert_eq!(audit.jobs()["other"], Sum::default());
    }
}
