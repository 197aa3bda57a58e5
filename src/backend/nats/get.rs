//! One message of a stream, from its leader, as JSON.
//!
//! This way alone is safe for a message that a stranger has published with headers no client can read: delivered as it is, it
//! would end our connection, or the task behind it (async-nats 0.51 panics on a carriage return in a value). Such headers
//! come out empty here, and the message says so; it must never be delivered.

use std::str::FromStr;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::RequestErrorKind;
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::link::Link;
use super::stored::Stored;
use crate::backend::BackendError;

/// Which message.
#[derive(Debug, Default, Serialize)]
pub(super) struct Query<'a> {
    /// The newest of this subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_by_subj: Option<&'a str>,
    /// The first of this subject at or after `seq`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_by_subj: Option<&'a str>,
    /// The sequence to begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seq: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Error { error: async_nats::jetstream::Error },
    Found { message: Encoded },
}

#[derive(Deserialize)]
struct Encoded {
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

/// Asks the leader of `stream`.
pub(super) async fn get(link: &Link, stream: &str, query: &Query<'_>) -> Result<Option<Stored>, BackendError> {
    let answer = link.context.request(format!("STREAM.MSG.GET.{stream}"), query).await;
    let answer = answer.map_err(|error| match error.kind() {
        RequestErrorKind::TimedOut => link.late("a read"),
        _ => link.unavailable(error),
    })?;
    let encoded = match answer {
        Answer::Found { message } => message,
        Answer::Error { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => return Ok(None),
        Answer::Error { error } => return Err(link.unavailable(error)),
    };
    let decode = |text: &str| STANDARD.decode(text).map_err(|error| link.unavailable(format!("a read: {error}")));
    let headers = parse(&decode(&encoded.hdrs)?);
    Ok(Some(Stored {
        sequence: encoded.seq,
        is_sound: headers.is_some(),
        headers: headers.unwrap_or_default(),
        payload: decode(&encoded.data)?.into(),
    }))
}

/// Reads the headers of a stored message by the rules of the client; `None` if it would stumble over them.
fn parse(bytes: &[u8]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    if bytes.is_empty() {
        return Some(headers);
    }
    let mut lines = std::str::from_utf8(bytes).ok()?.split("\r\n");
    if lines.next()? != "NATS/1.0" {
        return None;
    }
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        headers.append(HeaderName::from_str(name).ok()?, HeaderValue::from_str(value.trim()).ok()?);
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_a_client_would_stumble_over_are_found() {
        assert!(parse(b"").unwrap().is_empty());
        let headers = parse(b"NATS/1.0\r\nName: a value \r\nOther:\xc3\xbc\r\n\r\n").unwrap();
        assert_eq!(headers.get("Name").unwrap().as_str(), "a value");
        assert_eq!(headers.get("Other").unwrap().as_str(), "ü");
        for poison in [
            &b"NATS/1.0\r\nName: \xff\r\n\r\n"[..],
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\nName: a\rb\r\n\r\n",
            b"NATS/1.0\r\nNa\x01me: x\r\n\r\n",
            b"NATS/1.0 99999999\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
        ] {
            assert!(parse(poison).is_none(), "{}", String::from_utf8_lossy(poison));
        }
    }
}
