//! The coordinator program: leads all jobs, or stands by; and the commands for which nobody should need another program.
//!
//! It only wires and waits; what it does is decided by the coordinator room.

use std::process::ExitCode;

use clap::Parser;

use super::args::{Common, HealthcheckArgs, JobArgs, SubmitArgs};
use super::screen::Screen;
use super::service::{self, Service};
use super::{Exit, Failure, opened, run_to_exit, status, submit};
use crate::backend::Backend;
use crate::config::Loaded;
use crate::fleet;
use crate::telemetry;

/// Leads all jobs until it is stopped.
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
    /// Record a job, as `codeswarm submit` does.
    Submit(SubmitArgs),
    /// Show how far a job is, as `codeswarm status` does.
    Status(JobArgs),
    /// Ask a coordinator on this machine whether it lives.
    Healthcheck(HealthcheckArgs),
}

/// Runs `codeswarm-coordinator` and answers its exit code.
#[must_use]
pub fn coordinator_main() -> ExitCode {
    let CoordinatorCli { common, command } = CoordinatorCli::parse();
    let screen = Screen::of_process();
    run_to_exit(&screen, async {
        match command {
            CoordinatorCommand::Serve => serve(&screen, &common).await,
            CoordinatorCommand::Submit(args) => submit::submit(&screen, &common, args).await,
            CoordinatorCommand::Status(args) => status::run(&screen, &common, args).await,
            CoordinatorCommand::Healthcheck(args) => service::healthcheck(&screen, &common, &args).await,
        }
    })
}

async fn serve(screen: &Screen, common: &Common) -> Result<Exit, Failure> {
    let loaded = opened::settings(common, Vec::new())?;
    let mut service = Service::begin(screen, &loaded, "coordinator")?;
    let outcome = match service.open(common, &loaded).await {
        Ok(backend) => lead(&service, common, &loaded, &backend).await,
        Err(failure) => Err(failure),
    };
    service.end(outcome)
}

async fn lead(service: &Service, common: &Common, loaded: &Loaded, backend: &Backend) -> Result<(), Failure> {
    let base = opened::config_base(common);
    let agents = fleet::check_roles(&loaded.settings, &base)?.into_iter().map(|(agent, _)| agent).collect();
    let stop = service.stop_on_signal()?;
    let place = opened::place(common, &loaded.settings);
    service.say(&format!("coordinator {}: serving the jobs in {place}", service.instance));
    let serving = fleet::serve(backend, &loaded.settings, &base, service.instance.clone(), stop.gently);
    if !service.is_watched() {
        return Ok(serving.await?);
    }
    tokio::select! {
        ended = serving => Ok(ended?),
        () = telemetry::watch_stores(backend.clone(), service.instance.clone(), agents) => Ok(()),
    }
}
