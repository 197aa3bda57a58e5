//! A ledger in memory for unit tests of this room and of those that call models: strict about the promises they rely on,
//! and able to be away. The real ledgers have their own conformance suite.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::{
    Adjustment, BackendError, Balance, Entry, EntryFilter, Ledger, Rebuilt, ReservationState, ReserveOutcome,
    ReserveRequest, Scope, SettleOutcome, Settlement,
};
use crate::protocol::MicroUsd;

/// One reservation as the ledger sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) reserved: MicroUsd,
    pub(crate) charged: MicroUsd,
    pub(crate) state: ReservationState,
}

#[derive(Default)]
struct Books {
    account: Balance,
    held: BTreeMap<String, Held>,
    /// Fails this many next operations, before doing anything.
    away: u32,
    /// Does the next reservation, but loses the answer.
    loses_answer: bool,
}

/// One balance for all scopes.
pub(crate) struct MemoryLedger(Mutex<Books>);

impl MemoryLedger {
    pub(crate) fn with_limit(limit: MicroUsd) -> Self {
        let account = Balance { limit: Some(limit), ..Balance::default() };
        Self(Mutex::new(Books { account, ..Books::default() }))
    }

    pub(crate) fn be_away_for(&self, operations: u32) {
        self.books().away = operations;
    }

    pub(crate) fn lose_next_answer(&self) {
        self.books().loses_answer = true;
    }

    pub(crate) fn account(&self) -> Balance {
        self.books().account
    }

    pub(crate) fn held(&self) -> Vec<(String, Held)> {
        self.books().held.iter().map(|(id, held)| (id.clone(), held.clone())).collect()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap()
    }

    fn present_books(&self) -> Result<MutexGuard<'_, Books>, BackendError> {
        let mut books = self.books();
        if books.away > 0 {
            books.away -= 1;
            return Err(BackendError::Unavailable { store: "memory", reason: "told to be away".into() });
        }
        Ok(books)
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn reserve(&self, request: ReserveRequest) -> Result<ReserveOutcome, BackendError> {
        let mut books = self.present_books()?;
        let scope = request.scopes[0].clone();
        if books.held.contains_key(&request.id) {
            return Ok(ReserveOutcome::Granted);
        }
        if books.account.frozen {
            return Ok(ReserveOutcome::Frozen { scope });
        }
        let available = books.account.available().unwrap();
        if request.amount > available {
            return Ok(ReserveOutcome::Refused { scope, available });
        }
        books.account.reserved.0 += request.amount.0;
        let held = Held { reserved: request.amount, charged: MicroUsd::ZERO, state: ReservationState::Open };
        books.held.insert(request.id, held);
        if std::mem::take(&mut books.loses_answer) {
            return Err(BackendError::Unavailable { store: "memory", reason: "answer lost".into() });
        }
        Ok(ReserveOutcome::Granted)
    }

    async fn settle(&self, id: &str, settlement: Settlement) -> Result<SettleOutcome, BackendError> {
        let mut books = self.present_books()?;
        let held = books.held.get_mut(id).ok_or_else(|| BackendError::NotFound { what: id.into() })?;
        let overrun = settlement.amount > held.reserved;
        if held.state == ReservationState::Open {
            (held.state, held.charged) = (ReservationState::Settled, settlement.amount);
            let reserved = held.reserved;
            books.account.reserved.0 -= reserved.0;
            books.account.spent.0 += settlement.amount.0;
            books.account.frozen |= overrun;
        }
        Ok(SettleOutcome { charged: books.held[id].charged, overrun })
    }

    async fn release(&self, id: &str) -> Result<(), BackendError> {
        let mut books = self.present_books()?;
        if let Some(held) = books.held.get_mut(id).filter(|held| held.state == ReservationState::Open) {
            held.state = ReservationState::Released;
            let reserved = held.reserved;
            books.account.reserved.0 -= reserved.0;
        }
        Ok(())
    }

    async fn expire(&self) -> Result<Vec<String>, BackendError> {
        Ok(Vec::new())
    }

    async fn adjust(&self, _: &str, _: &Scope, adjustment: Adjustment) -> Result<Balance, BackendError> {
        let mut books = self.present_books()?;
        if let Adjustment::SetLimit(limit) = adjustment {
            books.account.limit = limit;
        }
        Ok(books.account)
    }

    async fn balance(&self, _: &Scope) -> Result<Balance, BackendError> {
        Ok(self.account())
    }

    async fn entries(&self, _: EntryFilter) -> Result<Vec<Entry>, BackendError> {
        Ok(Vec::new())
    }

    async fn rebuild(&self, _even_if_whole: bool) -> Result<Option<Rebuilt>, BackendError> {
        Ok(None)
    }
}

/// A slow way to a ledger: what was sent arrives, whether or not its sender still waits.
pub(crate) struct Wire {
    ledger: Arc<MemoryLedger>,
    lag: Duration,
    /// So many questions for money are not answered, and arrive after this time.
    held_back: Mutex<(u32, Duration)>,
}

impl Wire {
    pub(crate) fn to(ledger: &Arc<MemoryLedger>) -> Self {
        Self { ledger: Arc::clone(ledger), lag: Duration::ZERO, held_back: Mutex::default() }
    }

    pub(crate) fn lagging(self, lag: Duration) -> Self {
        Self { lag, ..self }
    }

    pub(crate) fn holding_back(self, questions: u32, lag: Duration) -> Self {
        Self { held_back: Mutex::new((questions, lag)), ..self }
    }

    /// How long the next question travels, and whether it is answered.
    fn next(&self) -> (Duration, bool) {
        let mut held_back = self.held_back.lock().unwrap();
        if held_back.0 == 0 {
            return (self.lag, true);
        }
        held_back.0 -= 1;
        (held_back.1, false)
    }
}

#[async_trait]
impl Ledger for Wire {
    async fn reserve(&self, request: ReserveRequest) -> Result<ReserveOutcome, BackendError> {
        let (lag, is_answered) = self.next();
        let ledger = Arc::clone(&self.ledger);
        let sent = tokio::spawn(async move {
            tokio::time::sleep(lag).await;
            ledger.reserve(request).await
        });
        if is_answered {
            return sent.await.unwrap();
        }
        Err(BackendError::Unavailable { store: "memory", reason: "no answer".into() })
    }

    async fn settle(&self, id: &str, settlement: Settlement) -> Result<SettleOutcome, BackendError> {
        self.ledger.settle(id, settlement).await
    }

    async fn release(&self, id: &str) -> Result<(), BackendError> {
        self.ledger.release(id).await
    }

    async fn expire(&self) -> Result<Vec<String>, BackendError> {
        self.ledger.expire().await
    }

    async fn adjust(&self, request: &str, scope: &Scope, adjustment: Adjustment) -> Result<Balance, BackendError> {
        self.ledger.adjust(request, scope, adjustment).await
    }

    async fn balance(&self, scope: &Scope) -> Result<Balance, BackendError> {
        self.ledger.balance(scope).await
    }

    async fn entries(&self, filter: EntryFilter) -> Result<Vec<Entry>, BackendError> {
        self.ledger.entries(filter).await
    }

    async fn rebuild(&self, even_if_whole: bool) -> Result<Option<Rebuilt>, BackendError> {
        self.ledger.rebuild(even_if_whole).await
    }
}
