//! What a provider reports about its price, over the real wire into the real ledgers.
//!
//! Expected amounts are the server's own bill, which is worked out by other code than the client's prices, or are written down
//! by hand. Where nobody can know a cost, all of the reservation is charged; where it may have been more, spending stops.

use codeswarm::backend::{EntryFilter, EntryKind};
use codeswarm::budget::{EndpointPrices, Unpinned};
use codeswarm::llm::openai::{OpenAi, OpenAiConfig, Preset};
use codeswarm::llm::replay::Faults;
use codeswarm::llm::{Provider, Router};

use super::*;

/// How the first attempt of a call with these faults ended: reserved, charged, and whether spending is frozen.
struct Ending {
    reserved: MicroUsd,
    charged: MicroUsd,
    is_released: bool,
    is_frozen: bool,
    billed: MicroUsd,
    outcome: CallOutcome,
}

impl Ending {
    /// Charged in full, and nobody had to stop.
    #[track_caller]
    fn is_in_full(&self, what: &str) {
        assert_eq!((self.charged, self.is_frozen), (self.reserved, false), "{what}: {:?}", self.outcome);
    }

    /// Charged as billed, which is more than was reserved only if spending is frozen.
    #[track_caller]
    fn is_as_billed(&self, what: &str) {
        assert_eq!(self.charged, self.billed, "{what}: {:?}", self.outcome);
        assert_eq!(self.is_frozen, self.billed > self.reserved, "{what}");
    }

    /// Nobody knows the cost: it counts as more than was reserved.
    #[track_caller]
    fn is_beyond(&self, what: &str) {
        assert_eq!((self.charged.0, self.is_frozen), (self.reserved.0 + 1, true), "{what}: {:?}", self.outcome);
        assert!(self.billed <= self.charged, "{what}");
    }
}

impl Bench {
    /// Makes one call and reads what became of its first reservation.
    async fn ending(&self, request: LlmRequest) -> Ending {
        let outcome = self.metered.call(request, &self.context, 100, &self.cancel).await;
        self.metered.treasurer().drain().await;
        let filter = EntryFilter { job: Some(self.context.job.clone()), ..EntryFilter::default() };
        let entries = self.backend.ledger.entries(filter).await.unwrap();
        let first = entries.iter().find(|entry| entry.kind == EntryKind::Reserve).expect("was reserved");
        let ended = entries
            .iter()
            .find(|entry| entry.kind != EntryKind::Reserve && entry.reservation == first.reservation)
            .expect("has ended");
        let balance = self.backend.ledger.balance(&Scope::Job(self.context.job.clone())).await.unwrap();
        let account = self.backend.ledger.balance(&Scope::Account).await.unwrap();
        assert_eq!((balance.reserved, balance.frozen), (MicroUsd::ZERO, account.frozen));
        let billed = self.server.bill().cost_micros;
        assert!(billed <= balance.spent, "{billed} billed, {} spent", balance.spent);
        Ending {
            reserved: first.reserved,
            charged: ended.charged,
            is_released: ended.kind == EntryKind::Release,
            is_frozen: balance.frozen,
            billed,
            outcome,
        }
    }

    /// The same bench, with one attempt per call and another provider.
    fn once(self, provider: Option<Arc<dyn Provider>>) -> Self {
        let retry = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
        let provider = provider.unwrap_or_else(|| anthropic(&self.server));
        let prices = PriceTable::builtin().unwrap().with_endpoint("openrouter", EndpointPrices::List);
        let treasurer = Treasurer::new(self.backend.ledger.clone(), Arc::new(prices));
        Self { metered: Metered::new(provider, treasurer, retry, Duration::from_secs(60)), ..self }
    }
}

fn anthropic(server: &FakeServer) -> Arc<dyn Provider> {
    let config = AnthropicConfig {
        base_url: server.base_url(),
        idle_timeout: Duration::from_millis(300),
        ..AnthropicConfig::new(Secret::new("sk-fake"))
    };
    Arc::new(Anthropic::new(&config).unwrap())
}

fn faulty(names: &str) -> Script {
    let faults: Faults = names.parse().unwrap();
    let reply = faults.iter().fold(Reply::new(ANSWER).output_tokens(100), Reply::fault);
    Script::new().reply("plan", reply)
}

async fn strike(test: &TestBackend, names: &str) -> Ending {
    let bench = Bench::new(test, faulty(names), PLENTY).await.once(None);
    bench.ending(request(4_000)).await
}

pub(super) async fn case_07_only_what_is_provably_free_is_released(test: &TestBackend) {
    for names in ["status-400", "status-401", "status-402", "status-404", "status-429", "spend-cap-429", "status-529"] {
        let ending = strike(test, names).await;
        assert!(ending.is_released && ending.charged == MicroUsd::ZERO && ending.billed == MicroUsd::ZERO, "{names}");
    }
    for names in
        ["html-413", "status-500", "html-503", "status-504", "stall-before-headers", "stall-mid-stream", "invalid-utf8"]
    {
        strike(test, names).await.is_in_full(names);
    }
    let bench = Bench::new(test, faulty("crlf"), PLENTY).await.once(None);
    let address = bench.server.base_url();
    let gone = FakeServer::start(Script::new(), FakeOptions::default()).await.unwrap();
    let nobody = anthropic(&gone);
    gone.stop().await;
    let ending = bench.once(Some(nobody)).ending(request(4_000)).await;
    assert!(ending.is_released, "nobody listens at {address}: {:?}", ending.outcome);
}

pub(super) async fn case_15_absent_usage_is_charged_in_full_and_zero_usage_is_not_absent(test: &TestBackend) {
    strike(test, "no-usage").await.is_in_full("no-usage");
    let zero = strike(test, "zero-usage").await;
    assert_eq!((zero.charged, zero.is_released, zero.is_frozen), (MicroUsd::ZERO, false, false));
}

pub(super) async fn case_17_what_a_reply_reports_about_its_terms_is_charged_or_stops_everything(test: &TestBackend) {
    let plain = strike(test, "crlf").await;
    plain.is_as_billed("plain");
    let us = strike(test, "us-region").await;
    us.is_as_billed("us-region");
    assert_eq!(us.charged.0, (plain.charged.0 * 11).div_ceil(10));
    let searches = strike(test, "web-searches").await;
    searches.is_as_billed("web-searches");
    assert_eq!((searches.charged.0, searches.is_frozen), (plain.charged.0 + 200_000, true));
    for names in ["priority-tier", "unknown-tier", "fast-mode"] {
        strike(test, names).await.is_beyond(names);
    }
    // Opus 5.5 has a price for the fast mode, twice the plain one.
    let opus = |names: &'static str| async move {
        let bench = Bench::new(test, faulty(names), PLENTY).await.once(None);
        bench.ending(LlmRequest { model: "claude-opus-5-5".into(), ..request(4_000) }).await
    };
    let (slow, fast) = (opus("crlf").await, opus("fast-mode").await);
    fast.is_as_billed("fast-mode");
    assert_eq!(fast.charged.0, slow.charged.0 * 2);
    // Where the region cannot be pinned, what it may add is set aside from the start.
    let bench = Bench::new(test, faulty("us-region"), PLENTY).await.once(None);
    let old = LlmRequest { model: "claude-haiku-4-5".into(), ..request(4_000) };
    let prepared = anthropic(&bench.server).prepare(&old).unwrap().worst_case;
    let pinned = codeswarm::budget::WorstCaseInput { unpinned: Unpinned::default(), ..prepared };
    let least = PriceTable::builtin().unwrap().worst_case(&pinned).unwrap();
    let ending = bench.ending(old).await;
    ending.is_as_billed("claude-haiku-4-5");
    // That bound was rounded up once, this one after the region was counted.
    assert!(ending.reserved.0.abs_diff((least.0 * 11).div_ceil(10)) <= 1, "{} for {least}", ending.reserved);
}

pub(super) async fn case_17_the_charge_that_openrouter_states_is_charged(test: &TestBackend) {
    let openrouter = async |names: &str| {
        let prices = PriceTable::builtin().unwrap().with_endpoint("openrouter", EndpointPrices::List);
        let options = FakeOptions { prices: Some(prices.into()), ..FakeOptions::default() };
        let bench = Bench::with(test, faulty(names), PLENTY, options).await;
        let base_url = format!("{}/as/openrouter/v1", bench.server.base_url());
        let config = OpenAiConfig { base_url, ..OpenAiConfig::of(Preset::OpenRouter, Some(Secret::new("sk-fake"))) };
        let router = Router::default().named("openrouter", Arc::new(OpenAi::new(&config).unwrap()));
        let bench = bench.once(Some(Arc::new(router)));
        bench.ending(LlmRequest { model: "openrouter/gpt-6.1-sol".into(), ..request(4_000) }).await
    };
    openrouter("crlf").await.is_as_billed("the stated charge is the price");
    let dear = openrouter("dear-cost").await;
    dear.is_as_billed("dear-cost");
    assert_eq!((dear.charged, dear.is_frozen), (MicroUsd(4_750_000), true));
    openrouter("odd-cost").await.is_in_full("odd-cost");
    // The tier could not be pinned, so twice the price is set aside and a reply in that tier fits.
    let priority = openrouter("priority-tier").await;
    priority.is_as_billed("priority-tier");
    assert!(!priority.is_frozen);
    // Whatever the tier is, the charge is stated.
    openrouter("unknown-tier").await.is_as_billed("unknown-tier");
}

pub(super) async fn case_18_whoever_answers_is_charged_by_the_dearer_price_or_stops_everything(test: &TestBackend) {
    let plain = strike(test, "crlf").await;
    let other = strike(test, "other-model").await;
    other.is_as_billed("other-model");
    // Fable 5.1 costs five times as much a token, of every kind that is used here.
    assert_eq!(other.charged.0, plain.charged.0 * 5);
    let parts = strike(test, "iterations").await;
    parts.is_as_billed("iterations");
    assert!(parts.charged > other.charged);
    for names in ["unknown-model", "odd-iterations", "unknown-model+cut-mid-stream", "unknown-model+stall-mid-stream"] {
        strike(test, names).await.is_beyond(names);
    }
    // Cut or silent, the dearer one counts with all of the allowed output: 4,000 tokens at 50.
    for names in ["other-model+cut-mid-stream", "other-model+eof-before-stop", "other-model+error-event"] {
        let cut = strike(test, names).await;
        assert!(cut.is_frozen && cut.charged > cut.reserved && cut.charged.0 > 200_000, "{names}: {}", cut.charged);
    }
    let silent = strike(test, "other-model+stall-mid-stream").await;
    assert!(silent.is_frozen && silent.charged.0 > 200_000, "{}", silent.charged);
}

pub(super) async fn case_20_a_refusal_is_charged_what_it_reports(test: &TestBackend) {
    let refusal = strike(test, "refusal").await;
    refusal.is_as_billed("refusal");
    assert!(matches!(refusal.outcome.result.unwrap().stop, StopReason::Refusal(_)));
    let before = strike(test, "refusal-before").await;
    let reported = before.outcome.usage;
    assert!(before.billed == MicroUsd::ZERO && reported.total() > 0 && before.charged > MicroUsd::ZERO);
    assert_eq!(before.charged, PriceTable::builtin().unwrap().charge(MODEL, &reported).unwrap());
}

pub(super) async fn case_21_every_repeat_and_every_fallback_is_a_reserved_call(test: &TestBackend) {
    let failed = |names: &str| names.parse::<Faults>().unwrap().iter().fold(Reply::new(ANSWER), Reply::fault);
    let script = Script::new()
        .reply("plan", failed("status-500"))
        .reply("plan", failed("cut-mid-stream"))
        .reply("plan", failed("refusal"))
        .reply("plan", ANSWER);
    let bench = Bench::new(test, script, PLENTY).await;
    let request = LlmRequest { fallbacks: vec!["claude-haiku-5-5".into()], ..request(4_000) };
    let outcome = bench.metered.call(request, &bench.context, 100, &bench.cancel).await;
    assert_eq!(outcome.result.unwrap().text, ANSWER);
    bench.metered.treasurer().drain().await;
    let filter = EntryFilter { job: Some(bench.context.job.clone()), ..EntryFilter::default() };
    let entries = bench.backend.ledger.entries(filter).await.unwrap();
    let reserved: std::collections::BTreeSet<&String> =
        entries.iter().filter(|entry| entry.kind == EntryKind::Reserve).map(|entry| &entry.reservation).collect();
    assert_eq!((reserved.len() as u64, bench.server.requests()), (4, 4), "{entries:?}");
    assert_eq!(bench.spent().await, outcome.cost);
    assert!(bench.server.bill().cost_micros <= outcome.cost);
}
