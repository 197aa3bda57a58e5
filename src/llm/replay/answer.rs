//! One call from its body to its reply: look up, wait, bill, compose.
//!
//! The order is the promise: what a provider refuses before it generates is not billed, everything else is, before the
//! first byte of it leaves.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use axum::http::HeaderMap;
use axum::response::Response;

use super::Fault;
use super::bill::BillEntry;
use super::cache::PromptCache;
use super::deliver;
use super::request::{self, ApiError, Request};
use super::script::{Reply, Stop};
use super::server::Shared;
use super::wire::Outgoing;
use crate::protocol::Usage;

/// Text of [`Fault::Huge`], in bytes.
const HUGE_BYTES: usize = 5_000_000;

impl Shared {
    /// Answers the request with this `number`; an error is the API's, not the server's.
    pub(super) async fn answer(
        &self,
        number: u64,
        request_id: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Response, ApiError> {
        request::check_headers(headers)?;
        let request = request::parse(body, &self.prices)?;
        let Some((key, queue)) = self.queues.get_key_value(request.key.as_str()) else {
            return Err(ApiError::invalid(format!("the script has no reply for {:?}", request.key)));
        };
        let nth = queue.next.fetch_add(1, Ordering::Relaxed);
        let reply = &queue.replies[nth.min(queue.replies.len() - 1)];
        // Looked up when the call begins and written when its reply begins: calls in between all pay for the write.
        let prompt = self.lock_cache().usage(&request.prefixes, request.prompt_bytes);

        let delay = reply.delay + self.latency.sample(key, nth);
        if !delay.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.stopped.cancelled() => return Err(deliver::stopping()),
            }
        }
        if let Some(fault) = reply.fault.filter(|fault| !fault.is_billed()) {
            return Ok(deliver::unbilled(fault, reply, request_id));
        }
        self.lock_cache().insert(&request.prefixes);
        let text: Cow<'_, str> = match reply.text.contains(&*reply.mark) {
            true => reply.text.replace(&*reply.mark, &request.id).into(),
            false => (&*reply.text).into(),
        };
        let outgoing = compose(number, &request, reply, &text, prompt);
        self.charge(key, &request.model, outgoing.usage)?;
        match reply.fault {
            Some(Fault::Status500) => Ok(deliver::unbilled(Fault::Status500, reply, request_id)),
            Some(Fault::StallBeforeHeaders) => {
                self.stopped.cancelled().await;
                Err(deliver::stopping())
            }
            fault if request.stream => Ok(deliver::events(&outgoing, fault, request_id, &self.stopped)),
            fault => Ok(deliver::document(&outgoing, fault, request_id, &self.stopped)),
        }
    }

    fn charge(&self, key: &Arc<str>, model: &str, usage: Usage) -> Result<(), ApiError> {
        let cost_micros = self.prices.charge(model, &usage).map_err(|error| deliver::internal(&error))?;
        let entry = BillEntry { key: key.clone(), model: model.to_owned(), usage, cost_micros };
        self.bill.add(&entry).map_err(|error| deliver::internal(&error))
    }

    fn lock_cache(&self) -> std::sync::MutexGuard<'_, PromptCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the model says, cut where its limits or the fault cut it, and what that takes.
fn compose<'a>(number: u64, request: &'a Request, reply: &Reply, text: &'a str, prompt: Usage) -> Outgoing<'a> {
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    let thought = reply.thinking_tokens;
    // 3.5 bytes a token.
    let wanted = reply.output_tokens.unwrap_or_else(|| thought + (length * 2).div_ceil(7)).max(thought).max(1);
    let most = request.max_tokens;
    let (text, thinking_tokens, output, stop) = match reply.fault {
        Some(Fault::Huge) => (huge_text(), thought.min(most), most, reply.stop),
        Some(Fault::ThinkingOnly) => ("", most, most, Stop::MaxTokens),
        Some(Fault::MaxTokens) => (head(text, 1, 2), thought.min(most), most, Stop::MaxTokens),
        Some(Fault::Refusal) => (head(text, 1, 2), thought.min(most), wanted.min(most), Stop::Refusal),
        _ if wanted > most => {
            let room = most.saturating_sub(thought);
            (head(text, room, wanted - thought), thought.min(most), most, Stop::MaxTokens)
        }
        _ => (text, thought, wanted, reply.stop),
    };
    Outgoing {
        number,
        model: &request.model,
        text,
        thinking_tokens,
        stop,
        usage: Usage { output, ..prompt },
        reports_usage: reply.fault != Some(Fault::NoUsage),
        invalid_utf8: reply.fault == Some(Fault::InvalidUtf8),
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
