//! One step of the money as the journal keeps it.
//!
//! A record says what became of a step, not what was asked for, so that doing it again needs no decision. Where it follows a
//! step it carries the number of the newest entry that its process has seen: counters with a lower one are older than the
//! journal. Fields may be added, each with a default; what is written once must be understood for ever.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::protocol::{MicroUsd, Usage};

/// One step of the money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub(in crate::backend) enum Record {
    /// Money is about to be set aside.
    Reserve {
        /// The reservation.
        id: String,
        /// Names of its scopes.
        scopes: Vec<String>,
        /// The worst case of the call.
        amount: MicroUsd,
        /// The most tokens it can use, where they are counted.
        #[serde(default, skip_serializing_if = "is_zero")]
        tokens: u64,
        /// When.
        at: Timestamp,
        /// End of its lease.
        until: Timestamp,
        /// Who makes the call.
        instance: String,
        /// For the record.
        job: String,
        /// For the record.
        task: String,
        /// For the record.
        agent: String,
        /// For the record.
        model: String,
        /// The newest entry that its process has seen.
        #[serde(default, skip_serializing_if = "is_zero")]
        entry: u64,
    },
    /// It was not set aside after all.
    Void {
        /// The reservation.
        id: String,
    },
    /// A call was charged.
    Settle {
        /// The reservation.
        id: String,
        /// The charge.
        amount: MicroUsd,
        /// The tokens behind it.
        usage: Usage,
        /// When.
        at: Timestamp,
        /// The newest entry that its process has seen.
        #[serde(default, skip_serializing_if = "is_zero")]
        entry: u64,
    },
    /// Money was given back.
    Release {
        /// The reservation.
        id: String,
        /// When.
        at: Timestamp,
        /// The newest entry that its process has seen.
        #[serde(default, skip_serializing_if = "is_zero")]
        entry: u64,
    },
    /// A scope was changed.
    Adjust {
        /// The request.
        request: String,
        /// Name of the scope.
        scope: String,
        /// Its limit from then on.
        limit: Option<MicroUsd>,
        /// What it holds back from then on.
        hold_back: MicroUsd,
        /// Whether it is frozen from then on.
        frozen: bool,
        /// When.
        at: Timestamp,
        /// What changed, for people.
        note: String,
        /// What was spent then, for whoever asks again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spent: Option<MicroUsd>,
        /// What was set aside then, for whoever asks again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reserved: Option<MicroUsd>,
        /// The newest entry that its process has seen.
        #[serde(default, skip_serializing_if = "is_zero")]
        entry: u64,
    },
    /// The journal was lost and is begun anew from the counters: all before this is contained in what follows.
    Seed {
        /// What the books are called from then on, if this is the seed that counts: the journal's first name.
        epoch: String,
        /// When.
        at: Timestamp,
        /// The newest entry of the counters.
        entry: u64,
    },
    /// What a scope had when the journal was begun anew.
    Carry {
        /// The seed it belongs to.
        epoch: String,
        /// Name of the scope.
        scope: String,
        /// Its limit.
        limit: Option<MicroUsd>,
        /// What it holds back.
        hold_back: MicroUsd,
        /// Whether it is frozen.
        frozen: bool,
        /// What was spent in it.
        spent: MicroUsd,
        /// How much of that no other carried scope enters into the record.
        charged: MicroUsd,
        /// Its job, for the record.
        job: String,
        /// Its agent type, for the record.
        agent: String,
        /// When.
        at: Timestamp,
        /// The newest entry of the counters.
        entry: u64,
    },
}

impl Record {
    /// The newest entry of the counters that it knows of.
    pub(in crate::backend) const fn entry(&self) -> u64 {
        match self {
            Self::Reserve { entry, .. }
            | Self::Settle { entry, .. }
            | Self::Release { entry, .. }
            | Self::Adjust { entry, .. }
            | Self::Seed { entry, .. }
            | Self::Carry { entry, .. } => *entry,
            Self::Void { .. } => 0,
        }
    }

    /// The reservation that it announces, if it does that.
    pub(in crate::backend) fn announces(&self) -> Option<&str> {
        match self {
            Self::Reserve { id, .. } => Some(id),
            _ => None,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of each kind as it was written before it had all of today's fields, and as it is written today.
    const OLD: &str = include_str!("records_old.json");
    const NEW: &str = include_str!("records.json");

    #[test]
    fn what_was_written_once_is_read_for_ever() {
        let old: Vec<Record> = serde_json::from_str(OLD).unwrap();
        assert_eq!(old.len(), 5);
        assert!(old.iter().all(|record| record.entry() == 0));
    }

    #[test]
    fn records_are_written_as_they_always_were() {
        let records: Vec<Record> = serde_json::from_str(NEW).unwrap();
        let golden: serde_json::Value = serde_json::from_str(NEW).unwrap();
        assert_eq!(serde_json::to_value(&records).unwrap(), golden);
        assert_eq!(records.iter().map(Record::entry).collect::<Vec<_>>(), [7, 0, 8, 9, 10, 11, 12]);
    }
}
