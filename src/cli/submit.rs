//! `submit`, and what it shares with `run`: the checks that come before a job exists.
//!
//! Whatever can be found wrong without paying is found here, before anything is recorded.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::{Common, ProposalArgs, SubmitArgs};
use super::screen::Screen;
use super::words::files_go;
use super::{Exit, Failure, opened, watch};
use crate::backend::open::is_distributed;
use crate::config::Settings;
use crate::coordinator::{self, Submission};
use crate::fleet::FleetError;
use crate::llm::replay::Script;
use crate::protocol::{JobId, JobSettings, MicroUsd, Origin};
use crate::workspace::{self, OutputMode};

/// Who writes a job's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// This machine.
    Here,
    /// Whichever machine leads the job: unless a directory is named, the files stay in the stores.
    Anywhere,
}

/// `codeswarm submit`
pub(super) async fn submit(screen: &Screen, common: &Common, args: SubmitArgs) -> Result<Exit, Failure> {
    let loaded = opened::settings(common, Vec::new())?;
    opened::start_logs(&loaded)?;
    if let Some(script) = &args.replay {
        Script::load(script).map_err(FleetError::from)?;
    }
    let output = if is_distributed(&loaded.settings) { Output::Anywhere } else { Output::Here };
    let submission = prepare(&loaded.settings, &args.job, args.replay.as_deref(), output)?;
    if output == Output::Here {
        preflight(&submission).await?;
    }
    let (backend, instance) = opened::open(common, &loaded, "submit").await?;
    let (budget, settings) = (submission.budget, submission.settings.clone());
    let job = coordinator::submit(&backend, &instance, submission).await?;
    let place = opened::place(common, &loaded.settings);
    screen.note(&format!(
        "budget {budget}, files {}; a coordinator that serves {place} takes it",
        files_go(&settings, &job)
    ));
    if args.wait {
        screen.note(&format!("job {job}"));
        return watch::until_over(screen, &backend, &job, args.json).await;
    }
    if args.json {
        let out = settings.output();
        screen.result(&json!({"job": job, "budget_micro_usd": budget, "output": out}).to_string());
    } else {
        screen.result(job.as_str());
    }
    Ok(Exit::Done)
}

/// Checks what can be checked without touching anything, and answers the job under a fresh id.
pub(super) fn prepare(
    settings: &Settings,
    args: &ProposalArgs,
    replay: Option<&Path>,
    output: Output,
) -> Result<Submission, Failure> {
    let proposal = read_proposal(&args.proposal, settings.job.max_proposal_bytes)?;
    let budget = budget(args.budget.as_deref(), settings)?;
    let out = match output {
        Output::Here => output_directory(args.out.as_deref(), &args.proposal)?,
        Output::Anywhere => remote_directory(args)?,
    };
    Ok(Submission {
        job: JobId::fresh(),
        name: name_of(&proposal, &args.proposal),
        proposal,
        budget,
        free_tokens: Some(settings.job.free_tokens).filter(|tokens| *tokens > 0),
        origin: origin(replay)?,
        settings: job_settings(settings, &out, args.git, !args.yes),
    })
}

/// Finds out whether the job's files can be written where they are to go.
pub(super) async fn preflight(submission: &Submission) -> Result<(), Failure> {
    let mode = if submission.settings.git { OutputMode::Git } else { OutputMode::Directory };
    Ok(workspace::preflight(submission.settings.output.as_ref(), mode, &submission.job).await?)
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
    // Some editors begin a file with a mark that is no part of the text.
    let text = match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    };
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

/// The directory on whichever machine leads, or an empty path for none.
fn remote_directory(args: &ProposalArgs) -> Result<PathBuf, Failure> {
    match &args.out {
        Some(out) if out.is_absolute() => Ok(out.clone()),
        Some(out) => {
            let what = format!(
                "--out {}: the directory would be on the coordinator's machine, where nobody knows this one",
                out.display()
            );
            Err(Failure::usage(
                "CS-CLI-005",
                what,
                "name an absolute path, or leave --out away and use `codeswarm fetch`",
            ))
        }
        None if args.git => {
            let what = "--git: without --out there is no directory that could become a repository";
            Err(Failure::usage(
                "CS-CLI-028",
                what,
                "leave it away and use `codeswarm fetch JOB --out FILE.bundle`, or add --out",
            ))
        }
        None => Ok(PathBuf::new()),
    }
}

fn absolute(path: &Path, flag: &str) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        Failure::usage("CS-CLI-005", format!("{flag} {}: {error}", path.display()), "name another path")
    })
}

fn origin(replay: Option<&Path>) -> Result<Origin, Failure> {
    match replay {
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
        hold_back_percent: settings.budget.hold_back_percent,
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
