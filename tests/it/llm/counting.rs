//! Calls that do not fit by their bytes and do once the provider has counted their input, over the real wire.
//!
//! The count is an estimate; whatever becomes of it, the ledger holds at least what the server has billed and never more than
//! the limit, and no question is ever an attempt.

use codeswarm::backend::{EntryFilter, EntryKind};
use codeswarm::budget::{PriceTable, WorstCaseInput};
use codeswarm::llm::Provider;

use super::*;

/// What a call of so many tokens has set aside: by its bytes, and by the server's count.
fn bounds(max_tokens: u32) -> (MicroUsd, MicroUsd) {
    let request = request(max_tokens);
    let provider = Anthropic::new(&AnthropicConfig::new(Secret::new("sk-fake"))).unwrap();
    let input = provider.prepare(&request).unwrap().worst_case;
    let text: usize =
        request.system.iter().map(|block| block.text.len()).sum::<usize>() + request.messages[0].text.len();
    let counted = WorstCaseInput { counted_input: Some(text.div_ceil(3) as u64), ..input.clone() };
    let prices = PriceTable::builtin().unwrap();
    (prices.worst_case(&input).unwrap(), prices.worst_case(&counted).unwrap())
}

async fn bench(test: &TestBackend, limit: MicroUsd, count_fault: Option<Fault>) -> Bench {
    let script = Script::new().reply("plan", Reply::new(ANSWER).thinking_tokens(40));
    let bench = Bench::with(test, script, limit, FakeOptions { count_fault, ..FakeOptions::default() }).await;
    let metered = bench.metered.clone().counting_input(true);
    Bench { metered, ..bench }
}

/// What the job's calls have set aside, in order.
async fn reserved(bench: &Bench) -> Vec<MicroUsd> {
    let filter = EntryFilter { job: Some(bench.context.job.clone()), ..EntryFilter::default() };
    let entries = bench.backend.ledger.entries(filter).await.unwrap();
    entries.iter().filter(|entry| entry.kind == EntryKind::Reserve).map(|entry| entry.reserved).collect()
}

pub(super) async fn a_call_that_its_bytes_refuse_is_made_at_full_size_once_its_input_is_counted(test: &TestBackend) {
    let (by_bytes, by_count) = bounds(4_000);
    assert!(by_count < by_bytes);
    let plain = Bench::new(test, Script::new().reply("plan", ANSWER), by_count).await;
    let refused = plain.call(4_000, 4_000).await;
    assert!(matches!(refused.result, Err(LlmError::BudgetRefused { needed, .. }) if needed == by_bytes), "{refused:?}");
    assert_eq!((plain.server.counts(), plain.server.requests()), (0, 0), "nobody is asked unless that is wanted");

    let bench = bench(test, by_count, None).await;
    let outcome = bench.call(4_000, 4_000).await;
    assert_eq!(outcome.result.unwrap().text, ANSWER);
    assert_eq!((bench.server.counts(), bench.server.requests(), outcome.attempts), (1, 1, 1));
    assert_eq!(reserved(&bench).await, [by_count]);
    let (spent, bill) = (bench.spent().await, bench.server.bill());
    assert_eq!((spent, bill.calls), (bill.cost_micros, 1));
    assert!(spent <= by_count);
}

pub(super) async fn a_call_that_fits_by_its_bytes_is_not_counted(test: &TestBackend) {
    let (by_bytes, _) = bounds(4_000);
    let bench = bench(test, by_bytes, None).await;
    bench.call(4_000, 4_000).await.result.unwrap();
    assert_eq!((bench.server.counts(), reserved(&bench).await), (0, vec![by_bytes]));
    assert_eq!(bench.spent().await, bench.server.bill().cost_micros);
}

pub(super) async fn whatever_goes_wrong_with_a_count_the_bytes_bound_the_call(test: &TestBackend) {
    let ((by_bytes, _), (smaller, _)) = (bounds(4_000), bounds(3_000));
    for fault in [
        Fault::Status400,
        Fault::Status401,
        Fault::Status404,
        Fault::Status429,
        Fault::Status500,
        Fault::Html503,
        Fault::Status529,
        Fault::StallBeforeHeaders,
        Fault::ZeroUsage,
        Fault::UsageOverBound,
        Fault::NoUsage,
        Fault::InvalidUtf8,
        Fault::CutMidStream,
        Fault::Huge,
    ] {
        let bench = bench(test, smaller, Some(fault)).await;
        let refused = bench.call(4_000, 4_000).await;
        let needed = matches!(refused.result, Err(LlmError::BudgetRefused { needed, .. }) if needed == by_bytes);
        assert!(needed, "{fault:?}: {refused:?}");
        assert_eq!((refused.attempts, bench.server.counts(), bench.server.requests()), (0, 1, 0), "{fault:?}");
        // A smaller call will do, and is all that is left.
        let outcome = bench.call(4_000, 100).await;
        assert!(outcome.result.is_ok(), "{fault:?}: {outcome:?}");
        assert_eq!((outcome.attempts, bench.server.counts(), bench.server.requests()), (1, 2, 1), "{fault:?}");
        assert_eq!(reserved(&bench).await, [smaller], "{fault:?}");
        assert_eq!(bench.spent().await, bench.server.bill().cost_micros, "{fault:?}");
    }
}

pub(super) async fn case_22_cancelling_ends_a_count_and_nothing_is_sent_or_spent(test: &TestBackend) {
    let (_, by_count) = bounds(4_000);
    let bench = bench(test, by_count, Some(Fault::StallBeforeHeaders)).await;
    let cancelling = async {
        while bench.server.counts() == 0 {
            tokio::task::yield_now().await;
        }
        bench.cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(bench.call(4_000, 100), cancelling);
    assert!(matches!(outcome.result, Err(LlmError::Cancelled)), "{outcome:?}");
    assert_eq!((outcome.attempts, bench.server.requests(), bench.spent().await), (0, 0, MicroUsd::ZERO));
}

pub(super) async fn case_25_many_counted_calls_at_once_never_spend_more_than_the_limit(test: &TestBackend) {
    let (_, by_count) = bounds(4_000);
    let bench = Arc::new(bench(test, MicroUsd(by_count.0 * 7 / 2), None).await);
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.call(4_000, 4_000).await })
        })
        .collect();
    let (mut answered, mut refused) = (0, 0);
    for call in calls {
        match call.await.unwrap().result {
            Ok(_) => answered += 1,
            Err(LlmError::BudgetRefused { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(answered > 0 && refused > 0, "{answered} answered, {refused} refused");
    assert!(bench.server.counts() > 0 && bench.server.counts() <= 20);
    assert_eq!(bench.server.requests(), answered);
    assert_eq!(bench.spent().await, bench.server.bill().cost_micros);
}
