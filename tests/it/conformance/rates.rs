//! What every [`RateTable`](codeswarm::backend::RateTable) promises: one allowance and one breaker for all processes.
//!
//! The arithmetic itself is tested beside it; here it matters that each step is atomic, that all callers see one state, and
//! that the clock is the store's.

use std::time::Duration;

use codeswarm::backend::rates::gate::Gate;
use codeswarm::backend::rates::meter::Bank;
use codeswarm::backend::{Amounts, GatePolicy, GateStep, GateView, Headroom, Limits, Reading, Take, Taken};
use codeswarm::llm::replay::SplitMix64;
use futures_util::future::join_all;

use crate::support::share;
use crate::support::stores::{TestBackend, s};

const KEY: &str = "anthropic/claude-x";
const POLICY: GatePolicy = GatePolicy {
    consecutive: 3,
    ratio_percent: 50,
    least_calls: 20,
    window: s(60),
    open: s(10),
    longest_open: s(60),
    trials: 2,
    trial_lease: s(300),
};

fn limits(requests: Option<u64>) -> Limits {
    Limits { per_window: [requests, None, None], window: s(60), burst_percent: 100, sliding: false }
}

fn calls(n: u64) -> Take {
    let amounts = Amounts { requests: n, ..Amounts::default() };
    Take { need: amounts, want: amounts, ..Take::default() }
}

async fn take(test: &TestBackend, limits: &Limits, take: Take) -> Taken {
    test.backend.rates.take(KEY, limits, take).await.unwrap()
}

fn granted(n: u64) -> Taken {
    Taken::Granted { amounts: Amounts { requests: n, ..Amounts::default() }, limited: true }
}

async fn gate(test: &TestBackend, step: GateStep) -> GateView {
    test.backend.rates.gate(KEY, &POLICY, step).await.unwrap()
}

fn report(succeeded: u32, failed: u32, trial: Option<&str>) -> GateStep {
    GateStep::Report { succeeded, failed, trial: trial.map(str::to_owned) }
}

fn enter(id: &str) -> GateStep {
    GateStep::Enter { id: id.to_owned() }
}

pub(super) async fn a_key_without_limits_grants_everything(test: &TestBackend) {
    let amounts = Amounts { requests: 1_000, input_tokens: 1 << 40, output_tokens: 1 << 40 };
    for _ in 0..3 {
        let all = Take { need: amounts, want: amounts, ..Take::default() };
        assert_eq!(take(test, &limits(None), all).await, Taken::Granted { amounts, limited: false });
    }
}

pub(super) async fn a_limit_grants_the_bucket_and_then_as_fast_as_it_fills(test: &TestBackend) {
    let limits = limits(Some(60));
    assert_eq!(take(test, &limits, calls(60)).await, granted(60));
    assert_eq!(take(test, &limits, calls(1)).await, Taken::Wait(s(1)));
    test.pass(Duration::from_millis(999)).await;
    assert_eq!(take(test, &limits, calls(1)).await, Taken::Wait(Duration::from_millis(1)));
    test.pass(Duration::from_millis(1)).await;
    assert_eq!(take(test, &limits, calls(1)).await, granted(1));
    test.pass(s(10)).await;
    assert_eq!(take(test, &limits, calls(11)).await, Taken::Wait(s(1)));
    assert_eq!(take(test, &limits, calls(10)).await, granted(10));
}

pub(super) async fn a_sliding_window_never_sees_more_than_the_limit(test: &TestBackend) {
    let limits = Limits { sliding: true, ..limits(Some(60)) };
    assert_eq!(take(test, &limits, calls(60)).await, granted(60));
    test.pass(s(59)).await;
    assert!(matches!(take(test, &limits, calls(1)).await, Taken::Wait(_)));
    test.pass(s(2)).await;
    assert_eq!(take(test, &limits, calls(60)).await, granted(60));
}

pub(super) async fn all_meters_are_taken_from_or_none(test: &TestBackend) {
    let limits = Limits { per_window: [Some(10), Some(100), Some(100)], ..limits(None) };
    let call = |input_tokens| {
        let amounts = Amounts { requests: 1, input_tokens, output_tokens: 1 };
        Take { need: amounts, want: amounts, ..Take::default() }
    };
    assert!(matches!(take(test, &limits, call(90)).await, Taken::Granted { .. }));
    assert!(matches!(take(test, &limits, call(20)).await, Taken::Wait(_)));
    let state = &test.backend.rates.list().await.unwrap()[0];
    assert_eq!(state.meters, [Some((10, 9)), Some((100, 10)), Some((100, 99))]);
}

pub(super) async fn racing_takers_are_never_granted_more_than_there_is(test: &TestBackend) {
    let limits = limits(Some(37));
    let takers = (0..200).map(|_| take(test, &limits, calls(1)));
    let passed = join_all(takers).await.into_iter().filter(|taken| *taken == granted(1)).count();
    assert_eq!(passed, 37);
}

pub(super) async fn what_the_provider_said_holds_for_every_taker(test: &TestBackend) {
    let reading = Some(Reading { limit: 60, remaining: 2 });
    let headroom = Headroom { readings: [reading, None, None], ..Headroom::default() };
    take(test, &limits(None), Take { headroom: Some(headroom), ..Take::default() }).await;
    assert_eq!(take(test, &limits(None), calls(2)).await, granted(2));
    assert_eq!(take(test, &limits(None), calls(1)).await, Taken::Wait(s(1)));
    test.pass(s(1)).await;
    assert_eq!(take(test, &limits(Some(1_000)), calls(1)).await, granted(1), "the smaller limit holds");
    assert_eq!(take(test, &limits(Some(30)), calls(1)).await, Taken::Wait(s(2)));
}

pub(super) async fn a_pause_holds_everybody_until_it_is_over(test: &TestBackend) {
    let headroom = Headroom { pause: Some(s(20)), ..Headroom::default() };
    take(test, &limits(None), Take { headroom: Some(headroom), ..Take::default() }).await;
    assert_eq!(take(test, &limits(None), calls(1)).await, Taken::Wait(s(20)));
    let shorter = Headroom { pause: Some(s(5)), ..Headroom::default() };
    take(test, &limits(None), Take { headroom: Some(shorter), ..Take::default() }).await;
    assert_eq!(test.backend.rates.list().await.unwrap()[0].paused, s(20), "a shorter pause does not end a longer one");
    test.pass(s(20)).await;
    assert!(matches!(take(test, &limits(None), calls(1)).await, Taken::Granted { .. }));
}

pub(super) async fn corrections_count_even_when_nothing_is_taken(test: &TestBackend) {
    let limits = limits(Some(60));
    assert_eq!(take(test, &limits, calls(50)).await, granted(50));
    take(test, &limits, Take { correction: [-20, 0, 0], ..Take::default() }).await;
    assert_eq!(take(test, &limits, calls(30)).await, granted(30));
    let refused = Take { correction: [-10, 0, 0], ..calls(20) };
    assert!(matches!(take(test, &limits, refused).await, Taken::Wait(_)));
    assert_eq!(take(test, &limits, calls(10)).await, granted(10));
}

pub(super) async fn keys_do_not_share_anything_and_are_listed_in_order(test: &TestBackend) {
    let rates = &test.backend.rates;
    for key in ["b/two", "a/one"] {
        assert_eq!(rates.take(key, &limits(Some(1)), calls(1)).await.unwrap(), granted(1));
    }
    rates.gate("c/three", &POLICY, report(0, 3, None)).await.unwrap();
    assert_eq!(rates.gate("a/one", &POLICY, GateStep::Look).await.unwrap(), GateView::Closed { clean: true });
    let states = rates.list().await.unwrap();
    let keys: Vec<&str> = states.iter().map(|state| state.key.as_str()).collect();
    assert_eq!(keys, ["a/one", "b/two", "c/three"]);
    assert_eq!((states[0].meters[0], states[2].gate), (Some((1, 0)), GateView::Open { wait: s(10) }));
}

pub(super) async fn a_breaker_opens_lets_trials_through_and_closes(test: &TestBackend) {
    assert_eq!(gate(test, GateStep::Look).await, GateView::Closed { clean: true });
    assert_eq!(gate(test, report(5, 2, None)).await, GateView::Closed { clean: false });
    assert_eq!(gate(test, report(0, 1, None)).await, GateView::Open { wait: s(10) });
    test.pass(s(9)).await;
    assert_eq!(gate(test, enter("t1")).await, GateView::Open { wait: s(1) });
    test.pass(s(1)).await;
    for id in ["t1", "t1", "t2"] {
        assert_eq!(gate(test, enter(id)).await, GateView::Trial);
    }
    assert!(matches!(gate(test, enter("t3")).await, GateView::HalfOpen { .. }));
    gate(test, report(1, 0, Some("t1"))).await;
    assert_eq!(gate(test, report(0, 1, Some("t2"))).await, GateView::Open { wait: s(20) });
    test.pass(s(20)).await;
    for id in ["t4", "t5"] {
        assert_eq!(gate(test, enter(id)).await, GateView::Trial);
        gate(test, report(1, 0, Some(id))).await;
    }
    assert_eq!(gate(test, GateStep::Look).await, GateView::Closed { clean: true });
}

pub(super) async fn of_many_racing_for_trials_only_as_many_pass_as_there_are(test: &TestBackend) {
    gate(test, report(0, 3, None)).await;
    test.pass(s(10)).await;
    let ids: Vec<String> = (0..50).map(|n| format!("t{n}")).collect();
    let answers = join_all(ids.iter().map(|id| gate(test, enter(id)))).await;
    assert_eq!(answers.iter().filter(|view| **view == GateView::Trial).count(), 2);
}

pub(super) async fn a_trial_whose_process_died_ends_with_its_lease(test: &TestBackend) {
    gate(test, report(0, 3, None)).await;
    test.pass(s(10)).await;
    for id in ["t1", "t2"] {
        assert_eq!(gate(test, enter(id)).await, GateView::Trial);
    }
    test.pass(s(299)).await;
    assert!(matches!(gate(test, enter("t3")).await, GateView::HalfOpen { .. }));
    test.pass(s(1)).await;
    assert_eq!(gate(test, enter("t3")).await, GateView::Trial);
    assert_eq!(gate(test, report(0, 1, Some("t1"))).await, GateView::Trial, "it was not a trial any more");
}

pub(super) async fn a_renewal_prolongs_a_trial_that_is_there_and_sets_none_up(test: &TestBackend) {
    let renew = |id: &str| GateStep::Renew { id: id.to_owned() };
    gate(test, report(0, 3, None)).await;
    test.pass(s(10)).await;
    for id in ["t1", "t2"] {
        assert_eq!(gate(test, enter(id)).await, GateView::Trial);
    }
    gate(test, report(0, 0, Some("t2"))).await;
    test.pass(s(299)).await;
    assert_eq!(gate(test, renew("t2")).await, GateView::Trial, "it has ended, and its place is free");
    gate(test, renew("t1")).await;
    test.pass(s(299)).await;
    assert_eq!(gate(test, enter("t3")).await, GateView::Trial);
    assert!(matches!(gate(test, enter("t4")).await, GateView::HalfOpen { .. }), "t1 is still made");
    assert!(test.backend.rates.gate(KEY, &POLICY, renew("no id")).await.is_err());
}

pub(super) async fn what_is_no_key_is_refused(test: &TestBackend) {
    for key in ["", "a\nb", &"k".repeat(201)] {
        assert!(test.backend.rates.take(key, &limits(None), calls(1)).await.is_err(), "{key:?}");
        assert!(test.backend.rates.gate(key, &POLICY, GateStep::Look).await.is_err(), "{key:?}");
    }
}

/// Random steps, the same on the store and on the shared arithmetic: every answer has to be the same.
pub(super) async fn stress_random_steps_agree_with_the_shared_arithmetic(test: &TestBackend) {
    for seed in 0..share(4, 100) {
        let key = format!("random/{seed}");
        let mut random = SplitMix64::new(seed);
        let (mut bank, mut breaker) = (Bank::default(), Gate::default());
        let limits = Limits {
            per_window: [Some(1 + random.below(100)), None, Some(1 + random.below(5_000))],
            window: s(60),
            burst_percent: u32::try_from(1 + random.below(100)).unwrap(),
            sliding: random.below(2) == 0,
        };
        for nth in 0..150 {
            test.pass(Duration::from_millis(random.below(3) * random.below(4_000))).await;
            let now = test.clock.now();
            if random.below(2) == 0 {
                let take = random_take(&mut random);
                let expected = bank.take(now, &limits, &take);
                let found = test.backend.rates.take(&key, &limits, take).await.unwrap();
                assert_eq!(found, expected, "seed {seed}, step {nth}: {take:?} of {limits:?}");
            } else {
                let step = random_step(&mut random);
                let expected = breaker.step(now, &POLICY, &step);
                let found = test.backend.rates.gate(&key, &POLICY, step.clone()).await.unwrap();
                assert_eq!(found, expected, "seed {seed}, step {nth}: {step:?}");
            }
        }
        let states = test.backend.rates.list().await.unwrap();
        let state = states.iter().find(|state| state.key == key).expect("it is listed");
        let now = test.clock.now();
        assert_eq!((state.meters, state.paused, state.gate), (bank.readings(), bank.paused(now), breaker.glance(now)));
    }
}

fn random_take(random: &mut SplitMix64) -> Take {
    let small = Amounts {
        requests: random.below(4),
        input_tokens: random.below(1_000),
        output_tokens: random.below(3) * random.below(4_000),
    };
    let reading = |random: &mut SplitMix64| Reading { limit: 1 + random.below(3_000), remaining: random.below(500) };
    let headroom = (random.below(4) == 0).then(|| Headroom {
        readings: [None, Some(reading(random)).filter(|_| random.below(2) == 0), Some(reading(random))],
        age: Duration::from_millis(random.below(9_000)),
        pause: (random.below(5) == 0).then(|| Duration::from_millis(random.below(5_000))),
    });
    let correction = [0; 3].map(|_: i64| i64::try_from(random.below(40)).unwrap() - 20);
    Take { need: small, want: small.plus(small), correction, headroom }
}

fn random_step(random: &mut SplitMix64) -> GateStep {
    let trial = format!("t{}", random.below(4));
    match random.below(6) {
        0 => GateStep::Look,
        5 => GateStep::Renew { id: trial },
        1 | 2 => enter(&trial),
        3 => report(u32::try_from(random.below(3)).unwrap(), u32::try_from(random.below(2)).unwrap(), None),
        _ => report(u32::from(random.below(3) > 0), u32::from(random.below(3) == 0), Some(&trial)),
    }
}
