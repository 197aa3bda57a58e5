//! The promises of `Ledger`.
//!
//! Answers are not believed: after refusals, expiries and repeated requests the balances are read back. Single promises
//! are here, one by one; random sequences of them are in `model`.

use codeswarm::backend::{
    Adjustment, Backend, BackendError, Balance, EntryFilter, EntryKind, ReserveOutcome, ReserveRequest, Scope,
    SettleOutcome, Settlement,
};
use codeswarm::protocol::{FeatureId, Usage};

use crate::support::stores::{TestBackend, agent, instance, job, s, task, usd};

pub(crate) fn request(id: &str, scopes: &[Scope], amount: u64) -> ReserveRequest {
    ReserveRequest {
        id: id.into(),
        scopes: scopes.to_vec(),
        amount: usd(amount),
        tokens: 0,
        lease: s(60),
        may_use_hold_back: false,
        instance: instance("payer"),
        job: job("j"),
        task: task("plan"),
        agent: agent("coder"),
        model: "m-1".into(),
    }
}

fn scope() -> Scope {
    Scope::Job(job("j"))
}

async fn limit(backend: &Backend, scope: &Scope, amount: u64) {
    let request = format!("limit-{scope}-{amount}");
    backend.ledger.adjust(&request, scope, Adjustment::SetLimit(Some(usd(amount)))).await.unwrap();
}

async fn reserve(backend: &Backend, id: &str, amount: u64) -> ReserveOutcome {
    backend.ledger.reserve(request(id, &[scope()], amount)).await.unwrap()
}

async fn settle(backend: &Backend, id: &str, amount: u64) -> SettleOutcome {
    let usage = Usage { input: 7, output: 3, ..Usage::default() };
    backend.ledger.settle(id, Settlement { amount: usd(amount), usage }).await.unwrap()
}

async fn balance(backend: &Backend) -> Balance {
    backend.ledger.balance(&scope()).await.unwrap()
}

async fn counts(backend: &Backend) -> (u64, u64) {
    let balance = balance(backend).await;
    (balance.spent.0, balance.reserved.0)
}

fn refused(available: u64) -> ReserveOutcome {
    ReserveOutcome::Refused { scope: scope(), available: usd(available) }
}

pub(crate) async fn a_reservation_is_granted_exactly_up_to_the_limit(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 100).await;
    assert_eq!(reserve(backend, "a", 60).await, ReserveOutcome::Granted);
    assert_eq!(reserve(backend, "b", 41).await, refused(40));
    assert_eq!(counts(backend).await, (0, 60), "a refusal changes nothing");
    assert_eq!(reserve(backend, "b", 40).await, ReserveOutcome::Granted, "a refused id may be tried again");
    assert_eq!(reserve(backend, "c", 1).await, refused(0));
    assert_eq!(counts(backend).await, (0, 100));
}

pub(crate) async fn case_03_a_repeated_reservation_answers_the_recorded_outcome(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 100).await;
    for _ in 0..2 {
        assert_eq!(reserve(backend, "a", 60).await, ReserveOutcome::Granted);
    }
    assert_eq!(counts(backend).await, (0, 60));
    settle(backend, "a", 10).await;
    assert_eq!(reserve(backend, "a", 60).await, ReserveOutcome::Granted, "recorded even when closed");
    assert_eq!(counts(backend).await, (10, 0));
}

pub(crate) async fn case_01_two_hundred_concurrent_reservations_with_room_for_37_grant_37(test: &TestBackend) {
    limit(&test.backend, &scope(), 37 * 1_000 + 999).await;
    let mut racing = tokio::task::JoinSet::new();
    for number in 0..200 {
        let backend = test.backend.clone();
        racing.spawn(async move { reserve(&backend, &format!("r{number}"), 1_000).await });
    }
    let outcomes = racing.join_all().await;
    let granted = outcomes.iter().filter(|outcome| **outcome == ReserveOutcome::Granted).count();
    assert_eq!(granted, 37);
    assert!(outcomes.iter().all(|outcome| *outcome == ReserveOutcome::Granted
        || *outcome == refused(999)
        || matches!(outcome, ReserveOutcome::Refused { .. })));
    assert_eq!(counts(&test.backend).await, (0, 37_000));
}

pub(crate) async fn case_02_all_scopes_are_charged_or_none(test: &TestBackend) {
    let ledger = &test.backend.ledger;
    limit(&test.backend, &Scope::Account, 50).await;
    limit(&test.backend, &scope(), 100).await;
    let both = [scope(), Scope::Account];
    let outcome = ledger.reserve(request("a", &both, 60)).await.unwrap();
    assert_eq!(outcome, ReserveOutcome::Refused { scope: Scope::Account, available: usd(50) });
    assert_eq!(counts(&test.backend).await, (0, 0), "the scope with room was not charged either");
    assert_eq!(ledger.reserve(request("b", &both, 50)).await.unwrap(), ReserveOutcome::Granted);
    for scope in &both {
        assert_eq!(ledger.balance(scope).await.unwrap().reserved, usd(50));
    }
    settle(&test.backend, "b", 20).await;
    for scope in &both {
        let balance = ledger.balance(scope).await.unwrap();
        assert_eq!((balance.spent, balance.reserved), (usd(20), usd(0)));
    }
    let twice = [scope(), scope()];
    assert_eq!(ledger.reserve(request("c", &twice, 10)).await.unwrap(), ReserveOutcome::Granted);
    assert_eq!(balance(&test.backend).await.reserved, usd(10), "a scope named twice is charged once");
}

pub(crate) async fn a_job_without_a_limit_is_refused_and_an_account_without_one_is_not(test: &TestBackend) {
    let backend = &test.backend;
    assert_eq!(reserve(backend, "a", 0).await, refused(0));
    let outcome = backend.ledger.reserve(request("b", &[Scope::Account], 1_000_000)).await.unwrap();
    assert_eq!(outcome, ReserveOutcome::Granted);
    limit(backend, &scope(), 5).await;
    assert_eq!(reserve(backend, "a", 5).await, ReserveOutcome::Granted);
    backend.ledger.adjust("remove", &scope(), Adjustment::SetLimit(None)).await.unwrap();
    assert_eq!(reserve(backend, "c", 0).await, refused(0), "a removed limit is no licence");
}

pub(crate) async fn case_11_settling_twice_answers_the_first_charge(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 100).await;
    reserve(backend, "a", 60).await;
    let first = SettleOutcome { charged: usd(25), overrun: false };
    assert_eq!(settle(backend, "a", 25).await, first);
    assert_eq!(settle(backend, "a", 25).await, first);
    assert_eq!(settle(backend, "a", 59).await, first, "a different second charge is not believed");
    assert_eq!(counts(backend).await, (25, 0));
    let unknown = backend.ledger.settle("unknown", Settlement::default()).await;
    assert!(matches!(unknown, Err(BackendError::NotFound { .. })), "{unknown:?}");
}

pub(crate) async fn releasing_gives_back_only_what_is_open(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 100).await;
    reserve(backend, "a", 60).await;
    reserve(backend, "b", 30).await;
    for _ in 0..2 {
        backend.ledger.release("a").await.unwrap();
        assert_eq!(counts(backend).await, (0, 30));
    }
    settle(backend, "b", 10).await;
    backend.ledger.release("b").await.unwrap();
    backend.ledger.release("unknown").await.unwrap();
    assert_eq!(counts(backend).await, (10, 0));
}

pub(crate) async fn settling_what_was_released_still_charges_it(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 100).await;
    reserve(backend, "a", 60).await;
    backend.ledger.release("a").await.unwrap();
    for _ in 0..2 {
        assert_eq!(settle(backend, "a", 25).await, SettleOutcome { charged: usd(25), overrun: false });
        assert_eq!(counts(backend).await, (25, 0));
    }
    reserve(backend, "b", 70).await;
    backend.ledger.release("b").await.unwrap();
    reserve(backend, "c", 70).await;
    assert!(settle(backend, "b", 70).await.overrun, "the money had been given to somebody else");
    let balance = balance(backend).await;
    assert_eq!((balance.spent.0, balance.reserved.0, balance.frozen), (95, 70, true));
}

pub(crate) async fn case_10_a_reservation_that_nobody_ended_becomes_spent(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 100).await;
    reserve(backend, "a", 60).await;
    test.pass(s(59)).await;
    assert_eq!(counts(backend).await, (0, 60), "the lease is not over yet");
    test.pass(s(1)).await;
    assert_eq!(counts(backend).await, (60, 0), "a mere look is an operation");
    assert_eq!(reserve(backend, "b", 41).await, refused(40));
    backend.ledger.release("a").await.unwrap();
    assert_eq!(counts(backend).await, (60, 0), "a crash never frees money");
}

pub(crate) async fn expiring_names_what_it_turned(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 100).await;
    reserve(backend, "a", 10).await;
    reserve(backend, "b", 20).await;
    settle(backend, "b", 5).await;
    assert!(backend.ledger.expire().await.unwrap().is_empty());
    test.pass(s(60)).await;
    assert_eq!(backend.ledger.expire().await.unwrap(), ["a"]);
    assert!(backend.ledger.expire().await.unwrap().is_empty(), "only once");
    assert_eq!(counts(backend).await, (15, 0));
}

pub(crate) async fn case_11_settling_after_expiry_corrects_the_charge_once(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 100).await;
    reserve(backend, "a", 60).await;
    test.pass(s(61)).await;
    assert_eq!(counts(backend).await, (60, 0));
    for _ in 0..2 {
        assert_eq!(settle(backend, "a", 10).await, SettleOutcome { charged: usd(10), overrun: false });
        assert_eq!(counts(backend).await, (10, 0));
    }
    settle(backend, "a", 50).await;
    assert_eq!(counts(backend).await, (10, 0), "corrected once");
}

pub(crate) async fn case_12_an_overrun_is_recorded_in_full_and_freezes_all_scopes(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 100).await;
    let both = [scope(), Scope::Account];
    backend.ledger.reserve(request("a", &both, 60)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(settle(backend, "a", 130).await, SettleOutcome { charged: usd(130), overrun: true });
        for scope in &both {
            let balance = backend.ledger.balance(scope).await.unwrap();
            assert_eq!((balance.spent, balance.reserved, balance.frozen), (usd(130), usd(0), true));
        }
    }
    assert_eq!(reserve(backend, "b", 0).await, ReserveOutcome::Frozen { scope: scope() });
    backend.ledger.adjust("thaw", &scope(), Adjustment::Thaw).await.unwrap();
    assert_eq!(reserve(backend, "b", 1).await, refused(0), "thawing does not forgive");
    backend.ledger.adjust("top-up", &scope(), Adjustment::TopUp(usd(31))).await.unwrap();
    assert_eq!(reserve(backend, "b", 1).await, ReserveOutcome::Granted);
}

pub(crate) async fn a_late_overrun_after_expiry_freezes_too(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 100).await;
    reserve(backend, "a", 60).await;
    test.pass(s(61)).await;
    assert_eq!(settle(backend, "a", 61).await, SettleOutcome { charged: usd(61), overrun: true });
    let balance = balance(backend).await;
    assert_eq!((balance.spent, balance.frozen), (usd(61), true));
}

pub(crate) async fn a_frozen_scope_refuses_but_still_settles(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 100).await;
    reserve(backend, "a", 60).await;
    for _ in 0..2 {
        let frozen = backend.ledger.adjust("freeze", &scope(), Adjustment::Freeze).await.unwrap();
        assert!(frozen.frozen);
    }
    assert_eq!(reserve(backend, "b", 1).await, ReserveOutcome::Frozen { scope: scope() });
    assert_eq!(reserve(backend, "a", 60).await, ReserveOutcome::Granted, "recorded before the freeze");
    assert_eq!(settle(backend, "a", 20).await.charged, usd(20));
    backend.ledger.adjust("thaw", &scope(), Adjustment::Thaw).await.unwrap();
    assert_eq!(reserve(backend, "b", 80).await, ReserveOutcome::Granted);
}

pub(crate) async fn only_verification_and_repair_may_use_what_is_held_back(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 100).await;
    backend.ledger.adjust("hold", &scope(), Adjustment::HoldBack(usd(30))).await.unwrap();
    assert_eq!(balance(backend).await.available(), Some(usd(70)));
    assert_eq!(reserve(backend, "a", 71).await, refused(70));
    assert_eq!(reserve(backend, "a", 70).await, ReserveOutcome::Granted);
    let repair = |amount| ReserveRequest { may_use_hold_back: true, ..request("repair", &[scope()], amount) };
    assert_eq!(backend.ledger.reserve(repair(31)).await.unwrap(), refused(30));
    assert_eq!(backend.ledger.reserve(repair(30)).await.unwrap(), ReserveOutcome::Granted);
}

pub(crate) async fn an_adjustment_happens_once_per_request(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 100).await;
    let first = backend.ledger.adjust("t-1", &scope(), Adjustment::TopUp(usd(50))).await.unwrap();
    assert_eq!(first.limit, Some(usd(150)));
    reserve(backend, "a", 10).await;
    let replay = backend.ledger.adjust("t-1", &scope(), Adjustment::TopUp(usd(50))).await.unwrap();
    assert_eq!(replay, first, "the recorded outcome");
    assert_eq!(balance(backend).await.limit, Some(usd(150)));
    let account = backend.ledger.adjust("t-2", &Scope::Account, Adjustment::TopUp(usd(1))).await.unwrap();
    assert_eq!(account.limit, None, "more than unlimited is unlimited");
    let fresh = Scope::Job(job("fresh"));
    let topped = backend.ledger.adjust("t-3", &fresh, Adjustment::TopUp(usd(7))).await.unwrap();
    assert_eq!(topped.limit, Some(usd(7)), "a job without a limit has nothing");
}

pub(crate) async fn a_limit_may_be_lowered_below_what_is_committed(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 100).await;
    reserve(backend, "a", 60).await;
    limit(backend, &scope(), 40).await;
    assert_eq!(reserve(backend, "b", 1).await, refused(0));
    assert!(!settle(backend, "a", 60).await.overrun, "it cost no more than was reserved");
    assert_eq!(counts(backend).await, (60, 0));
    assert_eq!(reserve(backend, "b", 1).await, refused(0));
}

pub(crate) async fn amounts_that_cannot_be_held_exactly_are_refused(test: &TestBackend) {
    let ledger = &test.backend.ledger;
    let outcomes = [
        ledger.reserve(request("a", &[Scope::Account], u64::MAX)).await.map(drop),
        ledger.settle("a", Settlement { amount: usd(u64::MAX), usage: Usage::default() }).await.map(drop),
        ledger.adjust("x", &Scope::Account, Adjustment::SetLimit(Some(usd(u64::MAX)))).await.map(drop),
        ledger.reserve(request("", &[Scope::Account], 1)).await.map(drop),
        ledger.reserve(request("b", &[], 1)).await.map(drop),
    ];
    for outcome in outcomes {
        assert!(matches!(outcome, Err(BackendError::Invalid { .. })), "{outcome:?}");
    }
    assert_eq!(ledger.balance(&Scope::Account).await.unwrap(), Balance::default());
}

pub(crate) async fn entries_tell_what_happened_in_order(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 100).await;
    for (id, amount) in [("a", 10), ("b", 20), ("c", 30)] {
        reserve(backend, id, amount).await;
    }
    settle(backend, "a", 4).await;
    backend.ledger.release("b").await.unwrap();
    test.pass(s(60)).await;
    let entries = backend.ledger.entries(EntryFilter::default()).await.unwrap();
    let told: Vec<_> = entries
        .iter()
        .map(|entry| (entry.kind, entry.reservation.as_str(), entry.reserved.0, entry.charged.0))
        .collect();
    let limit = entries[0].reservation.as_str();
    assert_eq!(
        told,
        [
            (EntryKind::Adjust, limit, 0, 0),
            (EntryKind::Reserve, "a", 10, 0),
            (EntryKind::Reserve, "b", 20, 0),
            (EntryKind::Reserve, "c", 30, 0),
            (EntryKind::Settle, "a", 10, 4),
            (EntryKind::Release, "b", 20, 0),
            (EntryKind::Expire, "c", 30, 30),
        ]
    );
    assert!(entries.windows(2).all(|pair| pair[0].id < pair[1].id && pair[0].at <= pair[1].at));
    let settled = &entries[4];
    assert_eq!((settled.usage.input, settled.usage.output), (7, 3));
    assert_eq!((settled.job.as_deref(), settled.task.as_deref()), (Some("j"), Some("plan")));
    assert_eq!((settled.agent.as_deref(), settled.model.as_deref()), (Some("coder"), Some("m-1")));
    assert!(!entries[0].note.is_empty());
    let page = EntryFilter { after: entries[1].id, limit: 2, job: Some(job("j")), ..EntryFilter::default() };
    let page = backend.ledger.entries(page).await.unwrap();
    assert_eq!(page, entries[2..4]);
    let other = EntryFilter { job: Some(job("other")), ..EntryFilter::default() };
    assert!(backend.ledger.entries(other).await.unwrap().is_empty());
}

pub(crate) async fn an_unknown_scope_is_all_zero(test: &TestBackend) {
    assert_eq!(balance(&test.backend).await, Balance::default());
}

pub(crate) async fn case_23_a_charge_stays_in_the_window_of_its_reservation(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &Scope::PerDay, 100).await;
    let [first, month] = Scope::windows(test.clock.now());
    let outcome = backend.ledger.reserve(request("late", &[first.clone(), month.clone()], 90)).await.unwrap();
    assert_eq!(outcome, ReserveOutcome::Granted);
    let full = backend.ledger.reserve(request("more", &[first.clone(), month.clone()], 20)).await.unwrap();
    assert_eq!(full, ReserveOutcome::Refused { scope: first.clone(), available: usd(10) });
    test.pass(s(50)).await;
    let [second, same_month] = Scope::windows(test.clock.now().after(s(86_400)));
    assert_eq!((month.clone(), first == second), (same_month, false));
    let outcome = backend.ledger.reserve(request("next", &[second.clone(), month.clone()], 100)).await.unwrap();
    assert_eq!(outcome, ReserveOutcome::Granted, "a new day has a limit of its own");
    settle(backend, "late", 80).await;
    let of = async |scope: &Scope| backend.ledger.balance(scope).await.unwrap();
    let (yesterday, today) = (of(&first).await, of(&second).await);
    assert_eq!((yesterday.spent, yesterday.reserved, yesterday.limit), (usd(80), usd(0), Some(usd(100))));
    assert_eq!((today.spent, today.reserved, today.limit), (usd(0), usd(100), Some(usd(100))));
    assert_eq!((of(&month).await.spent, of(&month).await.limit), (usd(80), None));
}

pub(crate) async fn an_overrun_in_a_window_leaves_tomorrow_open(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 1_000).await;
    let [day, _] = Scope::windows(test.clock.now());
    let scopes = [Scope::Account, day.clone(), scope()];
    assert_eq!(backend.ledger.reserve(request("a", &scopes, 10)).await.unwrap(), ReserveOutcome::Granted);
    assert!(settle(backend, "a", 30).await.overrun);
    assert!(backend.ledger.balance(&Scope::Account).await.unwrap().frozen);
    let window = backend.ledger.balance(&day).await.unwrap();
    assert_eq!((window.frozen, window.spent), (false, usd(30)));
    backend.ledger.adjust("freeze-days", &Scope::PerDay, Adjustment::Freeze).await.unwrap();
    assert!(backend.ledger.balance(&day).await.unwrap().frozen);
}

pub(crate) async fn slices_and_agent_types_have_limits_of_their_own(test: &TestBackend) {
    let backend = &test.backend;
    limit(backend, &scope(), 1_000).await;
    let slice = Scope::Slice(job("j"), FeatureId::new("api").unwrap());
    let reviewer = Scope::Agent(job("j"), agent("reviewer"));
    let both = [scope(), slice.clone(), reviewer.clone()];
    assert_eq!(backend.ledger.reserve(request("a", &both, 40)).await.unwrap(), ReserveOutcome::Granted);
    limit(backend, &slice, 50).await;
    let outcome = backend.ledger.reserve(request("b", &both, 11)).await.unwrap();
    assert_eq!(outcome, ReserveOutcome::Refused { scope: slice.clone(), available: usd(10) });
    limit(backend, &slice, 500).await;
    limit(backend, &reviewer, 45).await;
    let outcome = backend.ledger.reserve(request("c", &both, 11)).await.unwrap();
    assert_eq!(outcome, ReserveOutcome::Refused { scope: reviewer.clone(), available: usd(5) });
    assert_eq!(counts(backend).await, (0, 40), "a refusal by one scope changes none");
    let top_up = backend.ledger.adjust("more", &reviewer, Adjustment::TopUp(usd(6))).await.unwrap();
    assert_eq!(top_up.available(), Some(usd(11)));
    assert_eq!(backend.ledger.reserve(request("c", &both, 11)).await.unwrap(), ReserveOutcome::Granted);
}

pub(crate) async fn entries_can_be_picked_by_agent_model_and_time(test: &TestBackend) {
    let backend = &test.backend;
    let start = test.clock.now();
    for (id, who, model) in [("a", "coder", "m-1"), ("b", "reviewer", "m-1"), ("c", "coder", "m-2")] {
        let asked = ReserveRequest { agent: agent(who), model: model.into(), ..request(id, &[Scope::Account], 1) };
        assert_eq!(backend.ledger.reserve(asked).await.unwrap(), ReserveOutcome::Granted);
        test.pass(s(1)).await;
    }
    let told = async |filter: EntryFilter| {
        let entries = backend.ledger.entries(filter).await.unwrap();
        entries.into_iter().map(|entry| entry.reservation).collect::<Vec<_>>()
    };
    let all = EntryFilter::default;
    assert_eq!(told(EntryFilter { agent: Some(agent("coder")), ..all() }).await, ["a", "c"]);
    assert_eq!(told(EntryFilter { model: Some("m-1".into()), ..all() }).await, ["a", "b"]);
    assert_eq!(told(EntryFilter { since: Some(start.after(s(1))), ..all() }).await, ["b", "c"]);
    assert_eq!(told(EntryFilter { before: Some(start.after(s(1))), ..all() }).await, ["a"]);
    let one = EntryFilter { agent: Some(agent("coder")), since: Some(start.after(s(1))), limit: 1, ..all() };
    assert_eq!(told(one).await, ["c"]);
}
