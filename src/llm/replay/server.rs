//! The server: reads a request, finds its scripted reply, waits, bills and delivers it.
//!
//! It runs inside the caller's runtime on a real socket, so that `--replay`, tests and benchmarks share one code path
//! with production from the HTTP client on. A call is billed when its reply begins, and at most one short lock is held
//! at a time, never across a wait.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::answer::Arrived;
use super::bill::{Bill, BillKeeper};
use super::cache::PromptCache;
use super::count::count_tokens;
use super::deliver;
use super::dialect::{ApiError, Dialect};
use super::limits::{Limiter, RateLimits};
use super::line::{Breaker, Lines};
use super::page;
use super::pricer::Pricer;
use super::script::{Reply, Script};
use super::{Fault, Latency, ReplayError};
use crate::budget::{PriceError, PriceTable};
use crate::clock::Clock;

/// Largest body of a request, in bytes: the API's own limit.
const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;
/// How long [`FakeServer::stop`] waits for connections to end.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Share of a call's time after which its reply begins unless an option says otherwise: with providers it is a small one.
const FIRST_BYTE_PERCENT: u32 = 10;

/// How a server runs.
#[derive(Debug, Clone)]
pub struct FakeOptions {
    /// Where it listens; port 0 takes any free one.
    pub address: SocketAddr,
    /// How long every call takes, besides what its reply says.
    pub latency: Latency,
    /// Share of that time after which a streamed reply begins, in percent; the rest of the stream is spread over the rest of
    /// the time. Whatever is not streamed comes whole at the end.
    pub first_byte_percent: u32,
    /// Where billed calls are logged; a bill that is already there is continued.
    pub bill_path: Option<PathBuf>,
    /// Which models there are and what they accept; the built-in ones when `None`. What a call costs is the server's own affair.
    pub prices: Option<Arc<PriceTable>>,
    /// Prices to bill by besides the published ones, as the text of a price file.
    pub own_prices: Option<String>,
    /// What it allows; nothing is limited by default.
    pub limits: RateLimits,
    /// Makes up a reply to requests that the script does not know, instead of refusing them.
    pub generates: bool,
    /// Refuses calls without a key, as providers do.
    pub needs_key: bool,
    /// Strikes every count of tokens, in so far as it can: statuses, silence, broken, absurd and missing numbers.
    pub count_fault: Option<Fault>,
}

impl Default for FakeOptions {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            latency: Latency::None,
            first_byte_percent: FIRST_BYTE_PERCENT,
            bill_path: None,
            prices: None,
            own_prices: None,
            limits: RateLimits::default(),
            generates: false,
            needs_key: true,
            count_fault: None,
        }
    }
}

/// A running server; dropping it stops it, too, but without waiting.
#[derive(Debug)]
pub struct FakeServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// The replies to one request key and how many calls have had theirs.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) replies: Vec<Reply>,
    pub(super) next: AtomicUsize,
}

/// What all calls share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queues: HashMap<Arc<str>, Queue>,
    pub(super) latency: Latency,
    pub(super) first_byte_percent: u32,
    pub(super) prices: Arc<PriceTable>,
    pub(super) pricer: Pricer,
    pub(super) clock: Clock,
    pub(super) bill: BillKeeper,
    pub(super) cache: Mutex<PromptCache>,
    pub(super) limiter: Limiter,
    pub(super) is_limited: bool,
    pub(super) generates: bool,
    pub(super) needs_key: bool,
    pub(super) count_fault: Option<Fault>,
    /// Requests so far, whatever became of them.
    pub(super) requests: AtomicU64,
    /// Counts of tokens so far, which are no calls.
    pub(super) counts: AtomicU64,
    pub(super) stopped: CancellationToken,
}

impl FakeServer {
    /// Starts answering.
    ///
    /// # Errors
    /// [`ReplayError`] when the address, the bill or the price table cannot be used.
    pub async fn start(script: Script, options: FakeOptions) -> Result<Self, ReplayError> {
        let prices = match options.prices {
            Some(prices) => prices,
            None => Arc::new(PriceTable::builtin()?),
        };
        let pricer = Pricer::new(options.own_prices.as_deref()).map_err(PriceError::Malformed)?;
        let bill = BillKeeper::open(options.bill_path.as_deref())?;
        let unusable = |source| ReplayError::Listen { address: options.address, source };
        let listener = TcpListener::bind(options.address).await.map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        let queue = |replies| Queue { replies, next: AtomicUsize::new(0) };
        let shared = Arc::new(Shared {
            queues: script.replies.into_iter().map(|(key, replies)| (key, queue(replies))).collect(),
            latency: options.latency,
            first_byte_percent: options.first_byte_percent,
            prices,
            pricer,
            clock: Clock::system(),
            bill,
            cache: Mutex::default(),
            limiter: Limiter::new(options.limits),
            is_limited: options.limits != RateLimits::default(),
            generates: options.generates,
            needs_key: options.needs_key,
            count_fault: options.count_fault,
            requests: AtomicU64::new(0),
            counts: AtomicU64::new(0),
            stopped: CancellationToken::new(),
        });
        let router = Router::new()
            .route("/v1/messages", post(messages))
            .route("/v1/messages/count_tokens", post(count_tokens))
            .route("/v1/chat/completions", post(completions))
            .route("/v1/models", get(models))
            .route("/as/{endpoint}/v1/messages", post(messages))
            .route("/as/{endpoint}/v1/messages/count_tokens", post(count_tokens))
            .route("/as/{endpoint}/v1/chat/completions", post(completions))
            .route("/as/{endpoint}/v1/models", get(models))
            .route("/bill", get(page::json).delete(bill_reset))
            .route("/", get(page::bill))
            .fallback(not_found)
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .with_state(shared.clone());
        let stopped = shared.stopped.clone();
        let service = router.into_make_service_with_connect_info::<Breaker>();
        let serve = axum::serve(Lines(listener), service).with_graceful_shutdown(stopped.cancelled_owned());
        let task = tokio::spawn(async move {
            if let Err(error) = serve.await {
                tracing::error!(%error, "the replay server stopped");
            }
        });
        Ok(Self { address, shared, task })
    }

    /// What the client's base URL has to be: `http://127.0.0.1:40123`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What all calls so far cost, those of an earlier run in the same bill file included.
    #[must_use]
    pub fn bill(&self) -> Bill {
        self.shared.bill.snapshot()
    }

    /// Questions so far how many tokens a call has, refused ones included; they are no requests and cost nothing.
    #[must_use]
    pub fn counts(&self) -> u64 {
        self.shared.counts.load(Ordering::Relaxed)
    }

    /// Requests that arrived so far, refused ones included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Requests that a rate limit turned away.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.shared.limiter.rejected()
    }

    /// Ends all calls, waits (at most five seconds) for the connections to close and returns the last bill.
    pub async fn stop(mut self) -> Bill {
        self.shared.stopped.cancel();
        if tokio::time::timeout(STOP_LIMIT, &mut self.task).await.is_err() {
            self.task.abort();
        }
        self.bill()
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.shared.stopped.cancel();
    }
}

async fn bill_reset(State(shared): State<Arc<Shared>>) -> Response {
    match shared.bill.reset() {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => deliver::error_response(Dialect::Anthropic, &deliver::internal(&error), "req_bill"),
    }
}

async fn not_found() -> Response {
    let error = ApiError::new(StatusCode::NOT_FOUND, "not_found_error", "Not found");
    deliver::error_response(Dialect::Anthropic, &error, "req_not_found")
}

/// Every model that has a price, in a list that clients of both dialects can read.
async fn models(State(shared): State<Arc<Shared>>) -> Json<serde_json::Value> {
    let models: Vec<_> = shared
        .prices
        .models()
        .map(|id| serde_json::json!({"id": id, "type": "model", "object": "model", "display_name": id, "owned_by": "nobody"}))
        .collect();
    Json(serde_json::json!({"object": "list", "data": models, "has_more": false}))
}

/// The name of the endpoint that an address stands for.
pub(super) type Endpoint = Option<Path<String>>;

/// That name, if the address has one.
pub(super) fn name(endpoint: Option<&Path<String>>) -> Option<&str> {
    endpoint.map(|Path(name)| name.as_str())
}

async fn messages(
    state: State<Arc<Shared>>,
    line: ConnectInfo<Breaker>,
    endpoint: Endpoint,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    respond(state, Dialect::Anthropic, &line.0, endpoint, headers, body).await
}

async fn completions(
    state: State<Arc<Shared>>,
    line: ConnectInfo<Breaker>,
    endpoint: Endpoint,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    respond(state, Dialect::OpenAi, &line.0, endpoint, headers, body).await
}

async fn respond(
    State(shared): State<Arc<Shared>>,
    dialect: Dialect,
    breaker: &Breaker,
    endpoint: Endpoint,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let number = shared.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let request_id = format!("req_fake_{number:08}");
    let Ok(body) = body else { return deliver::too_large(dialect, &request_id) };
    let arrived = Arrived { dialect, endpoint: name(endpoint.as_ref()), number, request_id: &request_id, breaker };
    let mut response = match shared.answer(arrived, &headers, &body).await {
        Ok(response) => response,
        Err(error) => deliver::error_response(dialect, &error, &request_id),
    };
    if shared.is_limited {
        shared.limiter.tell(dialect, response.headers_mut());
    }
    response
}
