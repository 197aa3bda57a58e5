//! The wire format byte by byte: the request as each server wants it, replies as they have been seen.
//!
//! Expected bytes are written down by hand from the servers' own documentation; streams are cut where networks cut them.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::error::{Coded, Retry};
use crate::llm::http::{Assemble, EVENT_FRAME_BYTES};
use crate::llm::sse::{Event, Parser};
use crate::llm::{Charge, StopReason, SystemBlock, Thinking, Told};
use crate::protocol::{MicroUsd, Usage};

const MODEL: &str = "gpt-6.1-sol";

fn request(model: &str) -> LlmRequest {
    let block = |text: &str| SystemBlock { text: text.into(), cache: true };
    LlmRequest {
        system: vec![block("contract"), block("role")],
        max_tokens: 16_000,
        ..LlmRequest::of(model, "write \"ü\"")
    }
}

fn prepare(request: &LlmRequest, style: Style) -> Result<Prepared, LlmError> {
    request::prepare(request, style, &PriceTable::builtin().unwrap())
}

fn body(request: &LlmRequest, preset: Preset) -> String {
    String::from_utf8(prepare(request, preset.style()).unwrap().body.to_vec()).unwrap()
}

#[test]
fn case_05_the_cap_is_always_sent_in_the_field_that_the_server_obeys() {
    let messages =
        r#""messages":[{"role":"system","content":"contract\n\nrole"},{"role":"user","content":"write \"ü\""}]}"#;
    for (preset, model, start) in [
        (
            Preset::OpenAi,
            MODEL,
            r#"{"model":"gpt-6.1-sol","max_completion_tokens":16000,"stream":true,"stream_options":{"include_usage":true},"service_tier":"default","store":false,"reasoning_effort":"medium","#,
        ),
        (
            Preset::OpenRouter,
            "vendor/some-model",
            r#"{"model":"vendor/some-model","max_tokens":16000,"stream":true,"stream_options":{"include_usage":true},"#,
        ),
        (
            Preset::Vllm,
            "qwen3",
            r#"{"model":"qwen3","max_tokens":16000,"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true},"#,
        ),
        (
            Preset::LlamaCpp,
            "qwen3",
            r#"{"model":"qwen3","max_tokens":16000,"stream":true,"stream_options":{"include_usage":true},"#,
        ),
        (
            Preset::Ollama,
            "qwen3",
            r#"{"model":"qwen3","max_tokens":16000,"stream":true,"stream_options":{"include_usage":true},"#,
        ),
    ] {
        assert_eq!(body(&request(model), preset), format!("{start}{messages}"), "{preset:?}");
    }
    let silent = Style { usage_in_stream: false, ..Preset::Ollama.style() };
    let text = String::from_utf8(prepare(&request("qwen3"), silent).unwrap().body.to_vec()).unwrap();
    assert!(!text.contains("stream_options"), "{text}");
}

#[test]
fn a_schema_is_sent_as_the_server_reads_it_and_is_in_the_bound() {
    let bound = LlmRequest { schema: Some(Arc::new(json!({"type": "object"}))), ..request("m") };
    for (schema_style, part) in [
        (
            SchemaStyle::JsonSchema,
            r#""response_format":{"type":"json_schema","json_schema":{"name":"reply","strict":true,"schema":{"type":"object"}}}}"#,
        ),
        (SchemaStyle::JsonSchemaFlat, r#""response_format":{"type":"json_schema","schema":{"type":"object"}}}"#),
        (SchemaStyle::JsonObject, r#""response_format":{"type":"json_object"}}"#),
        (SchemaStyle::None, r#"{"role":"user","content":"write \"ü\""}]}"#),
    ] {
        let prepared = prepare(&bound, Style { schema_style, ..Preset::Vllm.style() }).unwrap();
        let text = std::str::from_utf8(&prepared.body).unwrap();
        assert!(text.ends_with(part), "{schema_style:?}: {text}");
        let is_in_prompt = text.contains(r#"follows this JSON schema:\n{\"type\":\"object\"}"#);
        assert_eq!(is_in_prompt, matches!(schema_style, SchemaStyle::JsonObject | SchemaStyle::None));
        let worst_case = prepared.worst_case;
        assert_eq!((worst_case.body_bytes, worst_case.schema_bytes, worst_case.messages), (text.len() as u64, 17, 2));
    }
}

#[test]
fn what_cannot_be_asked_for_is_refused_before_money_is_set_aside() {
    for (what, wrong) in [
        ("no thinking", LlmRequest { thinking: Thinking::Off, ..request(MODEL) }),
        ("nothing said", LlmRequest { messages: vec![], ..request(MODEL) }),
        ("no output", LlmRequest { max_tokens: 0, ..request(MODEL) }),
    ] {
        let error = prepare(&wrong, Preset::OpenAi.style()).expect_err(what);
        assert!(matches!(error, LlmError::Unsupported(_)), "{what}: {error}");
    }
}

/// A stream as OpenAI sends it, with a comment, a role, an unknown member and the usage at the end.
fn captured() -> String {
    let chunk = |rest: &str| {
        format!("data: {{\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"model\":\"{MODEL}\",{rest}}}\n\n")
    };
    [
        ": OPENROUTER PROCESSING\n\n".to_owned(),
        chunk(r#""choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}],"usage":null"#),
        chunk(r#""choices":[{"index":0,"delta":{"reasoning":"hm","content":null}}],"obfuscation":"xx""#),
        chunk(r#""choices":[{"index":0,"delta":{"content":"Grüße "}}]"#),
        chunk(r#""choices":[{"index":0,"delta":{"content":"\"日本\"\n"}}]"#),
        chunk(r#""choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"service_tier":"default""#),
        chunk(r#""choices":[],"usage":{"prompt_tokens":132,"completion_tokens":124,"total_tokens":256,"prompt_tokens_details":{"cached_tokens":7,"cache_write_tokens":100},"completion_tokens_details":{"reasoning_tokens":90}}"#),
        "data: [DONE]\n\n".to_owned(),
    ]
    .concat()
}

fn read(bytes: &[u8], writes: bool) -> Result<LlmReply, LlmError> {
    read_and_told(bytes, writes).0
}

/// What became of the stream, and what it said about its price.
fn read_and_told(bytes: &[u8], writes: bool) -> (Result<LlmReply, LlmError>, Told) {
    let mut parser = Parser::new(1_000 + EVENT_FRAME_BYTES);
    let mut assembler = Assembler::new(writes, true, 1_000);
    let fed = parser.feed(bytes, |event: Event<'_>| assembler.take(event.data));
    let told = assembler.told();
    if let Err(error) = fed {
        return (Err(error), told);
    }
    let ended = "text/event-stream".to_owned();
    let result = if assembler.is_complete() { assembler.finish(None) } else { Err(assembler.ended(Some(ended))) };
    (result, told)
}

#[test]
fn case_14_inclusive_counters_are_taken_apart() {
    let reply = read(captured().as_bytes(), true).unwrap();
    let usage = Usage { input: 25, cache_write_5m: 100, cache_write_1h: 0, cache_read: 7, output: 124 };
    let expected = LlmReply {
        text: "Grüße \"日本\"\n".into(),
        stop: StopReason::EndTurn,
        usage: Some(usage),
        model: MODEL.into(),
        request_id: Some("c1".into()),
    };
    assert_eq!(reply, expected);
    // A count of writes that is missing is counted as writes where the provider writes unasked.
    let silent = captured().replace(",\"cache_write_tokens\":100", "");
    let unknown = Usage { input: 0, cache_write_5m: 125, ..usage };
    assert_eq!(read(silent.as_bytes(), true).unwrap().usage, Some(unknown));
    let plain = Usage { input: 125, cache_write_5m: 0, ..usage };
    assert_eq!(read(silent.as_bytes(), false).unwrap().usage, Some(plain));
}

#[test]
fn case_08_every_stream_that_ends_before_done_is_cut_and_never_a_reply() {
    let stream = captured();
    let end = stream.find("data: [DONE]").unwrap();
    let told = stream.find(",\"usage\":{").unwrap();
    for at in 0..end {
        match read(&stream.as_bytes()[..at], false) {
            Err(error @ LlmError::Cut { input, .. }) => {
                assert_eq!(error.charge(), Charge::Everything);
                assert!(input.is_none() || at > told, "cut at {at}");
            }
            other => panic!("cut at {at}: {other:?}"),
        }
    }
    let running = r#"data: {"model":"gpt-6.1-sol","choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#;
    match read(format!("{running}\n\n").as_bytes(), false) {
        Err(LlmError::Cut { input: Some(Usage { input: 9, output: 0, .. }), .. }) => {}
        other => panic!("{other:?}"),
    }
    // A running count is no total.
    let ended = format!("{running}\n\ndata: {{\"choices\":[{{\"finish_reason\":\"stop\"}}]}}\n\ndata: [DONE]\n\n");
    assert_eq!(read(ended.as_bytes(), false).unwrap().usage, None);
}

fn ending(finish: &str, usage: &str) -> Result<LlmReply, LlmError> {
    let text = format!(
        "data: {{\"model\":\"{MODEL}\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"x\"}},\"finish_reason\":{finish}}}]}}\n\n\
         data: {{\"choices\":[]{usage}}}\n\ndata: [DONE]\n\n"
    );
    read(text.as_bytes(), false)
}

#[test]
fn case_15_usage_counts_only_if_it_can_be_priced_exactly() {
    let plain = Usage { input: 10, output: 5, ..Usage::default() };
    for (usage, expected) in [
        (r#","usage":{"prompt_tokens":10,"completion_tokens":5}"#, Some(plain)),
        (r#","usage":{"prompt_tokens":0,"completion_tokens":0}"#, Some(Usage::default())),
        (
            r#","usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":40}"#,
            Some(Usage { output: 30, ..plain }),
        ),
        (r#","usage":{"prompt_tokens":10}"#, None),
        (r#","usage":{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":11}}"#, None),
        (r#","usage":{"prompt_tokens":18446744073709551615,"completion_tokens":5}"#, None),
        (r#","usage":{"prompt_tokens":10,"completion_tokens":5,"cost":0.1}"#, Some(plain)),
        (r#","usage":{"prompt_tokens":10,"completion_tokens":5,"cost":null}"#, Some(plain)),
        (r#","usage":{"prompt_tokens":10,"completion_tokens":5,"cost":-0.1}"#, None),
        (r#","usage":{"prompt_tokens":10,"completion_tokens":5,"cost":"0.1"}"#, None),
        (r#","usage":{"prompt_tokens":10,"completion_tokens":5,"cost":1e99}"#, None),
        (r#","usage":null"#, None),
        ("", None),
    ] {
        assert_eq!(ending("\"stop\"", usage).unwrap().usage, expected, "{usage}");
    }
}

#[test]
fn case_17_and_18_who_answers_on_which_terms_is_told_even_when_the_stream_is_cut() {
    let start = "data: {\"model\":\"gpt-6.2-astra\",\"service_tier\":\"priority\",\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    let cost = |cost: &str| {
        format!(
            "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":1,\"cost\":{cost}}}}}\n\n"
        )
    };
    let (result, told) = read_and_told(start.as_bytes(), false);
    assert!(matches!(result, Err(LlmError::Cut { input: None, .. })), "{result:?}");
    assert!(told.models.contains("gpt-6.2-astra"));
    assert!(told.terms.tiers.contains("priority") && told.terms.stated.is_none(), "{told:?}");
    let (_, told) = read_and_told(format!("{start}{}{}", cost("4.75"), cost("0.5")).as_bytes(), false);
    assert_eq!((told.terms.stated, told.terms.is_charge), (Some(MicroUsd(4_750_000)), true), "the highest counts");
    let (_, told) = read_and_told(cost("1e99").as_bytes(), false);
    assert!(told.terms.is_unreadable, "it may be more than was reserved");
    for (preset, states_charge) in [(Preset::OpenRouter, true), (Preset::OpenAi, false), (Preset::Vllm, false)] {
        assert_eq!(preset.style().states_charge, states_charge, "{preset:?}");
        let prepared = prepare(&request(MODEL), preset.style()).unwrap();
        assert_eq!(prepared.worst_case.unpinned.service_tier, preset != Preset::OpenAi, "{preset:?}");
    }
}

#[test]
fn case_14_and_18_no_report_makes_a_reply_cheaper_than_an_earlier_one() {
    let chunk = |model: &str, usage: &str, rest: &str| {
        format!("data: {{\"model\":\"{model}\",\"choices\":[{rest}],\"usage\":{{{usage}}}}}\n\n")
    };
    let stop = r#"{"delta":{"content":"x"},"finish_reason":"stop"}"#;
    let first = chunk(
        "gpt-6.2-astra",
        r#""prompt_tokens":5000,"completion_tokens":9000,"prompt_tokens_details":{"cached_tokens":100}"#,
        "",
    );
    let last = chunk(
        MODEL,
        r#""prompt_tokens":4000,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4000}"#,
        stop,
    );
    let most = Usage { input: 4_900, cache_read: 100, output: 9_000, ..Usage::default() };
    let (result, told) = read_and_told(format!("{first}{last}data: [DONE]\n\n").as_bytes(), false);
    assert_eq!(result.unwrap().usage, Some(most));
    assert_eq!(told.usage, Some(most));
    assert!(told.models.contains(MODEL) && told.models.contains("gpt-6.2-astra"), "{told:?}");
}

#[test]
fn case_08_what_a_chunk_with_an_error_says_about_usage_is_not_lost() {
    let usage = r#""usage":{"prompt_tokens":5000,"completion_tokens":9000,"cost":4.75}"#;
    for failed in [
        format!(r#"{{"model":"{MODEL}","choices":[],"error":{{"message":"m","code":500}},{usage}}}"#),
        format!(r#"{{"model":"{MODEL}","choices":[{{"finish_reason":"error"}}],{usage}}}"#),
        format!(r#"{{"model":"{MODEL}","choices":[{{"index":1}}],{usage}}}"#),
    ] {
        let (result, told) = read_and_told(format!("data: {failed}\n\n").as_bytes(), false);
        assert_eq!(result.unwrap_err().charge(), Charge::Everything, "{failed}");
        assert_eq!(told.usage, Some(Usage { input: 5_000, output: 9_000, ..Usage::default() }), "{failed}");
        assert_eq!(told.terms.stated, Some(MicroUsd(4_750_000)), "{failed}");
        assert!(told.models.contains(MODEL), "{failed}");
    }
}

#[test]
fn case_15_a_counter_that_nobody_can_believe_and_names_without_end_leave_the_price_unknown() {
    for counter in ["1000000001", "18446744073709551616", "1e30"] {
        let usage = format!(r#"data: {{"choices":[],"usage":{{"prompt_tokens":1,"completion_tokens":{counter}}}}}"#);
        let (_, told) = read_and_told(format!("{usage}\n\n").as_bytes(), false);
        assert!(told.terms.is_unreadable, "{counter}");
    }
    for key in ["model", "service_tier"] {
        let many: String = (0..1_000).map(|n| format!("data: {{\"{key}\":\"m{n}\",\"choices\":[]}}\n\n")).collect();
        let (_, told) = read_and_told(many.as_bytes(), false);
        assert!(told.terms.is_unreadable && told.models.len() + told.terms.tiers.len() <= 100, "{key}");
    }
    // No prompt is empty, so nobody knows the input of this one.
    let empty = r#"data: {"model":"m","choices":[],"usage":{"prompt_tokens":0,"completion_tokens":1}}"#;
    let (result, _) = read_and_told(format!("{empty}\n\n").as_bytes(), false);
    assert!(matches!(result, Err(LlmError::Cut { input: None, .. })), "{result:?}");
}

#[test]
fn every_reason_to_stop_is_told_apart() {
    for (finish, expected) in [
        ("\"stop\"", StopReason::EndTurn),
        ("\"length\"", StopReason::MaxTokens),
        ("\"tool_calls\"", StopReason::Other("tool_calls".into())),
        ("\"content_filter\"", StopReason::Refusal(Some("content_filter".into()))),
    ] {
        assert_eq!(ending(finish, "").unwrap().stop, expected);
    }
    assert!(matches!(ending("\"error\"", ""), Err(LlmError::Cut { .. })));
    assert!(matches!(ending("null", ""), Err(LlmError::Malformed { .. })));
}

#[test]
fn what_the_wire_format_does_not_allow_is_malformed() {
    let long = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "x".repeat(1_001));
    for wrong in [
        "data: nonsense\n\n",
        "data: {\"choices\":[{\"index\":1,\"delta\":{}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":7}}]}\n\n",
        long.as_str(),
    ] {
        let error = read(wrong.as_bytes(), false).unwrap_err();
        assert!(matches!(error, LlmError::Malformed { .. }), "{error}");
    }
    let page = Assembler::new(false, false, 10).ended(Some("application/json".into()));
    assert!(matches!(page, LlmError::Malformed { .. }), "{page}");
}

#[test]
fn errors_are_read_in_every_shape_that_was_seen() {
    for (body, kind, part, retry) in [
        (
            r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#,
            "insufficient_quota",
            "quota",
            Retry::Never,
        ),
        (
            r#"{"error":{"message":"Rate limit reached","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#,
            "requests",
            "(rate_limit_exceeded)",
            Retry::Now,
        ),
        (r#"{"error":{"message":"no credit","code":402}}"#, "402", "no credit", Retry::Now),
        (
            r#"{"object":"error","message":"too long","type":"BadRequestError","code":400}"#,
            "BadRequestError",
            "(400)",
            Retry::Now,
        ),
    ] {
        let (found, message) = errors::describe(body.as_bytes()).unwrap();
        assert_eq!(found, kind);
        assert!(message.contains(part), "{message}");
        let error = LlmError::Status { status: 429, kind: found, message, retry_after: None, well_formed: true };
        assert_eq!(error.retry(), retry, "{body}");
    }
    for body in ["<html>", r#"{"error":"text"}"#, r#"{"detail":"Not Found"}"#, r#"{"message":"x","object":"list"}"#] {
        assert_eq!(errors::describe(body.as_bytes()), None, "{body}");
    }
}

#[test]
fn presets_are_found_by_name_and_a_key_is_never_printed() {
    for (name, preset) in Preset::ALL {
        assert_eq!(Preset::named(name), Some(preset));
        let config = OpenAiConfig::of(preset, Some(Secret::new("sk-very-secret")));
        assert!(!format!("{config:?} {:?}", OpenAi::new(&config)).contains("very"));
    }
    assert_eq!(Preset::named("anthropic"), None);
}
