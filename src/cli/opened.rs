//! Settings and stores as a command needs them.
//!
//! Commands that only read never create a directory and never change a limit; that is decided here, once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Failure;
use super::args::{Common, FleetArgs};
use crate::backend::{self, Backend, Ledger, Scope, embedded};
use crate::budget::configured;
use crate::config::{Environment, Layers, Loaded, Settings};
use crate::fleet::Replay;
use crate::protocol::{InstanceId, MicroUsd};
use crate::telemetry::{self, Speaker};

/// A value of a flag: the flag, the setting it stands for, the text.
pub(super) type Flag = (&'static str, &'static str, String);

/// Reads the configuration with the flags of a command.
pub(super) fn settings(common: &Common, flags: Vec<Flag>) -> Result<Loaded, Failure> {
    Ok(layers(common, flags).load()?)
}

/// What the configuration is read from.
pub(super) fn layers(common: &Common, flags: Vec<Flag>) -> Layers {
    let flags = backend_flag(common).into_iter().chain(flags).collect();
    Layers { file: common.config.clone(), environment: Environment::of_process(), flags }
}

/// The backend, if a flag names one.
pub(super) fn backend_flag(common: &Common) -> Option<Flag> {
    common.backend.clone().map(|kind| ("--backend", "storage.backend", kind))
}

/// The flags of [`FleetArgs`] as a configuration layer.
pub(super) fn flags(args: &FleetArgs) -> Vec<Flag> {
    let concurrency = args.concurrency.map(|n| ("--concurrency", "fleet.concurrency", n.to_string()));
    let drain = args.drain.map(|seconds| ("--drain", "fleet.drain_seconds", seconds.to_string()));
    let model = args.model.clone().map(|model| ("--model", "llm.model", model));
    let record = args.record.as_ref().map(|file| ("--record", "llm.record", file.to_string_lossy().into_owned()));
    concurrency.into_iter().chain(drain).chain(model).chain(record).collect()
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

/// Starts writing the log lines of a command that ends soon.
pub(super) fn start_logs(loaded: &Loaded) -> Result<(), Failure> {
    start_logs_of(loaded, Speaker::Command)
}

/// Starts writing the log lines of `speaker`; the first ones are about what is strange in its environment.
pub(super) fn start_logs_of(loaded: &Loaded, speaker: Speaker) -> Result<(), Failure> {
    telemetry::start_logs(&loaded.settings.log, speaker)?;
    for variable in &loaded.strange_variables {
        tracing::warn!("{variable}");
    }
    Ok(())
}

/// How long running calls may take to finish.
pub(super) fn drain(settings: &Settings) -> Duration {
    Duration::from_secs(settings.fleet.drain_seconds)
}

/// Where jobs live, in words.
pub(super) fn place(common: &Common, settings: &Settings) -> String {
    if backend::open::is_distributed(settings) {
        let shown = settings.shown();
        format!("namespace {} on {} and {}", shown.storage.namespace, shown.nats.url, shown.redis.url)
    } else {
        common.data.display().to_string()
    }
}

/// Opens the stores for a process that works, creating them if need be, and applies the limits of the configuration.
pub(super) async fn open(common: &Common, loaded: &Loaded, role: &str) -> Result<(Backend, InstanceId), Failure> {
    let instance = InstanceId::fresh(role);
    let backend = open_for(common, loaded, &instance).await?;
    Ok((backend, instance))
}

/// [`open`] for a process that has its instance id already.
pub(super) async fn open_for(common: &Common, loaded: &Loaded, instance: &InstanceId) -> Result<Backend, Failure> {
    let backend = open_as(common, loaded, instance).await?;
    let budget = &loaded.settings.budget;
    let tokens = Some(MicroUsd(budget.account_free_tokens)).filter(|tokens| *tokens > MicroUsd::ZERO);
    for (scope, limit) in [
        (Scope::Account, budget.account_limit_usd.parse().ok()),
        (Scope::PerDay, budget.account_day_limit_usd.parse().ok()),
        (Scope::PerMonth, budget.account_month_limit_usd.parse().ok()),
        (Scope::Tokens, tokens),
    ] {
        let Some(limit) = limit else { continue };
        configured::apply(&backend, instance, &scope, limit).await?;
    }
    Ok(backend)
}

/// Opens stores that must exist already, for commands that only make sense then. Changes nothing in them.
pub(super) async fn open_existing(common: &Common, role: &str) -> Result<(Backend, InstanceId), Failure> {
    let loaded = settings(common, Vec::new())?;
    start_logs(&loaded)?;
    require_data(common, &loaded.settings)?;
    enter(common, &loaded, role).await
}

/// The ledger's counters alone, when the stores are servers; `None` when they are a file.
pub(super) async fn open_counters(common: &Common, role: &str) -> Result<Option<Arc<dyn Ledger>>, Failure> {
    let settings = settings(common, Vec::new())?.settings;
    if !backend::open::is_distributed(&settings) {
        return Ok(None);
    }
    Ok(Some(backend::open::counters(&settings, &config_base(common), &InstanceId::fresh(role)).await?))
}

/// False when there is certainly nothing to read; servers have to be asked.
pub(super) fn may_have_jobs(common: &Common, settings: &Settings) -> bool {
    backend::open::is_distributed(settings) || embedded::exists(&common.data)
}

/// Fails when there is nothing to read.
pub(super) fn require_data(common: &Common, settings: &Settings) -> Result<(), Failure> {
    if may_have_jobs(common, settings) {
        return Ok(());
    }
    Err(Failure::error(
        "CS-CLI-011",
        format!("there are no jobs in {}: it is no data directory", common.data.display()),
        "run the command where the job was started, name its directory with --data, or start a job with `codeswarm run \
         PROPOSAL`",
    ))
}

async fn enter(common: &Common, loaded: &Loaded, role: &str) -> Result<(Backend, InstanceId), Failure> {
    let instance = InstanceId::fresh(role);
    let opened = open_as(common, loaded, &instance).await?;
    Ok((opened, instance))
}

async fn open_as(common: &Common, loaded: &Loaded, instance: &InstanceId) -> Result<Backend, Failure> {
    Ok(backend::open::open(&loaded.settings, &config_base(common), &common.data, instance).await?)
}
