//! The bill as a page for people and as JSON for programs, at the same address.
//!
//! A browser asks for a page and gets one; whoever asks for JSON, by its header or with `?format=json`, gets that. The page
//! holds no script and nothing from elsewhere. Names come from requests and must never be written unescaped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{Html, IntoResponse, Response};

use super::bill::{Bill, Tally};
use super::server::Shared;

pub(super) async fn json(State(shared): State<Arc<Shared>>) -> Json<Bill> {
    Json(shared.bill.snapshot())
}

pub(super) async fn bill(state: State<Arc<Shared>>, headers: HeaderMap, uri: Uri) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_program = accepts.contains("application/json") && !accepts.contains("text/html");
    let is_asked = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "format=json"));
    if is_program || is_asked { json(state).await.into_response() } else { Html(page(&state.0)).into_response() }
}

fn page(shared: &Shared) -> String {
    let bill = shared.bill.snapshot();
    let all = Tally { calls: bill.calls, usage: bill.usage, cost_micros: bill.cost_micros };
    let mut page = include_str!("bill.html").to_owned();
    for (name, value) in [
        ("cost", bill.cost_micros.to_string()),
        ("calls", bill.calls.to_string()),
        ("requests", shared.requests.load(Ordering::Relaxed).to_string()),
        ("rejected", shared.limiter.rejected().to_string()),
        ("models", rows(&bill.models, &all)),
        ("keys", rows(&bill.keys, &all)),
    ] {
        page = page.replace(&format!("{{{{{name}}}}}"), &value);
    }
    page
}

/// One row for each name, and the total.
fn rows<N: AsRef<str>>(tallies: &BTreeMap<N, Tally>, all: &Tally) -> String {
    let mut rows: Vec<String> = tallies.iter().map(|(name, tally)| row("td", name.as_ref(), tally)).collect();
    rows.push(row("th", "total", all));
    rows.join("\n")
}

fn row(cell: &str, name: &str, tally: &Tally) -> String {
    // Braces are escaped as well: a name must not look like one of the places to fill.
    let name = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('{', "&#123;");
    let usage = &tally.usage;
    let cells = [
        name,
        tally.calls.to_string(),
        usage.input.to_string(),
        usage.cache_write_5m.to_string(),
        usage.cache_write_1h.to_string(),
        usage.cache_read.to_string(),
        usage.output.to_string(),
        tally.cost_micros.to_string(),
    ];
    let cells = cells.map(|text| format!("<{cell}>{text}</{cell}>"));
    format!("<tr>{}</tr>", cells.concat())
}
