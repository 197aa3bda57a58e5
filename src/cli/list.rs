//! `codeswarm list`: one line per job, newest first.
//!
//! One damaged job must never hide the others.

use serde_json::json;

use super::args::{Common, ListArgs};
use super::jobs::{JobView, shown_id};
use super::screen::Screen;
use super::table::{Fit, Table};
use super::words::{ago, money};
use super::{Exit, Failure, json as values, opened};

/// Jobs shown unless all are asked for: each one's log is read.
const SHOWN: usize = 20;

pub(super) async fn run(screen: &Screen, common: &Common, args: ListArgs) -> Result<Exit, Failure> {
    if !opened::may_have_jobs(common, &opened::settings(common, Vec::new())?.settings) {
        show_none(screen, args.output.json);
        return Ok(Exit::Done);
    }
    let (backend, _) = opened::open_existing(common, "list").await?;
    let jobs = backend.events.jobs().await?;
    if jobs.is_empty() {
        show_none(screen, args.output.json);
        return Ok(Exit::Done);
    }
    let shown = if args.all { jobs.len() } else { SHOWN.min(jobs.len()) };
    let now = backend.clock.now();
    let mut table = Table::new(&[
        ("job", Fit::Left),
        ("status", Fit::Left),
        ("files", Fit::Right),
        ("cost", Fit::Right),
        ("budget", Fit::Right),
        ("changed", Fit::Left),
        ("name", Fit::Shrink),
    ]);
    let mut whole = Vec::with_capacity(shown);
    for entry in jobs.iter().rev().take(shown) {
        let id = shown_id(&entry.job, &jobs, screen.width.is_some());
        let view = match JobView::load(&backend, &entry.job).await {
            Ok(view) => view,
            Err(failure) => {
                // One damaged log must not hide the other jobs.
                screen.error(&failure.report());
                table.row([
                    id,
                    "unreadable".into(),
                    String::new(),
                    String::new(),
                    String::new(),
                    String::new(),
                    String::new(),
                ]);
                continue;
            }
        };
        let files = view.watched.job.totals().files;
        table.row([
            id,
            view.state().to_owned(),
            format!("{}/{}", files.succeeded, files.total),
            money(view.balance.spent),
            view.balance.limit.map(|limit| limit.to_string()).unwrap_or_default(),
            ago(entry.updated_at, now),
            view.watched.job.submission().map(|submission| submission.name.clone()).unwrap_or_default(),
        ]);
        whole.push(values::brief(&view, entry.updated_at));
    }
    if args.output.json {
        screen.result(&json!({ "jobs": whole }).to_string());
    } else {
        screen.result(&table.render(screen.width));
        if shown < jobs.len() {
            screen.note(&format!("{} older jobs are not shown; add --all", jobs.len() - shown));
        }
    }
    Ok(Exit::Done)
}

fn show_none(screen: &Screen, as_json: bool) {
    if as_json {
        screen.result(&json!({ "jobs": [] }).to_string());
    } else {
        screen.result("no jobs yet: start one with `codeswarm run PROPOSAL`");
    }
}
