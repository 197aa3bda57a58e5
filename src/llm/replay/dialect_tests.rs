//! What the server does besides the Messages API: chat completions, limits, counts, made-up replies, the page.
//!
//! Over a real socket, like everything it promises; expected bytes are those of the real APIs, written down by hand.

use serde_json::{Value, json};

use super::*;

fn client() -> reqwest::Client {
    // Only the first installation counts; all tests want the same.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().no_proxy().build().expect("builds")
}

async fn serve(script: Script, options: FakeOptions) -> FakeServer {
    FakeServer::start(script, options).await.expect("starts")
}

fn body(request: &str) -> Value {
    json!({
        "model": "gpt-6.1-sol", "max_completion_tokens": 1_000, "stream": true,
        "stream_options": {"include_usage": true},
        "messages": [{"role": "system", "content": "c".repeat(300)},
                     {"role": "user", "content": format!("Please.\nRequest: {request}")}],
    })
}

async fn post(server: &FakeServer, path: &str, body: &Value) -> (u16, reqwest::header::HeaderMap, String) {
    let request = client().post(format!("{}{path}", server.base_url())).bearer_auth("any");
    let request = request.header("anthropic-version", "2023-06-01").body(body.to_string());
    let response = request.send().await.expect("answers");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    (status, headers, response.text().await.expect("text"))
}

#[tokio::test]
async fn a_chat_completion_has_the_shape_of_the_real_one() {
    let server = serve(Script::new().reply("plan", "Hello!"), FakeOptions::default()).await;
    let (status, headers, text) = post(&server, "/v1/chat/completions", &body("plan")).await;
    assert_eq!((status, &headers["x-request-id"]), (200, &"req_fake_00000001".parse().unwrap()));
    let start = r#"{"id":"chatcmpl-fake00000001","object":"chat.completion.chunk","created":1790000000,"model":"gpt-6.1-sol","service_tier":"default","choices":["#;
    let chunk = |rest: &str| format!("data: {start}{rest}\n\n");
    let golden = [
        chunk(r#"{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#),
        chunk(r#"{"index":0,"delta":{"content":"Hel"},"finish_reason":null}]}"#),
        chunk(r#"{"index":0,"delta":{"content":"lo!"},"finish_reason":null}]}"#),
        chunk(r#"{"index":0,"delta":{},"finish_reason":"stop"}]}"#),
        chunk(
            r#"],"usage":{"prompt_tokens":107,"completion_tokens":2,"total_tokens":109,"prompt_tokens_details":{"cached_tokens":0,"cache_write_tokens":100},"completion_tokens_details":{"reasoning_tokens":0}}}"#,
        ),
        "data: [DONE]\n\n".to_owned(),
    ];
    assert_eq!(text, golden.concat());
    let (_, _, second) = post(&server, "/v1/chat/completions", &body("plan")).await;
    assert!(second.contains(r#""cached_tokens":100,"cache_write_tokens":0"#), "{second}");
    // 7 * 2 + 100 * 2.5 written + 2 * 10, then 7 * 2 + 100 * 0.1 read + 2 * 10 micro-dollars.
    assert_eq!(server.bill().cost_micros.0, (14 + 250 + 20) + (14 + 10 + 20));
}

#[tokio::test]
async fn usage_is_told_only_to_those_who_ask_and_documents_are_whole() {
    let server = serve(Script::new().reply("plan", "Hello!"), FakeOptions::default()).await;
    let mut silent = body("plan");
    silent["stream_options"] = json!({});
    assert!(!post(&server, "/v1/chat/completions", &silent).await.2.contains("usage"));
    silent["stream"] = json!(false);
    let document: Value = serde_json::from_str(&post(&server, "/v1/chat/completions", &silent).await.2).unwrap();
    assert_eq!(document["choices"][0]["message"]["content"], "Hello!");
    assert_eq!(document["usage"]["completion_tokens"], 2);
}

#[tokio::test]
async fn each_dialect_says_in_its_own_words_what_is_wrong() {
    let script = || Script::new().reply("plan", Reply::new("").fault(Fault::SpendCap429));
    let server = serve(script(), FakeOptions::default()).await;
    let (status, _, text) = post(&server, "/v1/chat/completions", &body("plan")).await;
    let error: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &error["error"]["code"]), (429, &json!("insufficient_quota")));
    let unknown = post(&server, "/as/nowhere/v1/chat/completions", &body("plan")).await;
    assert_eq!(unknown.0, 404, "a model of an endpoint without prices is unknown: {}", unknown.2);
    let keyless = client().post(format!("{}/v1/chat/completions", server.base_url())).body(body("plan").to_string());
    assert_eq!(keyless.send().await.unwrap().status().as_u16(), 401);
    let open =
        serve(Script::new().reply("plan", "x"), FakeOptions { needs_key: false, ..FakeOptions::default() }).await;
    let keyless = client().post(format!("{}/v1/chat/completions", open.base_url())).body(body("plan").to_string());
    assert_eq!(keyless.send().await.unwrap().status().as_u16(), 200);
}

#[tokio::test]
async fn a_limit_turns_calls_away_and_says_when_to_come_back() {
    let limits = RateLimits { requests_per_minute: Some(2), ..RateLimits::default() };
    let server = serve(Script::new().reply("plan", "x"), FakeOptions { limits, ..FakeOptions::default() }).await;
    for left in [1, 0] {
        let (status, headers, _) = post(&server, "/v1/chat/completions", &body("plan")).await;
        assert_eq!(
            (status, headers["x-ratelimit-remaining-requests"].to_str().unwrap()),
            (200, left.to_string().as_str())
        );
    }
    let (status, headers, _) = post(&server, "/v1/chat/completions", &body("plan")).await;
    assert_eq!(status, 429);
    let wait: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    let messages = json!({"model": "claude-sonnet-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Request: plan"}]});
    let (status, headers, _) = post(&server, "/v1/messages", &messages).await;
    assert_eq!((status, headers["anthropic-ratelimit-requests-limit"].to_str().unwrap()), (429, "2"));
    assert!(headers["anthropic-ratelimit-requests-reset"].to_str().unwrap().ends_with('Z'));
    assert_eq!((server.rejected(), server.bill().calls), (2, 2));
}

#[tokio::test]
async fn calls_that_run_count_until_their_reply_is_over() {
    let limits = RateLimits { concurrent_calls: Some(1), ..RateLimits::default() };
    let script = Script::new()
        .reply("plan", Reply::new("half of it").fault(Fault::StallMidStream))
        .reply("file a", Reply::new("x"));
    let server = serve(script, FakeOptions { limits, ..FakeOptions::default() }).await;
    let stalled = client().post(format!("{}/v1/chat/completions", server.base_url())).bearer_auth("any");
    let stalled = stalled.body(body("plan").to_string()).send().await.unwrap();
    assert_eq!(post(&server, "/v1/chat/completions", &body("file a")).await.0, 429);
    drop(stalled);
    // The server learns of a closed connection when it next looks at it.
    while post(&server, "/v1/chat/completions", &body("file a")).await.0 == 429 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn models_counts_and_the_page_can_be_read() {
    let server = serve(Script::new().reply("file <b>", "x"), FakeOptions::default()).await;
    let get = async |path: &str| {
        client().get(format!("{}{path}", server.base_url())).send().await.unwrap().text().await.unwrap()
    };
    let models: Value = serde_json::from_str(&get("/v1/models").await).unwrap();
    assert!(models["data"].as_array().unwrap().iter().any(|model| model["id"] == "gpt-6.1-sol"));
    let count = json!({"model": "claude-sonnet-5-5", "messages": [{"role": "user", "content": "123456789"}]});
    assert_eq!(post(&server, "/v1/messages/count_tokens", &count).await.2, r#"{"input_tokens":3}"#);
    for (field, value) in [("max_tokens", json!(9)), ("stream", json!(true)), ("service_tier", json!("standard_only"))]
    {
        let mut question = count.clone();
        question[field] = value;
        let (status, _, text) = post(&server, "/v1/messages/count_tokens", &question).await;
        assert!(status == 400 && text.contains(&format!("{field}: Extra inputs are not permitted")), "{text}");
    }
    assert_eq!((server.counts(), server.requests()), (4, 0));
    assert_eq!(server.bill().calls, 0);
    post(&server, "/v1/chat/completions", &body("file <b>")).await;
    let page = get("/").await;
    // 7 tokens of input, 100 written at 2.5 and one of output at 10.
    let row =
        |name: &str| format!("<td>{name}</td><td>1</td><td>9</td><td>100</td><td>0</td><td>0</td><td>1</td><td>$");
    assert!(page.contains(&row("file &lt;b&gt;")) && page.contains(&row("gpt-6.1-sol")), "{page}");
    assert!(page.contains("<th>total</th><th>1</th>") && page.contains("width=device-width"), "{page}");
    assert!(!page.contains("{{"), "{page}");
    let asked = client().get(server.base_url()).header("accept", "application/json").send().await.unwrap();
    for json in [asked.text().await.unwrap(), get("/?format=json").await, get("/bill").await] {
        assert_eq!(serde_json::from_str::<Bill>(&json).unwrap(), server.bill());
    }
}

#[tokio::test]
async fn without_a_script_a_reply_follows_the_schema_that_came_with_the_request() {
    let server = serve(Script::new(), FakeOptions { generates: true, ..FakeOptions::default() }).await;
    let schema = json!({"type": "object", "properties": {"ok": {"type": "boolean"}}});
    let chat = json!({
        "model": "gpt-6.1-sol", "messages": [{"role": "user", "content": "hello"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    });
    let reply: Value = serde_json::from_str(&post(&server, "/v1/chat/completions", &chat).await.2).unwrap();
    assert_eq!(reply["choices"][0]["message"]["content"], r#"{"ok":true}"#);
    let messages = json!({
        "model": "claude-sonnet-5-5", "max_tokens": 99, "messages": [{"role": "user", "content": "hello"}],
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
    });
    let reply: Value = serde_json::from_str(&post(&server, "/v1/messages", &messages).await.2).unwrap();
    assert_eq!(reply["content"][0]["text"], r#"{"ok":true}"#);
}
