//! [`Ledger`] on counters whose every step is in the journal as well.
//!
//! A reservation is written down while the counters are asked, and used only when both have answered and the books are
//! still those: a rebuild that began meanwhile may have read the journal too early. What is refused for certain is taken
//! back; what is in doubt stays, for money may be behind it. While the books are lost nothing is written down at all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::books::Books;
use super::{Counters, Journal, Record};
use crate::backend::bound::check_reservation;
use crate::backend::{
    Adjustment, BackendError, Balance, Entry, EntryFilter, Ledger, Rebuilt, ReserveOutcome, ReserveRequest, Scope,
    SettleOutcome, Settlement, Standing,
};
use crate::clock::{Clock, Timestamp};

/// How often a step is repeated whose books were made anew under it.
const REPEATS: usize = 3;

/// Pause between looks for the books' new name by a process that does nothing else with them.
const FOLLOW: Duration = Duration::from_secs(1);

/// Reservations of this process between looks for those that nobody will end any more.
const KEPT: usize = 1_024;

/// A ledger whose every step is in the journal as well.
pub(in crate::backend) struct Journaled {
    books: Arc<Books>,
    /// True until the counters have answered, and again once they were found to be lost.
    is_lost: AtomicBool,
    /// What this process was granted and has not ended, and when nobody will end it any more.
    granted: Mutex<HashMap<String, (ReserveRequest, Timestamp)>>,
    _following: AbortOnDropHandle<()>,
}

/// Learns the books' new name also for a process that asks them nothing, but takes over from dead ones.
async fn follow(books: Weak<Books>, losses: Arc<Notify>) {
    loop {
        losses.notified().await;
        let Some(books) = books.upgrade() else { return };
        if let Err(error) = books.adopt(&books.counters.known().0).await {
            tracing::debug!(%error, "the books' name cannot be asked for");
        }
        drop(books);
        tokio::time::sleep(FOLLOW).await;
    }
}

fn made_anew() -> BackendError {
    BackendError::Unavailable { store: "ledger", reason: "the books were made anew during the step".into() }
}

impl Journaled {
    /// Brings counters and journal together: they must belong to each other, or the counters are taken for lost.
    pub(in crate::backend) async fn join(
        counters: Arc<dyn Counters>,
        journal: Arc<dyn Journal>,
        clock: Clock,
    ) -> Result<Self, BackendError> {
        let losses = counters.losses();
        let books = Arc::new(Books::new(counters, journal, clock));
        books.join().await?;
        let following = AbortOnDropHandle::new(tokio::spawn(follow(Arc::downgrade(&books), losses)));
        Ok(Self { books, is_lost: AtomicBool::new(true), granted: Mutex::default(), _following: following })
    }

    fn granted(&self) -> MutexGuard<'_, HashMap<String, (ReserveRequest, Timestamp)>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what a grant was for, in case the books forget it.
    fn remember(&self, request: ReserveRequest) {
        let now = self.books.clock.now();
        let mut granted = self.granted();
        if granted.len() % KEPT == KEPT - 1 {
            granted.retain(|_, (_, until)| *until > now);
        }
        // Whoever is late ends it within another lease, if at all.
        let until = now.after(request.lease.saturating_mul(2));
        granted.insert(request.id.clone(), (request, until));
    }

    fn record_of(&self, request: &ReserveRequest) -> Record {
        let at = self.books.clock.now();
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
            entry: self.books.counters.known().1,
        }
    }

    /// Makes a step of the counters; once more if they are lost for this process only, because they have a new name.
    async fn steadily<T, F>(&self, step: impl Fn() -> F + Send + Sync) -> Result<T, BackendError>
    where
        T: Send,
        F: Future<Output = Result<T, BackendError>> + Send,
    {
        let tried = self.books.counters.known().0;
        let mut outcome = step().await;
        if matches!(outcome, Err(BackendError::DataLost { .. })) {
            match self.books.adopt(&tried).await {
                Ok(true) => outcome = step().await,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "the books' name cannot be asked for"),
            }
        }
        match &outcome {
            Ok(_) => self.is_lost.store(false, Ordering::Relaxed),
            Err(BackendError::DataLost { .. }) => self.is_lost.store(true, Ordering::Relaxed),
            Err(_) => {}
        }
        outcome
    }

    async fn reserve_once(&self, request: ReserveRequest) -> Result<ReserveOutcome, BackendError> {
        let Books { counters, journal, .. } = &*self.books;
        if self.is_lost.load(Ordering::Relaxed) {
            // What cannot be granted anyway leaves no record.
            counters.balance(&Scope::Account).await?;
        }
        let (epoch, _) = counters.known();
        let record = self.record_of(&request);
        // Side by side: what is written down and not granted is taken back, what is granted and not written down is not used.
        let (outcome, written) = tokio::join!(counters.reserve(request.clone()), journal.append(record));
        let is_refused = match &outcome {
            Ok(outcome) => *outcome != ReserveOutcome::Granted,
            Err(error) => changed_nothing(error),
        };
        if is_refused && written.is_ok() {
            // Before the caller may try the same id with less.
            journal.note(Record::Void { id: request.id.clone() }).await;
        }
        let outcome = outcome?;
        if outcome == ReserveOutcome::Granted {
            // Not given back here when it could not be written down: the caller does that, or asks again under the same id,
            // which is answered with the grant, and by then there must still be money behind it.
            written?;
            if !self.books.are_still(&epoch).await? {
                return Err(made_anew());
            }
            self.remember(request);
        }
        Ok(outcome)
    }

    /// Charges a call on books that have forgotten its reservation, as far as this process has not.
    async fn settle_forgotten(&self, id: &str, settlement: Settlement) -> Result<SettleOutcome, BackendError> {
        let Books { counters, journal, .. } = &*self.books;
        let known = self.granted().get(id).map(|(request, _)| request.clone());
        let Some(request) = known else {
            return Err(BackendError::NotFound { what: format!("reservation {id}") });
        };
        tracing::warn!(reservation = id, "the books have forgotten a reservation; its call is charged all the same");
        journal.append(self.record_of(&request)).await?;
        counters.enter(&request).await?;
        counters.settle(id, settlement).await
    }
}

/// True for errors after which nothing has been set aside by the step.
const fn changed_nothing(error: &BackendError) -> bool {
    matches!(error, BackendError::DataLost { .. } | BackendError::Invalid { .. } | BackendError::Storage { .. })
}

#[async_trait]
impl Ledger for Journaled {
    async fn reserve(&self, request: ReserveRequest) -> Result<ReserveOutcome, BackendError> {
        check_reservation(&request)?;
        self.steadily(|| self.reserve_once(request.clone())).await
    }

    async fn settle(&self, id: &str, settlement: Settlement) -> Result<SettleOutcome, BackendError> {
        let Books { counters, journal, clock, .. } = &*self.books;
        for _ in 0..REPEATS {
            let (epoch, _) = counters.known();
            let outcome = match self.steadily(|| counters.settle(id, settlement)).await {
                Err(BackendError::NotFound { .. }) => self.settle_forgotten(id, settlement).await?,
                outcome => outcome?,
            };
            let record = Record::Settle {
                id: id.to_owned(),
                amount: outcome.charged,
                usage: settlement.usage,
                at: clock.now(),
                entry: counters.known().1,
            };
            if !outcome.overrun {
                journal.note(record).await;
            } else {
                // More than the reservation: the one settlement that a rebuild must not miss.
                journal.append(record).await?;
                if !self.books.are_still(&epoch).await? {
                    continue;
                }
            }
            self.granted().remove(id);
            return Ok(outcome);
        }
        Err(made_anew())
    }

    async fn release(&self, id: &str) -> Result<(), BackendError> {
        let Books { counters, journal, clock, .. } = &*self.books;
        if self.steadily(|| counters.give_back(id)).await? {
            let (_, entry) = counters.known();
            journal.note(Record::Release { id: id.to_owned(), at: clock.now(), entry }).await;
        }
        self.granted().remove(id);
        Ok(())
    }

    async fn expire(&self) -> Result<Vec<String>, BackendError> {
        self.steadily(|| self.books.counters.expire()).await
    }

    async fn adjust(&self, request: &str, scope: &Scope, adjustment: Adjustment) -> Result<Balance, BackendError> {
        let Books { counters, journal, clock, .. } = &*self.books;
        for _ in 0..REPEATS {
            let (epoch, _) = counters.known();
            let (balance, entry) = self.steadily(|| counters.change(request, scope, adjustment)).await?;
            let record = Record::Adjust {
                request: request.to_owned(),
                scope: scope.to_string(),
                limit: balance.limit,
                hold_back: balance.hold_back,
                frozen: balance.frozen,
                at: clock.now(),
                note: adjustment.note(scope),
                spent: Some(balance.spent),
                reserved: Some(balance.reserved),
                entry,
            };
            journal.append(record).await?;
            if self.books.are_still(&epoch).await? {
                return Ok(balance);
            }
        }
        Err(made_anew())
    }

    async fn balance(&self, scope: &Scope) -> Result<Balance, BackendError> {
        self.steadily(|| self.books.counters.balance(scope)).await
    }

    async fn entries(&self, filter: EntryFilter) -> Result<Vec<Entry>, BackendError> {
        self.steadily(|| self.books.counters.entries(filter.clone())).await
    }

    async fn rebuild(&self, even_if_whole: bool) -> Result<Option<Rebuilt>, BackendError> {
        self.books.rebuild(even_if_whole).await.map(Some)
    }

    async fn standing(&self) -> Result<Option<Standing>, BackendError> {
        self.books.standing().await.map(Some)
    }
}
