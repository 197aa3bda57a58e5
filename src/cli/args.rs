//! The grammar of the command line.
//!
//! Names and help texts only: checks that need more than one argument belong to the commands, so that all front
//! ends share them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A fleet of AI agents that turns a written proposal into a working code base, never over its budget.
#[derive(Debug, Parser)]
#[command(name = "codeswarm", version, propagate_version = true, max_term_width = 100)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options every command takes.
#[derive(Debug, Clone, Args)]
pub(super) struct Common {
    /// Directory that holds jobs, money and artifacts.
    #[arg(long, global = true, value_name = "DIR", default_value = ".codeswarm", env = "CODESWARM_DATA")]
    pub(super) data: PathBuf,
    /// Configuration file; codeswarm.toml in the current directory if it exists.
    #[arg(long, global = true, value_name = "FILE", env = "CODESWARM_CONFIG")]
    pub(super) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Turn a proposal into a directory of working files.
    Run(RunArgs),
    /// Record a job for a serving coordinator and its workers, and print its id.
    Submit(SubmitArgs),
    /// Go on with a job that was interrupted, ran out of money or failed.
    Resume(ResumeArgs),
    /// List the jobs of this data directory, newest first.
    List(ListArgs),
    /// Show how far a job is, what runs, and what it has cost.
    Status(JobArgs),
    /// Print everything that happened to a job.
    Events(EventsArgs),
    /// Watch a job that another process runs; ends with it, and with its exit code.
    Watch(JobArgs),
    /// Stop a job for good; what is finished stays.
    Cancel(CancelArgs),
    /// Start no new task of a job until it is resumed.
    Pause(NamedJob),
    /// Accept the plan of a job that waits for approval.
    Approve(NamedJob),
    /// Give a task that ran out of attempts new ones.
    Retry(RetryArgs),
    /// Show and change budgets.
    #[command(subcommand)]
    Budget(super::budget::BudgetCommand),
    /// Check everything a run needs, with a remedy for what is missing.
    Doctor(DoctorArgs),
    /// Show and check the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// List the models that have a price; no other is ever called.
    Models(JsonArg),
}

#[derive(Debug, Clone, Args)]
pub(super) struct JsonArg {
    /// Print JSON: snake_case keys, money in micro-dollars, times as RFC 3339.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Args)]
pub(super) struct ListArgs {
    /// Show all jobs, not only the newest 20.
    #[arg(long)]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) output: JsonArg,
}

#[derive(Debug, Clone, Args)]
pub(super) struct JobArgs {
    /// The job's id or a unique beginning of it; the newest job if not given.
    pub(super) job: Option<String>,
    #[command(flatten)]
    pub(super) output: JsonArg,
}

#[derive(Debug, Clone, Args)]
pub(super) struct NamedJob {
    /// The job's id or a unique beginning of it.
    pub(super) job: String,
}

#[derive(Debug, Clone, Args)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    pub(super) job: JobArgs,
    /// Go on until the job has ended.
    #[arg(long, short)]
    pub(super) follow: bool,
}

#[derive(Debug, Clone, Args)]
pub(super) struct CancelArgs {
    #[command(flatten)]
    pub(super) job: NamedJob,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT", default_value = "cancelled from the command line")]
    pub(super) reason: String,
}

#[derive(Debug, Clone, Args)]
pub(super) struct RetryArgs {
    #[command(flatten)]
    pub(super) job: NamedJob,
    /// The task, as `codeswarm status` names it, for example file/api/server.
    pub(super) task: String,
}

#[derive(Debug, Clone, Args)]
pub(super) struct DoctorArgs {
    /// Check for a run with these recorded replies instead of a live model.
    #[arg(long, value_name = "FILE", env = "CODESWARM_REPLAY")]
    pub(super) replay: Option<PathBuf>,
    #[command(flatten)]
    pub(super) output: JsonArg,
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print every setting.
    Show(ConfigShowArgs),
    /// Say whether the configuration can be used.
    Check,
}

#[derive(Debug, Clone, Args)]
pub(super) struct ConfigShowArgs {
    /// Say where each value comes from.
    #[arg(long)]
    pub(super) origin: bool,
    #[command(flatten)]
    pub(super) output: JsonArg,
}

/// How replies are obtained and how much is done at once; shared by `run` and `resume`.
#[derive(Debug, Clone, Args)]
pub(super) struct FleetArgs {
    /// Answer from recorded replies instead of a live model.
    #[arg(long, value_name = "FILE", env = "CODESWARM_REPLAY")]
    pub(super) replay: Option<PathBuf>,
    /// With --replay: append every billed call to this file.
    #[arg(long, value_name = "FILE", requires = "replay")]
    pub(super) replay_bill: Option<PathBuf>,
    /// With --replay: milliseconds every reply takes.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=600_000))]
    pub(super) replay_latency: u64,
    /// Append every reply to this file, which --replay plays again; keys are never recorded.
    #[arg(long, value_name = "FILE")]
    pub(super) record: Option<PathBuf>,
    /// Tasks worked on at once.
    #[arg(long, value_name = "N")]
    pub(super) concurrency: Option<u32>,
    /// Model of every role that names no other, plain or as endpoint/model.
    #[arg(long, value_name = "NAME")]
    pub(super) model: Option<String>,
    /// Print the final result as JSON on standard output.
    #[arg(long)]
    pub(super) json: bool,
}

/// What a job is made of; shared by `run` and `submit`.
#[derive(Debug, Clone, Args)]
pub(super) struct ProposalArgs {
    /// The proposal, a text file (Markdown is fine).
    pub(super) proposal: PathBuf,
    /// Budget in US dollars, for example 5 or 0.25.
    #[arg(long, value_name = "USD", allow_hyphen_values = true)]
    pub(super) budget: Option<String>,
    /// Directory for the files; created if need be, and empty to begin with.
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Make the output a Git repository with one commit per feature.
    #[arg(long)]
    pub(super) git: bool,
    /// Do not ask before the paid work begins.
    #[arg(long, short)]
    pub(super) yes: bool,
}

#[derive(Debug, Clone, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) job: ProposalArgs,
    #[command(flatten)]
    pub(super) fleet: FleetArgs,
}

#[derive(Debug, Clone, Args)]
pub(super) struct SubmitArgs {
    #[command(flatten)]
    pub(super) job: ProposalArgs,
    /// The recorded replies that the workers answer from; they have to be started with the same.
    #[arg(long, value_name = "FILE", env = "CODESWARM_REPLAY")]
    pub(super) replay: Option<PathBuf>,
    /// Print the job as JSON on standard output.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Args)]
pub(super) struct ResumeArgs {
    /// The job's id or a unique beginning of it; the newest unfinished job if not given.
    pub(super) job: Option<String>,
    /// Do not ask before the paid work begins.
    #[arg(long, short)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) fleet: FleetArgs,
}
