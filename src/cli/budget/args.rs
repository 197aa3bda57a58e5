//! The arguments of `codeswarm budget`.
//!
//! A scope is named the same way everywhere: a job, a part of one, or the account and its windows. Names are resolved in
//! `scope`; nothing here may look at a store.

use clap::{Args, Subcommand, ValueEnum};

use super::super::args::{JobArgs, JsonArg};

#[derive(Debug, Clone, Subcommand)]
pub(in crate::cli) enum BudgetCommand {
    /// Show limits and spending: of everything, or of one job with its features and agent types.
    Show(JobArgs),
    /// Raise a limit by an amount.
    TopUp(AmountArgs),
    /// Set a limit.
    Set(AmountArgs),
    /// Refuse every new call and cut running ones off, of one job or of all.
    Freeze(FreezeArgs),
    /// Allow calls again.
    Thaw(FreezeArgs),
    /// Print the ledger, oldest entry first.
    Entries(EntriesArgs),
    /// Make the books anew from their journal after Redis has lost its data or went back in time. Nothing can be spent meanwhile.
    Rebuild(RebuildArgs),
}

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct RebuildArgs {
    /// Do it although the books are not lost, or although the journal is empty.
    #[arg(long)]
    pub(super) force: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub(super) yes: bool,
}

/// How scopes are named, for the help of every command that takes one.
const SCOPE_HELP: &str = "A job's id or a unique beginning of it; JOB/feature:ID or JOB/agent:TYPE for a part of it; \
                          account, day or month for everything; tokens and JOB/tokens for the tokens of models that cost nothing";

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct AmountArgs {
    #[arg(value_name = "SCOPE", help = SCOPE_HELP)]
    pub(super) scope: String,
    /// US dollars, for example 5 or 0.25, or a whole number of tokens where the scope counts those; `none` with `set` removes a limit (not a job's).
    #[arg(value_name = "AMOUNT", allow_hyphen_values = true)]
    pub(super) amount: String,
}

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct FreezeArgs {
    /// The job's id or a unique beginning of it; everything if not given.
    pub(super) job: Option<String>,
}

/// How entries are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Format {
    /// A table for people.
    Table,
    /// Comma-separated values with a header (RFC 4180), amounts in micro-dollars.
    Csv,
    /// JSON, amounts in micro-dollars.
    Json,
}

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct EntriesArgs {
    /// The job's id or a unique beginning of it; all jobs if not given.
    pub(super) job: Option<String>,
    /// The same as a flag.
    #[arg(long = "job", value_name = "JOB", conflicts_with = "job")]
    pub(super) of_job: Option<String>,
    /// Only this agent type's.
    #[arg(long, value_name = "TYPE")]
    pub(super) agent: Option<String>,
    /// Only calls of this model, named as in the configuration or as in the ledger.
    #[arg(long, value_name = "NAME")]
    pub(super) model: Option<String>,
    /// Only from this time on: 2026-11-21, or 2026-11-21T09:30:00Z.
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<String>,
    /// Only before this time.
    #[arg(long, value_name = "TIME")]
    pub(super) before: Option<String>,
    /// Show only the newest N entries.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) limit: u32,
    /// How they are printed.
    #[arg(long, value_enum, default_value_t = Format::Table, conflicts_with = "json")]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) output: JsonArg,
}
