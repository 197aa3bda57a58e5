//! The ledger against a naive model: random steps, same answers, and the invariant after each of them.
//!
//! Hand-written cases cover what somebody thought of; money needs the rest as well. The model is a map and a sum, too
//! simple to share a mistake with the ledger, and must stay that simple.

use std::collections::BTreeMap;

use codeswarm::backend::{Adjustment, Backend, Balance, Ledger, ReserveOutcome, Scope, SettleOutcome, Settlement};
use codeswarm::clock::Timestamp;
use codeswarm::protocol::{FeatureId, MicroUsd, Usage};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::ledger::request;
use crate::support::stores::{TestBackend, job, s, usd};

/// One random step. Ids, scopes and amounts come from small ranges, so that replays and collisions are common.
#[derive(Debug, Clone)]
enum Step {
    Reserve { id: u8, scopes: u8, amount: u64, lease: u64, repair: bool },
    Settle { id: u8, amount: u64 },
    Release { id: u8 },
    Adjust { request: u8, scope: usize, adjustment: Adjustment },
    Advance { seconds: u64 },
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    let adjustment = prop_oneof![
        4 => (0..120_u64).prop_map(|amount| Adjustment::SetLimit(Some(usd(amount)))),
        1 => Just(Adjustment::SetLimit(None)),
        2 => (0..60_u64).prop_map(|amount| Adjustment::TopUp(usd(amount))),
        1 => (0..30_u64).prop_map(|amount| Adjustment::HoldBack(usd(amount))),
        1 => Just(Adjustment::Freeze),
        4 => Just(Adjustment::Thaw),
    ];
    prop_oneof![
        6 => (0..100_u8, 1..16_u8, 0..50_u64, 1..20_u64, any::<bool>())
            .prop_map(|(id, scopes, amount, lease, repair)| Step::Reserve { id, scopes, amount, lease, repair }),
        5 => (0..100_u8, 0..60_u64).prop_map(|(id, amount)| Step::Settle { id, amount }),
        2 => (0..100_u8).prop_map(|id| Step::Release { id }),
        3 => (any::<u8>(), 0..4_usize, adjustment)
            .prop_map(|(request, scope, adjustment)| Step::Adjust { request, scope, adjustment }),
        2 => (1..15_u64).prop_map(|seconds| Step::Advance { seconds }),
        1 => (40_000..90_000_u64).prop_map(|seconds| Step::Advance { seconds }),
        1 => Just(Step::Expire),
    ]
}

/// The scopes that a call at `now` can fall in.
fn all_scopes(now: Timestamp) -> [Scope; 4] {
    let [day, _] = Scope::windows(now);
    [Scope::Account, day, Scope::Job(job("j")), Scope::Slice(job("j"), feature("f"))]
}

/// Where the limits of these scopes are kept.
fn adjustable() -> [Scope; 4] {
    [Scope::Account, Scope::PerDay, Scope::Job(job("j")), Scope::Slice(job("j"), feature("f"))]
}

fn feature(name: &str) -> FeatureId {
    FeatureId::new(name).unwrap()
}

/// The scopes of the four lowest bits.
fn chosen(bits: u8, now: Timestamp) -> Vec<Scope> {
    let all = all_scopes(now).into_iter().enumerate();
    all.filter(|(place, _)| bits & (1 << place) != 0).map(|(_, scope)| scope).collect()
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Open,
    Settled(SettleOutcome),
    Released,
    Expired,
}

#[derive(Debug, Clone)]
struct Held {
    scopes: Vec<Scope>,
    amount: u64,
    until: Timestamp,
    state: State,
}

/// What the ledger should do, written as plainly as possible.
#[derive(Default)]
struct Model {
    scopes: BTreeMap<Scope, Balance>,
    held: BTreeMap<u8, Held>,
    adjusted: BTreeMap<u8, Balance>,
    /// How far each scope may be past its limit.
    excused: BTreeMap<Scope, u64>,
}

impl Model {
    fn scope(&mut self, scope: &Scope) -> &mut Balance {
        self.scopes.entry(scope.clone()).or_default()
    }

    /// The scope's counters under the limit that holds for it.
    fn effective(&self, scope: &Scope) -> Balance {
        let own = self.scopes.get(scope).copied().unwrap_or_default();
        match scope {
            Scope::Day(_) => {
                let policy = self.scopes.get(&Scope::PerDay).copied().unwrap_or_default();
                Balance { spent: own.spent, reserved: own.reserved, ..policy }
            }
            _ => own,
        }
    }

    fn excess(&self, scope: &Scope) -> u64 {
        let balance = self.effective(scope);
        balance.limit.map_or(0, |limit| (balance.spent.0 + balance.reserved.0).saturating_sub(limit.0))
    }

    fn expire(&mut self, now: Timestamp) -> Vec<String> {
        let mut due: Vec<_> =
            self.held.iter().filter(|(_, one)| one.state == State::Open && one.until <= now).collect();
        due.sort_by_key(|(_, one)| one.until);
        let due: Vec<u8> = due.into_iter().map(|(id, _)| *id).collect();
        for id in &due {
            let held = self.held[id].clone();
            for scope in &held.scopes {
                let balance = self.scope(scope);
                balance.reserved.0 -= held.amount;
                balance.spent.0 += held.amount;
            }
            self.held.insert(*id, Held { state: State::Expired, ..held });
        }
        due.iter().map(u8::to_string).collect()
    }

    fn reserve(&mut self, id: u8, scopes: Vec<Scope>, amount: u64, until: Timestamp, repair: bool) -> ReserveOutcome {
        if self.held.contains_key(&id) {
            return ReserveOutcome::Granted;
        }
        if let Some(scope) = scopes.iter().find(|scope| self.effective(scope).frozen) {
            return ReserveOutcome::Frozen { scope: scope.clone() };
        }
        for scope in &scopes {
            let balance = self.effective(scope);
            let committed = balance.spent.0 + balance.reserved.0 + if repair { 0 } else { balance.hold_back.0 };
            let available = match (balance.limit, scope) {
                (Some(limit), _) => limit.0.saturating_sub(committed),
                (None, Scope::Job(_)) => 0,
                (None, _) => continue,
            };
            if amount > available || balance.limit.is_none() {
                return ReserveOutcome::Refused { scope: scope.clone(), available: usd(available) };
            }
        }
        for scope in &scopes {
            self.scope(scope).reserved.0 += amount;
        }
        self.held.insert(id, Held { scopes, amount, until, state: State::Open });
        ReserveOutcome::Granted
    }

    fn settle(&mut self, id: u8, amount: u64) -> Option<SettleOutcome> {
        let held = self.held.get(&id)?.clone();
        let mut overrun = amount > held.amount;
        let (aside, refund) = match held.state {
            State::Settled(recorded) => return Some(recorded),
            State::Open => (held.amount, 0),
            State::Expired => (0, held.amount),
            State::Released => (0, 0),
        };
        for scope in &held.scopes {
            let balance = self.scope(scope);
            balance.reserved.0 -= aside;
            balance.spent.0 = balance.spent.0 - refund + amount;
            overrun |= held.state == State::Released && self.excess(scope) > 0;
        }
        if overrun {
            for scope in &held.scopes {
                // Of an account's window only the policy can be frozen, and that is a person's decision.
                self.scope(scope).frozen |= !matches!(scope, Scope::Day(_));
                self.excused.insert(scope.clone(), self.excess(scope));
            }
        }
        let outcome = SettleOutcome { charged: MicroUsd(amount), overrun };
        self.held.insert(id, Held { state: State::Settled(outcome), ..held });
        Some(outcome)
    }

    fn release(&mut self, id: u8) {
        if let Some(held) = self.held.get(&id).cloned().filter(|held| held.state == State::Open) {
            for scope in &held.scopes {
                self.scope(scope).reserved.0 -= held.amount;
            }
            self.held.insert(id, Held { state: State::Released, ..held });
        }
    }

    fn adjust(&mut self, request: u8, scope: &Scope, adjustment: Adjustment) -> Balance {
        if let Some(recorded) = self.adjusted.get(&request) {
            return *recorded;
        }
        let balance = self.scope(scope);
        match adjustment {
            Adjustment::SetLimit(limit) => balance.limit = limit,
            Adjustment::TopUp(_) if balance.limit.is_none() && !matches!(scope, Scope::Job(_)) => {}
            Adjustment::TopUp(more) => balance.limit = Some(usd(balance.limit.unwrap_or_default().0 + more.0)),
            Adjustment::HoldBack(amount) => balance.hold_back = amount,
            Adjustment::Freeze => balance.frozen = true,
            Adjustment::Thaw => balance.frozen = false,
        }
        let outcome = *balance;
        let days: Vec<Scope> = self.scopes.keys().filter(|scope| matches!(scope, Scope::Day(_))).cloned().collect();
        for scope in days.iter().chain([scope]) {
            self.excused.insert(scope.clone(), self.excess(scope));
        }
        self.adjusted.insert(request, outcome);
        outcome
    }
}

/// Runs one step on both and compares.
async fn compare(ledger: &dyn Ledger, model: &mut Model, test: &TestBackend, step: Step) {
    if let Step::Advance { seconds } = step {
        test.pass(s(seconds)).await;
        return;
    }
    let now = test.clock.now();
    let due = model.expire(now);
    match step {
        Step::Reserve { id, scopes, amount, lease, repair } => {
            let scopes = chosen(scopes, now);
            let mut asked = request(&id.to_string(), &scopes, amount);
            (asked.lease, asked.may_use_hold_back) = (s(lease), repair);
            let expected = model.reserve(id, scopes, amount, now.after(s(lease)), repair);
            assert_eq!(ledger.reserve(asked).await.unwrap(), expected);
        }
        Step::Settle { id, amount } => {
            let settlement = Settlement { amount: usd(amount), usage: Usage::default() };
            let outcome = ledger.settle(&id.to_string(), settlement).await.ok();
            assert_eq!(outcome, model.settle(id, amount));
        }
        Step::Release { id } => {
            model.release(id);
            ledger.release(&id.to_string()).await.unwrap();
        }
        Step::Adjust { request, scope, adjustment } => {
            let scope = &adjustable()[scope];
            let outcome = ledger.adjust(&format!("adjust-{request}"), scope, adjustment).await.unwrap();
            assert_eq!(outcome, model.adjust(request, scope, adjustment));
        }
        Step::Expire => {
            let mut turned = ledger.expire().await.unwrap();
            let mut due = due;
            turned.sort();
            due.sort();
            assert_eq!(turned, due);
        }
        Step::Advance { .. } => {}
    }
}

/// `spent + reserved ≤ limit`, except by what an overrun or a person has excused.
async fn check(backend: &Backend, model: &mut Model, test: &TestBackend) {
    if !model.held.values().any(|one| one.state == State::Open && one.until <= test.clock.now()) {
        for scope in all_scopes(test.clock.now()) {
            let balance = backend.ledger.balance(&scope).await.unwrap();
            assert_eq!(balance, model.effective(&scope), "{scope}");
            let excused = model.excused.get(&scope).copied().unwrap_or_default();
            assert!(model.excess(&scope) <= excused, "{scope}: {balance:?} is further past its limit than {excused}");
        }
    }
}

pub(crate) async fn random_steps_agree_with_a_naive_model_and_keep_the_invariant(test: &TestBackend) {
    let handle = tokio::runtime::Handle::current();
    // One long case, because a case cannot be repeated on the same backend; a failure prints its steps.
    let mut runner =
        TestRunner::new(Config { cases: 1, max_shrink_iters: 0, failure_persistence: None, ..Config::default() });
    let steps = proptest::collection::vec(step(), 1_000);
    let outcome = tokio::task::block_in_place(|| {
        runner.run(&steps, |steps| {
            handle.block_on(async {
                let mut model = Model::default();
                for step in steps {
                    compare(&*test.backend.ledger, &mut model, test, step).await;
                    check(&test.backend, &mut model, test).await;
                }
            });
            Ok(())
        })
    });
    outcome.unwrap();
}
