//! The HTTP server for `/healthz`, `/readyz` and `/metrics`, on a thread and a runtime of its own.
//!
//! Everything is bounded: connections, header bytes, time. One request per connection, so that nobody holds a place. What
//! arrives in a request's body is never read.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Health, TelemetryError};

/// Connections served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;

/// How long the head of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes kept of a request's head; the least that the server allows.
const MAX_HEAD_BYTES: usize = 8 * 1024;

/// How often collected figures are condensed; without that they would grow while nobody asks for them.
const UPKEEP: Duration = Duration::from_secs(5);

/// What the answers are made of.
#[derive(Clone)]
struct Sources {
    health: Arc<Health>,
    metrics: PrometheusHandle,
}

/// Listens on `listen` and answers until `stop`; returns the address it has really got.
///
/// # Errors
/// [`TelemetryError`] when the address or the thread cannot be had.
pub(super) fn start(
    listen: SocketAddr,
    health: Arc<Health>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> Result<SocketAddr, TelemetryError> {
    let unusable = |source| TelemetryError::Listen { address: listen, source };
    // Bound before the thread starts, so that a port in use is an error of the start.
    let listener = TcpListener::bind(listen).map_err(unusable)?;
    listener.set_nonblocking(true).map_err(unusable)?;
    let address = listener.local_addr().map_err(unusable)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(TelemetryError::Start)?;
    let sources = Sources { health, metrics };
    let serve = move || {
        runtime.block_on(async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = serve(listener, sources) => {}
            }
        });
    };
    std::thread::Builder::new().name("telemetry".into()).spawn(serve).map_err(TelemetryError::Start)?;
    Ok(address)
}

async fn serve(listener: TcpListener, sources: Sources) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "health checks cannot be answered");
            return;
        }
    };
    let upkeep = sources.metrics.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    let router = router(sources);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, say: the next attempt has to wait for some to come back.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_HEAD_BYTES)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // Whoever asks and goes away, or sends nonsense, is nobody's trouble.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
            drop(place);
        });
    }
}

fn router(sources: Sources) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(sources)
}

async fn healthz(State(sources): State<Sources>) -> Response {
    answer("alive", sources.health.alive())
}

async fn readyz(State(sources): State<Sources>) -> Response {
    answer("ready", sources.health.ready())
}

fn answer(what: &str, state: Result<(), String>) -> Response {
    let (status, body) = match state {
        Ok(()) => (StatusCode::OK, json!({ what: true })),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, json!({ what: false, "reason": reason })),
    };
    let headers = [(CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, format!("{body}\n")).into_response()
}

async fn metrics(State(sources): State<Sources>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], sources.metrics.render()).into_response()
}
