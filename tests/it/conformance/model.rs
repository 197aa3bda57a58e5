//! The ledger against a naive model: random steps, same answers, and the invariant after each of them.
//!
//! Hand-written cases cover what somebody thought of; money needs the rest as well. Sequences are short and many, each on
//! books of its own, so that one that fails is cut down to the few steps that matter; in a share of them everything dies in
//! the middle. The model is a map and a sum, too simple to share a mistake with the ledger, and must stay that simple.

use std::collections::BTreeMap;

use codeswarm::backend::{
    Adjustment, BackendError, Balance, EntryFilter, Ledger, ReserveOutcome, Scope, SettleOutcome, Settlement,
};
use codeswarm::budget::audit::{Audit, Sum};
use codeswarm::clock::Timestamp;
use codeswarm::error::Coded;
use codeswarm::protocol::{FeatureId, MicroUsd, Usage};
use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseResult;

use super::ledger::request;
use super::write_down;
use crate::support::properties::{cases, check};
use crate::support::stores::{Crash, TestBackend, agent, job, s, usd};

/// Sequences of a backend in the suite.
const FEW: u32 = 60;

/// One in so many sequences is walked where there is a journal, for each creates all streams anew there. Whoever wants a failing
/// one again has to ask for so many times the cases that it names.
const JOURNALED: u32 = 5;

/// How often a step is repeated while a server that was killed is not back.
const PATIENCE: usize = 200;

/// What a call takes, in micro-dollars and in tokens. A scope counts one of them.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cost {
    money: u64,
    tokens: u64,
}

impl Cost {
    fn of(self, scope: &Scope) -> u64 {
        if matches!(scope, Scope::Tokens | Scope::JobTokens(_)) { self.tokens } else { self.money }
    }
}

fn cost(money: u64, tokens: u64) -> impl Strategy<Value = Cost> {
    (0..money, prop_oneof![Just(0), 0..tokens]).prop_map(|(money, tokens)| Cost { money, tokens })
}

/// One random step. Ids, scopes and amounts come from small ranges, so that replays and collisions are common.
#[derive(Debug, Clone)]
enum Step {
    Reserve {
        id: u8,
        scopes: u8,
        cost: Cost,
        lease: u64,
        repair: bool,
    },
    Settle {
        id: u8,
        cost: Cost,
    },
    Release {
        id: u8,
    },
    Adjust {
        request: u8,
        scope: usize,
        adjustment: Adjustment,
    },
    Advance {
        seconds: u64,
    },
    Expire,
    /// The books are made anew from their journal, where they have one: after their loss, or although they are whole.
    Rebuild {
        lost: bool,
    },
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
        8 => (0..16_u8, 1..=255_u8, cost(50, 50), 1..20_u64, any::<bool>())
            .prop_map(|(id, scopes, cost, lease, repair)| Step::Reserve { id, scopes, cost, lease, repair }),
        5 => (0..16_u8, cost(60, 60)).prop_map(|(id, cost)| Step::Settle { id, cost }),
        2 => (0..16_u8).prop_map(|id| Step::Release { id }),
        4 => (0..32_u8, 0..8_usize, adjustment)
            .prop_map(|(request, scope, adjustment)| Step::Adjust { request, scope, adjustment }),
        2 => (1..15_u64).prop_map(|seconds| Step::Advance { seconds }),
        // Past the end of a day, and of a month.
        1 => (40_000..90_000_u64).prop_map(|seconds| Step::Advance { seconds }),
        1 => (1_000_000..3_000_000_u64).prop_map(|seconds| Step::Advance { seconds }),
        1 => Just(Step::Expire),
        2 => any::<bool>().prop_map(|lost| Step::Rebuild { lost }),
    ]
}

/// A sequence: its steps, and the one before which everything dies, if it does.
#[derive(Debug, Clone)]
struct Sequence {
    steps: Vec<Step>,
    crash: Option<(Index, Crash)>,
}

fn sequence() -> impl Strategy<Value = Sequence> {
    let how = prop_oneof![Just(Crash::OfTheServer), Just(Crash::OfEverything)];
    let crash = proptest::option::weighted(0.2, (any::<Index>(), how));
    (proptest::collection::vec(step(), 1..=60), crash).prop_map(|(steps, crash)| Sequence { steps, crash })
}

/// The scopes that a call at `now` can fall in.
fn all_scopes(now: Timestamp) -> [Scope; 8] {
    let [day, month] = Scope::windows(now);
    let [account, _, _, job, slice, agent, tokens, job_tokens] = adjustable();
    [account, day, month, job, slice, agent, tokens, job_tokens]
}

/// Where the limits of these scopes are kept.
fn adjustable() -> [Scope; 8] {
    let (slice, agent) = (Scope::Slice(job("j"), feature("f")), Scope::Agent(job("j"), agent("coder")));
    let (tokens, job_tokens) = (Scope::Tokens, Scope::JobTokens(job("j")));
    [Scope::Account, Scope::PerDay, Scope::PerMonth, Scope::Job(job("j")), slice, agent, tokens, job_tokens]
}

const fn is_window(scope: &Scope) -> bool {
    matches!(scope, Scope::Day(_) | Scope::Month(_))
}

fn feature(name: &str) -> FeatureId {
    FeatureId::new(name).unwrap()
}

/// The scopes of the bits.
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
    cost: Cost,
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
        let policy = match scope {
            Scope::Day(_) => Scope::PerDay,
            Scope::Month(_) => Scope::PerMonth,
            _ => return own,
        };
        let policy = self.scopes.get(&policy).copied().unwrap_or_default();
        Balance { spent: own.spent, reserved: own.reserved, ..policy }
    }

    fn excess(&self, scope: &Scope) -> u64 {
        let balance = self.effective(scope);
        balance.limit.map_or(0, |limit| (balance.spent.0 + balance.reserved.0).saturating_sub(limit.0))
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.held.values().any(|one| one.state == State::Open && one.until <= now)
    }

    /// Moves what a reservation holds from what is set aside to what is spent, or back.
    fn turn(&mut self, id: u8, state: State) {
        let held = self.held[&id].clone();
        for scope in &held.scopes {
            let (balance, cost) = (self.scope(scope), held.cost.of(scope));
            let (from, to) = match state {
                State::Expired => (&mut balance.reserved, &mut balance.spent),
                _ => (&mut balance.spent, &mut balance.reserved),
            };
            (from.0, to.0) = (from.0 - cost, to.0 + cost);
        }
        self.held.insert(id, Held { state, ..held });
    }

    fn ids(&self, is_meant: impl Fn(&Held) -> bool) -> Vec<u8> {
        self.held.iter().filter(|(_, one)| is_meant(one)).map(|(id, _)| *id).collect()
    }

    /// Charges what is open and due; answers the ids in their order.
    fn expire(&mut self, now: Timestamp) -> Vec<String> {
        let due = self.ids(|one| one.state == State::Open && one.until <= now);
        due.iter().for_each(|id| self.turn(*id, State::Expired));
        let mut names: Vec<String> = due.iter().map(u8::to_string).collect();
        names.sort();
        names
    }

    /// What all reservations together come to, in money.
    fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        for one in self.held.values() {
            match one.state {
                State::Open => sum.reserved.0 += one.cost.money,
                State::Expired => sum.spent.0 += one.cost.money,
                State::Settled(outcome) => sum.spent.0 += outcome.charged.0,
                State::Released => {}
            }
        }
        sum
    }

    fn reserve(&mut self, id: u8, scopes: Vec<Scope>, cost: Cost, until: Timestamp, repair: bool) -> ReserveOutcome {
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
            if cost.of(scope) > available || balance.limit.is_none() {
                return ReserveOutcome::Refused { scope: scope.clone(), available: usd(available) };
            }
        }
        for scope in &scopes {
            self.scope(scope).reserved.0 += cost.of(scope);
        }
        self.held.insert(id, Held { scopes, cost, until, state: State::Open });
        ReserveOutcome::Granted
    }

    fn settle(&mut self, id: u8, cost: Cost) -> Option<SettleOutcome> {
        let held = self.held.get(&id)?.clone();
        if let State::Settled(recorded) = held.state {
            return Some(recorded);
        }
        // Tokens that nobody has counted are all that were set aside.
        let is_counted = cost.tokens > 0 && held.cost.tokens > 0;
        let cost = Cost { tokens: if is_counted { cost.tokens } else { held.cost.tokens }, ..cost };
        let mut overrun = cost.money > held.cost.money || cost.tokens > held.cost.tokens;
        for scope in &held.scopes {
            let balance = self.scope(scope);
            match held.state {
                State::Open => balance.reserved.0 -= held.cost.of(scope),
                State::Expired => balance.spent.0 -= held.cost.of(scope),
                State::Settled(_) | State::Released => {}
            }
            balance.spent.0 += cost.of(scope);
            overrun |= held.state == State::Released && self.excess(scope) > 0;
        }
        if overrun {
            for scope in &held.scopes {
                // Of an account's window only the policy can be frozen, and that is a person's decision.
                self.scope(scope).frozen |= !is_window(scope);
                self.excused.insert(scope.clone(), self.excess(scope));
            }
        }
        let outcome = SettleOutcome { charged: MicroUsd(cost.money), overrun };
        self.held.insert(id, Held { state: State::Settled(outcome), ..held });
        Some(outcome)
    }

    fn release(&mut self, id: u8) {
        if let Some(held) = self.held.get(&id).cloned().filter(|held| held.state == State::Open) {
            for scope in &held.scopes {
                self.scope(scope).reserved.0 -= held.cost.of(scope);
            }
            self.held.insert(id, Held { state: State::Released, ..held });
        }
    }

    /// What a journal tells of: everything but that leases were over, which the next step finds out again.
    fn rebuild(&mut self) {
        let expired = self.ids(|one| one.state == State::Expired);
        expired.iter().for_each(|id| self.turn(*id, State::Open));
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
        let windows: Vec<Scope> = self.scopes.keys().filter(|scope| is_window(scope)).cloned().collect();
        for scope in windows.iter().chain([scope]) {
            self.excused.insert(scope.clone(), self.excess(scope));
        }
        self.adjusted.insert(request, outcome);
        outcome
    }
}

/// Repeats a step with the same id while the server does not answer, as every caller of the ledger has to.
async fn insist<T>(step: impl AsyncFn() -> Result<T, BackendError>) -> Result<T, BackendError> {
    for _ in 0..PATIENCE {
        match step().await {
            Err(error) if error.retry().is_retryable() => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            other => return other,
        }
    }
    step().await
}

/// Makes the books anew, if they have a journal to be made from.
async fn rebuild(ledger: &dyn Ledger, model: &mut Model, test: &TestBackend, lost: bool) {
    if test.nats.is_none() {
        assert_eq!(ledger.rebuild(true).await.unwrap(), None, "books that have no journal stay as they are");
        return;
    }
    insist(async || write_down(ledger).await).await.unwrap();
    if lost {
        test.wipe_counters();
        let refused = ledger.balance(&Scope::Account).await;
        assert!(matches!(refused, Err(BackendError::DataLost { .. })), "{refused:?}");
    }
    let rebuilt = insist(async || ledger.rebuild(!lost).await).await.unwrap();
    assert!(rebuilt.is_some_and(|rebuilt| rebuilt.records > 0), "{rebuilt:?}");
    model.rebuild();
}

/// Runs one step on both and compares.
async fn compare(ledger: &dyn Ledger, model: &mut Model, test: &TestBackend, step: &Step) -> TestCaseResult {
    if let Step::Advance { seconds } = *step {
        test.pass(s(seconds)).await;
        return Ok(());
    }
    let now = test.clock.now();
    let due = model.expire(now);
    match *step {
        Step::Reserve { id, scopes, cost, lease, repair } => {
            let scopes = chosen(scopes, now);
            let mut asked = request(&id.to_string(), &scopes, cost.money);
            (asked.tokens, asked.lease, asked.may_use_hold_back) = (cost.tokens, s(lease), repair);
            let expected = model.reserve(id, scopes, cost, now.after(s(lease)), repair);
            let outcome = insist(async || ledger.reserve(asked.clone()).await).await;
            prop_assert_eq!(outcome.unwrap(), expected);
        }
        Step::Settle { id, cost } => {
            let usage = Usage { output: cost.tokens, ..Usage::default() };
            let settlement = Settlement { amount: usd(cost.money), usage };
            let outcome = insist(async || ledger.settle(&id.to_string(), settlement).await).await;
            if let Err(error) = &outcome {
                prop_assert!(matches!(error, BackendError::NotFound { .. }), "{}", error);
            }
            prop_assert_eq!(outcome.ok(), model.settle(id, cost));
        }
        Step::Release { id } => {
            model.release(id);
            insist(async || ledger.release(&id.to_string()).await).await.unwrap();
        }
        Step::Adjust { request, scope, adjustment } => {
            let (scope, request) = (&adjustable()[scope], (request, format!("adjust-{request}")));
            let outcome = insist(async || ledger.adjust(&request.1, scope, adjustment).await).await;
            prop_assert_eq!(outcome.unwrap(), model.adjust(request.0, scope, adjustment));
        }
        Step::Expire => {
            let mut turned = insist(async || ledger.expire().await).await.unwrap();
            turned.sort();
            prop_assert_eq!(turned, due);
        }
        Step::Rebuild { lost } => rebuild(ledger, model, test, lost).await,
        Step::Advance { .. } => {}
    }
    Ok(())
}

/// Every scope is as the model has it, windows that are over included, and `spent + reserved <= limit`, except by what an
/// overrun or a person has excused.
async fn verify(ledger: &dyn Ledger, model: &Model, now: Timestamp) -> TestCaseResult {
    if model.is_due(now) {
        // A look would turn what is due, and nobody would see whether the next step does.
        return Ok(());
    }
    let mut scopes: Vec<Scope> = model.scopes.keys().cloned().chain(all_scopes(now)).collect();
    scopes.sort();
    scopes.dedup();
    let balances = join_all(scopes.iter().map(|scope| insist(async || ledger.balance(scope).await))).await;
    for (scope, balance) in scopes.iter().zip(balances) {
        let balance = balance.unwrap();
        prop_assert_eq!(balance, model.effective(scope), "{}", scope);
        let excused = model.excused.get(scope).copied().unwrap_or_default();
        prop_assert!(
            model.excess(scope) <= excused,
            "{}: {:?} is further past its limit than {}",
            scope,
            balance,
            excused
        );
    }
    Ok(())
}

/// One sequence on books of its own.
async fn walk(test: &mut TestBackend, sequence: &Sequence) -> TestCaseResult {
    test.renew().await;
    let mut model = Model::default();
    let crash = sequence.crash.map(|(place, how)| (place.index(sequence.steps.len()), how));
    for (nth, step) in sequence.steps.iter().enumerate() {
        if let Some((_, how)) = crash.filter(|(place, _)| *place == nth) {
            if test.nats.is_some() {
                // What a dying process has not written down is charged in full; the model knows of no such thing.
                model.expire(test.clock.now());
                write_down(&*test.backend.ledger).await.unwrap();
            }
            if test.crash(how).await {
                model.expire(Timestamp(i64::MAX));
            }
        }
        let ledger = test.backend.ledger.clone();
        compare(&*ledger, &mut model, test, step).await?;
        verify(&*ledger, &model, test.clock.now()).await?;
    }
    model.expire(test.clock.now());
    let mut audit = Audit::default();
    let entries = insist(async || test.backend.ledger.entries(EntryFilter::default()).await).await.unwrap();
    entries.into_iter().for_each(|entry| audit.take(entry));
    prop_assert_eq!(audit.account(), model.sum(), "entries and balances disagree");
    Ok(())
}

pub(crate) async fn stress_random_sequences_agree_with_a_naive_model_and_keep_the_invariant(test: &mut TestBackend) {
    let handle = tokio::runtime::Handle::current();
    let sequences = cases(FEW, 10_000) / if test.nats.is_some() { JOURNALED } else { 1 };
    let test = std::cell::RefCell::new(test);
    tokio::task::block_in_place(|| {
        check(sequences, &sequence(), |sequence| handle.block_on(walk(&mut test.borrow_mut(), &sequence)));
    });
}
