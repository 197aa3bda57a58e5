//! When a call goes on to another model, and when it must not.
//!
//! The same scripted provider and ledger as for single models: what counts is which models were asked and what was charged.

use super::tests::{Bench, MODEL, PLENTY, Step, USAGE, context, reply, request, status};
use super::*;
use crate::error::Retry;
use crate::llm::StopReason;

const SECOND: &str = "claude-opus-5";
const THIRD: &str = "gpt-6.1-sol";

async fn call(bench: &Bench) -> CallOutcome {
    let request = LlmRequest { fallbacks: vec![SECOND.into(), THIRD.into()], ..request(1_000) };
    bench.metered.call(request, &context(), 100, &bench.cancel).await
}

fn asked(bench: &Bench) -> Vec<String> {
    bench.script.models.lock().unwrap().clone()
}

fn price(bench: &Bench, model: &str) -> u64 {
    bench.prices().charge(model, &USAGE).unwrap().0
}

#[tokio::test(start_paused = true)]
async fn what_another_model_may_do_better_moves_on() {
    let overloaded = || status(529, None, true);
    for (steps, models) in [
        (vec![status(404, None, true), reply(SECOND)], vec![MODEL, SECOND]),
        (vec![status(401, None, true), reply(SECOND)], vec![MODEL, SECOND]),
        (vec![status(429, Some(90), true), reply(SECOND)], vec![MODEL, SECOND]),
        (vec![Step::Fail(LlmError::Unsupported("x".into())), reply(SECOND)], vec![MODEL, SECOND]),
        (vec![overloaded(), overloaded(), overloaded(), reply(SECOND)], vec![MODEL, MODEL, MODEL, SECOND]),
        (vec![status(404, None, true), status(404, None, true), reply(THIRD)], vec![MODEL, SECOND, THIRD]),
    ] {
        let bench = Bench::new(PLENTY, steps);
        let outcome = call(&bench).await;
        assert!(outcome.result.is_ok(), "{outcome:?}");
        assert_eq!(asked(&bench), models);
        assert_eq!(outcome.attempts as usize, models.len());
        assert_eq!((outcome.cost.0, bench.spent()), (price(&bench, models[models.len() - 1]), outcome.cost));
    }
}

#[tokio::test(start_paused = true)]
async fn case_20_a_refusal_is_charged_and_another_model_is_asked() {
    let bench = Bench::new(PLENTY, [Step::Refuse { model: MODEL }, reply(SECOND)]);
    let outcome = call(&bench).await;
    assert_eq!(outcome.result.as_ref().unwrap().stop, StopReason::EndTurn);
    assert_eq!(outcome.cost.0, price(&bench, MODEL) + price(&bench, SECOND));
    assert_eq!((bench.spent(), outcome.usage), (outcome.cost, USAGE.plus(USAGE)));

    let refuse = |model| Step::Refuse { model };
    let bench = Bench::new(PLENTY, [refuse(MODEL), refuse(SECOND), refuse(THIRD)]);
    let outcome = call(&bench).await;
    assert!(matches!(outcome.result.unwrap().stop, StopReason::Refusal(_)), "the last refusal is the answer");
}

#[tokio::test(start_paused = true)]
async fn a_budget_a_cancellation_and_a_body_that_is_too_large_never_move_on() {
    let bench = Bench::new(PLENTY, [status(413, None, false)]);
    assert!(matches!(call(&bench).await.result, Err(LlmError::Status { status: 413, .. })));

    let bench = Bench::new(10, []);
    assert!(matches!(call(&bench).await.result, Err(LlmError::BudgetRefused { .. })));
    assert!(asked(&bench).is_empty());

    let bench = Bench::new(PLENTY, [Step::Hang]);
    let cancel = bench.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cancel.cancel();
    });
    assert!(matches!(call(&bench).await.result, Err(LlmError::Cancelled)));
    assert_eq!(asked(&bench), [MODEL]);
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_the_budget_refuses_is_a_refused_budget() {
    let failing = || status(500, None, true);
    // Three attempts of the first model use up everything.
    let probe = Bench::new(PLENTY, [failing(), failing(), failing(), reply(SECOND)]);
    let first = call(&probe).await.cost.0 - price(&probe, SECOND);
    let bench = Bench::new(first + 1, [failing(), failing(), failing()]);
    let outcome = call(&bench).await;
    assert!(matches!(outcome.result, Err(LlmError::BudgetRefused { .. })), "{outcome:?}");
    assert_eq!((outcome.cost.0, bench.spent()), (first, outcome.cost));
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_the_one_that_says_when_to_come_back_is_kept() {
    let bench = Bench::new(PLENTY, [status(429, Some(90), true), status(404, None, true), status(404, None, true)]);
    let error = call(&bench).await.result.unwrap_err();
    assert_eq!(error.retry(), Retry::After(Duration::from_secs(90)));
    let bench = Bench::new(PLENTY, [status(404, None, true), status(404, None, true), status(403, None, true)]);
    assert!(matches!(call(&bench).await.result, Err(LlmError::Status { status: 403, .. })));
}
