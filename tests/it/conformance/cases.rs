//! The promises of `Ledger` that need more than one process or more than one order of steps.
//!
//! Each test names the case of the budget it is about (`docs/cases.md`). All of them run on every ledger, so that no backend
//! is kinder than another; what only one of them can suffer, a lost server say, is shown where its faults are.

use codeswarm::backend::{
    Adjustment, Balance, EntryFilter, EntryKind, ReserveOutcome, ReserveRequest, Scope, Settlement,
};
use codeswarm::protocol::Usage;

use super::ledger::request;
use crate::support::stores::{TestBackend, job, s, usd};

fn scopes() -> [Scope; 2] {
    [Scope::Account, Scope::Job(job("j"))]
}

async fn limit(test: &TestBackend, amount: u64) {
    let limit = Adjustment::SetLimit(Some(usd(amount)));
    test.backend.ledger.adjust("limit", &scopes()[1], limit).await.unwrap();
}

async fn balances(test: &TestBackend) -> [Balance; 2] {
    let [account, job] = scopes();
    [test.backend.ledger.balance(&account).await.unwrap(), test.backend.ledger.balance(&job).await.unwrap()]
}

pub(crate) async fn case_01_two_busy_processes_share_one_budget(test: &TestBackend) {
    let other = test.another("other").await;
    limit(test, 37).await;
    let mut racing = tokio::task::JoinSet::new();
    for number in 0..200 {
        let backend = if number % 2 == 0 { test.backend.clone() } else { other.clone() };
        let asked = request(&format!("r{number}"), &scopes(), 1);
        racing.spawn(async move { backend.ledger.reserve(asked).await.unwrap() });
    }
    let outcomes = racing.join_all().await;
    let granted = outcomes.iter().filter(|outcome| **outcome == ReserveOutcome::Granted).count();
    assert_eq!(granted, 37);
    for balance in balances(test).await {
        assert_eq!((balance.spent, balance.reserved), (usd(0), usd(37)));
    }
    assert_eq!(other.ledger.balance(&scopes()[1]).await.unwrap().reserved, usd(37), "both see the same books");
}

/// What can happen to a reservation after it was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Settle(u64),
    Release,
    Expire,
}

/// Every order of `steps`.
fn orders(steps: &[After]) -> Vec<Vec<After>> {
    if steps.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (at, first) in steps.iter().enumerate() {
        let rest: Vec<After> = steps.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, step)| *step).collect();
        all.extend(orders(&rest).into_iter().map(|rest| [vec![*first], rest].concat()));
    }
    all
}

pub(crate) async fn case_11_in_whatever_order_it_ends_a_reservation_is_charged_what_was_settled_first(
    test: &TestBackend,
) {
    limit(test, 1_000_000).await;
    let ledger = &test.backend.ledger;
    let mut spent = 0;
    for (number, order) in
        orders(&[After::Settle(30), After::Settle(50), After::Release, After::Expire]).into_iter().enumerate()
    {
        let id = format!("r{number}");
        assert_eq!(ledger.reserve(request(&id, &scopes(), 60)).await.unwrap(), ReserveOutcome::Granted);
        let mut charged = None;
        for step in &order {
            match *step {
                After::Settle(amount) => {
                    let usage = Usage { input: 7, output: 3, ..Usage::default() };
                    let outcome = ledger.settle(&id, Settlement { amount: usd(amount), usage }).await.unwrap();
                    let first = *charged.get_or_insert(amount);
                    assert_eq!((outcome.charged, outcome.overrun), (usd(first), false), "{order:?}");
                }
                After::Release => ledger.release(&id).await.unwrap(),
                After::Expire => {
                    test.pass(s(60)).await;
                    ledger.expire().await.unwrap();
                }
            }
        }
        spent += charged.unwrap();
        for balance in balances(test).await {
            let told = (balance.spent, balance.reserved, balance.frozen);
            assert_eq!(told, (usd(spent), usd(0), false), "{order:?}");
        }
    }
}

pub(crate) async fn case_04_tokens_are_set_aside_and_charged_beside_money_each_in_its_own_scopes(test: &TestBackend) {
    let ledger = &test.backend.ledger;
    limit(test, 1_000).await;
    let ceiling = Scope::JobTokens(job("j"));
    ledger.adjust("ceiling", &ceiling, Adjustment::SetLimit(Some(usd(500)))).await.unwrap();
    let [account, of_job] = scopes();
    let all = [account, of_job.clone(), Scope::Tokens, ceiling.clone()];
    let reserve = async |id: &str, tokens| {
        let asked = ReserveRequest { tokens, ..request(id, &all, 10) };
        ledger.reserve(asked).await.unwrap()
    };
    let told = async |scope: &Scope| {
        let balance = ledger.balance(scope).await.unwrap();
        (balance.spent.0, balance.reserved.0)
    };
    for id in ["counted", "uncounted", "released", "late"] {
        assert_eq!(reserve(id, 100).await, ReserveOutcome::Granted);
    }
    assert_eq!(
        reserve("more", 101).await,
        ReserveOutcome::Refused { scope: ceiling.clone(), available: usd(100) },
        "however much money is left"
    );
    assert_eq!(told(&of_job).await, (0, 40), "a refusal in tokens reserves no money either");
    let usage = Usage { input: 30, output: 12, cache_read: 1, ..Usage::default() };
    ledger.settle("counted", Settlement { amount: usd(4), usage }).await.unwrap();
    assert_eq!((told(&of_job).await, told(&ceiling).await), ((4, 30), (43, 300)));
    ledger.settle("uncounted", Settlement { amount: usd(10), ..Settlement::default() }).await.unwrap();
    assert_eq!((told(&of_job).await, told(&ceiling).await), ((14, 20), (143, 200)), "nobody counted: all of them");
    ledger.release("released").await.unwrap();
    test.pass(s(60)).await;
    assert_eq!((told(&of_job).await, told(&ceiling).await), ((24, 0), (243, 0)), "the dead are charged in full");
    ledger.settle("late", Settlement { amount: usd(1), usage }).await.unwrap();
    assert_eq!((told(&of_job).await, told(&ceiling).await), ((15, 0), (186, 0)), "late proof corrects both");
    assert_eq!(told(&Scope::Tokens).await, (186, 0));
    assert_eq!(reserve("over", 40).await, ReserveOutcome::Granted);
    assert!(ledger.settle("over", Settlement { amount: usd(1), usage }).await.unwrap().overrun, "43 tokens of 40");
    assert_eq!(reserve("after", 1).await, ReserveOutcome::Frozen { scope: Scope::Account });
}

pub(crate) async fn case_25_at_rest_nothing_is_reserved_and_the_entries_add_up_to_what_is_spent(test: &TestBackend) {
    limit(test, 1_000).await;
    let ledger = &test.backend.ledger;
    let mut racing = tokio::task::JoinSet::new();
    for number in 0..120_u64 {
        let ledger = ledger.clone();
        racing.spawn(async move {
            let id = format!("r{number}");
            if ledger.reserve(request(&id, &scopes(), 50)).await.unwrap() != ReserveOutcome::Granted {
                return;
            }
            match number % 4 {
                0 => ledger.release(&id).await.unwrap(),
                1 => {}
                _ => {
                    let settlement = Settlement { amount: usd(number % 50), ..Settlement::default() };
                    ledger.settle(&id, settlement).await.map(drop).unwrap();
                }
            }
        });
    }
    racing.join_all().await;
    test.pass(s(60)).await;
    let [account, of_job] = balances(test).await;
    assert_eq!((account.reserved, of_job.reserved), (usd(0), usd(0)));
    assert!(of_job.spent <= usd(1_000) && account.spent == of_job.spent, "{of_job:?}");
    let entries = ledger.entries(EntryFilter { limit: 10_000, ..EntryFilter::default() }).await.unwrap();
    let (mut open, mut spent) = (0, 0);
    for entry in entries {
        match entry.kind {
            EntryKind::Reserve => open += entry.reserved.0,
            EntryKind::Settle | EntryKind::Release | EntryKind::Expire => {
                open -= entry.reserved.0;
                spent += entry.charged.0;
            }
            EntryKind::Adjust => {}
        }
        assert!(open + spent <= 1_000, "after entry {}", entry.id);
    }
    assert_eq!((open, spent), (0, of_job.spent.0));
}
