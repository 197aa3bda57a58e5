//! Money and the wire together: the real client, the real ledger, and a server that keeps its own bill.
//!
//! The unit tests on either side share our view of the protocol; here both sides keep their own books, and the ledger may
//! never hold less than what the server has billed.

use std::sync::Arc;
use std::time::Duration;

use codeswarm::backend::{Adjustment, Backend, Scope};
use codeswarm::budget::{CallContext, PriceTable, Treasurer};
use codeswarm::config::Secret;
use codeswarm::llm::anthropic::{Anthropic, AnthropicConfig};
use codeswarm::llm::replay::{FakeOptions, FakeServer, Fault, Reply, Script};
use codeswarm::llm::{
    CallOutcome, Effort, LlmError, LlmRequest, Message, Metered, Role, StopReason, SystemBlock, Thinking,
};
use codeswarm::protocol::{AgentType, JobId, MicroUsd, TaskId};
use codeswarm::resilience::RetryPolicy;
use tokio_util::sync::CancellationToken;

use crate::support::stores::TestBackend;

mod counting;
mod terms;

const MODEL: &str = "claude-sonnet-5-5";

/// One ledger, one server, and the client between them.
struct Bench {
    server: FakeServer,
    backend: Backend,
    metered: Metered,
    context: CallContext,
    cancel: CancellationToken,
    /// What the account had spent before; its job is always a new one.
    before: MicroUsd,
}

impl Bench {
    /// A job with this limit in the books of `test`, which it may share with earlier ones.
    async fn new(test: &TestBackend, script: Script, limit: MicroUsd) -> Self {
        Self::with(test, script, limit, FakeOptions::default()).await
    }

    /// The same with a server that runs in another way.
    async fn with(test: &TestBackend, script: Script, limit: MicroUsd, options: FakeOptions) -> Self {
        let backend = test.backend.clone();
        let job = JobId::fresh();
        let limit = Adjustment::SetLimit(Some(limit));
        backend.ledger.adjust(&format!("{job}-limit"), &Scope::Job(job.clone()), limit).await.unwrap();
        // An earlier job may have frozen everything.
        backend.ledger.adjust(&format!("{job}-thaw"), &Scope::Account, Adjustment::Thaw).await.unwrap();
        let before = backend.ledger.balance(&Scope::Account).await.unwrap().spent;
        let server = FakeServer::start(script, options).await.unwrap();
        let config = AnthropicConfig {
            base_url: server.base_url(),
            idle_timeout: Duration::from_millis(500),
            ..AnthropicConfig::new(Secret::new("sk-fake"))
        };
        let provider = Arc::new(Anthropic::new(&config).unwrap());
        let treasurer = Treasurer::new(backend.ledger.clone(), Arc::new(PriceTable::builtin().unwrap()));
        let retry = RetryPolicy { first_delay: Duration::from_millis(1), ..RetryPolicy::default() };
        let metered = Metered::new(provider, treasurer, retry, config.total_timeout);
        let context = context(test, job);
        Self { server, backend, metered, context, cancel: CancellationToken::new(), before }
    }

    async fn call(&self, max_tokens: u32, min_output_tokens: u32) -> CallOutcome {
        self.metered.call(request(max_tokens), &self.context, min_output_tokens, &self.cancel).await
    }

    /// What the ledger says is spent, once nothing is under way.
    async fn spent(&self) -> MicroUsd {
        self.metered.treasurer().drain().await;
        let mut spent = Vec::new();
        for scope in &self.context.scopes {
            let balance = self.backend.ledger.balance(scope).await.unwrap();
            assert_eq!(balance.reserved, MicroUsd::ZERO, "{scope}");
            assert!(balance.limit.is_none_or(|limit| balance.spent <= limit), "{scope}: {balance:?}");
            spent.push(balance.spent);
        }
        assert_eq!(spent[0], self.before.saturating_add(spent[1]));
        spent[1]
    }
}

fn context(test: &TestBackend, job: JobId) -> CallContext {
    CallContext::new(job, TaskId::plan(), AgentType::planner(), test.instance.clone(), 1, 1)
}

fn request(max_tokens: u32) -> LlmRequest {
    LlmRequest {
        model: MODEL.into(),
        system: vec![SystemBlock { text: "the contract of the job; ".repeat(400).into(), cache: true }],
        messages: vec![Message { role: Role::User, text: "Plan it.\nRequest: plan".into() }],
        max_tokens,
        schema: None,
        effort: Effort::Medium,
        thinking: Thinking::Default,
        fallbacks: vec![],
    }
}

const ANSWER: &str = "Größe: 日本 \"quoted\"\n";
const PLENTY: MicroUsd = MicroUsd(100_000_000);

async fn a_call_costs_in_the_ledger_exactly_what_the_server_bills(test: &TestBackend) {
    let bench = Bench::new(test, Script::new().reply("plan", Reply::new(ANSWER).thinking_tokens(40)), PLENTY).await;
    for _ in 0..3 {
        let outcome = bench.call(4_000, 100).await;
        let reply = outcome.result.unwrap();
        assert_eq!((reply.text.as_str(), reply.stop), (ANSWER, StopReason::EndTurn));
        assert_eq!(outcome.attempts, 1);
    }
    let bill = bench.server.bill();
    assert_eq!(bill.calls, 3);
    assert!(bill.usage.cache_write_5m > 0 && bill.usage.cache_read > 0, "{bill:?}");
    assert_eq!(bench.spent().await, bill.cost_micros);
}

/// How a call ends whose first attempt has a fault and whose second has none.
fn is_expected(fault: Fault, result: &Result<codeswarm::llm::LlmReply, LlmError>) -> bool {
    match (fault, result) {
        (
            Fault::Status400
            | Fault::Status401
            | Fault::Status402
            | Fault::Status403
            | Fault::Status404
            | Fault::SpendCap429,
            Err(LlmError::Status { status: 400..=429, well_formed: true, .. }),
        )
        | (Fault::Html413, Err(LlmError::Status { status: 413, well_formed: false, .. })) => true,
        (Fault::Refusal | Fault::RefusalBefore, Ok(reply)) => matches!(reply.stop, StopReason::Refusal(_)),
        (Fault::ThinkingOnly | Fault::ToolCut, Ok(reply)) => {
            reply.stop == StopReason::MaxTokens && reply.text.is_empty()
        }
        (Fault::MaxTokens, Ok(reply)) => reply.stop == StopReason::MaxTokens,
        (Fault::NoUsage, Ok(reply)) => reply.text == ANSWER && reply.usage.is_none(),
        (Fault::EmptyEndTurn, Ok(reply)) => reply.stop == StopReason::EndTurn && reply.text.is_empty(),
        (
            Fault::Status400
            | Fault::Status401
            | Fault::Status402
            | Fault::Status403
            | Fault::Status404
            | Fault::SpendCap429
            | Fault::Html413,
            _,
        ) => false,
        (_, result) => matches!(result, Ok(reply) if reply.text == ANSWER && reply.stop == StopReason::EndTurn),
    }
}

async fn case_25_whatever_goes_wrong_the_ledger_never_says_less_than_the_bill(test: &TestBackend) {
    for fault in Fault::ALL {
        let script = Script::new().reply("plan", Reply::new(ANSWER).fault(fault)).reply("plan", ANSWER);
        let bench = Bench::new(test, script, PLENTY).await;
        let outcome = bench.call(4_000, 100).await;
        assert!(is_expected(fault, &outcome.result), "{fault:?}: {outcome:?}");
        assert_eq!(u64::from(outcome.attempts), bench.server.requests(), "{fault:?}");
        let (spent, bill) = (bench.spent().await, bench.server.bill());
        assert_eq!(outcome.cost, spent, "{fault:?}");
        assert!(spent >= bill.cost_micros, "{fault:?}: spent {spent}, billed {}", bill.cost_micros);
    }
}

async fn case_06_a_provider_that_keeps_failing_is_given_up_and_every_attempt_is_paid(test: &TestBackend) {
    let bench = Bench::new(test, Script::new().reply("plan", Reply::new("").fault(Fault::Status500)), PLENTY).await;
    let outcome = bench.call(4_000, 100).await;
    assert!(matches!(outcome.result, Err(LlmError::Exhausted { attempts: 3, .. })), "{outcome:?}");
    assert_eq!(bench.server.requests(), 3);
    assert!(bench.spent().await >= bench.server.bill().cost_micros);
    let entries = bench.backend.ledger.entries(codeswarm::backend::EntryFilter::default()).await.unwrap();
    let reserved = entries.iter().filter(|entry| entry.kind == codeswarm::backend::EntryKind::Reserve);
    assert_eq!(reserved.map(|entry| &entry.reservation).collect::<std::collections::BTreeSet<_>>().len(), 3);
}

async fn a_long_wait_is_handed_to_the_caller(test: &TestBackend) {
    let limited = Reply::new("").fault(Fault::Status429).retry_after(90);
    let bench = Bench::new(test, Script::new().reply("plan", limited), PLENTY).await;
    let error = bench.call(4_000, 100).await.result.unwrap_err();
    let retry = codeswarm::error::Coded::retry(&error);
    assert_eq!(retry, codeswarm::error::Retry::After(Duration::from_secs(90)), "{error}");
    assert_eq!((bench.server.requests(), bench.spent().await), (1, MicroUsd::ZERO));
}

async fn case_01_many_calls_at_once_never_spend_more_than_the_limit(test: &TestBackend) {
    let limit = MicroUsd(300_000);
    let bench = Arc::new(Bench::new(test, Script::new().reply("plan", Reply::new(ANSWER)), limit).await);
    let calls: Vec<_> = (0..60)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.call(4_000, 2_000).await })
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
    assert_eq!(bench.server.requests(), answered);
    assert!(bench.spent().await >= bench.server.bill().cost_micros);
}

async fn case_09_an_abandoned_call_is_charged_in_full_while_the_server_bills_it(test: &TestBackend) {
    let script = Script::new().reply("plan", Reply::new(ANSWER).fault(Fault::StallMidStream));
    let bench = Bench::new(test, script, PLENTY).await;
    {
        let call = bench.call(4_000, 100);
        tokio::pin!(call);
        let billed = async {
            while bench.server.bill().calls == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            outcome = &mut call => panic!("{outcome:?}"),
            () = billed => {}
        }
    }
    let spent = bench.spent().await;
    assert!(spent >= bench.server.bill().cost_micros && spent > MicroUsd::ZERO);
}

async fn case_21_one_call_warms_the_shared_head_and_is_paid_like_any_other(test: &TestBackend) {
    let script = Script::new().reply("plan", Reply::new(ANSWER).delay(Duration::from_millis(50)));
    let bench = Arc::new(Bench::new(test, script, PLENTY).await);
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.call(4_000, 100).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().result.unwrap();
    }
    let bill = bench.server.bill();
    let head = "the contract of the job; ".len() as u64 * 400;
    assert_eq!((bill.calls, bill.usage.cache_write_5m), (20, head.div_ceil(3)), "one write");
    assert_eq!(bill.usage.cache_read, 19 * head.div_ceil(3));
    assert_eq!(bench.spent().await, bill.cost_micros);
}

async fn case_12_a_call_over_its_bound_is_recorded_as_it_is_and_stops_everything(test: &TestBackend) {
    let script = Script::new().reply("plan", Reply::new(ANSWER).fault(Fault::UsageOverBound)).reply("plan", ANSWER);
    let bench = Bench::new(test, script, PLENTY).await;
    bench.call(4_000, 100).await.result.unwrap();
    let (job, bill) = (Scope::Job(bench.context.job.clone()), bench.server.bill());
    let balance = bench.backend.ledger.balance(&job).await.unwrap();
    assert_eq!((balance.spent, balance.frozen), (bill.cost_micros, true));
    let refused = bench.call(4_000, 100).await;
    assert!(matches!(refused.result, Err(LlmError::Frozen { .. })), "{refused:?}");
    assert_eq!(bench.server.requests(), 1, "nothing more was sent");
    // The account is frozen as well, for every other job.
    let other = Bench { context: context(test, JobId::fresh()), ..bench };
    assert!(matches!(other.call(4_000, 100).await.result, Err(LlmError::Frozen { .. })));
}

async fn case_22_cancelling_closes_the_stream_and_still_settles(test: &TestBackend) {
    let script = Script::new().reply("plan", Reply::new(ANSWER).fault(Fault::StallMidStream));
    let bench = Bench::new(test, script, PLENTY).await;
    let cancelling = async {
        while bench.server.bill().calls == 0 {
            tokio::task::yield_now().await;
        }
        bench.cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(bench.call(4_000, 100), cancelling);
    assert!(matches!(outcome.result, Err(LlmError::Cancelled)), "{outcome:?}");
    assert_eq!(outcome.attempts, 1);
    let spent = bench.spent().await;
    assert!(spent == outcome.cost && spent >= bench.server.bill().cost_micros, "{spent}");
    assert!(bench.call(4_000, 100).await.result.is_err());
    assert_eq!(bench.server.requests(), 1, "a cancelled job sends nothing more");
}

use counting::{
    a_call_that_fits_by_its_bytes_is_not_counted,
    a_call_that_its_bytes_refuse_is_made_at_full_size_once_its_input_is_counted,
    case_22_cancelling_ends_a_count_and_nothing_is_sent_or_spent,
    case_25_many_counted_calls_at_once_never_spend_more_than_the_limit,
    whatever_goes_wrong_with_a_count_the_bytes_bound_the_call,
};

use terms::{
    case_07_only_what_is_provably_free_is_released,
    case_15_absent_usage_is_charged_in_full_and_zero_usage_is_not_absent,
    case_17_the_charge_that_openrouter_states_is_charged,
    case_17_what_a_reply_reports_about_its_terms_is_charged_or_stops_everything,
    case_18_whoever_answers_is_charged_by_the_dearer_price_or_stops_everything,
    case_20_a_refusal_is_charged_what_it_reports, case_21_every_repeat_and_every_fallback_is_a_reserved_call,
};

/// Every promise above and those about counting and about terms, on each ledger there is.
macro_rules! on_every_ledger {
    ($($ledger:ident)+: $cases:tt) => { $(on_every_ledger!(@one $ledger $cases);)+ };
    (@one $ledger:ident { $($case:ident,)+ }) => {
        mod $ledger {
            use crate::support::stores::TestBackend;
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case(&TestBackend::$ledger().await).await;
                }
            )+
        }
    };
}

on_every_ledger!(embedded journaled: {
    a_call_costs_in_the_ledger_exactly_what_the_server_bills,
    case_12_a_call_over_its_bound_is_recorded_as_it_is_and_stops_everything,
    case_22_cancelling_closes_the_stream_and_still_settles,
    case_25_whatever_goes_wrong_the_ledger_never_says_less_than_the_bill,
    case_06_a_provider_that_keeps_failing_is_given_up_and_every_attempt_is_paid,
    a_long_wait_is_handed_to_the_caller,
    case_01_many_calls_at_once_never_spend_more_than_the_limit,
    case_09_an_abandoned_call_is_charged_in_full_while_the_server_bills_it,
    case_21_one_call_warms_the_shared_head_and_is_paid_like_any_other,
    a_call_that_its_bytes_refuse_is_made_at_full_size_once_its_input_is_counted,
    a_call_that_fits_by_its_bytes_is_not_counted,
    whatever_goes_wrong_with_a_count_the_bytes_bound_the_call,
    case_22_cancelling_ends_a_count_and_nothing_is_sent_or_spent,
    case_25_many_counted_calls_at_once_never_spend_more_than_the_limit,
    case_07_only_what_is_provably_free_is_released,
    case_15_absent_usage_is_charged_in_full_and_zero_usage_is_not_absent,
    case_17_what_a_reply_reports_about_its_terms_is_charged_or_stops_everything,
    case_17_the_charge_that_openrouter_states_is_charged,
    case_18_whoever_answers_is_charged_by_the_dearer_price_or_stops_everything,
    case_20_a_refusal_is_charged_what_it_reports,
    case_21_every_repeat_and_every_fallback_is_a_reserved_call,
});
