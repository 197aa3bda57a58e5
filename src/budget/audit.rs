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

/// A reservation as its entries tell it: whose it is, what is set aside and what is charged.
#[derive(Debug, Default)]
struct Told {
    job: Option<String>,
    task: Option<String>,
    agent: Option<String>,
    reserved: MicroUsd,
    charged: MicroUsd,
    /// Tokens of a call that nothing was set aside for: its model is free.
    free_tokens: u64,
}

impl Told {
    fn job(&self) -> &str {
        self.job.as_deref().unwrap_or_default()
    }
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
        told.task = told.task.take().or(entry.task);
        told.agent = told.agent.take().or(entry.agent);
        if entry.kind != EntryKind::Reserve {
            told.free_tokens = if entry.reserved == MicroUsd::ZERO { entry.usage.total() } else { 0 };
        }
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
        self.by(Told::job)
    }

    /// The sums of agent types in their jobs.
    #[must_use]
    pub fn agents(&self) -> BTreeMap<(&str, &str), Sum> {
        self.by(|told| (told.job(), told.agent.as_deref().unwrap_or_default()))
    }

    /// The sums of tasks in their jobs; the name of a task is empty where an entry does not tell it.
    #[must_use]
    pub fn tasks(&self) -> BTreeMap<(&str, &str), Sum> {
        self.by(|told| (told.job(), told.task.as_deref().unwrap_or_default()))
    }

    /// Tokens that calls of free models have counted, by job. More may be charged: of a call that counted none, all that were
    /// set aside.
    #[must_use]
    pub fn free_tokens(&self) -> BTreeMap<&str, u64> {
        let mut jobs: BTreeMap<&str, u64> = BTreeMap::new();
        for told in self.reservations.values() {
            let sum = jobs.entry(told.job()).or_default();
            *sum = sum.saturating_add(told.free_tokens);
        }
        jobs
    }

    fn by<'a, K: Ord>(&'a self, key: impl Fn(&'a Told) -> K) -> BTreeMap<K, Sum> {
        let mut sums: BTreeMap<K, Sum> = BTreeMap::new();
        for told in self.reservations.values() {
            let sum = sums.entry(key(told)).or_default();
            *sum = add(*sum, told);
        }
        sums
    }
}

impl Sum {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { spent: self.spent.saturating_add(other.spent), reserved: self.reserved.saturating_add(other.reserved) }
    }
}

const fn add(sum: Sum, told: &Told) -> Sum {
    sum.plus(Sum { spent: told.charged, reserved: told.reserved })
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
            task: Some(format!("of-{reservation}")),
            agent: Some("coder".into()),
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

    #[test]
    fn sums_are_told_by_agent_type_and_task_and_free_tokens_by_job() {
        let mut audit = Audit::default();
        let usage = Usage { input: 2, output: 5, ..Usage::default() };
        for line in [
            entry(EntryKind::Reserve, "a", 10, 0),
            entry(EntryKind::Reserve, "free", 0, 0),
            Entry { usage, ..entry(EntryKind::Settle, "free", 0, 0) },
            Entry { usage, ..entry(EntryKind::Settle, "a", 10, 4) },
            entry(EntryKind::Reserve, "b", 20, 0),
        ] {
            audit.take(line);
        }
        let (four, twenty) = (MicroUsd(4), MicroUsd(20));
        assert_eq!(audit.agents()[&("j", "coder")], Sum { spent: four, reserved: twenty });
        assert_eq!(audit.tasks()[&("j", "of-a")], Sum { spent: four, reserved: MicroUsd::ZERO });
        assert_eq!(audit.tasks()[&("j", "of-b")], Sum { spent: MicroUsd::ZERO, reserved: twenty });
        assert_eq!(audit.free_tokens()["j"], 7);
    }
}
