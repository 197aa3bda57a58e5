//! The ledger's journal: every step of the money, kept apart from the counters, so that their loss can be made good.
//!
//! Redis answers how much is left and NATS remembers how it came to that. A reservation is in the journal before the call it
//! pays for is made, so a journal never knows of less than was spent; a settlement follows when it can, and one that is
//! lost leaves its reservation charged in full. Nothing here decides about money, and nothing may be granted while
//! counters and journal are known to disagree.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    Adjustment, BackendError, Balance, Entry, EntryFilter, Ledger, Rebuilt, ReserveOutcome, ReserveRequest, Scope,
    SettleOutcome, Settlement,
};
use crate::clock::{Clock, Timestamp};
use crate::protocol::{MicroUsd, Usage};

/// One step of the money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub(super) enum Record {
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
    },
    /// Money was given back.
    Release {
        /// The reservation.
        id: String,
        /// When.
        at: Timestamp,
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
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(tokens: &u64) -> bool {
    *tokens == 0
}

/// Where records are kept.
#[async_trait]
pub(super) trait Journal: Send + Sync {
    /// Adds a record, durably before it answers.
    async fn append(&self, record: Record) -> Result<(), BackendError>;

    /// Adds a record when it can; one that is lost makes the books say too much, never too little.
    fn post(&self, record: Record);

    /// Records after the page `after` (0 for all), oldest first, and the page they end with; none at the end.
    async fn read(&self, after: u64) -> Result<Option<(u64, Vec<Record>)>, BackendError>;

    /// The name of the counters that this journal belongs to; `epoch` if it has none yet.
    async fn epoch(&self, epoch: Option<&str>) -> Result<Option<String>, BackendError>;
}

/// Counters that can be written anew.
#[async_trait]
pub(super) trait Counters: Ledger {
    /// Goes by the counters called `epoch`; without a name by those that are there, which are made if there are none.
    /// Answers their name.
    async fn adopt(&self, epoch: Option<&str>) -> Result<String, BackendError>;

    /// Removes all counters and keeps everybody from using them. With `must_be_lost` only if they are lost already.
    async fn clear(&self, must_be_lost: bool) -> Result<(), BackendError>;

    /// Does again what `records` say was done.
    async fn replay(&self, records: &[Record]) -> Result<(), BackendError>;

    /// Lets everybody use the counters again.
    async fn open(&self) -> Result<(), BackendError>;
}

/// A ledger whose every step is in the journal as well.
pub(super) struct Journaled {
    counters: Arc<dyn Counters>,
    journal: Arc<dyn Journal>,
    clock: Clock,
}

impl Journaled {
    /// Brings counters and journal together: they must belong to each other, or the counters are taken for lost.
    pub(super) async fn join(
        counters: Arc<dyn Counters>,
        journal: Arc<dyn Journal>,
        clock: Clock,
    ) -> Result<Self, BackendError> {
        let known = journal.epoch(None).await?;
        let epoch = counters.adopt(known.as_deref()).await?;
        if known.is_none() {
            // Of two processes that are the first, one names the counters; both go by that name.
            let holds = journal.epoch(Some(&epoch)).await?;
            counters.adopt(holds.as_deref()).await?;
        }
        Ok(Self { counters, journal, clock })
    }

    fn record_of(&self, request: &ReserveRequest) -> Record {
        let at = self.clock.now();
        Record::Reserve {
            id: request.id.clone(),
            scopes: request.scopes.iter().map(ToString::to_string).collect(),
            amount: request.amount,
            tokens: request.tokens,
            at,
            until: at.after(request.lease.max(Duration::from_millis(1))),
            instance: request.instance.to_string(),
            job: request.job.to_string(),
            task: request.task.to_string(),
            agent: request.agent.to_string(),
            model: request.model.clone(),
        }
    }
}

#[async_trait]
impl Ledger for Journaled {
    async fn reserve(&self, request: ReserveRequest) -> Result<ReserveOutcome, BackendError> {
        let id = request.id.clone();
        let record = self.record_of(&request);
        // Side by side: what is written down and not granted is taken back, what is granted and not written down is not used.
        let (outcome, written) = tokio::join!(self.counters.reserve(request), self.journal.append(record));
        match (outcome?, written) {
            // Not given back here when it could not be written down: the caller does that, or asks again under the same id,
            // which is answered with the grant, and by then there must still be money behind it.
            (ReserveOutcome::Granted, written) => written.map(|()| ReserveOutcome::Granted),
            (refused, _) => {
                // Before the caller may try the same id with less.
                if let Err(error) = self.journal.append(Record::Void { id }).await {
                    tracing::warn!(%error, "a refused reservation stays in the journal; a rebuild would count it");
                }
                Ok(refused)
            }
        }
    }

    async fn settle(&self, id: &str, settlement: Settlement) -> Result<SettleOutcome, BackendError> {
        let outcome = self.counters.settle(id, settlement).await?;
        let record = Record::Settle {
            id: id.to_owned(),
            amount: outcome.charged,
            usage: settlement.usage,
            at: self.clock.now(),
        };
        if outcome.overrun {
            // More than the reservation: the one settlement that a rebuild must not miss.
            self.journal.append(record).await?;
        } else {
            self.journal.post(record);
        }
        Ok(outcome)
    }

    async fn release(&self, id: &str) -> Result<(), BackendError> {
        self.counters.release(id).await?;
        self.journal.post(Record::Release { id: id.to_owned(), at: self.clock.now() });
        Ok(())
    }

    async fn expire(&self) -> Result<Vec<String>, BackendError> {
        self.counters.expire().await
    }

    async fn adjust(&self, request: &str, scope: &Scope, adjustment: Adjustment) -> Result<Balance, BackendError> {
        let balance = self.counters.adjust(request, scope, adjustment).await?;
        let record = Record::Adjust {
            request: request.to_owned(),
            scope: scope.to_string(),
            limit: balance.limit,
            hold_back: balance.hold_back,
            frozen: balance.frozen,
            at: self.clock.now(),
            note: adjustment.note(scope),
        };
        self.journal.append(record).await?;
        Ok(balance)
    }

    async fn balance(&self, scope: &Scope) -> Result<Balance, BackendError> {
        self.counters.balance(scope).await
    }

    async fn entries(&self, filter: EntryFilter) -> Result<Vec<Entry>, BackendError> {
        self.counters.entries(filter).await
    }

    async fn rebuild(&self, even_if_whole: bool) -> Result<Option<Rebuilt>, BackendError> {
        self.counters.clear(!even_if_whole).await?;
        let mut rebuilt = Rebuilt::default();
        let mut after = 0;
        while let Some((page, records)) = self.journal.read(after).await? {
            after = page;
            rebuilt.records += records.len() as u64;
            self.counters.replay(&records).await?;
        }
        self.counters.open().await?;
        Ok(Some(rebuilt))
    }
}
