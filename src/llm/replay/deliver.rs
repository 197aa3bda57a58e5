//! Replies and errors as HTTP responses, and the faults that strike on the way.
//!
//! A client can only be shown to survive bad networks if they are really bad: bodies are cut in the middle of events and
//! characters, stalled, or ended without a last event. What a fault costs is decided elsewhere, before it strikes. A stream
//! is told over the time that its call takes; a server that stops breaks it off.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dialect::{ApiError, Dialect};
use super::latency::Pace;
use super::line::Breaker;
use super::script::Reply;
use super::wire::{Events, Outgoing};
use super::wire_chat::Chat;
use super::{Fault, Faults};

/// What a proxy in front of the API says to a body that is too large, and when nobody is behind it.
const HTML_413: &str = include_str!("page_413.html");
const HTML_503: &str = include_str!("page_503.html");

/// Pieces in which a body arrives that is cut into as many as possible, in bytes; a prime, to hit every place.
const SMALL_PIECE: usize = 7;

/// How much of a reply that is cut is in the chunk in which the connection breaks, in bytes.
const CUT_PIECE: usize = 30;

/// The way to the client.
pub(super) struct Way<'a> {
    /// Breaks the connection.
    pub(super) breaker: &'a Breaker,
    /// Tells that the server stops.
    pub(super) stopped: &'a CancellationToken,
}

/// A piece of a body, and when it leaves unless at once.
type Piece = (Option<Instant>, Bytes);

/// How a streamed body ends.
#[derive(Clone, Copy)]
enum End {
    Clean,
    Stall,
    Cut,
}

/// A reply as server-sent events, shaped and ended as its fault wants it, and told over the time that it takes.
pub(super) fn events(
    dialect: Dialect,
    outgoing: &Outgoing<'_>,
    request_id: &str,
    pace: &Pace,
    way: &Way<'_>,
) -> Response {
    let events = match dialect {
        Dialect::Anthropic => outgoing.events(),
        Dialect::OpenAi => Chat::of(outgoing).events(),
    };
    let (bytes, begun, end) = shape(dialect, events, outgoing.faults);
    let is_small = outgoing.faults.has(Fault::Utf8Split);
    let pieces = over_time(bytes.into(), begun, &pace.steps(), is_small);
    response(dialect, "text/event-stream; charset=utf-8", pieces, end, request_id, way)
}

/// The pieces of a stream: its beginning and what comes at each of `steps`; all of it at once when there are none.
fn over_time(mut bytes: Bytes, begun: usize, steps: &[Instant], is_small: bool) -> Vec<Piece> {
    let cut = |bytes: Bytes| if is_small { small_pieces(bytes) } else { in_pieces(bytes) };
    if steps.is_empty() {
        return at_once(cut(bytes));
    }
    let mut pieces = at_once(cut(bytes.split_to(begun)));
    let (whole, mut told) = (bytes.len(), 0);
    for (index, moment) in steps.iter().enumerate() {
        let upto = whole * (index + 1) / steps.len();
        let mut part = at_once(cut(bytes.split_to(upto - told)));
        told = upto;
        // The first of them waits and the others follow; an empty one keeps a short reply to its time.
        if let Some((at, _)) = part.first_mut() {
            *at = Some(*moment);
        }
        pieces.append(&mut part);
    }
    pieces
}

fn at_once(pieces: Vec<Bytes>) -> Vec<Piece> {
    pieces.into_iter().map(|piece| (None, piece)).collect()
}

/// What the fault makes of a whole stream, and where its first event ends then.
fn shape(dialect: Dialect, events: Events, faults: Faults) -> (Vec<u8>, usize, End) {
    let (mut bytes, mut begun) = (events.bytes, events.begun);
    // The first event ends with a whole line, so that nothing to replace lies across its end.
    let mut replace = |bytes: &mut Vec<u8>, old: &[u8], new: &[u8]| {
        let first = replaced(&bytes[..begun], old, new);
        let rest = replaced(&bytes[begun..], old, new);
        begun = first.len();
        *bytes = [first, rest].concat();
    };
    let mut end = End::Clean;
    // From the end to the beginning, so that the places remembered are still right.
    match faults.among(&[Fault::StallMidStream, Fault::CutMidStream, Fault::EofBeforeStop, Fault::ErrorEvent]) {
        Some(Fault::StallMidStream) => {
            bytes.truncate(events.half);
            end = End::Stall;
        }
        Some(Fault::CutMidStream) => {
            // Some way into the next event, so that the cut is not at a boundary.
            bytes.truncate((events.half + CUT_PIECE).min(events.before_stop));
            end = End::Cut;
        }
        Some(Fault::EofBeforeStop) => bytes.truncate(events.before_stop),
        Some(_) => {
            bytes.truncate(events.half);
            let error = ApiError::new(overloaded(), "overloaded_error", "Overloaded");
            bytes.extend_from_slice(&dialect.error_event(&error));
        }
        None => {}
    }
    if faults.has(Fault::UnknownEvent) {
        let unknown: &[u8] = match dialect {
            Dialect::Anthropic => {
                b": a comment\n\nevent: brand_new\ndata: {\"type\":\"brand_new\",\"index\":{\"not\":\"a number\"}}\n\n"
            }
            Dialect::OpenAi => {
                b": OPENROUTER PROCESSING\n\ndata: {\"object\":\"brand.new\",\"choices\":[],\"obfuscation\":\"x\"}\n\n"
            }
        };
        bytes.splice(events.half..events.half, unknown.iter().copied());
    }
    if faults.has(Fault::Padded) {
        replace(&mut bytes, b"}\n", format!("}}{}\n", " ".repeat(200)).as_bytes());
    }
    if faults.has(Fault::Crlf) {
        replace(&mut bytes, b"\n", b"\r\n");
    }
    (bytes, begun, end)
}

fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() * 2);
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(old) {
            out.extend_from_slice(new);
            at += old.len();
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

/// A reply that was not asked to be streamed; what strikes a stream in its middle strikes the document there.
pub(super) fn document(dialect: Dialect, outgoing: &Outgoing<'_>, request_id: &str, way: &Way<'_>) -> Response {
    let mut bytes = match dialect {
        Dialect::Anthropic => outgoing.json(),
        Dialect::OpenAi => Chat::of(outgoing).json(),
    };
    let struck =
        outgoing.faults.among(&[Fault::StallMidStream, Fault::CutMidStream, Fault::EofBeforeStop, Fault::ErrorEvent]);
    let end = match struck {
        Some(Fault::StallMidStream) => End::Stall,
        Some(Fault::CutMidStream) => End::Cut,
        _ => End::Clean,
    };
    if struck.is_some() {
        bytes.truncate(bytes.len() / 2);
    }
    response(dialect, "application/json", at_once(in_pieces(bytes.into())), end, request_id, way)
}

fn response(
    dialect: Dialect,
    content_type: &'static str,
    pieces: Vec<Piece>,
    end: End,
    request_id: &str,
    way: &Way<'_>,
) -> Response {
    let (stopped, breaker) = (way.stopped, way.breaker.clone());
    let (pieces, last) = match end {
        End::Cut => with_last_piece(pieces),
        End::Clean | End::Stall => (pieces, Bytes::new()),
    };
    let timed = pieces.into_iter().map(|(moment, bytes)| (moment.map(|moment| (moment, stopped.clone())), bytes));
    let pieces = stream::iter(timed.collect::<Vec<_>>()).then(|(wait, bytes)| async move {
        let Some((moment, stopped)) = wait else { return Ok(bytes) };
        tokio::select! {
            () = tokio::time::sleep_until(moment) => Ok(bytes),
            () = stopped.cancelled() => Err(broken()),
        }
    });
    let body = match end {
        End::Clean => Body::from_stream(pieces),
        End::Stall => {
            let stopped = stopped.clone();
            Body::from_stream(pieces.chain(stream::once(async move {
                stopped.cancelled().await;
                Err(broken())
            })))
        }
        End::Cut => Body::from_stream(pieces.chain(stream::once(async move {
            // One turn of the loop lets what was written so far reach the socket; of the last chunk only half does.
            tokio::task::yield_now().await;
            breaker.cut();
            Ok(last)
        }))),
    };
    let mut response = Response::new(body);
    identify(dialect, &mut response, content_type, request_id);
    response
}

/// The pieces without what the connection breaks in.
fn with_last_piece(mut pieces: Vec<Piece>) -> (Vec<Piece>, Bytes) {
    let last = pieces.iter_mut().rev().map(|(_, piece)| piece).find(|piece| !piece.is_empty());
    let broken = last.map(|piece| piece.split_off(piece.len().saturating_sub(CUT_PIECE)));
    (pieces, broken.unwrap_or_default())
}

/// What ends a body before its end.
fn broken() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionReset)
}

fn small_pieces(bytes: Bytes) -> Vec<Bytes> {
    if bytes.len() <= SMALL_PIECE {
        return vec![bytes];
    }
    bytes.chunks(SMALL_PIECE).map(Bytes::copy_from_slice).collect()
}

/// Cuts a longer body at places that respect neither events nor characters, as networks do.
fn in_pieces(mut bytes: Bytes) -> Vec<Bytes> {
    if bytes.len() < 1_024 {
        return vec![bytes];
    }
    let third = bytes.len() / 3;
    vec![bytes.split_to(third), bytes.split_to(third), bytes]
}

fn identify(dialect: Dialect, response: &mut Response, content_type: &'static str, request_id: &str) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(dialect.request_id_header(), id);
    }
}

pub(super) fn error_response(dialect: Dialect, error: &ApiError, request_id: &str) -> Response {
    let mut response = Response::new(Body::from(dialect.error_json(error, Some(request_id))));
    *response.status_mut() = error.status;
    identify(dialect, &mut response, "application/json", request_id);
    response
}

/// The answer to a call beyond a limit, with the time after which it would fit.
pub(super) fn limited(dialect: Dialect, wait: Duration, request_id: &str) -> Response {
    let error = rate_limit();
    let mut response = error_response(dialect, &error, request_id);
    let seconds = wait.as_millis().div_ceil(1_000).max(1);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(60)));
    response
}

/// The page of a proxy that does not speak the API's language.
pub(super) fn too_large(dialect: Dialect, request_id: &str) -> Response {
    page(dialect, StatusCode::PAYLOAD_TOO_LARGE, HTML_413, request_id)
}

fn page(dialect: Dialect, status: StatusCode, html: &'static str, request_id: &str) -> Response {
    let mut response = Response::new(Body::from(html));
    *response.status_mut() = status;
    identify(dialect, &mut response, "text/html", request_id);
    response
}

/// The answer of a fault that is nothing but a status.
pub(super) fn status(dialect: Dialect, fault: Fault, reply: &Reply, request_id: &str) -> Response {
    let is_anthropic = dialect == Dialect::Anthropic;
    let error = match fault {
        Fault::Html413 => return too_large(dialect, request_id),
        Fault::Status400 => ApiError::invalid("This request is not valid."),
        Fault::Status401 if is_anthropic => ApiError::unauthorized("invalid x-api-key"),
        Fault::Status401 => {
            ApiError { code: Some("invalid_api_key"), ..ApiError::unauthorized("Incorrect API key provided.") }
        }
        Fault::Status402 => {
            ApiError::new(StatusCode::PAYMENT_REQUIRED, "billing_error", "Your credit balance is too low.")
        }
        Fault::Status403 => ApiError::new(StatusCode::FORBIDDEN, "permission_error", "Your key may not do this."),
        Fault::Status404 => ApiError::unknown_model("of-this-request"),
        Fault::Status429 | Fault::Status429Date | Fault::Status429Ms => rate_limit(),
        Fault::SpendCap429 if is_anthropic => ApiError { code: Some("enforced_spend_limit_reached"), ..rate_limit() },
        Fault::SpendCap429 => ApiError {
            code: Some("insufficient_quota"),
            ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", "You exceeded your current quota.")
        },
        Fault::Status529 if is_anthropic => ApiError::new(overloaded(), "overloaded_error", "Overloaded"),
        Fault::Status529 => {
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", "The server is overloaded, try again later.")
        }
        Fault::Html503 => {
            let mut response = page(dialect, StatusCode::SERVICE_UNAVAILABLE, HTML_503, request_id);
            ask_for_patience(&mut response, fault, reply.retry_after);
            return response;
        }
        Fault::Status504 => ApiError::new(StatusCode::GATEWAY_TIMEOUT, "timeout_error", "Request timed out"),
        _ => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "api_error", "Internal server error"),
    };
    let mut response = error_response(dialect, &error, request_id);
    ask_for_patience(&mut response, fault, reply.retry_after);
    response
}

/// `retry-after` in the form that the fault is about.
fn ask_for_patience(response: &mut Response, fault: Fault, seconds: Option<u64>) {
    let Some(seconds) = seconds else { return };
    let headers = response.headers_mut();
    match fault {
        Fault::Status429Date => {
            // Any moment will do: clients have to count from the date that comes with it.
            let now = std::time::UNIX_EPOCH + Duration::from_secs(1_792_567_680);
            for (name, time) in [(header::DATE, now), (header::RETRY_AFTER, now + Duration::from_secs(seconds))] {
                if let Ok(value) = HeaderValue::try_from(httpdate::fmt_http_date(time)) {
                    headers.insert(name, value);
                }
            }
        }
        Fault::Status429Ms => {
            headers.insert("retry-after-ms", HeaderValue::from(seconds.saturating_mul(1_000)));
        }
        _ => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
    }
}

fn rate_limit() -> ApiError {
    let message = "This request would exceed your rate limit.";
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
}

fn overloaded() -> StatusCode {
    StatusCode::from_u16(529).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}

pub(super) fn stopping() -> ApiError {
    ApiError::new(overloaded(), "overloaded_error", "the replay server is stopping")
}

pub(super) fn internal(error: &dyn std::error::Error) -> ApiError {
    let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "api_error", format!("{error}{source}"))
}
