//! `cancel`, `pause`, `approve` and `retry`: a person's decisions about a job, whether or not a process works on it.
//!
//! The job's own state machine judges a wish before it is sent, so a refusal is told at once and nothing is sent in
//! vain.

use std::time::Duration;

use super::args::{CancelArgs, Common, NamedJob, RetryArgs};
use super::live::Watched;
use super::screen::Screen;
use super::words::files_are;
use super::{Exit, Failure, jobs, opened};
use crate::backend::Backend;
use crate::coordinator::{self, Delivered};
use crate::job::{Decision, JobStatus, Refusal};
use crate::protocol::{Command, InstanceId, JobId, TaskId};

/// How long to wait for the leader to do what was asked; a standby takes over within 5 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Longest wait for one change of the log.
pub(super) const STEP: Duration = Duration::from_millis(250);

pub(super) async fn cancel(screen: &Screen, common: &Common, args: CancelArgs) -> Result<Exit, Failure> {
    let reason = args.reason;
    let asked = Asked { command: Command::Cancel { reason: reason.clone() }, decision: Decision::Cancel { reason } };
    carry_out(screen, common, &args.job.job, asked, &["cancelled", "already cancelled"]).await
}

pub(super) async fn pause(screen: &Screen, common: &Common, args: NamedJob) -> Result<Exit, Failure> {
    let asked = Asked { command: Command::Pause, decision: Decision::Pause { reason: None } };
    carry_out(screen, common, &args.job, asked, &["paused", "already paused"]).await
}

pub(super) async fn approve(screen: &Screen, common: &Common, args: NamedJob) -> Result<Exit, Failure> {
    let asked = Asked { command: Command::Approve, decision: Decision::Approve };
    carry_out(screen, common, &args.job, asked, &["approved", "already approved"]).await
}

pub(super) async fn retry(screen: &Screen, common: &Common, args: RetryArgs) -> Result<Exit, Failure> {
    let task = TaskId::new(&args.task).map_err(|error| {
        Failure::usage(
            "CS-CLI-021",
            error.to_string(),
            "copy the task's name from `codeswarm status --json` or `events`",
        )
    })?;
    let asked = Asked::retry(task);
    carry_out(screen, common, &args.job.job, asked, &["given new attempts", "already given new attempts"]).await
}

/// The same wish for the leader and for the job's own judgement.
pub(super) struct Asked {
    command: Command,
    decision: Decision,
}

impl Asked {
    /// New attempts for a dead task.
    pub(super) fn retry(task: TaskId) -> Self {
        Self { command: Command::RetryTask { task: task.clone() }, decision: Decision::Retry { task } }
    }

    /// Going on.
    pub(super) fn resume() -> Self {
        Self { command: Command::Resume, decision: Decision::Resume }
    }
}

async fn carry_out(
    screen: &Screen,
    common: &Common,
    given: &str,
    asked: Asked,
    [done, already]: &[&str; 2],
) -> Result<Exit, Failure> {
    let (backend, instance) = opened::open_existing(common, "control").await?;
    let id = jobs::find(&backend, Some(given)).await?.job;
    let mut watched = Watched::load(&backend, &id).await?;
    let text = match request(&backend, &instance, &mut watched, asked).await? {
        Reply::Nothing => format!("job {id} is {already}: nothing to do"),
        Reply::Recorded => format!("job {id} is {done}; no process was working on it{}", hint(&watched)),
        Reply::Done => format!("job {id} is {done}"),
        Reply::Sent => {
            let what = "the command is sent, but the process that leads has not answered yet";
            format!("job {id}: {what}; see `codeswarm status {id}`")
        }
    };
    screen.result(&text);
    Ok(Exit::Done)
}

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// It holds already.
    Nothing,
    /// Nobody leads: it is in the job's log.
    Recorded,
    /// The leader has done it.
    Done,
    /// The leader has not answered yet.
    Sent,
}

/// Asks for something and waits a while for the answer; a refusal is a failure.
pub(super) async fn request(
    backend: &Backend,
    instance: &InstanceId,
    watched: &mut Watched,
    asked: Asked,
) -> Result<Reply, Failure> {
    let id = watched.job.id().clone();
    match judge(backend, watched, &asked.decision) {
        Err(refusal) => return Err(refused(&id, &refusal)),
        Ok(false) => return Ok(Reply::Nothing),
        Ok(true) => {}
    }
    match coordinator::deliver(backend, instance, &id, asked.command).await? {
        Delivered::Recorded => {
            watched.refresh(backend, |_, _| ()).await?;
            Ok(Reply::Recorded)
        }
        Delivered::Sent if wait(backend, watched, &asked.decision).await? => Ok(Reply::Done),
        Delivered::Sent => Ok(Reply::Sent),
    }
}

/// Whether there is anything to do; the job itself knows.
fn judge(backend: &Backend, watched: &Watched, decision: &Decision) -> Result<bool, Refusal> {
    watched.job.decide(decision.clone(), backend.clock.now()).map(|events| !events.is_empty())
}

fn refused(id: &JobId, refusal: &Refusal) -> Failure {
    use crate::error::Coded;
    Failure::error(refusal.code(), format!("job {id}: {refusal}"), refusal.remedy())
}

/// Waits until the log shows that the leader has done it.
async fn wait(backend: &Backend, watched: &mut Watched, decision: &Decision) -> Result<bool, Failure> {
    let deadline = backend.clock.now().after(PATIENCE);
    loop {
        watched.refresh(backend, |_, _| ()).await?;
        // What has been granted needs no more events, or is refused because of them.
        if !matches!(judge(backend, watched, decision), Ok(true)) {
            return Ok(true);
        }
        if backend.clock.now() >= deadline {
            return Ok(false);
        }
        backend.events.wait(watched.job.id(), watched.seq(), STEP).await?;
    }
}

fn hint(watched: &Watched) -> String {
    let job = &watched.job;
    match job.status() {
        JobStatus::Ended(crate::protocol::JobOutcome::Cancelled) => match job.submission() {
            Some(submission) => format!(". Finished files stay in {}", files_are(&submission.settings, job.id())),
            None => String::new(),
        },
        _ => format!(". Go on with `codeswarm resume {}`", job.id()),
    }
}
