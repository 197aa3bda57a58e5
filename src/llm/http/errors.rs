//! What the HTTP layer and error statuses mean.
//!
//! The classes decide over money: only a failure to connect and a well-formed error in the provider's own format are
//! free. An error page of a proxy in between is not the provider's word. The format is the dialect's affair, so its reader
//! is handed in. Nothing of a body is kept beyond a short, bounded message.

use std::error::Error as _;
use std::time::Duration;

use reqwest::Response;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use tokio::time::timeout;

use crate::llm::LlmError;

/// Longest body of an error or of a short answer that is read.
const MOST_BODY_BYTES: usize = 64 * 1024;

/// Longest message kept, in characters.
const MOST_MESSAGE_CHARS: usize = 500;

/// Longest delay believed; a day is as good as never.
const LONGEST_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads type and message out of an error body in the dialect's own format; `None` for anything else.
pub(in crate::llm) type Describe = fn(&[u8]) -> Option<(String, String)>;

/// At most 100 characters of a name from outside.
pub(in crate::llm) fn short(name: &str) -> String {
    name.chars().take(100).collect()
}

/// As much of a message as is kept.
pub(in crate::llm) fn bounded_message(message: &str) -> String {
    message.chars().take(MOST_MESSAGE_CHARS).collect()
}

/// The error for a request that brought no response at all.
pub(super) fn before_reply(error: reqwest::Error) -> LlmError {
    let (is_connect, is_timeout) = (error.is_connect(), error.is_timeout());
    let reason = chain(error);
    match (is_connect, is_timeout) {
        (true, _) => LlmError::Connect { reason },
        (false, true) => LlmError::Timeout { reason },
        // The request may have been written and may be answered, and billed, to nobody.
        (false, false) => LlmError::Cut { reason, input: None },
    }
}

/// The error for a response whose status is not a success.
pub(super) async fn from_status(mut response: Response, describe: Describe, idle_timeout: Duration) -> LlmError {
    let status = response.status().as_u16();
    let retry_after = retry_after(response.headers());
    let mut body = Vec::new();
    // A server that sends its error slowly must not hold the call longer than one that sends nothing.
    let complete = timeout(idle_timeout, read_short(&mut response, &mut body)).await.unwrap_or(false);
    let described = if complete { describe(&body) } else { None };
    let well_formed = described.is_some();
    let (kind, message) = described.unwrap_or_else(|| ("unknown".to_owned(), excerpt(&body)));
    LlmError::Status { status, kind, message, retry_after, well_formed }
}

/// A body that is complete and short.
pub(super) async fn short_body(mut response: Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    read_short(&mut response, &mut body).await.then_some(body)
}

/// Reads as much of a body as is kept; true when that is all of it.
async fn read_short(response: &mut Response, body: &mut Vec<u8>) -> bool {
    while body.len() <= MOST_BODY_BYTES {
        match response.chunk().await {
            Ok(Some(bytes)) => body.extend_from_slice(&bytes),
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
    false
}

/// The beginning of a body that is not in the provider's format, on one line.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(MOST_BODY_BYTES)]);
    let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The delay a response asks for: `retry-after-ms`, else `retry-after` in seconds or as an HTTP date. A date is read
/// against the response's own `date`, so that clocks need not agree.
pub(in crate::llm) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let seconds = |text: &str, unit: f64| {
        let seconds = text.parse::<f64>().ok().filter(|number| number.is_finite())? * unit;
        Duration::try_from_secs_f64(seconds.min(LONGEST_DELAY.as_secs_f64())).ok()
    };
    let in_ms = text("retry-after-ms").and_then(|ms| seconds(ms, 0.001));
    let delay = in_ms.or_else(|| {
        let value = text(RETRY_AFTER.as_str())?;
        seconds(value, 1.0).or_else(|| {
            let at = httpdate::parse_http_date(value).ok()?;
            let now = httpdate::parse_http_date(text(DATE.as_str())?).ok()?;
            Some(at.duration_since(now).unwrap_or_default())
        })
    })?;
    Some(delay.min(LONGEST_DELAY))
}

/// An error of the HTTP client with its causes, without the address (it may contain what logs should not).
pub(super) fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text.chars().take(MOST_MESSAGE_CHARS).collect()
}
