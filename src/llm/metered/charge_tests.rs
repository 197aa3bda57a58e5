//! What an attempt is charged: by what was reported, and against the budget wherever that is not clear.
//!
//! Calls go through the whole of [`Metered`] to a scripted provider; each case ends by reading the ledger.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::tests::{Bench, MODEL, PLENTY, Step, TIMEOUT, USAGE, context, reply, request, status};
use super::*;
use crate::budget::{PriceTable, Terms, Treasurer, WorstCaseInput};
use crate::llm::Told;

#[tokio::test(start_paused = true)]
async fn case_18_another_model_in_the_reply_is_charged_by_the_dearer_price_and_an_unknown_one_stops_everything() {
    for (answered, expected) in [
        ("claude-haiku-4-5-20991231", Some(MODEL)),
        ("claude-opus-5", Some("claude-opus-5")),
        ("claude-haiku-5-5", Some(MODEL)),
        ("somebody-else", None),
    ] {
        let bench = Bench::new(PLENTY, [reply(answered)]);
        let outcome = bench.call(4_000, 100).await;
        // What nobody has a price for may be more than was reserved.
        let beyond = MicroUsd(bench.worst(4_000).0 + 1);
        let is_known = expected.is_some();
        let expected = expected.map_or(beyond, |model| bench.prices().charge(model, &USAGE).unwrap());
        assert_eq!(outcome.cost, expected, "{answered}");
        assert_eq!(bench.spent(), expected, "{answered}");
        assert_eq!(bench.ledger.account().frozen, !is_known, "{answered}");
    }
}

/// A failure after a dearer model, or odd terms, had been told.
async fn after_telling(told: Told, error: LlmError) -> (MicroUsd, bool, Bench) {
    let bench = Bench::new(PLENTY, [Step::Tell(Box::new(told), error)]);
    let retry = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
    let metered = Metered { retry, ..bench.metered.clone() };
    let outcome = metered.call(request(1_000), &context(), 100, &bench.cancel).await;
    assert!(outcome.result.is_err());
    (bench.spent(), bench.ledger.account().frozen, bench)
}

#[tokio::test(start_paused = true)]
async fn case_08_and_18_however_a_call_ends_a_dearer_model_that_had_begun_to_answer_is_charged() {
    let dearer = || Told { models: ["claude-opus-5".into()].into(), ..Told::default() };
    let input = Usage { input: 400, ..Usage::default() };
    let cut = |input| LlmError::Cut { reason: "r".into(), input };
    // 400 tokens of input at 5, and 1,000 of output at 25.
    let (spent, is_frozen, bench) = after_telling(dearer(), cut(Some(input))).await;
    assert_eq!((spent, is_frozen), (MicroUsd(400 * 5 + 1_000 * 25), true));
    assert!(spent > bench.worst(1_000));
    let most =
        WorstCaseInput { model: "claude-opus-5".into(), ..bench.script.prepare(&request(1_000)).unwrap().worst_case };
    let most = bench.prices().worst_case(&most).unwrap();
    for error in [
        cut(None),
        LlmError::Timeout { reason: "t".into() },
        LlmError::Malformed { reason: "m".into() },
        LlmError::Cancelled,
    ] {
        let what = error.to_string();
        let (spent, is_frozen, _) = after_telling(dearer(), error).await;
        assert_eq!((spent, is_frozen), (most, true), "{what}");
    }
    let cheaper = Told { models: ["claude-haiku-5-5".into()].into(), ..Told::default() };
    let (spent, is_frozen, bench) = after_telling(cheaper, cut(None)).await;
    assert_eq!((spent, is_frozen), (bench.worst(1_000), false));
    let terms = Terms { speeds: ["ludicrous".to_owned()].into(), ..Terms::default() };
    let (spent, is_frozen, bench) = after_telling(Told { terms, ..Told::default() }, cut(Some(input))).await;
    assert_eq!((spent, is_frozen), (MicroUsd(bench.worst(1_000).0 + 1), true));
}

#[tokio::test(start_paused = true)]
async fn case_08_however_a_call_ends_the_usage_that_was_reported_is_charged_and_more_than_was_reserved_freezes() {
    let said = Usage { input: 400, output: 50_000, ..Usage::default() };
    let told = || Told { usage: Some(said), ..Told::default() };
    for error in [
        LlmError::Cut { reason: "r".into(), input: Some(Usage { output: 0, ..said }) },
        LlmError::Cut { reason: "r".into(), input: None },
        LlmError::Timeout { reason: "t".into() },
        LlmError::Malformed { reason: "m".into() },
        LlmError::Cancelled,
    ] {
        let what = error.to_string();
        let (spent, is_frozen, bench) = after_telling(told(), error).await;
        assert!(spent > bench.worst(1_000), "{what}");
        assert_eq!((spent, is_frozen), (bench.prices().charge(MODEL, &said).unwrap(), true), "{what}");
    }
    // What has no price is not charged less than the plain price of what was reported.
    let odd = Terms { tiers: ["unheard-of".to_owned()].into(), ..Terms::default() };
    let (spent, is_frozen, bench) =
        after_telling(Told { terms: odd, ..told() }, LlmError::Timeout { reason: "t".into() }).await;
    assert_eq!((spent, is_frozen), (bench.prices().charge(MODEL, &said).unwrap(), true));
    // Less than that is known exactly only when the reply was cut.
    let little = || Told { usage: Some(Usage { input: 400, output: 3, ..Usage::default() }), ..Told::default() };
    let (spent, is_frozen, bench) = after_telling(little(), LlmError::Malformed { reason: "m".into() }).await;
    assert_eq!((spent, is_frozen), (bench.worst(1_000), false));
}

#[tokio::test(start_paused = true)]
async fn case_18_a_dated_name_with_a_price_of_its_own_is_charged_by_that() {
    const PLAIN: &str = "claude-sonnet-5-5";
    const DATED: &str = "claude-sonnet-5-5-20991231";
    let builtin: serde_json::Value = serde_json::from_str(include_str!("../../../config/prices.json")).unwrap();
    let own = serde_json::json!({ DATED: builtin["claude-opus-5"] });
    let prices = PriceTable::builtin().unwrap().merged(PriceTable::parse(&own.to_string()).unwrap());
    let bench = Bench::new(PLENTY, [reply(DATED)]);
    let treasurer = Treasurer::new(bench.ledger.clone(), Arc::new(prices));
    let metered = Metered::new(bench.script.clone(), treasurer, RetryPolicy::default(), TIMEOUT);
    let request = LlmRequest { model: PLAIN.into(), ..request(1_000) };
    let outcome = metered.call(request, &context(), 100, &bench.cancel).await;
    let expected = metered.treasurer().prices().charge("claude-opus-5", &USAGE).unwrap();
    assert_eq!((outcome.cost, bench.spent()), (expected, expected));
}

#[tokio::test(start_paused = true)]
async fn an_overrun_is_told_though_the_ledger_is_away_and_reaches_it_after_any_time() {
    let usage = Usage { input: 400, output: 50_000, ..Usage::default() };
    let bench = Bench::new(PLENTY, [Step::Reply { model: MODEL, usage: Some(usage) }]);
    let (mut bill, cancel) = (Bill::default(), CancellationToken::new());
    let prepared = bench.metered.prepare(&mut request(1_000)).unwrap();
    let secured =
        bench.metered.secure(prepared, &mut request(1_000), &context(), 100, &cancel, &mut Count::default()).await;
    let (prepared, reservation) = secured.unwrap();
    bench.ledger.be_away_for(u32::MAX);
    assert!(bench.metered.send(&prepared, reservation, &cancel, &mut bill).await.is_ok());
    let charged = bench.prices().charge(MODEL, &usage).unwrap();
    assert_eq!(bill.overrun.map(|overrun| overrun.charged), Some(charged));
    // Many times its lease.
    tokio::time::sleep(Duration::from_secs(24 * 60 * 60)).await;
    bench.ledger.be_away_for(0);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((bench.spent(), bench.ledger.account().frozen), (charged, true));
}

#[tokio::test(start_paused = true)]
async fn case_15_absent_usage_is_charged_in_full_and_zero_usage_is_not_absent() {
    for (usage, expected) in [(None, None), (Some(Usage::default()), Some(MicroUsd::ZERO))] {
        let bench = Bench::new(PLENTY, [Step::Reply { model: MODEL, usage }]);
        let outcome = bench.call(1_000, 100).await;
        let expected = expected.unwrap_or(bench.worst(1_000));
        assert_eq!((outcome.cost, bench.spent()), (expected, expected));
    }
}

#[tokio::test(start_paused = true)]
async fn case_07_every_failure_is_charged_by_what_can_be_known_about_it() {
    let input = Usage { input: 400, ..Usage::default() };
    let bench = Bench::new(PLENTY, []);
    let exact = bench.prices().charge(MODEL, &Usage { output: 1_000, ..input }).unwrap();
    let full = bench.worst(1_000);
    assert!(exact < full);
    for (step, expected) in [
        (status(400, None, true), MicroUsd::ZERO),
        (status(413, None, false), full),
        (Step::Fail(LlmError::Cancelled), full),
        (Step::Fail(LlmError::Unsupported("x".into())), MicroUsd::ZERO),
    ] {
        let bench = Bench::new(PLENTY, [step]);
        let outcome = bench.call(1_000, 100).await;
        assert!(!matches!(outcome.result, Ok(_) | Err(LlmError::Exhausted { .. })), "{outcome:?}");
        assert_eq!((outcome.attempts, outcome.cost, bench.spent()), (1, expected, expected), "{outcome:?}");
    }
    for (step, expected) in [
        (status(429, None, true), MicroUsd::ZERO),
        (status(529, None, true), MicroUsd::ZERO),
        (status(500, None, true), full),
        (status(503, None, false), full),
        (Step::Fail(LlmError::Connect { reason: "c".into() }), MicroUsd::ZERO),
        (Step::Fail(LlmError::Timeout { reason: "t".into() }), full),
        (Step::Fail(LlmError::Malformed { reason: "m".into() }), full),
        (Step::Fail(LlmError::Cut { reason: "r".into(), input: None }), full),
        (Step::Fail(LlmError::Cut { reason: "r".into(), input: Some(input) }), exact),
    ] {
        let bench = Bench::new(PLENTY, [step, reply(MODEL)]);
        let outcome = bench.call(1_000, 100).await;
        let expected = MicroUsd(expected.0 + bench.prices().charge(MODEL, &USAGE).unwrap().0);
        assert!(outcome.result.is_ok(), "{outcome:?}");
        assert_eq!((outcome.attempts, outcome.cost, bench.spent()), (2, expected, expected));
    }
}
