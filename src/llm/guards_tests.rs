//! In which order calls pass the guards, what they hold while they wait, and what their ends mean.
//!
//! A provider in memory, a ledger in memory, paused time. The stores' arithmetic is the real one.

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;

use super::*;
use crate::backend::{GatePolicy, Limits};
use crate::budget::test_ledger::MemoryLedger;
use crate::budget::{CallContext, PriceTable, Reservation, Treasurer, WorstCaseInput};
use crate::error::{Coded, Retry};
use crate::llm::{CallOutcome, LlmRequest, Metered, Provider, StopReason};
use crate::protocol::{InstanceId, JobId, MicroUsd, TaskId, Usage};
use crate::resilience::RetryPolicy;
use crate::resilience::test_table::TestTable;

const MODEL: &str = "claude-haiku-4-5";
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes ten seconds for every reply; fails as `fault` says.
#[derive(Default)]
struct Slow {
    fault: Mutex<Option<fn() -> LlmError>>,
    sent: AtomicU32,
    under_way: AtomicU32,
    most: AtomicU32,
}

#[async_trait]
impl Provider for Slow {
    fn prepare(&self, request: &LlmRequest) -> Result<Prepared, LlmError> {
        let body = "{}".repeat(200);
        let worst_case = WorstCaseInput::from_body(&request.model, &body, request.max_tokens);
        Ok(Prepared::new(body, worst_case))
    }

    async fn send(&self, _: &Prepared, _: &Reservation, cancel: &CancellationToken) -> Result<LlmReply, LlmError> {
        self.sent.fetch_add(1, Ordering::SeqCst);
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let fault = *self.fault.lock().unwrap();
        let result = tokio::select! {
            () = cancel.cancelled() => Err(LlmError::Cancelled),
            () = tokio::time::sleep(Duration::from_secs(10)), if fault.is_none() => Ok(LlmReply {
                text: "hi".into(),
                stop: StopReason::EndTurn,
                usage: Some(Usage { input: 100, output: 100, ..Usage::default() }),
                model: MODEL.into(),
                request_id: None,
            }),
            () = std::future::ready(()), if fault.is_some() => Err(fault.unwrap()()),
        };
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        result
    }
}

struct Bench {
    provider: Arc<Slow>,
    ledger: Arc<MemoryLedger>,
    table: Arc<TestTable>,
    metered: Metered,
    guards: Guards,
}

impl Bench {
    fn new(requests: Option<u64>, places: u32, limit: u64) -> Self {
        let table = Arc::new(TestTable::default());
        let policy = GatePolicy {
            consecutive: 4,
            ratio_percent: 0,
            least_calls: 1,
            window: PATIENCE,
            open: Duration::from_secs(15),
            longest_open: PATIENCE,
            trials: 1,
            trial_lease: Duration::from_secs(700),
        };
        let limits =
            Limits { per_window: [requests, None, None], window: PATIENCE, burst_percent: 100, sliding: false };
        let guards = Guards::new(
            "test",
            Breaker::new(table.clone(), policy),
            FleetRates::new(table.clone(), limits),
            AimdPolicy { start: places, max: places, slowdown: 0 },
            Bulkhead { share_percent: 50 },
            PATIENCE,
        );
        let provider = Arc::new(Slow::default());
        let ledger = Arc::new(MemoryLedger::with_limit(MicroUsd(limit)));
        let treasurer = Treasurer::new(ledger.clone(), Arc::new(PriceTable::builtin().unwrap()));
        let retry = RetryPolicy { attempts: 2, jitter: 0.0, ..RetryPolicy::default() };
        let metered = Metered::new(provider.clone(), treasurer, retry, Duration::from_secs(600)).behind(guards.clone());
        Self { provider, ledger, table, metered, guards }
    }

    async fn call(&self) -> CallOutcome {
        self.call_until(&CancellationToken::new()).await
    }

    async fn call_until(&self, cancel: &CancellationToken) -> CallOutcome {
        let request = LlmRequest { max_tokens: 1_000, ..LlmRequest::of(MODEL, "hello") };
        let instance = InstanceId::new("worker-1").unwrap();
        let agent = AgentType::new("coder").unwrap();
        let context = CallContext::new(JobId::new("j").unwrap(), TaskId::plan(), agent, instance, 1, 1);
        self.metered.call(request, &context, 100, cancel).await
    }

    fn fail(&self, fault: fn() -> LlmError) {
        *self.provider.fault.lock().unwrap() = Some(fault);
    }

    fn heal(&self) {
        *self.provider.fault.lock().unwrap() = None;
    }

    fn sent(&self) -> u32 {
        self.provider.sent.load(Ordering::SeqCst)
    }

    fn places(&self) -> (u32, u32, usize) {
        self.guards.permits(MODEL, "test/m").counts()
    }
}

fn status(status: u16, retry_after: Option<u64>) -> LlmError {
    let retry_after = retry_after.map(Duration::from_secs);
    LlmError::Status { status, kind: "k".into(), message: "m".into(), retry_after, well_formed: true }
}

const PLENTY: u64 = 1_000_000_000;

#[tokio::test(start_paused = true)]
async fn no_money_is_set_aside_while_a_call_waits() {
    for bench in [Bench::new(None, 2, PLENTY), Bench::new(Some(2), 100, PLENTY)] {
        let calls = async { futures_util::future::join_all((0..5).map(|_| bench.call())).await };
        let watch = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let held = bench.ledger.held();
            assert_eq!(held.len(), 2, "only calls under way hold money: {held:?}");
        };
        let (outcomes, ()) = tokio::join!(calls, watch);
        assert_eq!(outcomes.iter().filter(|outcome| outcome.result.is_ok()).count(), bench.sent() as usize);
        assert!(bench.provider.most.load(Ordering::SeqCst) <= 2);
        assert_eq!(bench.places().1, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_beyond_the_longest_sends_the_call_back_with_the_time_to_return_and_costs_nothing() {
    let bench = Bench::new(Some(1), 100, PLENTY);
    assert!(bench.call().await.result.is_ok());
    let (first, second) = tokio::join!(bench.call(), bench.call());
    let parked = [first, second].into_iter().find(|outcome| outcome.result.is_err()).expect("one allowance in 60 s");
    let error = parked.result.unwrap_err();
    assert!(matches!(error, LlmError::NotAdmitted { guard: Guard::Rates, .. }), "{error}");
    assert!(matches!(error.retry(), Retry::After(wait) if wait >= Duration::from_secs(5)), "{:?}", error.retry());
    assert_eq!((parked.attempts, parked.cost, error.charge()), (0, MicroUsd::ZERO, crate::llm::Charge::Nothing));
    assert_eq!(bench.ledger.account().reserved, MicroUsd::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_money_refuses_gives_place_and_allowance_back() {
    let bench = Bench::new(Some(1), 1, 10);
    for _ in 0..5 {
        assert!(matches!(bench.call().await.result, Err(LlmError::BudgetRefused { .. })));
    }
    assert_eq!((bench.places().1, bench.sent()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_sick_provider_is_left_alone_and_found_well_again_by_one_trial() {
    let bench = Bench::new(None, 100, PLENTY);
    bench.fail(|| status(529, None));
    for _ in 0..2 {
        assert!(matches!(bench.call().await.result, Err(LlmError::Exhausted { attempts: 2, .. })));
    }
    assert_eq!(bench.sent(), 4);
    let start = Instant::now();
    for _ in 0..20 {
        let error = bench.call().await.result.unwrap_err();
        assert!(matches!(error, LlmError::NotAdmitted { guard: Guard::Breaker, .. }), "{error}");
    }
    assert_eq!((bench.sent(), start.elapsed()), (4, Duration::ZERO));
    tokio::time::advance(Duration::from_secs(15)).await;
    // The trial fails; its second attempt finds the breaker open again, so the task burns nothing.
    let outcome = bench.call().await;
    assert!(matches!(outcome.result, Err(LlmError::NotAdmitted { guard: Guard::Breaker, .. })), "{outcome:?}");
    assert_eq!((outcome.attempts, bench.sent()), (1, 5));
    bench.heal();
    tokio::time::advance(Duration::from_secs(30)).await;
    let (one, other) = tokio::join!(bench.call(), bench.call());
    assert_eq!([one, other].iter().filter(|outcome| outcome.result.is_ok()).count(), 1);
    assert!(bench.call().await.result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn faulty_requests_rate_limits_money_and_cancellations_never_open_the_breaker() {
    let bench = Bench::new(None, 100, PLENTY);
    for fault in
        [|| status(400, None), || status(401, None), || status(404, None), || status(429, None), || LlmError::Cancelled]
    {
        bench.fail(fault);
        for _ in 0..10 {
            assert!(bench.call().await.result.is_err());
        }
    }
    let poor = Bench::new(None, 100, 1);
    for _ in 0..10 {
        assert!(poor.call().await.result.is_err());
    }
    assert_eq!(poor.table.gate_steps(), 1);
    bench.heal();
    assert!(bench.call().await.result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_named_pause_holds_all_calls_of_the_fleet_and_a_long_one_sends_them_back() {
    let bench = Bench::new(None, 100, PLENTY);
    bench.fail(|| status(429, Some(30)));
    let start = Instant::now();
    let refused = bench.call();
    let healed = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.heal();
        let outcome = bench.call().await;
        assert!(outcome.result.is_ok(), "{outcome:?}");
        assert_eq!(start.elapsed(), Duration::from_secs(40), "it waited for the end of the pause");
    };
    let (outcome, ()) = tokio::join!(refused, healed);
    assert!(outcome.result.is_ok(), "{outcome:?}");
    assert_eq!(bench.sent(), 3);

    bench.fail(|| status(429, Some(61)));
    assert!(matches!(bench.call().await.result.unwrap_err().retry(), Retry::After(wait) if wait.as_secs() == 61));
    let error = bench.call().await.result.unwrap_err();
    assert!(matches!(error, LlmError::NotAdmitted { guard: Guard::Rates, .. }), "{error}");
    assert_eq!(bench.sent(), 4, "what the provider said to one call holds for the next");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_wait_ends_at_once_and_holds_nothing() {
    let bench = Bench::new(Some(1), 1, PLENTY);
    assert!(bench.call().await.result.is_ok());
    let cancel = CancellationToken::new();
    let start = Instant::now();
    let stop = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(bench.call_until(&cancel), stop);
    assert!(matches!(outcome.result, Err(LlmError::Cancelled)), "{outcome:?}");
    assert_eq!((start.elapsed(), bench.places()), (Duration::from_secs(3), (1, 0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_replay_has_guards_of_its_own_for_models_of_named_endpoints_too() {
    let bench = Bench::new(None, 2, PLENTY);
    let Parts { breaker, rates, places, bulkhead, .. } = &*bench.guards.0;
    let replayed = Guards::new(REPLAY, breaker.clone(), rates.clone(), *places, *bulkhead, PATIENCE);
    let worst_case = WorstCaseInput::from_body("openai/gpt", "{}", 100);
    let prepared = Prepared::new("{}".to_owned(), worst_case);
    for (guards, key) in [(&bench.guards, "openai/gpt"), (&replayed, "replay/openai/gpt")] {
        let pass = guards.enter(&prepared, &AgentType::planner(), &CancellationToken::new()).await.expect("it passes");
        assert_eq!(pass.key, key);
        pass.unused().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_is_left_alone_for_no_longer_than_the_longest_pause() {
    let bench = Bench::new(None, 2, PLENTY);
    let Parts { breaker, rates, places, bulkhead, .. } = &*bench.guards.0;
    let hour = Duration::from_secs(3_600);
    let guards =
        Guards::new("test", breaker.clone(), rates.clone(), *places, *bulkhead, PATIENCE).pausing_at_most(hour);
    let prepared = Prepared::new("{}".to_owned(), WorstCaseInput::from_body(MODEL, "{}", 100));
    let enter = || async { guards.enter(&prepared, &AgentType::planner(), &CancellationToken::new()).await };
    enter().await.expect("it passes").finish(&Err(status(429, Some(86_400))), None).await;
    let Err(LlmError::NotAdmitted { retry_after, .. }) = enter().await else { panic!("the provider is left alone") };
    assert!(retry_after <= hour, "{retry_after:?}");
    tokio::time::sleep(hour + Duration::from_secs(1)).await;
    assert!(enter().await.is_ok());
}
