//! The grammar of the command line.

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
    /// Tasks worked on at once.
    #[arg(long, value_name = "N")]
    pub(super) concurrency: Option<u32>,
    /// Model of every role that names no other.
    #[arg(long, value_name = "NAME")]
    pub(super) model: Option<String>,
    /// Print the final result as JSON on standard output.
    #[arg(long)]
    pub(super) json: bool,
}

/// What a job is made of; shared by `run` and `submit`.
#[derive(Debug, Clone, Args)]
pub(super) struct JobArgs {
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
    pub(super) job: JobArgs,
    #[command(flatten)]
    pub(super) fleet: FleetArgs,
}

#[derive(Debug, Clone, Args)]
pub(super) struct SubmitArgs {
    #[command(flatten)]
    pub(super) job: JobArgs,
    /// The recorded replies that the workers answer from; they have to be started with the same.
    #[arg(long, value_name = "FILE", env = "CODESWARM_REPLAY")]
    pub(super) replay: Option<PathBuf>,
    /// Print the job as JSON on standard output.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Args)]
pub(super) struct ResumeArgs {
    /// The job; the newest unfinished one if not given.
    pub(super) job: Option<String>,
    /// Do not ask before the paid work begins.
    #[arg(long, short)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) fleet: FleetArgs,
}
