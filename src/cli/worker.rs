//! The programs that run one part of the fleet alone: a worker of one agent type, a coordinator.
//!
//! They only wire and wait; what they do is decided by the worker and coordinator rooms.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use super::args::{Common, FleetArgs};
use super::interrupts::Interrupts;
use super::screen::Screen;
use super::{Exit, Failure, opened, run_to_exit};
use crate::config::Environment;
use crate::fleet::{self, Parts, Stop};
use crate::protocol::AgentType;

/// How long running calls may take to finish after SIGTERM or Ctrl-C.
const DRAIN: Duration = Duration::from_secs(600);

/// A worker of one agent type: takes tasks from its queue until it is stopped.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct WorkerCli {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    fleet: FleetArgs,
}

/// Runs `codeswarm-worker-<agent>` and answers its exit code.
#[must_use]
pub fn worker_main(agent: &'static str) -> ExitCode {
    let cli = WorkerCli::parse();
    let screen = Screen::of_process();
    run_to_exit(&screen, async { work(&screen, cli, agent).await })
}

async fn work(screen: &Screen, cli: WorkerCli, agent: &'static str) -> Result<Exit, Failure> {
    let agent = AgentType::new(agent)
        .map_err(|error| Failure::error("CS-CLI-020", error.to_string(), "use a known agent type"))?;
    let loaded = opened::settings(&cli.common, opened::flags(&cli.fleet))?;
    opened::start_logs(&loaded.settings.log)?;
    let base: PathBuf = opened::config_base(&cli.common);
    let replay = opened::replay(&cli.fleet);
    let parts = Parts::assemble(&loaded.settings, &Environment::of_process(), replay.as_ref(), &base).await?;
    let (backend, instance) = opened::open(&cli.common, &loaded, agent.as_str()).await?;
    let slots = loaded.settings.fleet.concurrency;
    screen.note(&format!("worker {instance}: {slots} slots for {agent} tasks in {}", cli.common.data.display()));
    let stop = stop_on_signal(screen.clone())?;
    fleet::work(&backend, parts, instance, vec![agent], slots, DRAIN, stop).await?;
    Ok(Exit::Done)
}

/// Told by SIGTERM or Ctrl-C; the second one is impatient.
fn stop_on_signal(screen: Screen) -> Result<Stop, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let stop = Stop::default();
    let told = stop.clone();
    tokio::spawn(async move {
        interrupts.next().await;
        screen.note("stopping: running tasks are being finished, nothing new is taken");
        told.gently.cancel();
        interrupts.next().await;
        screen.note("cutting running calls off; they stay paid");
        told.at_once.cancel();
    });
    Ok(stop)
}

/// Leads the jobs of a data directory until it is stopped.
#[derive(Debug, Parser)]
#[command(name = "codeswarm-coordinator", version, max_term_width = 100)]
struct CoordinatorCli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: CoordinatorCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CoordinatorCommand {
    /// Lead all jobs; wait as a standby while another coordinator leads.
    Serve,
}

/// Runs `codeswarm-coordinator` and answers its exit code.
#[must_use]
pub fn coordinator_main() -> ExitCode {
    let cli = CoordinatorCli::parse();
    let screen = Screen::of_process();
    run_to_exit(&screen, async {
        match cli.command {
            CoordinatorCommand::Serve => serve(&screen, &cli.common).await,
        }
    })
}

async fn serve(screen: &Screen, common: &Common) -> Result<Exit, Failure> {
    let loaded = opened::settings(common, Vec::new())?;
    opened::start_logs(&loaded.settings.log)?;
    let (backend, instance) = opened::open(common, &loaded, "coordinator").await?;
    screen.note(&format!("coordinator {instance}: serving the jobs in {}", common.data.display()));
    let stop = stop_on_signal(screen.clone())?;
    fleet::serve(&backend, &loaded.settings, &opened::config_base(common), instance, stop.gently).await?;
    Ok(Exit::Done)
}
