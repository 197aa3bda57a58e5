//! Two backends side by side: the same random steps, the same answers.
//!
//! Locks and state have too many rules for a model that is simpler than the store, but there are two stores, written in
//! different languages by different means. Where they differ, one of them breaks a promise. Only what the promises leave
//! open may differ: fences grow from different starts.

use std::collections::HashMap;

use bytes::Bytes;
use codeswarm::backend::{
    Acquired, Adjustment, BackendError, Condition, EntryFilter, Expected, Ledger, LockMode, LockRequest, Scope,
    Settlement, Write,
};
use codeswarm::protocol::{FeatureId, JobId, Priority, Usage};
use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::ledger::request;
use crate::support::share;
use crate::support::stores::{TestBackend, agent, instance, job, s, usd};

/// One random step on locks. Few owners and resources, so that queues and cycles are common.
#[derive(Debug, Clone)]
enum Step {
    Acquire { resource: u8, owner: u8, mode: u8, priority: u8, lease: u64, queue: bool },
    Renew { resource: u8, owner: u8, lease: u64 },
    Release { resource: u8, owner: u8 },
    Pass { millis: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..4_u8, 0..6_u8, 0..4_u8, 0..4_u8, 1..40_u64, 0..8_u8).prop_map(
            |(resource, owner, mode, priority, lease, queue)| Step::Acquire {
                resource, owner, mode, priority, lease, queue: queue > 0
            }
        ),
        1 => (0..4_u8, 0..6_u8, 1..40_u64).prop_map(|(resource, owner, lease)| Step::Renew { resource, owner, lease }),
        3 => (0..4_u8, 0..6_u8).prop_map(|(resource, owner)| Step::Release { resource, owner }),
        2 => (1..15_000_u64).prop_map(|millis| Step::Pass { millis }),
    ]
}

/// One resource is a pool of two permits, the others are exclusive or shared; now and then somebody confuses them.
fn lock(resource: u8, owner: u8, mode: u8, priority: u8, lease: u64, queue: bool) -> LockRequest {
    let mode = match (resource, mode) {
        (0, 0) | (1, 0) => LockMode::Exclusive,
        (0, _) => LockMode::Permit { capacity: 2 },
        (_, 0 | 1) => LockMode::Exclusive,
        (_, 2) => LockMode::Shared,
        _ => LockMode::Permit { capacity: 3 },
    };
    let priority = [Priority::Critical, Priority::High, Priority::Normal, Priority::Low][usize::from(priority)];
    let (resource, owner) = (format!("r{resource}"), format!("o{owner}"));
    LockRequest { resource, owner, mode, priority, lease: s(lease), queue }
}

/// An answer without its fence, and the fence.
fn told(outcome: Result<Acquired, BackendError>) -> (String, Option<u64>) {
    match outcome {
        Ok(Acquired::Granted { fence, until }) => (format!("granted until {until}"), Some(fence)),
        other => (format!("{other:?}"), None),
    }
}

/// Fences that both twins have given to an owner of a resource.
type Fences = HashMap<(u8, u8), [u64; 2]>;

/// Makes both twins take `step` and answers what they have said to a request.
async fn compare(twins: &[TestBackend; 2], step: &Step, fences: &mut Fences) -> String {
    let [one, other] = twins;
    let mut said = String::new();
    match *step {
        Step::Acquire { resource, owner, mode, priority, lease, queue } => {
            let request = lock(resource, owner, mode, priority, lease, queue);
            let (first, fence) = told(one.backend.locks.acquire(request.clone()).await);
            let (second, other_fence) = told(other.backend.locks.acquire(request).await);
            assert_eq!(first, second, "{step:?}");
            said = first;
            if let (Some(fence), Some(other_fence)) = (fence, other_fence) {
                let newest = fences.iter().filter(|((known, _), _)| *known == resource);
                let newest = newest.fold([0, 0], |max, (_, found)| [max[0].max(found[0]), max[1].max(found[1])]);
                let known = fences.insert((resource, owner), [fence, other_fence]);
                let is_new = fence > newest[0] && other_fence > newest[1];
                assert!(is_new || known == Some([fence, other_fence]), "{step:?}: {fence} and {other_fence}");
            }
        }
        Step::Renew { resource, owner, lease } => {
            let fence = fences.get(&(resource, owner)).copied().unwrap_or([7, 7]);
            let (name, owner) = (format!("r{resource}"), format!("o{owner}"));
            let first = one.backend.locks.renew(&name, &owner, fence[0], s(lease)).await;
            let second = other.backend.locks.renew(&name, &owner, fence[1], s(lease)).await;
            assert_eq!(format!("{first:?}"), format!("{second:?}"), "{step:?}");
        }
        Step::Release { resource, owner } => {
            for twin in twins {
                twin.backend.locks.release(&format!("r{resource}"), &format!("o{owner}")).await.unwrap();
            }
        }
        Step::Pass { millis } => {
            for twin in twins {
                twin.pass(std::time::Duration::from_millis(millis)).await;
            }
        }
    }
    let [first, second] = [one, other].map(|twin| async move {
        let found = twin.backend.locks.inspect("r").await.unwrap();
        found.into_iter().map(|info| (info.resource, info.owner, info.mode, info.until, info.fence.is_some())).collect()
    });
    let (first, second): (Vec<_>, Vec<_>) = (first.await, second.await);
    assert_eq!(first, second, "{step:?}");
    said
}

async fn twins() -> [TestBackend; 2] {
    [TestBackend::embedded().await, TestBackend::redis().await]
}

/// Runs one long random case.
fn run<S: Strategy>(steps: &S, test: impl Fn(S::Value)) {
    let config = Config { cases: 1, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(steps, |steps| {
        test(steps);
        Ok(())
    });
    outcome.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stress_locks_answer_random_steps_alike_deadlocks_included() {
    let (twins, handle) = (twins().await, tokio::runtime::Handle::current());
    let steps = proptest::collection::vec(step(), share(1_500, 30_000));
    tokio::task::block_in_place(|| {
        run(&steps, |steps| {
            handle.block_on(async {
                let (mut fences, mut cycles) = (Fences::new(), 0);
                for step in &steps {
                    let said = compare(&twins, step, &mut fences).await;
                    // At least two owners.
                    cycles += usize::from(said.starts_with("Ok(Deadlock") && said.contains(','));
                }
                assert!(cycles > steps.len() / 200, "only {cycles} cycles: the steps no longer try what they should");
            });
        });
    });
}

/// A key, what is expected of it, and a value, `None` to delete; or no write at all but a condition.
type Touch = (u8, u8, Option<u8>, bool);

fn expected(code: u8) -> Expected {
    match code {
        0 => Expected::Any,
        1 | 2 => Expected::Absent,
        version => Expected::Version(u64::from(version) - 2),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stress_state_answers_random_commits_alike() {
    let (twins, handle, writer) = (twins().await, tokio::runtime::Handle::current(), instance("writer"));
    let touch = (0..6_u8, 0..12_u8, proptest::option::weighted(0.7, any::<u8>()), proptest::bool::weighted(0.3));
    let commits = proptest::collection::vec(proptest::collection::vec(touch, 1..4), share(500, 10_000));
    let commit = async |twin: &TestBackend, touches: &[Touch]| {
        let (mut conditions, mut writes) = (Vec::new(), Vec::new());
        for (key, code, value, is_condition) in touches {
            let (key, expected) = (format!("k{key}"), expected(*code));
            if *is_condition {
                conditions.push(Condition { key, expected });
            } else {
                writes.push(Write { key, expected, value: value.map(|byte| Bytes::from(vec![byte, b' ', 0, byte])) });
            }
        }
        twin.pass(std::time::Duration::from_millis(1)).await;
        format!("{:?}", twin.backend.state.commit_if(&writer, conditions, writes).await)
    };
    tokio::task::block_in_place(|| {
        run(&commits, |commits| {
            handle.block_on(async {
                for touches in &commits {
                    assert_eq!(commit(&twins[0], touches).await, commit(&twins[1], touches).await, "{touches:?}");
                }
                let [one, other] = twins.each_ref().map(|twin| &twin.backend.state);
                let (first, second) = (one.snapshot("k").await.unwrap(), other.snapshot("k").await.unwrap());
                assert_eq!(first, second);
                let keys: Vec<String> = (0..7).map(|key| format!("k{key}")).collect();
                assert_eq!(one.get(&keys).await.unwrap(), other.get(&keys).await.unwrap());
                for key in &keys {
                    assert_eq!(one.history(key, 90).await.unwrap(), other.history(key, 90).await.unwrap());
                }
                let start = first.revision.saturating_sub(400);
                let changes = one.changes("k", start, 1_000, std::time::Duration::ZERO).await.unwrap();
                assert_eq!(changes, other.changes("k", start, 1_000, std::time::Duration::ZERO).await.unwrap());
            });
        });
    });
}

/// A step of the money: what, a reservation, scopes as bits, money, tokens, a lease.
type Spend = (u8, u8, u8, u64, u64, u64);

/// All scopes that a call can fall in, each with a limit that holds for a few calls at once.
fn scopes() -> Vec<(Scope, u64)> {
    let slice = Scope::Slice(job("j"), FeatureId::new("f").unwrap());
    let agents = Scope::Agent(job("j"), agent("coder"));
    vec![
        (Scope::Job(job("j")), 4_000),
        (Scope::Account, 9_000),
        (slice, 1_500),
        (agents, 2_000),
        (Scope::JobTokens(job("j")), 3_000),
        (Scope::Job(job("k")), 3_000),
    ]
}

async fn spend(ledger: &dyn Ledger, (what, id, scopes_in, money, tokens, lease): Spend) -> String {
    let id = format!("r{id}");
    match what {
        0..5 => {
            let chosen = scopes().into_iter().enumerate().filter(|(place, _)| scopes_in & (1 << place) != 0);
            let chosen: Vec<Scope> = chosen.map(|(_, (scope, _))| scope).collect();
            let mut asked = request(&id, &chosen, money);
            (asked.tokens, asked.lease, asked.may_use_hold_back) = (tokens, s(lease), what == 0);
            format!("{:?}", ledger.reserve(asked).await)
        }
        5..9 => {
            let usage = Usage { input: tokens / 2, output: tokens, ..Usage::default() };
            format!("{:?}", ledger.settle(&id, Settlement { amount: usd(money), usage }).await)
        }
        _ => format!("{:?}", ledger.release(&id).await),
    }
}

/// Gives both twins limits, or more of them.
async fn grant(twins: [&dyn Ledger; 2], nth: usize) {
    for ledger in twins {
        for (scope, limit) in scopes() {
            let (first, kept) = (Adjustment::SetLimit(Some(usd(limit))), Adjustment::HoldBack(usd(100)));
            let adjustments = if nth == 0 { [first, kept] } else { [Adjustment::TopUp(usd(2_000)), Adjustment::Thaw] };
            for (which, adjustment) in adjustments.into_iter().enumerate() {
                ledger.adjust(&format!("{nth}-{which}-{scope}"), &scope, adjustment).await.unwrap();
            }
        }
    }
}

/// The same entries, but for their ids: what expires in one moment has no order.
async fn compare_entries(twins: [&dyn Ledger; 2], of_job: Option<JobId>) {
    let filter = EntryFilter { job: of_job, limit: 1_000_000, ..EntryFilter::default() };
    let [one, other] = twins.map(async |ledger| {
        let mut entries = ledger.entries(filter.clone()).await.unwrap();
        assert!(entries.is_sorted_by_key(|entry| entry.id));
        entries.iter_mut().for_each(|entry| entry.id = 0);
        entries.sort_by(|one, other| {
            (one.at, &one.reservation, one.charged).cmp(&(other.at, &other.reservation, other.charged))
        });
        entries
    });
    assert_eq!(one.await, other.await);
    // A page may begin in the middle of what one script has written.
    let first = twins[1].entries(EntryFilter { limit: 33, ..filter.clone() }).await.unwrap();
    let after = first.last().unwrap().id;
    let rest = twins[1].entries(EntryFilter { after, limit: 50, ..filter.clone() }).await.unwrap();
    let all = twins[1].entries(EntryFilter { limit: 83, ..filter }).await.unwrap();
    assert_eq!([first, rest].concat(), all);
}

/// Callers who come at the same time are answered as if they had come one after the other, whatever the others ask for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stress_steps_of_money_that_are_made_together_are_answered_as_if_made_one_by_one() {
    let (twins, handle) = (twins().await, tokio::runtime::Handle::current());
    let [one_by_one, together] = twins.each_ref().map(|twin| &*twin.backend.ledger);
    let spends = (0..11_u8, any::<u8>(), 1..64_u8, 0..600_u64, 0..400_u64, 1..30_u64);
    let bursts = proptest::collection::vec(proptest::collection::vec(spends, 1..=80), share(120, 2_000));
    let test = async |bursts: Vec<Vec<Spend>>| {
        // The server has to learn the script first: whoever teaches it comes later than those who gather meanwhile.
        assert_eq!(spend(one_by_one, (9, 0, 0, 0, 0, 0)).await, spend(together, (9, 0, 0, 0, 0, 0)).await);
        let mut granted = 0;
        for (nth, burst) in bursts.iter().enumerate() {
            if nth % 10 == 0 {
                grant([one_by_one, together], nth).await;
            }
            let mut expected = Vec::new();
            for step in burst {
                expected.push(spend(one_by_one, *step).await);
            }
            let answers = join_all(burst.iter().map(|step| spend(together, *step))).await;
            granted += answers.iter().filter(|answer| *answer == "Ok(Granted)").count();
            assert_eq!(answers, expected, "burst {nth}: {burst:?}");
            for twin in &twins {
                twin.pass(s(7)).await;
            }
            for (scope, _) in scopes() {
                let (one, other) = (one_by_one.balance(&scope).await, together.balance(&scope).await);
                assert_eq!(one.unwrap(), other.unwrap(), "{scope} after burst {nth}");
            }
        }
        assert!(granted > bursts.len() * 3, "only {granted} grants: the steps no longer try what they should");
        for of_job in [None, Some(job("j"))] {
            compare_entries([one_by_one, together], of_job).await;
        }
    };
    tokio::task::block_in_place(|| run(&bursts, |bursts| handle.block_on(test(bursts))));
}
