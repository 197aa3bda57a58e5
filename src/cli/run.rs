//! `run` and `resume`: a coordinator and its workers in this process, watched until the job has ended.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{Common, FleetArgs, ResumeArgs, RunArgs};
use super::live::{Lines, Live, Watched};
use super::plan::Answer;
use super::screen::Screen;
use super::summary::Summary;
use super::words::money;
use super::{Exit, Failure, jobs, opened, plan, watch};
use crate::backend::{Backend, Scope, embedded};
use crate::config::{Environment, Loaded, Settings};
use crate::coordinator::{self, Lead, Submission};
use crate::fleet::{LocalFleet, LocalOptions, Parts};
use crate::job::JobStatus;
use crate::protocol::{Command, InstanceId, JobId, JobOutcome, JobSettings, MicroUsd, Origin};
use crate::workspace::{self, OutputMode};

/// How long running calls may take to finish after the first Ctrl-C.
const DRAIN: Duration = Duration::from_secs(600);

/// `codeswarm run`
pub(super) async fn run(screen: &Screen, common: &Common, args: RunArgs) -> Result<Exit, Failure> {
    let loaded = opened::settings(common, opened::flags(&args.fleet))?;
    opened::start_logs(&loaded.settings.log)?;
    let proposal = read_proposal(&args.proposal, loaded.settings.job.max_proposal_bytes)?;
    let budget = budget(args.budget.as_deref(), &loaded.settings)?;
    let out = output_directory(args.out.as_deref(), &args.proposal)?;
    if !args.yes && !screen.interactive {
        let remedy = "add --yes to accept the plan without being asked";
        return Err(Failure::usage("CS-CLI-001", "the plan has to be accepted, and nobody can be asked here", remedy));
    }
    let id = JobId::fresh();
    let mode = if args.git { OutputMode::Git } else { OutputMode::Directory };
    workspace::preflight(&out, mode, &id).await?;
    let parts = parts(common, &loaded, &args.fleet).await?;
    let (backend, instance) = opened::open(common, &loaded, "run").await?;
    let submission = Submission {
        job: id,
        name: name_of(&proposal, &args.proposal),
        proposal,
        budget,
        hold_back: budget.percent(loaded.settings.budget.hold_back_percent),
        origin: origin(&args.fleet)?,
        settings: job_settings(&loaded.settings, &out, args.git, !args.yes),
    };
    // The lead is taken before the job exists: a second run in the same directory leaves no trace.
    let job = submit_alone(&backend, &instance, submission).await?;
    screen.note(&format!("job {job}: budget {budget}, files go to {}", out.display()));
    lead(screen, &args.fleet, &backend, instance, parts, &loaded.settings, job, args.yes).await
}

/// `codeswarm resume`
pub(super) async fn resume(screen: &Screen, common: &Common, args: ResumeArgs) -> Result<Exit, Failure> {
    let loaded = opened::settings(common, opened::flags(&args.fleet))?;
    opened::start_logs(&loaded.settings.log)?;
    if !embedded::exists(&common.data) {
        return Err(opened::no_data(common));
    }
    let (backend, instance) = opened::open(common, &loaded, "run").await?;
    let watched = jobs::find_resumable(&backend, args.job.as_deref()).await?;
    let job = watched.job.id().clone();
    if watched.job.status() == JobStatus::Ended(JobOutcome::Completed) {
        let what = format!("job {job} is already completed: there is nothing to resume");
        return Err(Failure::error("CS-CLI-002", what, "start a new job with `codeswarm run PROPOSAL`"));
    }
    if jobs::is_active(&backend, &watched).await? {
        return join(screen, &backend, &instance, watched, args.fleet.json).await;
    }
    warn_of_old_budget(screen, &backend, &watched).await?;
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

/// A job that ran out of money and got none since will most likely stop at once.
async fn warn_of_old_budget(screen: &Screen, backend: &Backend, watched: &Watched) -> Result<(), Failure> {
    let id = watched.job.id();
    if watched.job.status() != JobStatus::Ended(JobOutcome::BudgetExhausted)
        || watched.is_topped_up()
        || !jobs::lacks_money(watched)
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

#[allow(clippy::too_many_arguments)] // all of them distinct, and used once
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
        drain: DRAIN,
    };
    let local = LocalFleet::start(backend, parts, settings, options).await?;
    let mut live = Live::new(screen, backend, &job, Lines::Notes).await?;
    let mut asked = false;
    let mut interrupts = 0;
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
                        if !approval(screen, backend, &instance, &live, yes).await? {
                            drain.cancel();
                        }
                    }
                }
                () = interrupted() => {
                    interrupts += 1;
                    if interrupts == 1 {
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
    yes: bool,
) -> Result<bool, Failure> {
    let job = live.watched().job.id();
    let answer = if yes { Answer::Yes } else { live.suspended(|| plan::ask(screen, backend, live.watched())).await? };
    let command = match answer {
        Answer::Yes => Command::Approve,
        Answer::No => Command::Cancel { reason: "the plan was not accepted".into() },
        Answer::Nobody => return Ok(false),
        Answer::Elsewhere => return Ok(true),
    };
    coordinator::command(backend, instance, job, command).await?;
    Ok(true)
}

/// Waits for Ctrl-C or SIGTERM.
pub(super) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        pressed = tokio::signal::ctrl_c() => if pressed.is_err() { std::future::pending::<()>().await },
    }
}

fn budget(given: Option<&str>, settings: &Settings) -> Result<MicroUsd, Failure> {
    let text = given.unwrap_or(&settings.job.budget_usd);
    let amount = text.parse::<MicroUsd>().map_err(|error| {
        Failure::usage(
            "CS-CLI-003",
            format!("--budget: {error}"),
            "give US dollars above zero, for example --budget 5 or --budget 0.25",
        )
    })?;
    if amount == MicroUsd::ZERO {
        let what = "--budget: a budget of $0.00 allows no call at all";
        return Err(Failure::usage(
            "CS-CLI-003",
            what,
            "give US dollars above zero, for example --budget 5 or --budget 0.25",
        ));
    }
    Ok(amount)
}

fn read_proposal(path: &Path, max_bytes: u64) -> Result<String, Failure> {
    let fail =
        |why: String, remedy: &str| Failure::usage("CS-CLI-004", format!("proposal {}: {why}", path.display()), remedy);
    let readable = "name a readable text file";
    let meta = std::fs::metadata(path).map_err(|error| fail(error.to_string(), readable))?;
    if !meta.is_file() {
        return Err(fail("it is not a file".into(), readable));
    }
    if meta.len() > max_bytes {
        let why = format!("it has {} bytes, over the limit of {max_bytes}", meta.len());
        return Err(fail(why, "shorten it, or raise job.max_proposal_bytes if your model's context has room"));
    }
    let bytes = std::fs::read(path).map_err(|error| fail(error.to_string(), readable))?;
    let text = String::from_utf8(bytes).map_err(|_| fail("it is not UTF-8 text".into(), "save it as UTF-8 text"))?;
    if text.contains('\0') {
        return Err(fail("it holds NUL bytes, so it is not text".into(), "save it as UTF-8 text"));
    }
    if text.trim().is_empty() {
        return Err(fail("it is empty".into(), "write down what is to be built, then run the command again"));
    }
    Ok(text)
}

/// The proposal's first heading or line with anything printable in it, or the file's name.
fn name_of(proposal: &str, path: &Path) -> String {
    let clean = |line: &str| {
        let printable: String = line.chars().filter(|c| !c.is_control()).collect();
        let name: String = printable.trim_start_matches('#').trim().chars().take(80).collect();
        (!name.is_empty()).then_some(name)
    };
    let stem = || path.file_stem().and_then(|stem| clean(&stem.to_string_lossy()));
    proposal.lines().find_map(clean).or_else(stem).unwrap_or_else(|| "proposal".into())
}

fn output_directory(given: Option<&Path>, proposal: &Path) -> Result<PathBuf, Failure> {
    let stem = proposal.file_stem().map_or_else(|| "proposal".into(), |stem| stem.to_string_lossy().into_owned());
    let chosen = given.map_or_else(|| PathBuf::from(format!("{stem}-output")), Path::to_path_buf);
    absolute(&chosen, "--out")
}

fn absolute(path: &Path, flag: &str) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        Failure::usage("CS-CLI-005", format!("{flag} {}: {error}", path.display()), "name another path")
    })
}

fn origin(fleet: &FleetArgs) -> Result<Origin, Failure> {
    match &fleet.replay {
        None => Ok(Origin::Live),
        Some(path) => Ok(Origin::Replay { path: absolute(path, "--replay")?.to_string_lossy().into_owned() }),
    }
}

fn job_settings(settings: &Settings, out: &Path, git: bool, approval: bool) -> JobSettings {
    let job = &settings.job;
    JobSettings {
        output: out.to_string_lossy().into_owned(),
        git,
        approval,
        features: (job.min_features, job.max_features),
        tasks_per_feature: (job.min_tasks_per_feature, job.max_tasks_per_feature),
        max_attempts: job.max_attempts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_named_after_the_first_line_that_says_something() {
        let name = |text: &str| name_of(text, Path::new("dir/shop.md"));
        assert_eq!(name("\n# A shop\ntext"), "A shop");
        assert_eq!(name("#\u{7}\n\u{1b}[2Jsecond"), "[2Jsecond");
        assert_eq!(name("##\n"), "shop");
        assert_eq!(name(&"x".repeat(200)).len(), 80);
    }
}
