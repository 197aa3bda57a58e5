//! The wire format byte by byte: the request as it must be sent, replies as they have been seen.
//!
//! Bytes are compared whole where the provider's cache or its checks depend on them. Streams are cut at every place a
//! network may cut them; the expected values are captured replies, not output of this code.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::budget::price::Part;
use crate::budget::{Terms, Unpinned};
use crate::error::{Coded, Retry};
use crate::llm::http::{Assemble, EVENT_FRAME_BYTES, endpoint, errors as transport, is_loopback};
use crate::llm::sse::{Event, Parser};
use crate::llm::{Charge, Effort, Message, Role, StopReason, SystemBlock, Thinking, Told};
use crate::protocol::Usage;

const MODEL: &str = "claude-sonnet-5-5";

fn request(model: &str) -> LlmRequest {
    LlmRequest {
        model: model.into(),
        system: vec![
            SystemBlock { text: "contract".into(), cache: true },
            SystemBlock { text: "role".into(), cache: false },
        ],
        messages: vec![Message { role: Role::User, text: "write \"ü\"".into() }],
        max_tokens: 16_000,
        schema: None,
        effort: Effort::Medium,
        thinking: Thinking::Default,
        fallbacks: vec![],
    }
}

fn prepare(request: &LlmRequest) -> Result<Prepared, LlmError> {
    request::prepare(request, &PriceTable::builtin().unwrap())
}

fn body(request: &LlmRequest) -> String {
    String::from_utf8(prepare(request).unwrap().body.to_vec()).unwrap()
}

#[test]
fn case_05_and_17_the_request_is_exactly_this() {
    assert_eq!(
        body(&request(MODEL)),
        concat!(
            r#"{"model":"claude-sonnet-5-5","max_tokens":16000,"stream":true,"inference_geo":"global","#,
            r#""service_tier":"standard_only","system":[{"type":"text","text":"contract","#,
            r#""cache_control":{"type":"ephemeral","ttl":"5m"}},{"type":"text","text":"role"}],"#,
            r#""messages":[{"role":"user","content":"write \"ü\""}],"output_config":{"effort":"medium"}}"#,
        )
    );
    let bound = LlmRequest { schema: Some(Arc::new(json!({"type": "object"}))), ..request(MODEL) };
    let text = body(&bound);
    assert!(
        text.ends_with(
            r#""output_config":{"effort":"medium","format":{"type":"json_schema","schema":{"type":"object"}}}}"#
        ),
        "{text}"
    );
    let worst_case = prepare(&bound).unwrap().worst_case;
    assert_eq!(worst_case.body_bytes, text.len() as u64);
    assert_eq!((worst_case.messages, worst_case.tools, worst_case.schema_bytes), (3, 0, 17));
    assert_eq!((worst_case.max_tokens, worst_case.writes_5m, worst_case.writes_1h), (16_000, true, false));
}

#[test]
fn older_models_get_only_what_they_accept() {
    let text = body(&request("claude-haiku-4-5"));
    assert!(!text.contains("inference_geo") && !text.contains("output_config"), "{text}");
    assert!(text.contains("standard_only"));
    let unpinned = |model| prepare(&request(model)).unwrap().worst_case.unpinned;
    assert_eq!(unpinned("claude-haiku-4-5"), Unpinned { region: true, service_tier: false });
    assert_eq!(unpinned(MODEL), Unpinned::default());
    for key in ["temperature", "top_p", "thinking", "tools"] {
        assert!(!text.contains(key) && !body(&request(MODEL)).contains(key), "{key}");
    }
    let bound = |model| LlmRequest { schema: Some(Arc::new(json!({}))), ..request(model) };
    assert!(body(&bound("claude-haiku-4-5")).contains(r#""output_config":{"format":"#));
    let old = r#"{"old": {"input": 1, "output": 1, "context": 9, "structured_output": false, "source": "t", "as_of": "2026-11-21"}}"#;
    assert!(request::prepare(&bound("old"), &PriceTable::parse(old).unwrap()).is_err());
}

#[test]
fn what_the_provider_would_refuse_is_refused_before_money_is_set_aside() {
    let turn = |role, text: &str| Message { role, text: text.into() };
    let cached = SystemBlock { text: "x".into(), cache: true };
    for (what, wrong) in [
        ("prefill", LlmRequest { messages: vec![turn(Role::User, "a"), turn(Role::Assistant, "b")], ..request(MODEL) }),
        ("nothing said", LlmRequest { messages: vec![], ..request(MODEL) }),
        ("an empty message", LlmRequest { messages: vec![turn(Role::User, " ")], ..request(MODEL) }),
        ("no output", LlmRequest { max_tokens: 0, ..request(MODEL) }),
        ("five breakpoints", LlmRequest { system: vec![cached; 5], ..request(MODEL) }),
        ("no model", request("")),
        ("a broken name", request("claude\n")),
        ("too much", LlmRequest { messages: vec![turn(Role::User, &"x".repeat(32_000_000))], ..request(MODEL) }),
    ] {
        let error = prepare(&wrong).expect_err(what);
        assert!(matches!(error, LlmError::Unsupported(_)), "{what}: {error}");
        assert_eq!(error.charge(), Charge::Nothing);
    }
}

/// A stream as captured, with padding, a ping, thinking, an unknown event, two deltas of usage.
fn captured() -> String {
    let events = [
        r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[],"stop_reason":null,"usage":{"input_tokens":25,"cache_creation_input_tokens":100,"cache_read_input_tokens":7,"cache_creation":{"ephemeral_5m_input_tokens":60,"ephemeral_1h_input_tokens":40},"output_tokens":1,"service_tier":"standard","inference_geo":"global"}}      }"#,
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
        r#"{"type": "ping"}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"Eq"}}"#,
        r#"{"type":"content_block_stop","index":0}"#,
        r#"{"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}"#,
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Grüße "}   }"#,
        r#"{"type":"brand_new_event","index":{"not":"a number"}}"#,
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"\"日本\"\n"}}"#,
        r#"{"type":"content_block_stop","index":1}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":null},"usage":{"output_tokens":50}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":124}}"#,
        r#"{"type":"message_stop"}"#,
    ];
    events.iter().map(|data| format!("event: {}\r\ndata: {data}  \r\n\r\n", kind(data))).collect()
}

fn kind(data: &str) -> String {
    serde_json::from_str::<serde_json::Value>(data).unwrap()["type"].as_str().unwrap().to_owned()
}

fn read(reads: &[&[u8]]) -> Result<LlmReply, LlmError> {
    read_at_most(reads, 10_000)
}

fn read_at_most(reads: &[&[u8]], max_bytes: usize) -> Result<LlmReply, LlmError> {
    let mut parser = Parser::new(max_bytes + EVENT_FRAME_BYTES);
    let mut assembler = Assembler::new(max_bytes);
    for bytes in reads {
        parser.feed(bytes, |event: Event<'_>| assembler.take(event.data))?;
    }
    if assembler.is_complete() {
        assembler.finish(Some("req_1".into()))
    } else {
        Err(assembler.ended(Some("text/event-stream; charset=utf-8".into())))
    }
}

#[test]
fn case_14_a_captured_stream_becomes_its_reply_wherever_it_is_cut_into_reads() {
    let stream = captured();
    let bytes = stream.as_bytes();
    let expected = LlmReply {
        text: "Grüße \"日本\"\n".into(),
        stop: StopReason::EndTurn,
        usage: Some(Usage { input: 25, cache_write_5m: 60, cache_write_1h: 40, cache_read: 7, output: 124 }),
        model: MODEL.into(),
        request_id: Some("req_1".into()),
    };
    for at in 0..=bytes.len() {
        assert_eq!(read(&[&bytes[..at], &bytes[at..]]).unwrap(), expected, "cut at {at}");
    }
    // What follows the terminal event does not count, whatever it is.
    let more = format!("{stream}data: nonsense\n\ndata: {{\"type\":\"error\"}}\n\n");
    assert_eq!(read(&[more.as_bytes()]).unwrap(), expected);
}

#[test]
fn case_08_every_stream_that_ends_early_is_cut_and_never_a_reply() {
    let stream = captured();
    let end = stream.find("event: message_stop").unwrap();
    let known = Usage { input: 25, cache_write_5m: 60, cache_write_1h: 40, cache_read: 7, output: 0 };
    let started = stream.find("\r\n\r\n").unwrap() + 4;
    for at in 0..=end {
        match read(&[&stream.as_bytes()[..at]]) {
            Err(LlmError::Cut { input, .. }) => {
                // The event counts from the first line end of its blank line on.
                assert_eq!(input, (at >= started - 1).then_some(known), "cut at {at}");
            }
            other => panic!("cut at {at}: {other:?}"),
        }
    }
}

const START: &str =
    r#"{"type":"message_start","message":{"model":"claude-sonnet-5-5","usage":{"input_tokens":10,"output_tokens":3}}}"#;
const STOP: &str = r#"{"type":"message_stop"}"#;
const END: &str = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}"#;

fn stream(events: &[&str]) -> Result<LlmReply, LlmError> {
    let text: String = events.iter().map(|data| format!("data: {data}\n\n")).collect();
    read_at_most(&[text.as_bytes()], 100)
}

fn told(events: &[&str]) -> Told {
    let mut assembler = Assembler::new(100);
    for data in events {
        drop(assembler.take(data.as_bytes()));
    }
    assembler.told()
}

#[test]
fn case_17_and_18_everything_that_changes_the_price_is_handed_on_as_it_was_said() {
    let names = |name: &str| std::collections::BTreeSet::from([name.to_owned()]);
    let part = |model: Option<&str>, output| Part {
        model: model.map(str::to_owned),
        usage: Usage { input: 7, cache_write_5m: 2, output, ..Usage::default() },
    };
    let unreadable = Terms { is_unreadable: true, ..Terms::default() };
    for (usage, expected) in [
        (r#""input_tokens":10"#, Terms::default()),
        (r#""inference_geo":"us""#, Terms { regions: names("us"), ..Terms::default() }),
        (r#""service_tier":"priority""#, Terms { tiers: names("priority"), ..Terms::default() }),
        (r#""speed":"fast""#, Terms { speeds: names("fast"), ..Terms::default() }),
        (
            r#""server_tool_use":{"web_search_requests":2,"other":null}"#,
            Terms { uses: [("other".into(), 0), ("web_search_requests".into(), 2)].into(), ..Terms::default() },
        ),
        (r#""server_tool_use":{"web_search_requests":"two"}"#, unreadable.clone()),
        (r#""server_tool_use":{"web_search_requests":-2}"#, unreadable.clone()),
        (
            r#""iterations":[{"type":"message","model":"a","input_tokens":7,"cache_creation_input_tokens":2,"output_tokens":3},{"input_tokens":7,"cache_creation":{"ephemeral_5m_input_tokens":2},"output_tokens":4,"inference_geo":"us"}]"#,
            Terms { parts: vec![part(Some("a"), 3), part(None, 4)], regions: names("us"), ..Terms::default() },
        ),
        (r#""iterations":[]"#, Terms::default()),
        (r#""iterations":null"#, Terms::default()),
        (r#""iterations":[{"model":"x"}]"#, unreadable.clone()),
        (r#""iterations":[{"model":7,"input_tokens":1,"output_tokens":1}]"#, unreadable.clone()),
        (r#""iterations":{"model":"x"}"#, unreadable.clone()),
        (r#""iterations":[{"input_tokens":-1,"output_tokens":1}]"#, unreadable.clone()),
    ] {
        let told = told(&[&start_with(usage), END]);
        assert_eq!(
            (told.models.iter().map(String::as_str).collect::<Vec<_>>(), &told.terms),
            (vec![MODEL], &expected),
            "{usage}"
        );
    }
    let both = told(&[
        &start_with(r#""inference_geo":"global""#),
        &END.replace("\"output", "\"inference_geo\":\"us\",\"output"),
    ]);
    assert_eq!(both.terms.regions.len(), 2, "whichever was billed is among them: {both:?}");
}

#[test]
fn case_14_and_18_no_report_makes_a_reply_cheaper_than_an_earlier_one() {
    let start = start_with(r#""input_tokens":5000,"cache_read_input_tokens":70,"output_tokens":1"#);
    let end = |input: u64, output: u64| {
        format!(
            r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{{"input_tokens":{input},"cache_read_input_tokens":0,"output_tokens":{output}}}}}"#
        )
    };
    let most = Usage { input: 5_000, cache_read: 70, output: 9_000, ..Usage::default() };
    let events = [start.as_str(), &end(10, 9_000), &end(10, 2), STOP];
    assert_eq!(stream(&events).unwrap().usage, Some(most));
    assert_eq!(told(&events[..3]).usage, Some(most));
    // Even what cannot begin twice has said what it costs.
    let dearer = start_with(r#""input_tokens":6000"#).replace(MODEL, "claude-opus-5");
    let twice = told(&[&start, &dearer]);
    assert_eq!(twice.usage, Some(Usage { input: 6_000, cache_read: 70, output: 1, ..Usage::default() }));
    assert!(twice.models.contains(MODEL) && twice.models.contains("claude-opus-5"), "{twice:?}");
}

#[test]
fn case_15_a_counter_that_nobody_can_believe_and_names_without_end_leave_the_price_unknown() {
    for counter in ["1000000001", "18446744073709551616", "1e30"] {
        let told = told(&[START, &END.replace("\"output_tokens\":5", &format!("\"output_tokens\":{counter}"))]);
        assert!(told.terms.is_unreadable, "{counter}");
    }
    let many = (0..1_000).map(|n| END.replace("\"output", &format!("\"service_tier\":\"t{n}\",\"output")));
    let events: Vec<String> = std::iter::once(START.to_owned()).chain(many).collect();
    let told = told(&events.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(told.terms.is_unreadable && told.terms.tiers.len() <= 100, "{}", told.terms.tiers.len());
    // No prompt is empty, so nobody knows the input of this one.
    let empty = start_with(r#""input_tokens":0,"output_tokens":1"#);
    assert!(matches!(stream(&[&empty]), Err(LlmError::Cut { input: None, .. })));
}

fn start_with(usage: &str) -> String {
    format!(r#"{{"type":"message_start","message":{{"model":"{MODEL}","usage":{{{usage}}}}}}}"#)
}

#[test]
fn case_13_and_15_usage_is_reported_only_if_every_count_is_known() {
    let plain = Usage { input: 10, output: 5, ..Usage::default() };
    let writes = |cache_write_5m, cache_write_1h| Usage { cache_write_5m, cache_write_1h, ..plain };
    for (usage, expected) in [
        (r#""input_tokens":10,"output_tokens":1"#, Some(plain)),
        (r#""input_tokens":0"#, Some(Usage { input: 0, ..plain })),
        (r#""input_tokens":10,"cache_creation_input_tokens":null,"server_tool_use":null"#, Some(plain)),
        (r#""input_tokens":10,"cache_creation_input_tokens":8"#, Some(writes(8, 0))),
        (
            r#""input_tokens":10,"cache_creation_input_tokens":8,"cache_creation":{"ephemeral_1h_input_tokens":3}"#,
            Some(writes(5, 3)),
        ),
        (r#""input_tokens":10,"inference_geo":"not_available","service_tier":"standard""#, Some(plain)),
        (r#""input_tokens":10,"server_tool_use":{"web_search_requests":0}"#, Some(plain)),
        (r#""output_tokens":1"#, None),
    ] {
        let reply = stream(&[&start_with(usage), END, STOP]).unwrap();
        assert_eq!(reply.usage, expected, "{usage}");
    }
    let end = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#;
    assert_eq!(stream(&[START, end, STOP]).unwrap().usage, None, "the output of message_start is a placeholder");
    let later =
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":11,"output_tokens":0}}"#;
    assert_eq!(stream(&[START, later, STOP]).unwrap().usage, Some(Usage { input: 11, ..Usage::default() }));
}

#[test]
fn every_reason_to_stop_is_told_apart() {
    for (delta, expected) in [
        (r#"{"stop_reason":"end_turn"}"#, StopReason::EndTurn),
        (r#"{"stop_reason":"max_tokens"}"#, StopReason::MaxTokens),
        (r#"{"stop_reason":"model_context_window_exceeded"}"#, StopReason::ContextWindow),
        (r#"{"stop_reason":"pause_turn"}"#, StopReason::Other("pause_turn".into())),
        (
            r#"{"stop_reason":"refusal","stop_details":{"type":"refusal","category":"cyber"}}"#,
            StopReason::Refusal(Some("cyber".into())),
        ),
        (r#"{"stop_reason":"refusal","stop_details":null}"#, StopReason::Refusal(None)),
    ] {
        let end = format!(r#"{{"type":"message_delta","delta":{delta},"usage":{{"output_tokens":5}}}}"#);
        let reply = stream(&[START, &end, STOP]).unwrap();
        assert_eq!((reply.stop, reply.text.as_str()), (expected, ""), "{delta}");
    }
}

#[test]
fn what_the_wire_format_does_not_allow_is_malformed() {
    let text = |index: u32, text: &str| {
        format!(r#"{{"type":"content_block_delta","index":{index},"delta":{{"type":"text_delta","text":"{text}"}}}}"#)
    };
    let block = |kind: &str| {
        format!(r#"{{"type":"content_block_start","index":0,"content_block":{{"type":"{kind}","text":""}}}}"#)
    };
    let long = text(0, &"x".repeat(101));
    for (what, events) in [
        ("no JSON", vec![START, "nonsense"]),
        ("no type", vec![START, r#"{"index":0}"#]),
        ("no start", vec![END, STOP]),
        ("two starts", vec![START, START]),
        ("no reason to stop", vec![START, STOP]),
        ("text without a block", vec![START, &text(0, "a")]),
        ("text in a tool call", vec![START, &block("tool_use"), &text(0, "a")]),
        ("a block twice", vec![START, &block("text"), &block("text")]),
        ("too much text", vec![START, &block("text"), &long]),
        ("a negative counter", vec![&start_with(r#""input_tokens":-1"#)]),
        ("an absurd counter", vec![&start_with(r#""input_tokens":18446744073709551615"#)]),
    ] {
        let error = stream(&events).expect_err(what);
        assert!(matches!(error, LlmError::Malformed { .. }), "{what}: {error}");
        assert_eq!(error.charge(), Charge::Everything);
    }
    let broken = b"data: {\"type\":\"message_start\",\"message\":{\"model\":\"\xFF\"}}\n\n";
    assert!(matches!(read(&[broken]), Err(LlmError::Malformed { .. })));
    let html = Assembler::new(10).ended(Some("text/html".into()));
    assert!(matches!(html, LlmError::Malformed { .. }), "{html}");
}

#[test]
fn an_error_inside_the_stream_cuts_it_and_keeps_the_known_input() {
    let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    match stream(&[START, error]) {
        Err(LlmError::Cut { reason, input: Some(Usage { input: 10, output: 0, .. }) }) => {
            assert!(reason.contains("overloaded_error") && reason.contains("Overloaded"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let elsewhere = START.replace(MODEL, "claude-opus-5");
    assert!(matches!(stream(&[&elsewhere, error]), Err(LlmError::Cut { input: Some(_), .. })));
    assert!(told(&[&elsewhere, error]).models.contains("claude-opus-5"));
}

#[test]
fn delays_are_read_in_every_form_and_never_believed_beyond_a_day() {
    let delay = |pairs: &[(&'static str, &str)]| {
        let headers = pairs
            .iter()
            .map(|(name, value)| {
                (reqwest::header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            })
            .collect();
        transport::retry_after(&headers).map(|delay| delay.as_millis())
    };
    let now = ("date", "Wed, 21 Oct 2026 07:28:00 GMT");
    for (headers, expected) in [
        (vec![], None),
        (vec![("retry-after", "7")], Some(7_000)),
        (vec![("retry-after", " 0.5 ")], Some(500)),
        (vec![("retry-after", "9"), ("retry-after-ms", "1500")], Some(1_500)),
        (vec![now, ("retry-after", "Wed, 21 Oct 2026 07:28:30 GMT")], Some(30_000)),
        (vec![now, ("retry-after", "Wed, 21 Oct 2026 07:27:00 GMT")], Some(0)),
        (vec![("retry-after", "Wed, 21 Oct 2026 07:28:30 GMT")], None),
        (vec![("retry-after", "1e300")], Some(86_400_000)),
        (vec![("retry-after", "-1")], None),
        (vec![("retry-after", "NaN")], None),
        (vec![("retry-after", "soon")], None),
    ] {
        assert_eq!(delay(&headers), expected, "{headers:?}");
    }
}

#[test]
fn an_error_body_keeps_what_tells_a_spending_cap_from_a_rate_limit() {
    let body = br#"{"type":"error","error":{"type":"rate_limit_error","message":"Limit","details":{"error_code":"enforced_spend_limit_reached"}},"request_id":"r"}"#;
    let (kind, message) = errors::describe(body).unwrap();
    let error = LlmError::Status { status: 429, kind, message, retry_after: None, well_formed: true };
    assert_eq!(error.retry(), Retry::Never);
    assert_eq!(errors::describe(b"<html>413</html>"), None);
    assert_eq!(errors::describe(br#"{"error":"text"}"#), None);
}

#[test]
fn the_key_is_never_printed_and_bad_settings_are_refused() {
    let config = AnthropicConfig::new(Secret::new("sk-very-secret"));
    assert!(!format!("{config:?}").contains("very"));
    assert!(!format!("{:?}", Anthropic::new(&config)).contains("very"));
    for base_url in ["", "ftp://x", "api.anthropic.com", "https://user:pw@x", "https://x/?a=b", "https://"] {
        assert!(endpoint(base_url, "v1/messages").is_err(), "{base_url}");
    }
    assert_eq!(
        endpoint("http://127.0.0.1:8080/base/", "v1/messages").unwrap().as_str(),
        "http://127.0.0.1:8080/base/v1/messages"
    );
    assert!(headers(&Secret::new("a\u{7}b")).is_err());
    for (address, expected) in [("http://localhost:1", true), ("http://[::1]:1", true), ("https://a.b", false)] {
        assert_eq!(is_loopback(&reqwest::Url::parse(address).unwrap()), expected, "{address}");
    }
}
