//! The ledger's journal: every step of the money, kept apart from the counters, so that their loss can be made good.
//!
//! Redis answers how much is left and NATS remembers how it came to that. A reservation is in the journal before the call it
//! pays for is made, so a journal never knows of less than was spent; a settlement follows when it can, and one that is
//! lost leaves its reservation charged in full. Counters and journal have the same name, and each rebuild gives them another:
//! whoever goes by an old one is refused, and learns the new one from the journal. Nothing here decides about money, and
//! nothing may be granted while counters and journal are known to disagree.

mod books;
mod journaled;
mod rebuild;
mod record;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Notify;

pub(super) use self::journaled::Journaled;
pub(super) use self::record::Record;

use super::{Adjustment, BackendError, Balance, Ledger, ReserveRequest, Scope};
use crate::clock::{Clock, random_token};

/// Begins the mark of counters that a rebuild makes anew; its token follows.
const REBUILDING: &str = "rebuilding ";

/// Begins the mark of counters that are whole, while a lost journal is begun anew from them; a token follows.
const SEEDING: &str = "seeding ";

/// Begins the mark of counters that were found to be older than what had been seen of them.
pub(super) const ROLLED_BACK: &str = "rolled back ";

/// The name of counters, or the mark on those that nobody may use.
pub(super) fn is_mark(epoch: &str) -> bool {
    [REBUILDING, SEEDING, ROLLED_BACK].iter().any(|mark| epoch.starts_with(mark))
}

/// A name that no counters ever had.
pub(super) fn fresh_name(clock: &Clock) -> String {
    format!("{}-{}", clock.now().0, random_token(16))
}

/// What a journal says the books are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    /// The name.
    pub(super) epoch: String,
    /// Where it is written; whoever writes another one has to know.
    pub(super) place: u64,
}

/// Where records are kept.
#[async_trait]
pub(super) trait Journal: Send + Sync {
    /// Adds a record, durably before it answers. After an error a reservation is not in the journal, or is taken back before
    /// anything that is added later; any other record is written as soon as it can be.
    async fn append(&self, record: Record) -> Result<(), BackendError>;

    /// Adds a record as soon as it can be written, in its order; one that is lost makes the books say too much, never too
    /// little.
    async fn note(&self, record: Record);

    /// Records after the page `after` (0 for all), oldest first, and the page they end with; none at the end.
    async fn read(&self, after: u64) -> Result<Option<(u64, Vec<Record>)>, BackendError>;

    /// The newest entry of the counters that the last records know of; `None` when there are no records.
    async fn newest(&self) -> Result<Option<u64>, BackendError>;

    /// What the books are called; `None` in a journal that has not been used yet.
    async fn name(&self) -> Result<Option<Name>, BackendError>;

    /// What they were called first.
    async fn first_name(&self) -> Result<Option<String>, BackendError>;

    /// Calls them `epoch`, unless somebody has named them since `place` (0: ever). Answers whether it did.
    async fn rename(&self, epoch: &str, place: u64) -> Result<bool, BackendError>;
}

/// What counters say about themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Their name or the mark on them; `None` where there is nothing.
    pub(super) epoch: Option<String>,
    /// Number of their newest entry.
    pub(super) entry: u64,
}

/// Counters that can be written anew.
///
/// Their steps are refused with [`BackendError::DataLost`] unless they have the name that this process goes by and at least
/// the entries that it has seen.
#[async_trait]
pub(super) trait Counters: Ledger {
    /// What is there, whatever this process goes by.
    async fn look(&self) -> Result<Found, BackendError>;

    /// Names counters that have no name; answers the name they have.
    async fn first_name(&self) -> Result<String, BackendError>;

    /// Goes by the counters called `epoch`, of which `entry` is known to have been the newest entry.
    fn go_by(&self, epoch: &str, entry: u64);

    /// The name that this process goes by, empty at first, and the newest entry it has seen.
    fn known(&self) -> (String, u64);

    /// Told whenever a step was refused because the counters are not those.
    fn losses(&self) -> Arc<Notify>;

    /// [`Ledger::release`]; answers whether the money is given back, by this step or an earlier one.
    async fn give_back(&self, id: &str) -> Result<bool, BackendError>;

    /// [`Ledger::adjust`]; answers the number of its entry as well.
    async fn change(
        &self,
        request: &str,
        scope: &Scope,
        adjustment: Adjustment,
    ) -> Result<(Balance, u64), BackendError>;

    /// Enters a reservation that these counters do not know, as one that was released: settling it charges it.
    async fn enter(&self, request: &ReserveRequest) -> Result<(), BackendError>;

    /// Puts `mark` on the counters called `found` and answers what they hold, as records of the seed `epoch`.
    async fn carry(&self, found: &str, mark: &str, epoch: &str) -> Result<Vec<Record>, BackendError>;

    /// Puts `mark` on the counters, whoever else has put one on them; with `must_be_lost` only if they are lost. Answers
    /// whether it did.
    async fn mark(&self, mark: &str, must_be_lost: bool) -> Result<bool, BackendError>;

    /// Removes all counters, as long as they have `mark`.
    async fn remove(&self, mark: &str) -> Result<(), BackendError>;

    /// Does again what `records` say was done, as long as the counters have `mark`.
    async fn replay(&self, mark: &str, records: &[Record]) -> Result<(), BackendError>;

    /// Gives the counters that have `mark` the name `epoch`; `above` every number that anybody has seen of earlier ones.
    async fn open(&self, mark: &str, epoch: &str, above: u64) -> Result<(), BackendError>;
}
