//! When the input of a call is counted, and what becomes of the answer.
//!
//! The same scripted provider and ledger as in the other tests of metered calls: what counts is what was reserved and sent.

use std::time::Duration;

use super::tests::{Bench, Counted, MODEL, PLENTY, Step, USAGE, context, reply, request, status};
use super::*;
use crate::llm::LlmRequest;

/// Bytes of the prompt, and a count of its tokens that they could have.
const BYTES: usize = 9_000;
const TOKENS: u64 = 2_000;

fn long(max_tokens: u32) -> LlmRequest {
    let mut request = request(max_tokens);
    request.messages[0].text = "x".repeat(BYTES);
    request
}

/// What is set aside for the call, by its bytes or by this count.
fn worst(max_tokens: u32, counted_input: Option<u64>) -> MicroUsd {
    let bench = Bench::new(PLENTY, []);
    let prepared = bench.script.prepare(&long(max_tokens)).unwrap();
    bench.prices().worst_case(&WorstCaseInput { counted_input, ..prepared.worst_case }).unwrap()
}

/// A provider that gives these answers when it is asked to count, and may be asked.
fn counting(limit: u64, steps: impl IntoIterator<Item = Step>, answers: impl IntoIterator<Item = Counted>) -> Bench {
    let mut bench = Bench::new(limit, steps);
    bench.script.counts.lock().unwrap().extend(answers);
    bench.metered = bench.metered.counting_input(true);
    bench
}

async fn call(bench: &Bench, max_tokens: u32, min_output_tokens: u32) -> CallOutcome {
    bench.metered.call(long(max_tokens), &context(), min_output_tokens, &bench.cancel).await
}

/// Answers nobody has asked for.
fn left(bench: &Bench) -> usize {
    bench.script.counts.lock().unwrap().len()
}

fn sent(bench: &Bench) -> Vec<(u32, MicroUsd)> {
    bench.script.sent.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_call_is_bounded_by_a_count_only_where_its_bytes_do_not_fit() {
    let (by_bytes, by_count) = (worst(1_000, None), worst(1_000, Some(TOKENS)));
    // 2,000 tokens, a tenth of them and 1,024, at a dollar a million; 1,000 of output at five.
    assert_eq!(by_count, MicroUsd(2_000 + 200 + 1_024 + 5_000));
    let bench = counting(by_bytes.0, [reply(MODEL)], [Counted::Tokens(TOKENS)]);
    assert!(call(&bench, 1_000, 1_000).await.result.is_ok());
    assert_eq!((left(&bench), sent(&bench)), (1, vec![(1_000, by_bytes)]), "nobody was asked");

    let bench = counting(by_bytes.0 - 1, [reply(MODEL)], [Counted::Tokens(TOKENS)]);
    let outcome = call(&bench, 1_000, 100).await;
    assert!(outcome.result.is_ok(), "{outcome:?}");
    assert_eq!(outcome.attempts, 1, "a question is no attempt");
    assert_eq!((left(&bench), sent(&bench)), (0, vec![(1_000, by_count)]), "at its full size");
    assert_eq!(bench.spent(), outcome.cost);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_unless_that_is_wanted() {
    let bench = Bench::new(worst(1_000, None).0 - 1, []);
    bench.script.counts.lock().unwrap().push_back(Counted::Tokens(TOKENS));
    assert!(matches!(call(&bench, 1_000, 1_000).await.result, Err(LlmError::BudgetRefused { .. })));
    assert_eq!(left(&bench), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_one_leaves_the_bound_by_bytes_and_is_not_asked_for_again() {
    let by_bytes = worst(1_000, None);
    let most = by_bytes.0 - 5_000;
    let answers = || {
        let failed = |error| Some(Counted::Fail(error));
        let Step::Fail(limited) = status(429, Some(30), true) else { unreachable!() };
        [
            None,
            Some(Counted::Tokens(0)),
            Some(Counted::Tokens(BYTES as u64 / 32)),
            Some(Counted::Tokens(most + 1)),
            Some(Counted::Tokens(u64::MAX)),
            // Believable, and with its margin no less than the bytes.
            Some(Counted::Tokens(most - 1)),
            failed(limited),
            failed(LlmError::Malformed { reason: "m".into() }),
            failed(LlmError::Timeout { reason: "t".into() }),
            failed(LlmError::Connect { reason: "c".into() }),
        ]
    };
    for nth in 0..answers().len() {
        // A second question would never be answered.
        let answer = || answers().into_iter().nth(nth).flatten().into_iter().flat_map(|one| [one, Counted::Hang]);
        let bench = counting(by_bytes.0 - 1, [], answer());
        let outcome = call(&bench, 1_000, 1_000).await;
        assert!(
            matches!(outcome.result, Err(LlmError::BudgetRefused { needed, .. }) if needed == by_bytes),
            "{nth}: {outcome:?}"
        );
        assert_eq!((outcome.attempts, bench.spent()), (0, MicroUsd::ZERO), "{nth}");

        // Where a smaller call will do, it is made smaller, in both of its attempts.
        let smaller = worst(600, None);
        let bench = counting(smaller.0 + 4, [status(529, None, true), reply(MODEL)], answer());
        let outcome = call(&bench, 1_000, 100).await;
        assert!(outcome.result.is_ok(), "{nth}: {outcome:?}");
        assert_eq!((left(&bench), sent(&bench)), (usize::from(nth > 0), vec![(600, smaller); 2]), "{nth}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_counted_once_for_all_its_attempts_and_sizes() {
    let by_count = worst(600, Some(TOKENS));
    let steps = [status(529, None, true), reply(MODEL)];
    let bench = counting(by_count.0 + 4, steps, [Counted::Tokens(TOKENS), Counted::Tokens(TOKENS / 2)]);
    let outcome = call(&bench, 1_000, 100).await;
    assert_eq!(outcome.attempts, 2, "{outcome:?}");
    assert_eq!(sent(&bench), vec![(600, by_count); 2]);
    assert_eq!(left(&bench), 1, "asked once");
    // Too little is too little by the count, too, and the smallest call is said by it.
    let least = worst(100, Some(TOKENS));
    let bench = counting(least.0 - 1, [], [Counted::Tokens(TOKENS)]);
    let outcome = call(&bench, 1_000, 100).await;
    assert!(matches!(outcome.result, Err(LlmError::BudgetRefused { needed, .. }) if needed == least), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn case_12_a_call_that_needs_more_than_was_counted_is_recorded_as_it_is_and_freezes_spending() {
    let limit = worst(1_000, None).0 - 1;
    let usage = Usage { input: BYTES as u64, output: 1_000, ..USAGE };
    let bench = counting(limit, [Step::Reply { model: MODEL, usage: Some(usage) }], [Counted::Tokens(TOKENS)]);
    let outcome = call(&bench, 1_000, 1_000).await;
    let true_cost = bench.prices().charge(MODEL, &usage).unwrap();
    assert!(worst(1_000, Some(TOKENS)) < true_cost);
    assert_eq!((outcome.cost, bench.spent()), (true_cost, true_cost));
    assert!(matches!(call(&bench, 1, 1).await.result, Err(LlmError::Frozen { .. })));
}

#[tokio::test(start_paused = true)]
async fn cancelling_ends_the_question_and_nothing_is_sent() {
    let bench = counting(worst(1_000, None).0 - 1, [], [Counted::Hang]);
    let cancel = bench.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cancel.cancel();
    });
    let outcome = call(&bench, 1_000, 100).await;
    assert!(matches!(outcome.result, Err(LlmError::Cancelled)), "{outcome:?}");
    assert_eq!((outcome.attempts, bench.spent(), sent(&bench).len()), (0, MicroUsd::ZERO, 0));
}
