//! When the bytes of a reply leave: it begins long before it ends, and ends when its time is over.
//!
//! A share of nothing and ten minutes for the rest show what comes first without a look at the clock; what a call takes in
//! all is only ever compared with the least that it has to take, so that a slow machine is no failure.

use std::time::{Duration, Instant};

use serde_json::json;

use super::tests::{body, call, events, received, text_of};
use super::*;

/// Longer than any test is willing to wait.
const LONG: Duration = Duration::from_secs(600);

async fn serve(script: Script, whole: Duration, first_byte_percent: u32) -> FakeServer {
    let options = FakeOptions { latency: Latency::Fixed(whole), first_byte_percent, ..FakeOptions::default() };
    FakeServer::start(script, options).await.expect("starts")
}

fn script(fault: Option<Fault>) -> Script {
    let reply = Reply::new("Größe 日本, and so on. ".repeat(120)).thinking_tokens(3);
    Script::new().reply("plan", fault.into_iter().fold(reply, Reply::fault))
}

#[tokio::test]
async fn a_reply_begins_long_before_it_ends_is_billed_by_then_and_is_cut_off_by_a_server_that_stops() {
    for path in ["/v1/messages", "/v1/chat/completions"] {
        let server = serve(script(None), LONG, 0).await;
        let mut request = body("plan");
        if path == "/v1/chat/completions" {
            request["model"] = json!("gpt-6.1-sol");
        }
        let post = super::tests::client().post(format!("{}{path}", server.base_url())).bearer_auth("any");
        let post = post.header("anthropic-version", "2023-06-01").body(request.to_string());
        let mut response = post.send().await.expect("answers");
        let first = response.chunk().await.expect("comes").expect("is not over");
        let first = String::from_utf8(first.to_vec()).expect("UTF-8");
        assert!(first.contains("message_start") || first.contains("\"role\":\"assistant\""), "{first}");
        assert_eq!(first.matches("data: ").count(), 1, "the beginning and nothing else: {first}");
        assert_eq!(server.bill().calls, 1, "{path}");
        let rest = tokio::spawn(received(response));
        assert_eq!(server.stop().await.calls, 1);
        let (rest, broken) = rest.await.expect("ends");
        assert!(rest.is_empty() && broken, "{path}: {} bytes", rest.len());
    }
}

#[tokio::test]
async fn a_stream_takes_all_of_its_time_and_what_is_not_streamed_comes_whole_after_it() {
    const WHOLE: Duration = Duration::from_millis(150);
    let server = serve(script(None), WHOLE, 10).await;
    let mut request = body("plan");
    for streams in [true, false] {
        request["stream"] = json!(streams);
        let start = Instant::now();
        let response = call(&server, &request).await;
        let headers = start.elapsed();
        let (bytes, broken) = received(response).await;
        assert!(start.elapsed() >= WHOLE && !broken, "{:?}", start.elapsed());
        assert!(streams || headers >= WHOLE, "{headers:?}");
        assert_eq!(text_of(&events(&bytes)).is_empty(), !streams);
    }
}

#[tokio::test]
async fn whatever_goes_wrong_in_a_stream_its_bytes_are_the_same_however_long_it_takes() {
    let ends = |fault: &Fault| !matches!(fault, Fault::StallBeforeHeaders | Fault::StallMidStream);
    let faults = std::iter::once(None).chain(Fault::ALL.into_iter().filter(ends).map(Some));
    let all = faults.map(|fault| async move {
        let mut seen = Vec::new();
        for (whole, percent) in [(0, 10), (40, 0), (40, 10), (40, 100), (3, 10)] {
            let server = serve(script(fault), Duration::from_millis(whole), percent).await;
            let response = call(&server, &body("plan")).await;
            let status = response.status();
            let (bytes, broken) = received(response).await;
            seen.push((status, bytes, broken, server.bill()));
        }
        assert!(seen.iter().all(|other| *other == seen[0]), "{fault:?}");
    });
    futures_util::future::join_all(all).await;
}

#[tokio::test]
async fn a_stall_in_the_middle_comes_after_the_half_that_was_told_in_time() {
    let server = serve(script(Some(Fault::StallMidStream)), Duration::from_millis(30), 10).await;
    let mut response = call(&server, &body("plan")).await;
    let mut bytes = Vec::new();
    while text_of(&events(&bytes)).len() < 1_500 {
        bytes.extend_from_slice(&response.chunk().await.expect("comes").expect("is not over"));
    }
    let rest = tokio::spawn(received(response));
    server.stop().await;
    assert!(rest.await.expect("ends").1, "nothing more until the server stops");
}

#[tokio::test]
async fn a_call_that_is_given_up_before_its_reply_begins_is_not_billed_and_one_given_up_after_it_is() {
    for (percent, calls) in [(100, 0), (0, 1)] {
        let server = serve(script(None), LONG, percent).await;
        let request = body("plan");
        let calling = call(&server, &request);
        let arrived = async {
            while server.requests() == 0 {
                tokio::task::yield_now().await;
            }
            // One that begins at once is waited for; the other would be waited for in vain.
            if calls == 1 {
                std::future::pending::<()>().await;
            }
        };
        let has_begun = tokio::select! {
            _response = calling => true,
            () = arrived => false,
        };
        assert_eq!(has_begun, calls == 1);
        assert_eq!(server.stop().await.calls, calls);
    }
}
