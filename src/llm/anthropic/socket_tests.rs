//! What a real socket can do to a call: stalls, resets, wrong content, reuse, cancellation.
//!
//! A listener that misbehaves on purpose, because a mock of the HTTP client would share our misunderstandings. With
//! each fault goes its charge: what a broken call costs depends on how far it came.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::budget::test_ledger::MemoryLedger;
use crate::budget::{CallContext, PriceTable, Treasurer};
use crate::llm::{Charge, Effort, Message, Role, Thinking};
use crate::protocol::{AgentType, InstanceId, JobId, MicroUsd, TaskId};

const STREAM: &str = "data: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-haiku-4-5\",\"usage\":{\"input_tokens\":9}}}\n\n\
    data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":1}}\n\n\
    data: {\"type\":\"message_stop\"}\n\n";

/// What a connection does after each request.
#[derive(Clone)]
enum Act {
    /// Writes and keeps the connection.
    Write(String),
    /// Writes and closes the connection.
    Close(String),
    /// Writes and stays silent until the client goes.
    Stall(String),
}

struct Server {
    address: String,
    connections: Arc<AtomicUsize>,
    requests: mpsc::UnboundedReceiver<String>,
    /// One message for every connection that the client closed.
    closed: mpsc::UnboundedReceiver<()>,
}

async fn serve(act: Act) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let (request_seen, requests) = mpsc::unbounded_channel();
    let (close_seen, closed) = mpsc::unbounded_channel();
    let counter = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(converse(socket, act.clone(), request_seen.clone(), close_seen.clone()));
        }
    });
    Server { address, connections, requests, closed }
}

async fn converse(
    mut socket: TcpStream,
    act: Act,
    requests: mpsc::UnboundedSender<String>,
    closed: mpsc::UnboundedSender<()>,
) {
    while let Some(request) = read_request(&mut socket).await {
        requests.send(request).ok();
        match &act {
            Act::Write(text) => socket.write_all(text.as_bytes()).await.unwrap(),
            Act::Close(text) => return socket.write_all(text.as_bytes()).await.unwrap(),
            Act::Stall(text) => socket.write_all(text.as_bytes()).await.unwrap(),
        }
    }
    // The test may be over.
    closed.send(()).ok();
}

/// One request with its body; `None` when the client has closed the connection.
async fn read_request(socket: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if body.len() >= length.parse().unwrap() {
                return Some(text.into_owned());
            }
        }
        let mut buffer = [0; 4096];
        match socket.read(&mut buffer).await {
            Ok(read) if read > 0 => bytes.extend_from_slice(&buffer[..read]),
            _ => return None,
        }
    }
}

fn response(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

fn chunked(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{}", chunk(body))
}

fn chunk(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n", body.len())
}

struct Client {
    provider: Anthropic,
    prepared: Prepared,
    reservation: Reservation,
    cancel: CancellationToken,
}

impl Client {
    async fn new(base_url: &str) -> Self {
        let config = AnthropicConfig {
            base_url: base_url.into(),
            idle_timeout: Duration::from_millis(300),
            max_reply_bytes: 1_000_000,
            ..AnthropicConfig::new(Secret::new("sk-test-0123456789"))
        };
        let provider = Anthropic::new(&config).unwrap();
        let request = LlmRequest {
            model: "claude-haiku-4-5".into(),
            system: vec![],
            messages: vec![Message { role: Role::User, text: "hello".into() }],
            max_tokens: 100,
            schema: None,
            effort: Effort::default(),
            thinking: Thinking::Default,
            fallbacks: vec![],
        };
        let prepared = provider.prepare(&request).unwrap();
        let ledger = Arc::new(MemoryLedger::with_limit(MicroUsd(1_000)));
        let treasurer = Treasurer::new(ledger, Arc::new(PriceTable::builtin().unwrap()));
        let instance = InstanceId::new("worker-1").unwrap();
        let job = JobId::new("j").unwrap();
        let context = CallContext::new(job, TaskId::plan(), AgentType::planner(), instance, 1, 1);
        let lease = Duration::from_secs(700);
        let reservation = treasurer.reserve("r".into(), &context, "m", MicroUsd(9), lease).await.unwrap();
        Self { provider, prepared, reservation, cancel: CancellationToken::new() }
    }

    async fn send(&self) -> Result<LlmReply, LlmError> {
        self.provider.send(&self.prepared, &self.reservation, &self.cancel).await
    }
}

async fn error_of(act: Act) -> LlmError {
    let server = serve(act).await;
    Client::new(&server.address).await.send().await.unwrap_err()
}

#[tokio::test]
async fn calls_carry_the_key_and_the_version_and_reuse_the_connection() {
    let mut server = serve(Act::Write(chunked(STREAM) + "0\r\n\r\n")).await;
    let client = Client::new(&server.address).await;
    for _ in 0..3 {
        assert_eq!(client.send().await.unwrap().usage.unwrap().output, 1);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    let request = server.requests.recv().await.unwrap();
    assert!(request.starts_with("POST /v1/messages HTTP/1.1\r\n"), "{request}");
    for line in ["x-api-key: sk-test-0123456789", "anthropic-version: 2023-06-01", "content-type: application/json"] {
        assert!(request.contains(&format!("\r\n{line}\r\n")), "{line} in {request}");
    }
}

#[tokio::test]
async fn a_reply_is_complete_with_its_last_event_even_if_the_connection_stays_open() {
    let server = serve(Act::Stall(chunked(STREAM))).await;
    assert_eq!(Client::new(&server.address).await.send().await.unwrap().usage.unwrap().input, 9);
}

#[tokio::test]
async fn only_the_providers_own_errors_are_well_formed() {
    let json = r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}"#;
    for (answer, expected) in [
        (response("429 Too Many Requests", "retry-after: 7\r\n", json), (429, "rate_limit_error", Some(7), true)),
        (response("400 Bad Request", "", json), (400, "rate_limit_error", None, true)),
        (response("413 Too Large", "content-type: text/html\r\n", "<html>cloud</html>"), (413, "unknown", None, false)),
        (response("500 Error", "", ""), (500, "unknown", None, false)),
        (response("302 Found", "location: http://127.0.0.1:1/\r\n", ""), (302, "unknown", None, false)),
        (response("400 Bad Request", "", &(json.to_owned() + &" ".repeat(70_000))), (400, "unknown", None, false)),
    ] {
        match error_of(Act::Close(answer)).await {
            LlmError::Status { status, kind, retry_after, well_formed, message } => {
                let seconds = retry_after.map(|delay| delay.as_secs());
                assert_eq!((status, kind.as_str(), seconds, well_formed), expected);
                assert!(message.len() <= 600);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_key_that_the_provider_quotes_is_in_no_error() {
    const KEY: &str = "sk-test-0123456789";
    let error = |message: &str| format!(r#"{{"type":"error","error":{{"type":"{KEY}","message":"{message}"}}}}"#);
    let quoted = error(&format!("invalid key {KEY}"));
    let cut_short = error(&format!("{}{KEY}", "x".repeat(490)));
    let event = chunked(&format!("data: {quoted}\n\n"));
    for answer in [
        response("401 Unauthorized", "", &quoted),
        response("401 Unauthorized", "", &cut_short),
        response("502 Bad Gateway", "", &format!("<p>{KEY}</p>")),
        event,
    ] {
        let said = format!("{:?}", error_of(Act::Write(answer)).await);
        assert!(said.contains("[secret]") && !said.contains("sk-test-"), "{said}");
    }
}

#[tokio::test]
async fn silence_before_or_inside_a_reply_is_a_timeout_and_costs_everything() {
    let half = chunked(&STREAM[..150]);
    for act in [Act::Stall(String::new()), Act::Stall(half), Act::Stall(response("200 OK", "", "x")[..15].into())] {
        let error = error_of(act).await;
        assert!(matches!(error, LlmError::Timeout { .. }), "{error}");
        assert_eq!(error.charge(), Charge::Everything);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_cut_and_keeps_the_known_input() {
    for (act, input) in [
        (Act::Close(String::new()), None),
        (Act::Close("HTTP/1.1 2".into()), None),
        (Act::Close(chunked(&STREAM[..20])), None),
        (Act::Close(chunked(&STREAM[..STREAM.len() - 5])), Some(9)),
        (Act::Close(chunked(&STREAM[..STREAM.len() - 5]) + "0\r\n\r\n"), Some(9)),
    ] {
        match error_of(act).await {
            LlmError::Cut { input: seen, .. } => assert_eq!(seen.map(|usage| usage.input), input),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_reply_that_is_none_or_too_large_is_malformed() {
    let page = response("200 OK", "content-type: text/html\r\n", "<html>login</html>");
    let endless = format!("data: {}", "x".repeat(2_000_000));
    for act in [Act::Close(page), Act::Close(chunked(&endless))] {
        let error = error_of(act).await;
        assert!(matches!(error, LlmError::Malformed { .. }), "{error}");
        assert_eq!(error.charge(), Charge::Everything);
    }
}

#[tokio::test]
async fn nobody_listening_costs_nothing() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let error = Client::new(&address).await.send().await.unwrap_err();
    assert!(matches!(error, LlmError::Connect { .. }), "{error}");
    assert!(!error.to_string().contains("127.0.0.1/"), "{error}");
    assert_eq!(error.charge(), Charge::Nothing);
}

#[tokio::test]
async fn case_22_cancelling_and_dropping_close_the_connection() {
    for cancels in [true, false] {
        let mut server = serve(Act::Stall(chunked(&STREAM[..150]))).await;
        let client = Client::new(&server.address).await;
        let result = {
            let call = client.send();
            tokio::pin!(call);
            tokio::select! {
                result = &mut call => panic!("{result:?}"),
                request = server.requests.recv() => assert!(request.is_some()),
            }
            if cancels {
                client.cancel.cancel();
                Some(call.await)
            } else {
                None
            }
        };
        assert!(matches!(result, None | Some(Err(LlmError::Cancelled))), "{result:?}");
        assert_eq!(server.closed.recv().await, Some(()));
    }
}
