//! `codeswarm events`: the log of a job, one line per event.
//!
//! Each line is complete in itself, so that `grep` and `jq` can follow it; reading must never change the log.

use std::time::Duration;

use super::args::{Common, EventsArgs};
use super::interrupts::Interrupts;
use super::live::Watched;
use super::screen::Screen;
use super::story::tell;
use super::table::hang;
use super::words::instant;
use super::{Exit, Failure, jobs, json as values, opened};
use crate::backend::Backend;
use crate::job::Job;
use crate::protocol::{JobId, RecordedEvent};

/// Longest wait for the next event before asking again.
const WAIT: Duration = Duration::from_secs(5);

pub(super) async fn run(screen: &Screen, common: &Common, args: EventsArgs) -> Result<Exit, Failure> {
    let (backend, _) = opened::open_existing(common, "events").await?;
    let id = jobs::find(&backend, args.job.job.as_deref()).await?.job;
    let mut watched = Watched::empty(Job::new(id.clone()));
    print_news(screen, &backend, &mut watched, args.job.output.json).await?;
    let mut interrupts = Interrupts::listen()?;
    while args.follow && !jobs::is_over(&backend, &watched).await? {
        tokio::select! {
            () = interrupts.next() => return Ok(Exit::Cancelled),
            waited = wait(&backend, &id, &watched) => waited?,
        }
        print_news(screen, &backend, &mut watched, args.job.output.json).await?;
    }
    Ok(Exit::Done)
}

async fn wait(backend: &Backend, id: &JobId, watched: &Watched) -> Result<(), Failure> {
    backend.events.wait(id, watched.seq(), WAIT).await?;
    Ok(())
}

async fn print_news(screen: &Screen, backend: &Backend, watched: &mut Watched, as_json: bool) -> Result<(), Failure> {
    let show = |watched: &Watched, recorded: &RecordedEvent| {
        if as_json {
            screen.result(&values::event(recorded).to_string());
        } else {
            screen.result(&line(screen, watched, recorded));
        }
    };
    watched.refresh(backend, show).await.map(drop)
}

/// Whole instants for pipes, the time of day for terminals, which are narrow.
fn line(screen: &Screen, watched: &Watched, recorded: &RecordedEvent) -> String {
    let stamp = match screen.width {
        None => recorded.at.to_string(),
        Some(_) => instant(recorded.at).split_off("2026-11-21 ".len()),
    };
    format!("{stamp}  {}", hang(&tell(watched, recorded), stamp.len() + 2, screen.width))
}
