//! Settings and stores as a command needs them.
//!
//! Commands that only read never create a directory and never change a limit; that is decided here, once.

use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use super::Failure;
use super::args::{Common, FleetArgs};
use crate::backend::{self, Adjustment, Backend, Scope, embedded};
use crate::config::{Environment, Layers, Loaded, LogSettings};
use crate::fleet::Replay;
use crate::protocol::{InstanceId, MicroUsd};

/// Reads the configuration with the flags of a command.
pub(super) fn settings(common: &Common, flags: Vec<(&'static str, &'static str, String)>) -> Result<Loaded, Failure> {
    let layers = Layers { file: common.config.clone(), environment: Environment::of_process(), flags };
    Ok(layers.load()?)
}

/// The flags of [`FleetArgs`] as a configuration layer.
pub(super) fn flags(args: &FleetArgs) -> Vec<(&'static str, &'static str, String)> {
    let concurrency = args.concurrency.map(|n| ("--concurrency", "fleet.concurrency", n.to_string()));
    let model = args.model.clone().map(|model| ("--model", "llm.model", model));
    let record = args.record.as_ref().map(|file| ("--record", "llm.record", file.to_string_lossy().into_owned()));
    concurrency.into_iter().chain(model).chain(record).collect()
}

/// Recorded replies, if asked for.
pub(super) fn replay(args: &FleetArgs) -> Option<Replay> {
    let latency = std::time::Duration::from_millis(args.replay_latency);
    args.replay.clone().map(|script| Replay { script, bill: args.replay_bill.clone(), latency })
}

/// The directory that relative paths of the configuration refer to.
pub(super) fn config_base(common: &Common) -> PathBuf {
    common.config.as_ref().and_then(|file| file.parent()).map(PathBuf::from).unwrap_or_default()
}

/// Starts writing log lines to standard error.
pub(super) fn start_logs(settings: &LogSettings) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&settings.filter).map_err(|error| {
        let what = format!("log.filter {:?} is not a filter: {error}", settings.filter);
        Failure::usage("CS-CLI-010", what, "use a level (error, warn, info, debug) or target=level pairs")
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // A second start only happens in tests; the first one stays.
    let _ = if settings.json { lines.json().try_init() } else { lines.try_init() };
    Ok(())
}

/// Opens the stores for a process that works, creating them if need be, and applies the limits of the configuration.
pub(super) async fn open(common: &Common, loaded: &Loaded, role: &str) -> Result<(Backend, InstanceId), Failure> {
    let (backend, instance) = enter(common, loaded, role).await?;
    let budget = &loaded.settings.budget;
    for (scope, limit) in [
        (Scope::Account, &budget.account_limit_usd),
        (Scope::PerDay, &budget.account_day_limit_usd),
        (Scope::PerMonth, &budget.account_month_limit_usd),
    ] {
        let Ok(limit) = limit.parse::<MicroUsd>() else { continue };
        let present = backend.ledger.balance(&scope).await?;
        if present.limit != Some(limit) {
            let request = format!("configured:{scope}:{}", crate::clock::unique_id());
            backend.ledger.adjust(&request, &scope, Adjustment::SetLimit(Some(limit))).await?;
        }
    }
    Ok((backend, instance))
}

/// Opens stores that must exist already, for commands that only make sense then. Changes nothing in them.
pub(super) async fn open_existing(common: &Common, role: &str) -> Result<(Backend, InstanceId), Failure> {
    let loaded = settings(common, Vec::new())?;
    start_logs(&loaded.settings.log)?;
    if !backend::open::is_distributed(&loaded.settings) && !embedded::exists(&common.data) {
        return Err(no_data(common));
    }
    enter(common, &loaded, role).await
}

/// There is nothing to read.
pub(super) fn no_data(common: &Common) -> Failure {
    Failure::error(
        "CS-CLI-011",
        format!("there are no jobs in {}: it is no data directory", common.data.display()),
        "run the command where the job was started, name its directory with --data, or start a job with `codeswarm run \
         PROPOSAL`",
    )
}

async fn enter(common: &Common, loaded: &Loaded, role: &str) -> Result<(Backend, InstanceId), Failure> {
    let instance = InstanceId::fresh(role);
    let opened = backend::open::open(&loaded.settings, &config_base(common), &common.data, &instance).await?;
    Ok((opened, instance))
}
