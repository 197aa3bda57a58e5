//! The fault table: every fault of the local server, in both wire formats, through the real client and the real ledger.
//!
//! `docs/faults.md` holds what was observed, and this test fails when something else is observed. With `CODESWARM_FAULTS=write`
//! it writes the file instead. Nothing in the table is said by hand but the sentence about each fault, which is the one in
//! the code that makes it.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use codeswarm::backend::embedded::{Durability, open};
use codeswarm::backend::{Adjustment, EntryFilter, EntryKind, Scope};
use codeswarm::budget::{CallContext, PriceTable, Reservation, Treasurer};
use codeswarm::clock::Clock;
use codeswarm::config::Secret;
use codeswarm::error::{Coded, Retry};
use codeswarm::llm::anthropic::{Anthropic, AnthropicConfig};
use codeswarm::llm::http::Limits;
use codeswarm::llm::openai::{OpenAi, OpenAiConfig, Preset};
use codeswarm::llm::replay::{FakeOptions, FakeServer, Fault, Faults, Reply, Script};
use codeswarm::llm::{CallOutcome, Charge, LlmError, LlmReply, LlmRequest, Metered, Prepared, Provider, StopReason};
use codeswarm::protocol::{AgentType, InstanceId, JobId, MicroUsd, TaskId};
use codeswarm::resilience::RetryPolicy;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const ANSWER: &str = "Größe: 日本 \"quoted\"\n";
const IDLE: Duration = Duration::from_millis(400);

/// The wire formats, with the model that is asked.
#[derive(Debug, Clone, Copy)]
enum Format {
    Messages,
    ChatCompletions,
}

impl Format {
    fn provider(self, server: &FakeServer) -> Arc<dyn Provider> {
        let limits = Limits { idle_timeout: IDLE, ..Limits::default() };
        let key = Secret::new("sk-fake");
        match self {
            Self::Messages => {
                let config = AnthropicConfig { base_url: server.base_url(), ..AnthropicConfig::within(limits, key) };
                Arc::new(Anthropic::new(&config).unwrap())
            }
            Self::ChatCompletions => {
                let base_url = format!("{}/v1", server.base_url());
                let config = OpenAiConfig { base_url, limits, ..OpenAiConfig::of(Preset::OpenAi, Some(key)) };
                Arc::new(OpenAi::new(&config).unwrap())
            }
        }
    }

    const fn model(self) -> &'static str {
        match self {
            Self::Messages => "claude-sonnet-5-5",
            Self::ChatCompletions => "gpt-6.1-sol",
        }
    }
}

/// A fault as a line of a script, and how the table names it.
struct Case {
    name: String,
    about: String,
    reply: Reply,
    faults: Faults,
    /// What the request asks for that this client never would.
    asks: Option<fn(&mut Value)>,
}

/// Asks for something that the client behind it never asks for.
struct Asking(Arc<dyn Provider>, fn(&mut Value));

#[async_trait]
impl Provider for Asking {
    fn prepare(&self, request: &LlmRequest) -> Result<Prepared, LlmError> {
        let prepared = self.0.prepare(request)?;
        let mut body: Value = serde_json::from_slice(&prepared.body).unwrap();
        (self.1)(&mut body);
        Ok(Prepared { body: body.to_string().into(), ..prepared })
    }

    async fn send(
        &self,
        prepared: &Prepared,
        reservation: &Reservation,
        cancel: &CancellationToken,
    ) -> Result<LlmReply, LlmError> {
        self.0.send(prepared, reservation, cancel).await
    }
}

/// Combinations that show more than their parts do.
const COMBINED: [&str; 6] = [
    "cut-mid-stream+other-model",
    "stall-mid-stream+other-model",
    "cut-mid-stream+unknown-model",
    "cut-mid-stream+us-region",
    "error-event+fast-mode",
    "usage-over-bound+eof-before-stop",
];

/// What the Messages API refuses because of the model.
fn refused_requests() -> Vec<Case> {
    let case = |name: &str, about: &str, asks: fn(&mut Value)| Case {
        name: name.into(),
        about: about.into(),
        reply: Reply::new(ANSWER),
        faults: Faults::default(),
        asks: Some(asks),
    };
    vec![
        case("(forced tool)", "400, because this model's `tool_choice` cannot be forced", |body| {
            body["tool_choice"] = json!({"type": "any"});
        }),
        case("(prefill)", "400, because the last message is the assistant's", |body| {
            body["messages"].as_array_mut().unwrap().push(json!({"role": "assistant", "content": "{"}));
        }),
        case("(sampling)", "400, because this model takes no sampling parameters", |body| {
            body["temperature"] = json!(0.2);
        }),
    ]
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for fault in Fault::ALL {
        let reply = Reply::new(ANSWER).fault(fault);
        let mut add = |suffix: &str, reply: Reply| {
            let (name, about) = (format!("{}{suffix}", fault.name()), fault.about());
            cases.push(Case { name, about, reply, faults: fault.into(), asks: None });
        };
        match fault {
            Fault::Status429 => {
                add("", reply.clone());
                add(", retry-after 1 s", reply.clone().retry_after(1));
                add(", retry-after 90 s", reply.retry_after(90));
            }
            Fault::Html503 => {
                add("", reply.clone());
                add(", retry-after 90 s", reply.retry_after(90));
            }
            Fault::Status429Date | Fault::Status429Ms | Fault::Status529 => {
                if fault == Fault::Status529 {
                    add("", reply.clone());
                }
                add(", 1 s", reply.clone().retry_after(1));
                add(", 90 s", reply.retry_after(90));
            }
            Fault::LateHeaders => {
                add(", in time", reply.clone().delay(IDLE / 8));
                add(", after the client's timeout", reply.delay(IDLE * 4));
            }
            _ => add("", reply),
        }
    }
    for names in COMBINED {
        let faults: Faults = names.parse().unwrap();
        let about = faults.iter().map(Fault::about).collect::<Vec<_>>().join(" ");
        let reply = faults.iter().fold(Reply::new(ANSWER), Reply::fault);
        cases.push(Case { name: names.into(), about, reply, faults, asks: None });
    }
    cases
}

/// What was observed of one case.
struct Row {
    attempts: u32,
    charge: &'static str,
    outcome: String,
}

async fn observe(format: Format, case: &Case) -> Row {
    let directory = tempfile::tempdir().unwrap();
    let instance = InstanceId::fresh("worker");
    let backend = open(directory.path(), &instance, Durability::Process, Clock::system()).await.unwrap();
    let job = JobId::fresh();
    let scope = Scope::Job(job.clone());
    backend.ledger.adjust("limit", &scope, Adjustment::SetLimit(Some(MicroUsd(100_000_000)))).await.unwrap();
    let script = Script::new().reply("plan", case.reply.clone()).reply("plan", ANSWER);
    let server = FakeServer::start(script, FakeOptions::default()).await.unwrap();
    let treasurer = Treasurer::new(backend.ledger.clone(), Arc::new(PriceTable::builtin().unwrap()));
    let retry = RetryPolicy { first_delay: Duration::from_millis(1), ..RetryPolicy::default() };
    let provider = match case.asks {
        Some(asks) => Arc::new(Asking(format.provider(&server), asks)),
        None => format.provider(&server),
    };
    let metered = Metered::new(provider, treasurer, retry, Duration::from_secs(60));
    let context = CallContext::new(job.clone(), TaskId::plan(), AgentType::planner(), instance, 1, 1);
    let request = LlmRequest::of(format.model(), "Plan it.\nRequest: plan");
    let outcome = metered.call(request, &context, 100, &CancellationToken::new()).await;
    metered.treasurer().drain().await;

    let balance = backend.ledger.balance(&scope).await.unwrap();
    assert_eq!(balance.reserved, MicroUsd::ZERO, "{}", case.name);
    assert_eq!(balance.spent, outcome.cost, "{}", case.name);
    assert!(server.bill().cost_micros <= balance.spent, "{}: the bill is higher", case.name);
    assert_eq!(u64::from(outcome.attempts), server.requests(), "{}: a hidden attempt", case.name);
    let entries = backend.ledger.entries(EntryFilter { job: Some(job), ..EntryFilter::default() }).await.unwrap();
    let reserved = entries.iter().find(|entry| entry.kind == EntryKind::Reserve).expect("was reserved").clone();
    let ended =
        entries.iter().find(|entry| entry.kind != EntryKind::Reserve && entry.reservation == reserved.reservation);
    let ended = ended.expect("has ended");
    let charge = match ended.kind {
        EntryKind::Release => "nothing",
        _ if balance.frozen && ended.charged.0 == reserved.reserved.0 + 1 => {
            "more than was reserved, for nobody knows: **spending is frozen**"
        }
        _ if balance.frozen => "what was used, more than reserved: **spending is frozen**",
        _ if ended.charged == reserved.reserved => "everything reserved",
        _ if outcome.attempts == 1 || ended.charged == MicroUsd::ZERO => "what was reported",
        _ => "the reported input and all of the allowed output",
    };
    Row { attempts: outcome.attempts, charge, outcome: said(&outcome) }
}

/// The end of the call in words.
fn said(outcome: &CallOutcome) -> String {
    match &outcome.result {
        Ok(reply) => match &reply.stop {
            StopReason::EndTurn if reply.text == ANSWER => "the reply".into(),
            StopReason::EndTurn if reply.text.is_empty() => "a reply without text".into(),
            StopReason::EndTurn => "another reply".into(),
            StopReason::MaxTokens => "a truncated reply".into(),
            StopReason::Refusal(_) => "a refusal".into(),
            other => format!("{other:?}"),
        },
        Err(error) => {
            let what = match error {
                LlmError::Status { status, .. } => format!("status {status}"),
                other => other.to_string().split(':').next().unwrap_or_default().to_owned(),
            };
            let next = match error.retry() {
                Retry::Never => "final",
                Retry::After(_) if error.charge() == Charge::Nothing => "the task is parked",
                Retry::After(_) => "the task waits and has an attempt less",
                Retry::Now => "may be tried again",
                Retry::Exhausted if error.charge() == Charge::Nothing => "the task is parked for longer and longer",
                Retry::Exhausted => "the task is given up",
            };
            format!("`{}`, {what}: {next}", error.code())
        }
    }
}

const HEAD: &str = "\
# What happens when a provider misbehaves

Observed by the test run (`tests/it/fault_table.rs`), never written by hand: every fault the local server `fake-claude` can
produce strikes the first attempt of a call, in both wire formats, and some of them together; a second attempt would be answered
properly. In brackets stand requests that the program never makes and a provider refuses. *Attempts* counts
what reached the server. *First attempt charged* is what its reservation became in the ledger. In every row the server's own
bill was at most what the ledger charged, and nothing stayed reserved.

To write the file anew: `CODESWARM_FAULTS=write cargo nextest run -E 'test(fault_table)'`.
";

async fn table() -> String {
    let mut text = HEAD.to_owned();
    for (format, title) in
        [(Format::Messages, "Anthropic Messages API"), (Format::ChatCompletions, "OpenAI chat completions")]
    {
        let _ = writeln!(text, "\n## {title}\n");
        text.push_str("| Fault | What the provider does | Attempts | First attempt charged | The call ends with |\n");
        text.push_str("|---|---|---|---|---|\n");
        let refused = if matches!(format, Format::Messages) { refused_requests() } else { Vec::new() };
        // Some things only one of the two can say.
        let foreign = match format {
            Format::Messages => " (chat completions)",
            Format::ChatCompletions => " (Messages API)",
        };
        for case in cases().into_iter().filter(|case| !case.about.contains(foreign)).chain(refused) {
            let Row { attempts, charge, outcome } = observe(format, &case).await;
            let about = case.about.trim_end_matches('.');
            let _ = writeln!(text, "| `{}` | {about} | {attempts} | {charge} | {outcome} |", case.name);
            let is_free = charge == "nothing";
            assert!(!(is_free && case.faults.is_billed() && case.asks.is_none()), "{}: billed and released", case.name);
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_committed_fault_table_is_what_is_observed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md");
    let observed = table().await;
    if std::env::var_os("CODESWARM_FAULTS").is_some_and(|value| value == "write") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &observed).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differing: Vec<_> = observed.lines().filter(|line| !committed.lines().any(|other| other == *line)).collect();
    assert_eq!(committed, observed, "docs/faults.md is not what happens; observed instead:\n{}", differing.join("\n"));
}
