//! `run` and `resume`: a coordinator and its workers in this process, watched until the job has ended.
//!
//! They start the same parts that the separate programs start, and must never decide what the job does.

use std::path::PathBuf;

use super::args::{Common, FleetArgs, ResumeArgs, RunArgs};
use super::control::{PATIENCE, STEP};
use super::interrupts::Interrupts;
use super::live::{Lines, Live, Watched};
use super::plan::Answer;
use super::screen::Screen;
use super::submit::Output;
use super::summary::Summary;
use super::words::{files_go, money};
use super::{Exit, Failure, jobs, opened, pause, plan, submit, watch};
use crate::backend::open::is_distributed;
use crate::backend::{Backend, Scope};
use crate::config::{Environment, Loaded, Settings};
use crate::coordinator::{self, Delivered, Lead, Submission};
use crate::fleet::{LocalFleet, LocalOptions, Parts};
use crate::job::JobStatus;
use crate::protocol::{Command, InstanceId, JobId, JobOutcome, Origin};

/// `codeswarm run`
pub(super) async fn run(screen: &Screen, common: &Common, args: RunArgs) -> Result<Exit, Failure> {
    let loaded = opened::settings(common, opened::flags(&args.fleet))?;
    opened::start_logs(&loaded)?;
    let submission = submit::prepare(&loaded.settings, &args.job, args.fleet.replay.as_deref(), Output::Here)?;
    let yes = args.job.yes;
    if !yes && !screen.interactive {
        let remedy = "add --yes to accept the plan without being asked";
        return Err(Failure::usage("CS-CLI-001", "the plan has to be accepted, and nobody can be asked here", remedy));
    }
    if !is_distributed(&loaded.settings) {
        super::apart::check(submission.settings.output.as_ref(), &common.data)?;
    }
    // Everything that can be refused without leaving a trace comes before the first directory is made.
    let parts = parts(common, &loaded, &args.fleet).await?;
    submit::preflight(&submission).await?;
    let (backend, instance) = opened::open(common, &loaded, "run").await?;
    let (budget, chosen) = (submission.budget, submission.settings.clone());
    // The lead is taken before the job exists: a second run in the same directory leaves no trace.
    let job = submit_alone(&backend, &instance, submission).await?;
    screen.note(&format!("job {job}: budget {budget}, files {}", files_go(&chosen, &job)));
    lead(screen, &args.fleet, &backend, instance, parts, &loaded.settings, job, yes).await
}

/// `codeswarm resume`
pub(super) async fn resume(screen: &Screen, common: &Common, args: ResumeArgs) -> Result<Exit, Failure> {
    let loaded = opened::settings(common, opened::flags(&args.fleet))?;
    opened::start_logs(&loaded)?;
    opened::require_data(common, &loaded.settings)?;
    let (backend, instance) = opened::open(common, &loaded, "run").await?;
    let watched = jobs::find_resumable(&backend, args.job.as_deref()).await?;
    let job = watched.job.id().clone();
    if watched.job.status() == JobStatus::Ended(JobOutcome::Completed) {
        let what = format!("job {job} is already completed: there is nothing to resume");
        return Err(Failure::error("CS-CLI-002", what, "start a new job with `codeswarm run PROPOSAL`"));
    }
    let is_over = matches!(watched.job.status(), JobStatus::Ended(_));
    if !is_over && jobs::is_active(&backend, &watched).await? {
        return join(screen, &backend, &instance, watched, args.fleet.json).await;
    }
    warn_of_old_budget(screen, &backend, &watched).await?;
    if let Some(leader) = coordinator::leader(&backend).await?
        && hand_over(screen, &backend, &instance, &job, &leader).await?
    {
        return watch::show(screen, &backend, &job, args.fleet.json).await;
    }
    let mut fleet = args.fleet;
    if let (None, Some(Origin::Replay { path })) = (&fleet.replay, watched.origin()) {
        fleet.replay = Some(PathBuf::from(path));
        screen.note(&format!("replies come from the recording {path}, as when the job was started"));
    }
    let parts = parts(common, &loaded, &fleet).await?;
    let files = watched.job.totals().files;
    screen.note(&format!("resuming job {job}: {} of {} files are finished", files.succeeded, files.total));
    lead(screen, &fleet, &backend, instance, parts, &loaded.settings, job, args.yes).await
}

/// Resumes a job that another process leads: that process goes on with it, and this one watches.
async fn join(
    screen: &Screen,
    backend: &Backend,
    instance: &InstanceId,
    watched: Watched,
    json: bool,
) -> Result<Exit, Failure> {
    let id = watched.job.id();
    if watched.job.status() != JobStatus::Paused {
        let what = format!("another process is working on job {id}");
        return Err(Failure::error("CS-CLI-023", what, format!("follow it with `codeswarm watch {id}`")));
    }
    coordinator::deliver(backend, instance, id, Command::Resume).await?;
    screen.note(&format!("the process that runs job {id} goes on with it"));
    watch::show(screen, backend, id, json).await
}

/// Asks the process that leads these stores to go on with a job that it does not work on, or is winding down. False when that
/// process is gone meanwhile: then nobody leads, and this one may.
async fn hand_over(
    screen: &Screen,
    backend: &Backend,
    instance: &InstanceId,
    id: &JobId,
    leader: &str,
) -> Result<bool, Failure> {
    if coordinator::deliver(backend, instance, id, Command::Resume).await? == Delivered::Recorded {
        return Ok(false);
    }
    let deadline = backend.clock.now().after(PATIENCE);
    let mut watched = Watched::load(backend, id).await?;
    loop {
        let waits = matches!(watched.job.status(), JobStatus::Ended(_) | JobStatus::Paused);
        if !waits && jobs::is_active(backend, &watched).await? {
            screen.note(&format!("{leader} leads these stores and goes on with job {id}"));
            return Ok(true);
        }
        if backend.clock.now() >= deadline {
            let what = format!(
                "{leader} leads these stores and does not take job {id}: a `codeswarm run` leads its own job only"
            );
            let remedy = format!("once it has ended, `codeswarm resume {id}`; `codeswarm list` shows what it works on");
            return Err(Failure::error("CS-CLI-040", what, remedy));
        }
        backend.events.wait(id, watched.seq(), STEP).await?;
        watched.refresh(backend, |_, _| ()).await?;
    }
}

/// A job that ran out of money and got none since will most likely stop at once.
async fn warn_of_old_budget(screen: &Screen, backend: &Backend, watched: &Watched) -> Result<(), Failure> {
    let id = watched.job.id();
    if watched.job.status() != JobStatus::Ended(JobOutcome::BudgetExhausted)
        || watched.is_topped_up()
        || jobs::was_frozen(watched)
    {
        return Ok(());
    }
    let balance = backend.ledger.balance(&Scope::Job(id.clone())).await?;
    let left = balance.available().unwrap_or_default();
    screen.note(&format!(
        "job {id} ran out of money and its budget has not been raised since: {} are left, which was too little for the \
         next call. Trying all the same; to raise it: codeswarm budget top-up {id} USD",
        money(left)
    ));
    Ok(())
}

async fn parts(common: &Common, loaded: &Loaded, fleet: &FleetArgs) -> Result<Parts, Failure> {
    let base = opened::config_base(common);
    let replay = opened::replay(fleet);
    Ok(Parts::assemble(&loaded.settings, &Environment::of_process(), replay.as_ref(), &base).await?)
}

async fn submit_alone(backend: &Backend, instance: &InstanceId, submission: Submission) -> Result<JobId, Failure> {
    coordinator::refuse_if_led(backend, instance).await?;
    Ok(coordinator::submit(backend, instance, submission).await?)
}

#[expect(clippy::too_many_arguments, reason = "all of them distinct, and used once")]
async fn lead(
    screen: &Screen,
    fleet: &FleetArgs,
    backend: &Backend,
    instance: InstanceId,
    parts: Parts,
    settings: &Settings,
    job: JobId,
    yes: bool,
) -> Result<Exit, Failure> {
    let options = LocalOptions {
        instance: instance.clone(),
        lead: Lead::Only(job.clone()),
        slots: settings.fleet.concurrency,
        drain: opened::drain(settings),
    };
    let mut interrupts = Interrupts::listen()?;
    let local = LocalFleet::start(backend, parts, settings, options).await?;
    let mut live = Live::new(screen, backend, &job, Lines::Notes).await?;
    let (mut asked, mut asked_for_money) = (false, false);
    let mut interrupted = 0;
    let joined = {
        let drain = local.drain_handle();
        let stop_now = local.abort_handle();
        let join = local.join();
        tokio::pin!(join);
        loop {
            tokio::select! {
                joined = &mut join => break joined,
                changed = live.follow() => {
                    changed?;
                    if live.watched().job.status() == JobStatus::AwaitingApproval && !asked {
                        asked = true;
                        if !approval(screen, backend, &instance, &live, &mut interrupts, yes).await? {
                            drain.cancel();
                        }
                    }
                    let asks = live.watched().job.pause_reason().is_some();
                    if asks && !asked_for_money {
                        let goes_on = live.suspended(|| pause::settle(screen, backend, &instance, live.watched(), &mut interrupts));
                        if !goes_on.await? {
                            drain.cancel();
                        }
                    }
                    asked_for_money = asks;
                }
                () = interrupts.next() => {
                    interrupted += 1;
                    if interrupted == 1 {
                        drain.cancel();
                        live.say("stopping: running calls are being finished, nothing new starts (press Ctrl-C again to cut them off; they stay paid)");
                    } else {
                        stop_now.cancel();
                    }
                }
            }
        }
    };
    live.catch_up().await?;
    live.close();
    joined?;
    let summary = Summary::of(live.watched(), backend).await?;
    summary.show(screen, fleet.json);
    Ok(summary.exit())
}
/// Asks for the plan's approval and passes the answer on; false when the plan is left waiting.
async fn approval(
    screen: &Screen,
    backend: &Backend,
    instance: &InstanceId,
    live: &Live<'_>,
    interrupts: &mut Interrupts,
    yes: bool,
) -> Result<bool, Failure> {
    let job = live.watched().job.id();
    let answer = if yes {
        Answer::Yes
    } else {
        live.suspended(|| plan::ask(screen, backend, live.watched(), interrupts)).await?
    };
    let command = match answer {
        Answer::Yes => Command::Approve,
        Answer::No => Command::Cancel { reason: "the plan was not accepted".into() },
        Answer::Nobody => return Ok(false),
        Answer::Elsewhere => return Ok(true),
    };
    coordinator::command(backend, instance, job, command).await?;
    Ok(true)
}
