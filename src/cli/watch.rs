//! `codeswarm watch`: the live view of a job that another process runs.
//!
//! Watching only reads: it ends with the job and with its exit code, and ending it changes nothing for the job.

use super::args::{Common, JobArgs};
use super::interrupts::Interrupts;
use super::jobs::is_active;
use super::live::{Lines, Live};
use super::screen::Screen;
use super::summary::Summary;
use super::{Exit, Failure, jobs, opened};
use crate::backend::Backend;
use crate::protocol::JobId;

/// Rounds without news and without a leader after which a job that was never seen to be led counts as interrupted. A
/// round lasts half a second.
const PATIENCE: u32 = 2;

/// The same for a job that was led: a standby takes over within 5 s.
const STANDBY_PATIENCE: u32 = 12;

pub(super) async fn run(screen: &Screen, common: &Common, args: JobArgs) -> Result<Exit, Failure> {
    let (backend, _) = opened::open_existing(common, "watch").await?;
    let id = jobs::find(&backend, args.job.as_deref()).await?.job;
    show(screen, &backend, &id, args.output.json).await
}

/// Shows `id` until it is over, however long it takes for somebody to lead it, then its summary.
pub(super) async fn until_over(screen: &Screen, backend: &Backend, id: &JobId, as_json: bool) -> Result<Exit, Failure> {
    look(screen, backend, id, as_json, true).await
}

/// Shows `id` until it is over or nobody works on it, then its summary.
pub(super) async fn show(screen: &Screen, backend: &Backend, id: &JobId, as_json: bool) -> Result<Exit, Failure> {
    look(screen, backend, id, as_json, false).await
}

async fn look(screen: &Screen, backend: &Backend, id: &JobId, as_json: bool, waits: bool) -> Result<Exit, Failure> {
    let lines = if as_json { Lines::Notes } else { Lines::Results };
    let mut live = Live::new(screen, backend, id, lines).await?;
    let files = live.watched().job.totals().files;
    if !live.watched().is_settled() {
        live.say(&format!("watching job {id}: {} of {} files so far", files.succeeded, files.total));
    }
    let mut interrupts = Interrupts::listen()?;
    let left = tokio::select! {
        ended = follow(&mut live, backend, waits) => { ended?; false }
        () = interrupts.next() => true,
    };
    live.close();
    if left {
        screen.note("no longer watching; the job goes on");
        return Ok(Exit::Cancelled);
    }
    let summary = Summary::of(live.watched(), backend).await?;
    summary.show(screen, as_json);
    Ok(summary.exit())
}

/// Until the job is over, or, unless it `waits`, nobody works on it any more.
async fn follow(live: &mut Live<'_>, backend: &Backend, waits: bool) -> Result<(), Failure> {
    let (mut lonely, mut patience) = (0, PATIENCE);
    while !live.watched().is_settled() {
        if live.follow().await? {
            lonely = 0;
        } else if is_active(backend, live.watched()).await? {
            (lonely, patience) = (0, STANDBY_PATIENCE);
        } else {
            lonely += 1;
            if lonely >= patience && !waits {
                return Ok(());
            }
        }
    }
    Ok(())
}
