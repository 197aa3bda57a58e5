//! Promises of the server, checked over a real socket with the HTTP client that production uses.
//!
//! The server stands in for a provider that takes money, so what it refuses, cuts off and bills is checked as closely as
//! the client is. Requests go over HTTP like anybody's; only the bill is also asked for directly.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use super::*;
use crate::budget::PriceTable;
use crate::protocol::{MicroUsd, Usage};

pub(super) fn client() -> Client {
    // Only the first installation counts; all tests want the same.
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::builder().no_proxy().build().expect("builds")
}

pub(super) async fn serve(script: Script) -> FakeServer {
    FakeServer::start(script, FakeOptions::default()).await.expect("starts")
}

pub(super) fn body(request: &str) -> Value {
    json!({
        "model": "claude-sonnet-5-5", "max_tokens": 1_000, "stream": true,
        "messages": [{"role": "user", "content": format!("Please.\nRequest: {request}")}],
    })
}

pub(super) fn post(client: &Client, server: &FakeServer, body: &Value) -> RequestBuilder {
    client
        .post(format!("{}/v1/messages", server.base_url()))
        .header("x-api-key", "any")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(body.to_string())
}

pub(super) async fn call(server: &FakeServer, body: &Value) -> Response {
    post(&client(), server, body).send().await.expect("answers")
}

/// Everything that arrived before the body ended, and whether it ended in an error.
pub(super) async fn received(mut response: Response) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return (bytes, false),
            Err(_) => return (bytes, true),
        }
    }
}

/// Names and data of all complete events.
pub(super) fn events(bytes: &[u8]) -> Vec<(String, Value)> {
    let text = String::from_utf8_lossy(bytes);
    text.split_terminator("\n\n")
        .filter_map(|event| {
            let (name, data) = event.strip_prefix("event: ")?.split_once("\ndata: ")?;
            Some((name.to_owned(), serde_json::from_str(data).ok()?))
        })
        .collect()
}

pub(super) fn text_of(events: &[(String, Value)]) -> String {
    events.iter().filter_map(|(_, data)| data["delta"]["text"].as_str()).collect()
}

fn ending(events: &[(String, Value)]) -> (&Value, &Value) {
    let (_, data) = events.iter().rfind(|(name, _)| name == "message_delta").expect("message_delta");
    (&data["delta"], &data["usage"])
}

#[tokio::test]
async fn a_stream_has_the_shape_of_the_real_one() {
    let server = serve(Script::new().reply("plan", Reply::new("Hello!").thinking_tokens(4))).await;
    let response = call(&server, &body("plan")).await;
    assert_eq!(response.headers()["request-id"], "req_fake_00000001");
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    let (bytes, _) = received(response).await;
    let lines: Vec<String> =
        String::from_utf8(bytes).expect("UTF-8").lines().map(|l| l.trim_end().to_owned()).collect();
    let golden = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_fake_00000001","type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[],"stop_reason":null,"stop_sequence":null,"stop_details":null,"usage":{"input_tokens":7,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":1,"service_tier":"standard","inference_geo":"global"}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

event: ping
data: {"type":"ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"RmFrZVNpZ25hdHVyZQ=="}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}

event: ping
data: {"type":"ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Hel"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"lo!"}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"input_tokens":7,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":6,"output_tokens_details":{"thinking_tokens":4}}}

event: message_stop
data: {"type":"message_stop"}

"#;
    assert_eq!(lines, golden.lines().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_long_text_arrives_whole_in_many_deltas() {
    let text = "Grüße, 世界! \"quoted\" \\ and\nlines\t".repeat(500);
    let server = serve(Script::new().reply("plan", text.clone())).await;
    let mut request = body("plan");
    request["max_tokens"] = json!(100_000);
    let (bytes, _) = received(call(&server, &request).await).await;
    let events = events(&bytes);
    assert_eq!(text_of(&events), text);
    assert!(events.len() > 30);
    request["stream"] = json!(false);
    let (bytes, _) = received(call(&server, &request).await).await;
    let reply: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!((&reply["content"][0]["text"], &reply["stop_reason"]), (&json!(text), &json!("end_turn")));
    assert_eq!(reply["usage"]["output_tokens"], json!((text.len() * 2).div_ceil(7)));
}

#[tokio::test]
async fn the_id_of_the_call_is_put_into_the_text() {
    let server = serve(Script::new().reply("file a b.py", "<file id=\"{{id}}\">x</file-{{id}}>")).await;
    let (bytes, _) = received(call(&server, &body("file a b.py (id 7f3a)")).await).await;
    assert_eq!(text_of(&events(&bytes)), "<file id=\"7f3a\">x</file-7f3a>");
}

#[tokio::test]
async fn successive_calls_get_successive_replies_and_the_last_repeats() {
    let script =
        Script::new().reply("plan", "one").reply("plan", Reply::new("").fault(Fault::Status529)).reply("plan", "two");
    let server = serve(script).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let response = call(&server, &body("plan")).await;
        seen.push((response.status().as_u16(), text_of(&events(&received(response).await.0))));
    }
    let expected = [(200, "one"), (529, ""), (200, "two"), (200, "two")];
    assert_eq!(seen, expected.map(|(status, text)| (status, text.to_owned())));
}

#[tokio::test]
async fn a_reply_longer_than_max_tokens_is_cut_there() {
    let server = serve(Script::new().reply("plan", Reply::new("x".repeat(700)))).await;
    let mut request = body("plan");
    request["max_tokens"] = json!(50);
    let events = events(&received(call(&server, &request).await).await.0);
    let (delta, usage) = ending(&events);
    assert_eq!((&delta["stop_reason"], &usage["output_tokens"]), (&json!("max_tokens"), &json!(50)));
    assert_eq!(text_of(&events).len(), 175);
    assert_eq!(server.bill().usage.output, 50);
}

#[tokio::test]
async fn requests_the_real_api_refuses_cost_nothing() {
    let server = serve(Script::new().reply("plan", "x")).await;
    let plain = client().post(format!("{}/v1/messages", server.base_url()));
    let keyless = plain.try_clone().expect("clones").header("anthropic-version", "1").body(body("plan").to_string());
    let undated = plain.header("authorization", "Bearer t").body(body("plan").to_string());
    let cases = [
        (keyless, 401, "authentication_error", "x-api-key header is required"),
        (undated, 400, "invalid_request_error", "anthropic-version: header is required"),
        (post(&client(), &server, &json!({})), 400, "invalid_request_error", "model: Field required"),
        (
            post(&client(), &server, &body("file nowhere")),
            400,
            "invalid_request_error",
            "the script has no reply for \"file nowhere\"",
        ),
    ];
    for (request, status, kind, message) in cases {
        let response = request.send().await.expect("answers");
        let id = response.headers()["request-id"].to_str().expect("text").to_owned();
        assert_eq!(response.status().as_u16(), status);
        let error: Value = serde_json::from_slice(&received(response).await.0).expect("JSON");
        let expected = json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": id});
        assert_eq!(error, expected);
    }
    assert_eq!((server.bill(), server.requests()), (Bill::default(), 4));
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_by_a_page_not_by_json() {
    let server = serve(Script::new().reply("plan", "x")).await;
    let huge = json!({ "model": "x".repeat(32 * 1024 * 1024) });
    // The server may close the connection while the body is still being sent; either way nothing is billed.
    if let Ok(response) = post(&client(), &server, &huge).send().await {
        assert_eq!(response.status().as_u16(), 413);
        assert!(received(response).await.0.starts_with(b"<html>"));
    }
    assert_eq!(server.bill().calls, 0);
}

/// What the client sees of a reply of 3000 bytes with this fault: status, events and whether the body broke.
async fn struck(fault: Fault) -> (FakeServer, u16, Vec<u8>, bool) {
    let mut reply = Reply::new("x".repeat(3_000)).fault(fault);
    if fault == Fault::Status429 {
        reply = reply.retry_after(7);
    }
    let server = serve(Script::new().reply("plan", reply)).await;
    let response = call(&server, &body("plan")).await;
    let status = response.status().as_u16();
    assert_eq!(response.headers().get("retry-after").is_some(), fault == Fault::Status429, "{fault:?}");
    let (bytes, broken) = received(response).await;
    (server, status, bytes, broken)
}

#[tokio::test]
async fn status_faults_answer_without_a_reply_and_only_a_500_is_billed() {
    for (fault, expected, kind) in [
        (Fault::Status400, 400, "invalid_request_error"),
        (Fault::Status401, 401, "authentication_error"),
        (Fault::Status402, 402, "billing_error"),
        (Fault::Status403, 403, "permission_error"),
        (Fault::Status404, 404, "not_found_error"),
        (Fault::Html413, 413, ""),
        (Fault::Status429, 429, "rate_limit_error"),
        (Fault::SpendCap429, 429, "rate_limit_error"),
        (Fault::Status500, 500, "api_error"),
        (Fault::Html503, 503, ""),
        (Fault::Status504, 504, "timeout_error"),
        (Fault::Status529, 529, "overloaded_error"),
    ] {
        let (server, status, bytes, broken) = struck(fault).await;
        assert_eq!((status, broken), (expected, false));
        let error: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        assert_eq!(error["error"]["type"].as_str().unwrap_or(""), kind);
        assert_eq!(server.bill().calls, u64::from(fault.is_billed()), "{fault:?}");
    }
}

#[tokio::test]
async fn faults_in_the_stream_look_as_they_should_and_are_billed_in_full() {
    let full = 3_000u64 * 2 / 7 + 1;
    for (fault, text, last, reason, output, is_broken) in [
        (Fault::CutMidStream, 1_504, "content_block_delta", None, full, true),
        (Fault::EofBeforeStop, 3_000, "message_delta", Some("end_turn"), full, false),
        (Fault::ErrorEvent, 1_504, "error", None, full, false),
        (Fault::Refusal, 1_500, "message_stop", Some("refusal"), full, false),
        (Fault::ThinkingOnly, 0, "message_stop", Some("max_tokens"), 1_000, false),
        (Fault::MaxTokens, 1_500, "message_stop", Some("max_tokens"), 1_000, false),
        (Fault::NoUsage, 3_000, "message_stop", Some("end_turn"), full, false),
        (Fault::Huge, 5_000_016, "message_stop", Some("end_turn"), 1_000, false),
        (Fault::Utf8Split, 3_000, "message_stop", Some("end_turn"), full, false),
        (Fault::Padded, 3_000, "message_stop", Some("end_turn"), full, false),
        (Fault::SeveralUsages, 3_000, "message_stop", Some("end_turn"), full, false),
        (Fault::LateHeaders, 3_000, "message_stop", Some("end_turn"), full, false),
        (Fault::UsageOverBound, 3_000, "message_stop", Some("end_turn"), 2_000, false),
        (Fault::ZeroUsage, 3_000, "message_stop", Some("end_turn"), 0, false),
        (Fault::ToolCut, 0, "message_stop", Some("max_tokens"), 1_000, false),
        (Fault::EmptyEndTurn, 0, "message_stop", Some("end_turn"), 2, false),
        (Fault::OtherModel, 3_000, "message_stop", Some("end_turn"), full, false),
        (Fault::UsRegion, 3_000, "message_stop", Some("end_turn"), full, false),
        (Fault::Iterations, 3_000, "message_stop", Some("end_turn"), full, false),
    ] {
        let (server, status, bytes, broken) = struck(fault).await;
        let events = events(&bytes);
        assert_eq!((status, broken), (200, is_broken), "{fault:?}");
        assert_eq!(text_of(&events).len(), text, "{fault:?}");
        assert_eq!(events.last().map(|(name, _)| name.as_str()), Some(last), "{fault:?}");
        let seen = events.iter().find_map(|(_, data)| data["delta"]["stop_reason"].as_str());
        assert_eq!(seen, reason, "{fault:?}");
        let counts = events.iter().filter(|(_, data)| !data["usage"].is_null() || !data["message"]["usage"].is_null());
        assert_eq!(counts.count() == 0, fault == Fault::NoUsage, "{fault:?}");
        let bill = server.bill();
        assert_eq!((bill.calls, bill.usage.output), (1, output), "{fault:?}");
    }
}

#[tokio::test]
async fn the_bill_owes_nothing_to_the_prices_of_the_client() {
    // A client that believes everything to cost a hundredth of a cent would find itself confirmed by a bill of its own making.
    let wrong = r#"{"claude-sonnet-5-5": {"input": 0.000001, "output": 0.000001, "context": 1000000, "source": "t", "as_of": "2026-11-21"}}"#;
    let prices = PriceTable::builtin().expect("valid").merged(PriceTable::parse(wrong).expect("valid"));
    let options = FakeOptions { prices: Some(Arc::new(prices)), ..FakeOptions::default() };
    let script = Script::new().reply("plan", Reply::new("x").output_tokens(10));
    let server = FakeServer::start(script, options).await.expect("starts");
    received(call(&server, &body("plan")).await).await;
    // 7 tokens at 2 and 10 at 10.
    assert_eq!(server.bill().cost_micros, MicroUsd(114));
}

#[tokio::test]
async fn invalid_utf8_reaches_the_client() {
    let (server, _, bytes, _) = struck(Fault::InvalidUtf8).await;
    assert!(std::str::from_utf8(&bytes).is_err());
    assert_eq!(server.bill().calls, 1);
}

#[tokio::test]
async fn a_stall_in_the_stream_lasts_until_the_server_stops() {
    let reply = Reply::new("x".repeat(3_000)).fault(Fault::StallMidStream);
    let server = serve(Script::new().reply("plan", reply)).await;
    let mut response = call(&server, &body("plan")).await;
    let mut bytes = Vec::new();
    while text_of(&events(&bytes)).len() < 1_500 {
        bytes.extend_from_slice(&response.chunk().await.expect("comes").expect("is not over"));
    }
    let rest = tokio::spawn(received(response));
    assert_eq!(server.stop().await.calls, 1);
    let (rest, broken) = rest.await.expect("ends");
    assert!(rest.is_empty() && broken);
}

#[tokio::test]
async fn a_stall_before_the_headers_is_billed_though_nothing_is_sent() {
    let server = Arc::new(serve(Script::new().reply("plan", Reply::new("x").fault(Fault::StallBeforeHeaders))).await);
    let call = tokio::spawn(post(&client(), &server, &body("plan")).send());
    while server.bill().calls == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!call.is_finished());
    call.abort();
}

#[tokio::test]
async fn the_first_call_writes_the_cache_and_later_ones_read_it() {
    let server = serve(Script::new().reply("plan", Reply::new("x").output_tokens(10))).await;
    let mut request = body("plan");
    request["system"] = json!([
        {"type": "text", "text": "c".repeat(3_000), "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "d".repeat(300)},
    ]);
    // 22 bytes of message make 3322 bytes in all.
    for (written, read, cost) in [(1_000, 0, 2_500 + 214 + 100), (0, 1_000, 100 + 214 + 100)] {
        let before = server.bill();
        let events = events(&received(call(&server, &request).await).await.0);
        let usage = &events[0].1["message"]["usage"];
        assert_eq!(usage["cache_creation_input_tokens"], json!(written));
        assert_eq!(usage["cache_creation"]["ephemeral_5m_input_tokens"], json!(written));
        assert_eq!((&usage["cache_read_input_tokens"], &usage["input_tokens"]), (&json!(read), &json!(107)));
        let bill = server.bill();
        assert_eq!(bill.cost_micros.0 - before.cost_micros.0, cost);
    }
    let usage = Usage { input: 214, cache_write_5m: 1_000, cache_read: 1_000, output: 20, cache_write_1h: 0 };
    assert_eq!(server.bill().usage, usage);
}

#[tokio::test]
async fn the_bill_can_be_read_and_reset_over_http_and_counts_by_key() {
    let server = serve(Script::new().reply("plan", "x").reply("file a", "y")).await;
    for request in ["plan", "file a (id 1)", "file a (id 2)"] {
        received(call(&server, &body(request)).await).await;
    }
    let url = format!("{}/bill", server.base_url());
    let (bytes, _) = received(client().get(&url).send().await.expect("answers")).await;
    let bill: Bill = serde_json::from_slice(&bytes).expect("a bill");
    assert_eq!(bill, server.bill());
    assert_eq!((bill.calls, bill.calls_of("plan"), bill.calls_of("file a")), (3, 1, 2));
    assert_eq!(client().delete(&url).send().await.expect("answers").status().as_u16(), 204);
    assert_eq!(server.bill(), Bill::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_concurrent_calls_are_each_billed_once() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("bill.jsonl");
    let mut script = Script::new();
    for number in 0..200 {
        script.push(&format!("file {number}"), Reply::new(format!("text {number}")).output_tokens(100));
    }
    let options = FakeOptions {
        latency: Latency::LogNormal { median: Duration::from_millis(5), sigma: 0.5, seed: 1 },
        bill_path: Some(path.clone()),
        prices: Some(Arc::new(PriceTable::builtin().expect("valid"))),
        ..FakeOptions::default()
    };
    let server = Arc::new(FakeServer::start(script, options).await.expect("starts"));
    let client = client();
    let calls = (0..200).map(|number| {
        let request = post(&client, &server, &body(&format!("file {number}")));
        tokio::spawn(async move {
            let response = request.send().await.expect("answers");
            assert_eq!(text_of(&events(&received(response).await.0)), format!("text {number}"));
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.expect("succeeds");
    }
    let bill = server.bill();
    assert_eq!((bill.calls, bill.usage.output, bill.keys.len()), (200, 20_000, 200));
    assert!(bill.keys.values().all(|tally| tally.calls == 1));
    assert!(bill.cost_micros > MicroUsd(200 * 1_000));
    assert_eq!(Bill::load(&path).expect("valid"), bill);
}
