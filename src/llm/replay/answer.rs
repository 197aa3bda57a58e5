//! One call from its body to its reply: look up, wait, bill, compose.
//!
//! The order is the promise: what a provider refuses before it generates is not billed, everything else is, before the
//! first byte of it leaves.

use std::borrow::Cow;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures_util::StreamExt;
use tokio::time::Instant;

use super::Fault;
use super::bill::BillEntry;
use super::cache::PromptCache;
use super::chat;
use super::deliver::{self, Way};
use super::dialect::{ApiError, Dialect};
use super::fault::SHAPES;
use super::generate;
use super::latency::Pace;
use super::limits::Running;
use super::line::Breaker;
use super::pricer::Extras;
use super::request::{self, Request};
use super::script::{Reply, Stop};
use super::server::Shared;
use super::wire::Outgoing;
use crate::budget::ModelPrice;
use crate::protocol::{MicroUsd, Usage};

/// Text of [`Fault::Huge`], in bytes.
const HUGE_BYTES: usize = 5_000_000;

/// The model that answers instead of the one that was asked in the Messages API.
const DEARER_MODEL: &str = "claude-fable-5-1";
/// What [`Fault::DearCost`] states.
const DEAR_COST: MicroUsd = MicroUsd(4_750_000);
/// How often [`Fault::WebSearches`] searched.
const SEARCHES: u64 = 20;

/// One request as it arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived<'a> {
    pub(super) dialect: Dialect,
    /// Name of the endpoint this server stands for; nothing at the usual address.
    pub(super) endpoint: Option<&'a str>,
    pub(super) number: u64,
    pub(super) request_id: &'a str,
    pub(super) breaker: &'a Breaker,
}

impl Shared {
    /// Reads and checks a request.
    pub(super) fn read(&self, arrived: Arrived<'_>, headers: &HeaderMap, body: &[u8]) -> Result<Request, ApiError> {
        if self.needs_key {
            arrived.dialect.check_headers(headers)?;
        }
        match arrived.dialect {
            Dialect::Anthropic => request::parse(body, arrived.endpoint, &self.prices, false),
            Dialect::OpenAi => chat::parse(body, arrived.endpoint, &self.prices),
        }
    }

    /// Answers a request; an error is the API's, not the server's.
    pub(super) async fn answer(
        &self,
        arrived: Arrived<'_>,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Response, ApiError> {
        let request = self.read(arrived, headers, body)?;
        // Looked up when the call begins and written when its reply begins: calls in between all pay for the write.
        let prompt = self.lock_cache().usage(&request.prefixes, request.prompt_bytes);
        let running = match self.limiter.admit(prompt.input + prompt.cache_write_5m + prompt.cache_write_1h) {
            Ok(running) => running,
            Err(wait) => return Ok(deliver::limited(request.dialect, wait, arrived.request_id)),
        };
        let generated;
        let (key, nth, reply) = match self.queues.get_key_value(request.key.as_str()) {
            Some((key, queue)) => {
                let nth = queue.next.fetch_add(1, Ordering::Relaxed);
                (key.clone(), nth, &queue.replies[nth.min(queue.replies.len() - 1)])
            }
            None if self.generates => {
                generated = generate::reply(&request);
                let key = if request.key.is_empty() { "unnamed" } else { &request.key };
                (key.into(), usize::try_from(arrived.number).unwrap_or(usize::MAX), &generated)
            }
            None if request.key.is_empty() => {
                return Err(ApiError::invalid("the last user message has no line that begins with \"Request: \""));
            }
            None => return Err(ApiError::invalid(format!("the script has no reply for {:?}", request.key))),
        };
        let is_late = reply.faults.has(Fault::LateHeaders);
        let is_told = request.stream && reply.faults.iter().all(Fault::is_told);
        // What is not told bit by bit comes whole, at the end of its time.
        let first_percent = if is_told { self.first_byte_percent } else { 100 };
        let pace = Pace::new(reply.delay + self.latency.sample(&key, nth), first_percent);
        if !is_late {
            self.wait(pace.begins()).await?;
        }
        if let Some(fault) = reply.faults.status().filter(|fault| !fault.is_billed()) {
            return Ok(deliver::status(request.dialect, fault, reply, arrived.request_id));
        }
        self.lock_cache().insert(&request.prefixes);
        let text: Cow<'_, str> = match reply.text.contains(&*reply.mark) {
            true => reply.text.replace(&*reply.mark, &request.id).into(),
            false => (&*reply.text).into(),
        };
        let mut outgoing = compose(arrived.number, &request, reply, &text, prompt);
        let cost_micros = self.cost(&request, &mut outgoing)?;
        if reply.faults.is_billed() {
            let entry =
                BillEntry { key: key.clone(), model: request.priced.clone(), usage: outgoing.usage, cost_micros };
            self.bill.add(&entry).map_err(|error| deliver::internal(&error))?;
        }
        self.limiter.generated(outgoing.usage.output);
        self.wait(pace.begins()).await?;
        if reply.faults.has(Fault::StallBeforeHeaders) {
            self.stopped.cancelled().await;
            return Err(deliver::stopping());
        }
        let way = Way { breaker: arrived.breaker, stopped: &self.stopped };
        let response = match reply.faults.status() {
            Some(fault) => deliver::status(request.dialect, fault, reply, arrived.request_id),
            None if request.stream => deliver::events(request.dialect, &outgoing, arrived.request_id, &pace, &way),
            None => deliver::document(request.dialect, &outgoing, arrived.request_id, &way),
        };
        Ok(if self.is_limited && response.status() == StatusCode::OK {
            until_read(response, running)
        } else {
            response
        })
    }

    async fn wait(&self, moment: Instant) -> Result<(), ApiError> {
        if moment <= Instant::now() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep_until(moment) => Ok(()),
            () = self.stopped.cancelled() => Err(deliver::stopping()),
        }
    }

    /// What the call costs, by the server's own arithmetic, the dearer one of the models that were asked and that answered.
    fn cost(&self, request: &Request, outgoing: &mut Outgoing<'_>) -> Result<MicroUsd, ApiError> {
        if self.prices.get(&request.priced).is_some_and(ModelPrice::is_free) {
            return Ok(MicroUsd::ZERO);
        }
        let now = self.clock.now();
        let bill = |model: &str| self.pricer.bill(model, &outgoing.usage, outgoing.extras, now);
        let unpriced = || ApiError::unknown_model(&request.priced);
        let mut cost = bill(&request.priced).ok_or_else(unpriced)?;
        if outgoing.model != request.model {
            // Nobody knows what a model costs that has no price; it is billed as the one that was asked.
            cost = cost.max(bill(outgoing.model).unwrap_or_default());
        }
        let parts = outgoing.parts.iter();
        let parts = parts.filter_map(|(model, usage)| self.pricer.pico(model, usage, outgoing.extras, now));
        cost = cost.max(MicroUsd(u64::try_from(parts.sum::<u128>().div_ceil(1_000_000)).unwrap_or(u64::MAX)));
        if request.dialect == Dialect::OpenAi {
            if outgoing.faults.has(Fault::DearCost) {
                cost = cost.max(DEAR_COST);
            }
            let states = request.states_cost || outgoing.faults.among(&[Fault::DearCost, Fault::OddCost]).is_some();
            outgoing.stated = states.then_some(cost);
        }
        Ok(cost)
    }

    fn lock_cache(&self) -> std::sync::MutexGuard<'_, PromptCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts the call as running until its reply has been read to the end or given up.
fn until_read(response: Response, running: Running) -> Response {
    response.map(|body| {
        Body::from_stream(body.into_data_stream().map(move |piece| {
            let _keeps = &running;
            piece
        }))
    })
}

/// What the model says, cut where its limits or the fault cut it, and what that takes.
fn compose<'a>(number: u64, request: &'a Request, reply: &Reply, text: &'a str, prompt: Usage) -> Outgoing<'a> {
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    let thought = reply.thinking_tokens;
    // 3.5 bytes a token.
    let wanted = reply.output_tokens.unwrap_or_else(|| thought + (length * 2).div_ceil(7)).max(thought).max(1);
    let most = request.max_tokens;
    let faults = reply.faults;
    let (text, thinking_tokens, output, stop) = match faults.among(&SHAPES) {
        Some(Fault::Huge) => (huge_text(), thought.min(most), most, reply.stop),
        Some(Fault::ThinkingOnly) => ("", most, most, Stop::MaxTokens),
        Some(Fault::ToolCut) => ("", thought.min(most), most, Stop::MaxTokens),
        Some(Fault::EmptyEndTurn) => ("", 0, 2, Stop::EndTurn),
        Some(Fault::MaxTokens) => (head(text, 1, 2), thought.min(most), most, Stop::MaxTokens),
        Some(Fault::Refusal) => (head(text, 1, 2), thought.min(most), wanted.min(most), Stop::Refusal),
        Some(Fault::RefusalBefore) => ("", 0, 1, Stop::Refusal),
        Some(Fault::UsageOverBound) => (text, thought, most * 2, reply.stop),
        _ if wanted > most => {
            let room = most.saturating_sub(thought);
            (head(text, room, wanted - thought), thought.min(most), most, Stop::MaxTokens)
        }
        _ => (text, thought, wanted, reply.stop),
    };
    let usage = if faults.has(Fault::ZeroUsage) { Usage::default() } else { Usage { output, ..prompt } };
    let is_anthropic = request.dialect == Dialect::Anthropic;
    let model = match faults.among(&[Fault::OtherModel, Fault::UnknownModel]) {
        Some(Fault::OtherModel) if is_anthropic => DEARER_MODEL,
        Some(Fault::OtherModel) => "gpt-6.2-astra",
        Some(_) => "model-without-a-price",
        None => &request.model,
    };
    let extras = Extras {
        region: (is_anthropic && faults.has(Fault::UsRegion)).then_some("us"),
        tier: match faults.among(&[Fault::PriorityTier, Fault::UnknownTier]) {
            Some(Fault::PriorityTier) => Some("priority"),
            Some(_) => Some("lunar"),
            None => None,
        },
        is_fast: is_anthropic && faults.has(Fault::FastMode),
        searches: if is_anthropic && faults.has(Fault::WebSearches) { SEARCHES } else { 0 },
    };
    let parts = match faults.among(&[Fault::Iterations, Fault::OddIterations]).filter(|_| is_anthropic) {
        Some(Fault::Iterations) => {
            vec![(DEARER_MODEL, usage), (DEARER_MODEL, Usage { output: usage.output / 2, ..usage })]
        }
        Some(_) => vec![(DEARER_MODEL, Usage { input: 1, output: 1, ..Usage::default() })],
        None => Vec::new(),
    };
    let tells = !faults.has(Fault::NoUsage) && (request.wants_usage || !request.stream);
    Outgoing {
        number,
        model,
        text,
        thinking_tokens,
        stop,
        usage,
        reports_usage: tells,
        running_usage: request.wants_running_usage,
        faults,
        extras,
        parts,
        stated: None,
    }
}

/// The first `part` of `whole` equal parts of the text, down to a character's boundary.
fn head(text: &str, part: u64, whole: u64) -> &str {
    let length = text.len() as u128 * u128::from(part) / u128::from(whole.max(1));
    let mut end = usize::try_from(length).unwrap_or(text.len()).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn huge_text() -> &'static str {
    static TEXT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    TEXT.get_or_init(|| "all work and no play\n".repeat(HUGE_BYTES / 21 + 1))
}
