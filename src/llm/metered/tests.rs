//! What every outcome of a call does to the money.
//!
//! A provider that answers by a script and a ledger in memory; time is paused. What counts is what the ledger holds in
//! the end, never what the caller was told.

use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::backend::BackendError;
use crate::budget::PriceTable;
use crate::budget::test_ledger::MemoryLedger;
use crate::error::Retry;
use crate::llm::{Effort, Message, Role, StopReason, Thinking, Told};
use crate::protocol::{AgentType, InstanceId, JobId, TaskId};

pub(super) const MODEL: &str = "claude-haiku-4-5";
pub(super) const USAGE: Usage = Usage { input: 500, cache_write_5m: 0, cache_write_1h: 0, cache_read: 0, output: 700 };
pub(super) const TIMEOUT: Duration = Duration::from_secs(600);

/// Answers by a script; the last step says what to do with a call nobody foresaw: fail the test.
pub(super) struct Script {
    steps: Mutex<VecDeque<Step>>,
    /// Models, in the order in which they were asked.
    pub(super) models: Mutex<Vec<String>>,
    /// Cap on output and reservation of each call.
    pub(super) sent: Mutex<Vec<(u32, MicroUsd)>>,
    /// Answers to the question how many tokens a call has; none can be counted when they are used up.
    pub(super) counts: Mutex<VecDeque<Counted>>,
}

pub(super) enum Counted {
    Tokens(u64),
    Fail(LlmError),
    Hang,
}

pub(super) enum Step {
    Reply {
        model: &'static str,
        usage: Option<Usage>,
    },
    Refuse {
        model: &'static str,
    },
    Fail(LlmError),
    /// Says this about its price, then fails.
    Tell(Box<Told>, LlmError),
    Hang,
}

#[async_trait]
impl Provider for Script {
    fn prepare(&self, request: &LlmRequest) -> Result<Prepared, LlmError> {
        let text = request.messages.last().map_or("", |message| &message.text);
        let body = format!("{{\"max_tokens\":{},\"text\":{text:?}}}", request.max_tokens);
        let worst_case = WorstCaseInput::from_body(&request.model, &body, request.max_tokens);
        Ok(Prepared::new(body, worst_case))
    }

    async fn count_input(&self, _prepared: &Prepared) -> Result<Option<u64>, LlmError> {
        let answer = self.counts.lock().unwrap().pop_front();
        match answer {
            None => Ok(None),
            Some(Counted::Tokens(tokens)) => Ok(Some(tokens)),
            Some(Counted::Fail(error)) => Err(error),
            Some(Counted::Hang) => std::future::pending().await,
        }
    }

    async fn send(
        &self,
        prepared: &Prepared,
        reservation: &Reservation,
        cancel: &CancellationToken,
    ) -> Result<LlmReply, LlmError> {
        let sent = (prepared.worst_case.max_tokens, reservation.amount());
        self.sent.lock().unwrap().push(sent);
        self.models.lock().unwrap().push(prepared.worst_case.model.clone());
        let step = self.steps.lock().unwrap().pop_front().expect("an unforeseen call");
        match step {
            Step::Refuse { model } => Ok(LlmReply {
                text: String::new(),
                stop: StopReason::Refusal(None),
                usage: Some(USAGE),
                model: model.into(),
                request_id: None,
            }),
            Step::Reply { model, usage } => Ok(LlmReply {
                text: "hi".into(),
                stop: StopReason::EndTurn,
                usage,
                model: model.into(),
                request_id: None,
            }),
            Step::Fail(error) => Err(error),
            Step::Tell(told, error) => {
                prepared.told.note(*told);
                Err(error)
            }
            Step::Hang => {
                cancel.cancelled().await;
                Err(LlmError::Cancelled)
            }
        }
    }
}

pub(super) struct Bench {
    pub(super) ledger: Arc<MemoryLedger>,
    pub(super) script: Arc<Script>,
    pub(super) metered: Metered,
    pub(super) cancel: CancellationToken,
}

impl Bench {
    pub(super) fn new(limit: u64, steps: impl IntoIterator<Item = Step>) -> Self {
        let ledger = Arc::new(MemoryLedger::with_limit(MicroUsd(limit)));
        let treasurer = Treasurer::new(ledger.clone(), Arc::new(PriceTable::builtin().unwrap()));
        let steps = Mutex::new(steps.into_iter().collect());
        let script =
            Arc::new(Script { steps, models: Mutex::default(), sent: Mutex::default(), counts: Mutex::default() });
        let retry = RetryPolicy { jitter: 0.0, ..RetryPolicy::default() };
        let metered = Metered::new(script.clone(), treasurer, retry, TIMEOUT);
        Self { ledger, script, metered, cancel: CancellationToken::new() }
    }

    pub(super) async fn call(&self, max_tokens: u32, min_output_tokens: u32) -> CallOutcome {
        self.metered.call(request(max_tokens), &context(), min_output_tokens, &self.cancel).await
    }

    pub(super) fn prices(&self) -> &PriceTable {
        self.metered.treasurer().prices()
    }

    /// Worst case of the scripted request.
    pub(super) fn worst(&self, max_tokens: u32) -> MicroUsd {
        let prepared = self.script.prepare(&request(max_tokens)).unwrap();
        self.prices().worst_case(&prepared.worst_case).unwrap()
    }

    pub(super) fn spent(&self) -> MicroUsd {
        assert_eq!(self.ledger.account().reserved, MicroUsd::ZERO, "nothing may stay reserved");
        self.ledger.account().spent
    }

    pub(super) fn sent(&self) -> usize {
        self.script.sent.lock().unwrap().len()
    }
}

pub(super) fn request(max_tokens: u32) -> LlmRequest {
    LlmRequest {
        model: MODEL.into(),
        system: vec![],
        messages: vec![Message { role: Role::User, text: "hello".into() }],
        max_tokens,
        schema: None,
        effort: Effort::default(),
        thinking: Thinking::Default,
        fallbacks: vec![],
    }
}

pub(super) fn context() -> CallContext {
    let instance = InstanceId::new("worker-1").unwrap();
    CallContext::new(JobId::new("j").unwrap(), TaskId::plan(), AgentType::planner(), instance, 1, 1)
}

pub(super) fn reply(model: &'static str) -> Step {
    Step::Reply { model, usage: Some(USAGE) }
}

pub(super) fn status(status: u16, retry_after: Option<u64>, well_formed: bool) -> Step {
    Step::Fail(LlmError::Status {
        status,
        kind: "k".into(),
        message: "m".into(),
        retry_after: retry_after.map(Duration::from_secs),
        well_formed,
    })
}

pub(super) const PLENTY: u64 = 1_000_000;

#[tokio::test(start_paused = true)]
async fn a_reply_is_charged_by_its_reported_usage() {
    let bench = Bench::new(PLENTY, [reply(MODEL)]);
    let outcome = bench.call(1_000, 100).await;
    let price = bench.prices().charge(MODEL, &USAGE).unwrap();
    assert_eq!(price, MicroUsd(500 + 700 * 5));
    assert_eq!(outcome.result.unwrap().text, "hi");
    assert_eq!((outcome.cost, outcome.usage, outcome.attempts), (price, USAGE, 1));
    assert_eq!(bench.spent(), price);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cancelled_before_it_is_sent_costs_nothing() {
    let bench = Bench::new(PLENTY, [reply(MODEL)]);
    let prepared = bench.metered.prepare(&mut request(1_000)).unwrap();
    let (mut bill, mut count) = (Bill::default(), Count::default());
    bench.cancel.cancel();
    let made = bench.metered.attempt(&mut request(1_000), &context(), 100, &bench.cancel, &mut bill, &mut count).await;
    assert!(matches!(made, Err(LlmError::Cancelled)), "{made:?} of {prepared:?}");
    assert_eq!((bill.attempts, bench.sent(), bench.spent()), (0, 0, MicroUsd::ZERO));
}

#[tokio::test(start_paused = true)]
async fn case_06_every_attempt_has_its_own_reservation_and_the_last_failure_is_kept() {
    let steps = || status(500, None, true);
    let bench = Bench::new(PLENTY, [steps(), steps(), steps()]);
    let outcome = bench.call(1_000, 100).await;
    match outcome.result {
        Err(LlmError::Exhausted { attempts: 3, last }) => {
            assert!(matches!(*last, LlmError::Status { status: 500, .. }));
        }
        other => panic!("{other:?}"),
    }
    let held = bench.ledger.held();
    assert_eq!(held.len(), 3, "{held:?}");
    assert!(held.iter().all(|(_, held)| held.charged == bench.worst(1_000)), "{held:?}");
    assert_eq!(outcome.cost, MicroUsd(3 * bench.worst(1_000).0));
    assert_eq!(bench.spent(), outcome.cost);
}

#[tokio::test(start_paused = true)]
async fn a_short_named_delay_is_waited_for_and_a_long_one_is_handed_to_the_caller() {
    let bench = Bench::new(PLENTY, [status(429, Some(60), true), reply(MODEL)]);
    let start = tokio::time::Instant::now();
    assert!(bench.call(1_000, 100).await.result.is_ok());
    assert!(start.elapsed() >= Duration::from_secs(60));

    let bench = Bench::new(PLENTY, [status(429, Some(61), true)]);
    let start = tokio::time::Instant::now();
    let error = bench.call(1_000, 100).await.result.unwrap_err();
    assert_eq!(error.retry(), Retry::After(Duration::from_secs(61)));
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(bench.spent(), MicroUsd::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_fit_is_made_smaller_not_its_reservation() {
    let bench = Bench::new(PLENTY, [reply(MODEL)]);
    let limit = bench.worst(2_000).0 + 4;
    let bench = Bench::new(limit, [reply(MODEL)]);
    assert!(bench.call(8_000, 1_000).await.result.is_ok());
    let sent = bench.script.sent.lock().unwrap()[0];
    assert_eq!(sent, (2_000, bench.worst(2_000)));
}

#[tokio::test(start_paused = true)]
async fn below_the_minimum_nothing_is_sent_and_nothing_is_tried_again() {
    let limit = Bench::new(PLENTY, []).worst(1_000).0 - 1;
    let bench = Bench::new(limit, []);
    let outcome = bench.call(8_000, 1_000).await;
    match outcome.result {
        Err(LlmError::BudgetRefused { needed, available, .. }) => {
            assert_eq!(available, MicroUsd(limit));
            assert!(needed > available && needed <= bench.worst(1_000), "{needed} of {available}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((outcome.attempts, outcome.cost, bench.sent()), (0, MicroUsd::ZERO, 0));
    assert_eq!(bench.spent(), MicroUsd::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_that_no_longer_fits_is_refused_but_the_first_is_on_the_bill() {
    let full = Bench::new(PLENTY, []).worst(1_000);
    let bench = Bench::new(full.0 + 10, [status(500, None, true)]);
    let outcome = bench.call(1_000, 1_000).await;
    assert!(matches!(outcome.result, Err(LlmError::BudgetRefused { .. })), "{outcome:?}");
    assert_eq!((outcome.attempts, outcome.cost, bench.spent()), (1, full, full));
}

#[tokio::test(start_paused = true)]
async fn case_03_without_a_ledger_or_a_price_no_call_is_made() {
    let bench = Bench::new(PLENTY, []);
    bench.ledger.be_away_for(100);
    let outcome = bench.call(1_000, 100).await;
    assert!(matches!(outcome.result, Err(LlmError::Ledger(BackendError::Unavailable { .. }))), "{outcome:?}");
    assert_eq!((outcome.attempts, bench.sent()), (0, 0));

    let bench = Bench::new(PLENTY, []);
    let unknown = LlmRequest { model: "nobody-knows".into(), ..request(1_000) };
    let outcome = bench.metered.call(unknown, &context(), 100, &bench.cancel).await;
    assert!(matches!(outcome.result, Err(LlmError::Unsupported(_))), "{outcome:?}");
    assert_eq!((outcome.attempts, bench.sent()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn case_12_a_call_beyond_its_worst_case_is_recorded_and_freezes_spending() {
    let usage = Usage { output: 100_000, ..USAGE };
    let bench = Bench::new(PLENTY, [Step::Reply { model: MODEL, usage: Some(usage) }]);
    let outcome = bench.call(1_000, 100).await;
    let true_cost = bench.prices().charge(MODEL, &usage).unwrap();
    assert!(true_cost > bench.worst(1_000));
    assert_eq!((outcome.cost, bench.spent()), (true_cost, true_cost));
    assert!(matches!(bench.call(1_000, 100).await.result, Err(LlmError::Frozen { .. })));
}

#[tokio::test(start_paused = true)]
async fn case_09_a_dropped_call_is_charged_in_full() {
    let bench = Bench::new(PLENTY, [Step::Hang]);
    let call = bench.call(1_000, 100);
    assert!(tokio::time::timeout(Duration::from_secs(1), call).await.is_err());
    bench.metered.treasurer().drain().await;
    assert_eq!(bench.sent(), 1);
    assert_eq!(bench.spent(), bench.worst(1_000));
}

#[tokio::test(start_paused = true)]
async fn case_22_a_cancelled_call_is_charged_in_full_and_a_cancelled_start_costs_nothing() {
    let bench = Bench::new(PLENTY, [Step::Hang]);
    let cancel = bench.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cancel.cancel();
    });
    let outcome = bench.call(1_000, 100).await;
    assert!(matches!(outcome.result, Err(LlmError::Cancelled)), "{outcome:?}");
    assert_eq!((outcome.cost, bench.spent()), (bench.worst(1_000), bench.worst(1_000)));

    let outcome = bench.call(1_000, 100).await;
    assert!(matches!(outcome.result, Err(LlmError::Cancelled)), "{outcome:?}");
    assert_eq!((outcome.attempts, bench.sent()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn cancelling_during_a_delay_ends_the_call_at_once() {
    let bench = Bench::new(PLENTY, [status(429, Some(50), true)]);
    let cancel = bench.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        cancel.cancel();
    });
    let start = tokio::time::Instant::now();
    assert!(matches!(bench.call(1_000, 100).await.result, Err(LlmError::Cancelled)));
    assert_eq!(start.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn case_22_no_call_outlives_its_reservation() {
    let bench = Bench::new(PLENTY, [Step::Hang, reply(MODEL)]);
    let start = tokio::time::Instant::now();
    let outcome = bench.call(1_000, 100).await;
    assert!(outcome.result.is_ok());
    assert!(start.elapsed() > TIMEOUT && start.elapsed() < TIMEOUT + LEASE_MARGIN);
    assert!(bench.spent() > bench.worst(1_000));
}
