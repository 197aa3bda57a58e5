//! Replies and errors as HTTP responses, and the faults that strike on the way.
//!
//! A client can only be shown to survive bad networks if they are really bad: bodies are cut in the middle of events and
//! characters, stalled, or ended without a last event. What a fault costs is decided elsewhere, before it strikes.

use std::io;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::Fault;
use super::request::ApiError;
use super::script::Reply;
use super::wire::{self, Outgoing};

/// What a proxy in front of the API says to a body that is too large.
const HTML_413: &str = "<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>\r\n\
    <center><h1>413 Request Entity Too Large</h1></center>\r\n<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n";

/// How a streamed body ends.
#[derive(Clone, Copy)]
enum End {
    Clean,
    Stall,
    Cut,
}

/// A reply as server-sent events, ending as the fault wants it.
pub(super) fn events(
    outgoing: &Outgoing<'_>,
    fault: Option<Fault>,
    request_id: &str,
    stopped: &CancellationToken,
) -> Response {
    let events = outgoing.events();
    let mut bytes = events.bytes;
    let end = match fault {
        Some(Fault::StallMidStream) => {
            bytes.truncate(events.half);
            End::Stall
        }
        Some(Fault::CutMidStream) => {
            // Some way into the next event, so that the cut is not at a boundary.
            bytes.truncate((events.half + 30).min(events.before_stop));
            End::Cut
        }
        Some(Fault::EofBeforeStop) => {
            bytes.truncate(events.before_stop);
            End::Clean
        }
        Some(Fault::ErrorEvent) => {
            bytes.truncate(events.half);
            bytes.extend_from_slice(&wire::error_event("overloaded_error", "Overloaded"));
            End::Clean
        }
        _ => End::Clean,
    };
    response("text/event-stream; charset=utf-8", bytes, end, request_id, stopped)
}

/// A reply that was not asked to be streamed; what strikes a stream in its middle strikes the document there.
pub(super) fn document(
    outgoing: &Outgoing<'_>,
    fault: Option<Fault>,
    request_id: &str,
    stopped: &CancellationToken,
) -> Response {
    let mut bytes = outgoing.json();
    let end = match fault {
        Some(Fault::StallMidStream) => End::Stall,
        Some(Fault::CutMidStream) => End::Cut,
        _ => End::Clean,
    };
    if matches!(fault, Some(Fault::EofBeforeStop | Fault::ErrorEvent)) || !matches!(end, End::Clean) {
        bytes.truncate(bytes.len() / 2);
    }
    response("application/json", bytes, end, request_id, stopped)
}

fn response(
    content_type: &'static str,
    bytes: Vec<u8>,
    end: End,
    request_id: &str,
    stopped: &CancellationToken,
) -> Response {
    let pieces = stream::iter(in_pieces(bytes.into()).into_iter().flatten().map(Ok::<_, io::Error>));
    let body = match end {
        End::Clean => Body::from_stream(pieces),
        End::Stall | End::Cut => {
            let stopped = stopped.clone();
            Body::from_stream(pieces.chain(stream::once(async move {
                match end {
                    End::Stall => stopped.cancelled().await,
                    // One turn of the loop lets what was written so far reach the socket.
                    _ => tokio::task::yield_now().await,
                }
                Err(io::Error::from(io::ErrorKind::ConnectionReset))
            })))
        }
    };
    let mut response = Response::new(body);
    identify(&mut response, content_type, request_id);
    response
}

/// Cuts a longer body at places that respect neither events nor characters, as networks do.
fn in_pieces(mut bytes: Bytes) -> [Option<Bytes>; 3] {
    if bytes.len() < 1_024 {
        return [Some(bytes), None, None];
    }
    let third = bytes.len() / 3;
    [Some(bytes.split_to(third)), Some(bytes.split_to(third)), Some(bytes)]
}

fn identify(response: &mut Response, content_type: &'static str, request_id: &str) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert("request-id", id);
    }
}

pub(super) fn error_response(error: &ApiError, request_id: &str, retry_after: Option<u64>) -> Response {
    let mut response = Response::new(Body::from(wire::error_json(error.kind, &error.message, request_id)));
    *response.status_mut() = error.status;
    identify(&mut response, "application/json", request_id);
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The page of a proxy that does not speak the API's language.
pub(super) fn too_large(request_id: &str) -> Response {
    let mut response = Response::new(Body::from(HTML_413));
    *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
    identify(&mut response, "text/html", request_id);
    response
}

/// The answer of a fault that is nothing but a status.
pub(super) fn unbilled(fault: Fault, reply: &Reply, request_id: &str) -> Response {
    let (status, kind, message) = match fault {
        Fault::Html413 => return too_large(request_id),
        Fault::Status429 => {
            (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "This request would exceed your rate limit.")
        }
        Fault::Status401 => (StatusCode::UNAUTHORIZED, "authentication_error", "invalid x-api-key"),
        Fault::Status529 => (overloaded(), "overloaded_error", "Overloaded"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "api_error", "Internal server error"),
    };
    let error = ApiError { status, kind, message: message.into() };
    error_response(&error, request_id, reply.retry_after)
}

fn overloaded() -> StatusCode {
    StatusCode::from_u16(529).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}

pub(super) fn stopping() -> ApiError {
    ApiError { status: overloaded(), kind: "overloaded_error", message: "the replay server is stopping".into() }
}

pub(super) fn internal(error: &dyn std::error::Error) -> ApiError {
    let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    ApiError { status: StatusCode::INTERNAL_SERVER_ERROR, kind: "api_error", message: format!("{error}{source}") }
}
