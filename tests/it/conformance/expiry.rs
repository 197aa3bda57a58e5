//! The promises of `Ledger` about reservations that nobody ended, when there are many of them.
//!
//! A fleet that dies leaves hundreds at once. A store may take its time with them, but no answer may show that.

use codeswarm::backend::{Adjustment, EntryFilter, EntryKind, ReserveOutcome, Scope, Settlement};

use super::ledger::request;
use crate::support::stores::{TestBackend, job, s, usd};

pub(crate) async fn any_number_of_reservations_expires_at_once(test: &TestBackend) {
    let (ledger, scope) = (&test.backend.ledger, Scope::Job(job("j")));
    ledger.adjust("limit", &scope, Adjustment::SetLimit(Some(usd(600)))).await.unwrap();
    for number in 0..300 {
        let asked = request(&format!("r{number}"), std::slice::from_ref(&scope), 2);
        assert_eq!(ledger.reserve(asked).await.unwrap(), ReserveOutcome::Granted);
    }
    test.pass(s(60)).await;
    let full = ledger.reserve(request("more", std::slice::from_ref(&scope), 1)).await.unwrap();
    assert_eq!(full, ReserveOutcome::Refused { scope: scope.clone(), available: usd(0) });
    let late = Settlement { amount: usd(1), ..Settlement::default() };
    assert_eq!(ledger.settle("r299", late).await.unwrap().charged, usd(1), "wherever it stands among the overdue");
    ledger.release("r298").await.unwrap();
    let balance = ledger.balance(&scope).await.unwrap();
    assert_eq!((balance.spent, balance.reserved), (usd(599), usd(0)), "what is overdue cannot be released");
    assert!(ledger.expire().await.unwrap().is_empty(), "the look at the balance has expired the rest");
    let entries = ledger.entries(EntryFilter::default()).await.unwrap();
    assert_eq!(entries.iter().filter(|entry| entry.kind == EntryKind::Expire).count(), 300);
}

pub(crate) async fn expiring_names_all_of_them(test: &TestBackend) {
    let ledger = &test.backend.ledger;
    for number in 0..150 {
        ledger.reserve(request(&format!("r{number}"), &[Scope::Account], 1)).await.unwrap();
    }
    test.pass(s(60)).await;
    assert_eq!(ledger.expire().await.unwrap().len(), 150);
}
