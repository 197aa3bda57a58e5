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
    /// Directory that holds jobs, money and artifacts, when no servers do.
    #[arg(long, global = true, value_name = "DIR", default_value = ".codeswarm", env = "CODESWARM_DATA")]
    pub(super) data: PathBuf,
    /// Configuration file; codeswarm.toml in the current directory if it exists.
    #[arg(long, global = true, value_name = "FILE", env = "CODESWARM_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Where jobs live: embedded (in --data) or nats (on the servers of the configuration).
    #[arg(long, global = true, value_name = "KIND", value_parser = ["embedded", "nats"])]
    pub(super) backend: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Turn a proposal into a directory of working files.
    Run(RunArgs),
    /// Record a job for a serving coordinator and its workers, and print its id.
    Submit(SubmitArgs),
    /// Go on with a job that was interrupted, ran out of money or failed.
    Resume(ResumeArgs),
    /// List the jobs, newest first.
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
    /// Bring the files of a job here, from whichever machine.
    Fetch(FetchArgs),
    /// Show and change budgets.
    #[command(subcommand)]
    Budget(super::budget::BudgetCommand),
    /// Show the workers of the fleet.
    Agents(AgentsArgs),
    /// Look at messages that nobody could process, and give them another chance.
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Ask a coordinator or worker on this machine whether it lives.
    Healthcheck(HealthcheckArgs),
    /// Check everything a run needs, with a remedy for what is missing.
    Doctor(DoctorArgs),
    /// Show and check the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// List the models that have a price, or show one of them; no other is ever called.
    Models(ModelsArgs),
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
    /// With --replay: milliseconds every call takes; its reply begins after a tenth of them.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=600_000))]
    pub(super) replay_latency: u64,
    /// Append every reply to this file, which --replay plays again; keys are never recorded.
    #[arg(long, value_name = "FILE")]
    pub(super) record: Option<PathBuf>,
    /// Tasks worked on at once.
    #[arg(long, value_name = "N")]
    pub(super) concurrency: Option<u32>,
    /// Seconds that running calls may take to finish after SIGTERM or Ctrl-C.
    #[arg(long, value_name = "SECONDS")]
    pub(super) drain: Option<u64>,
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
    /// Directory for the files; created if need be, and empty to begin with. Without it, `submit` to servers leaves the files
    /// there for `fetch`.
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
    /// Wait for the end of the job and answer its exit code, as `run` does.
    #[arg(long)]
    pub(super) wait: bool,
    /// Print the job as JSON on standard output.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Args)]
pub(super) struct ModelsArgs {
    /// Show everything about this one, plain or as endpoint/model.
    pub(super) model: Option<String>,
    #[command(flatten)]
    pub(super) output: JsonArg,
}

#[derive(Debug, Clone, Args)]
pub(super) struct FetchArgs {
    /// The job's id or a unique beginning of it; the newest job if not given.
    pub(super) job: Option<String>,
    /// Directory, archive or bundle to write; - for standard output (an archive).
    #[arg(long, value_name = "PATH")]
    pub(super) out: PathBuf,
    /// What to write; by the ending of --out if not given: .tar, .bundle, anything else is a directory.
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<FetchFormat>,
    #[command(flatten)]
    pub(super) output: JsonArg,
}

/// What `fetch` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum FetchFormat {
    /// Plain files in a directory that is empty to begin with, or holds this job already.
    Dir,
    /// A tar archive, the same bytes for the same files.
    Tar,
    /// A Git bundle with one commit per feature; `git clone FILE.bundle` unpacks it.
    GitBundle,
}

#[derive(Debug, Clone, Args)]
pub(super) struct AgentsArgs {
    /// Show workers that died as well.
    #[arg(long)]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) output: JsonArg,
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum DlqCommand {
    /// List dead letters, oldest first.
    List(DlqListArgs),
    /// Show one dead letter whole.
    Show(DlqShowArgs),
    /// Give the task of a dead letter new attempts, or put an unreadable message back into its queue.
    Replay(DlqSelection),
    /// Remove dead letters for good.
    Purge(DlqPurgeArgs),
}

#[derive(Debug, Clone, Args)]
pub(super) struct DlqListArgs {
    /// Show at most N, the oldest ones.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) limit: u32,
    #[command(flatten)]
    pub(super) output: JsonArg,
}

#[derive(Debug, Clone, Args)]
pub(super) struct DlqShowArgs {
    /// The letter's number, as `dlq list` shows it.
    pub(super) id: u64,
    #[command(flatten)]
    pub(super) output: JsonArg,
}

#[derive(Debug, Clone, Args)]
pub(super) struct DlqSelection {
    /// The letters' numbers, as `dlq list` shows them.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(super) ids: Vec<u64>,
    /// All there are.
    #[arg(long)]
    pub(super) all: bool,
}

#[derive(Debug, Clone, Args)]
pub(super) struct DlqPurgeArgs {
    #[command(flatten)]
    pub(super) letters: DlqSelection,
    /// Do not ask.
    #[arg(long, short)]
    pub(super) yes: bool,
}

#[derive(Debug, Clone, Args)]
pub(super) struct HealthcheckArgs {
    /// Whom to ask, for example http://127.0.0.1:8080; what http.listen says if not given.
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
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
