//! The worker programs: one per agent type, and one that serves whichever types it is told.
//!
//! They only choose the types; what a worker does is decided by the worker room.

use std::process::ExitCode;

use clap::Parser;

use super::args::{Common, FleetArgs, HealthcheckArgs};
use super::screen::Screen;
use super::service::{self, Service};
use super::{Exit, Failure, opened, run_to_exit};
use crate::backend::Backend;
use crate::config::{Environment, Loaded};
use crate::fleet::{self, Parts};
use crate::protocol::AgentType;

/// A worker of one agent type: takes tasks from its queues until it is stopped.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct TypedCli {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(subcommand)]
    command: Option<WorkerCommand>,
}

/// A worker of any agent types: takes tasks from their queues until it is stopped.
#[derive(Debug, Parser)]
#[command(name = "codeswarm-worker", version, max_term_width = 100)]
struct AnyCli {
    #[command(flatten)]
    common: Common,
    /// An agent type to serve, the program's or one of your own roles; may be given several times.
    #[arg(long = "agent", value_name = "NAME", conflicts_with = "all")]
    agents: Vec<String>,
    /// Serve every agent type there is a role for.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(subcommand)]
    command: Option<WorkerCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum WorkerCommand {
    /// Ask a worker on this machine whether it lives.
    Healthcheck(HealthcheckArgs),
}

/// Which agent types a worker serves.
enum Serves {
    These(Vec<String>),
    All,
}

/// Runs `codeswarm-worker-<agent>` and answers its exit code.
#[must_use]
pub fn worker_main(agent: &'static str) -> ExitCode {
    let TypedCli { common, fleet, command } = TypedCli::parse();
    run_worker(&common, &fleet, command, Serves::These(vec![agent.to_owned()]))
}

/// Runs `codeswarm-worker` and answers its exit code.
#[must_use]
pub fn any_worker_main() -> ExitCode {
    let AnyCli { common, agents, all, fleet, command } = AnyCli::parse();
    run_worker(&common, &fleet, command, if all { Serves::All } else { Serves::These(agents) })
}

fn run_worker(common: &Common, args: &FleetArgs, command: Option<WorkerCommand>, serves: Serves) -> ExitCode {
    let screen = Screen::of_process();
    run_to_exit(&screen, async {
        match command {
            Some(WorkerCommand::Healthcheck(args)) => service::healthcheck(&screen, common, &args).await,
            None => work(&screen, common, args, serves).await,
        }
    })
}

async fn work(screen: &Screen, common: &Common, args: &FleetArgs, serves: Serves) -> Result<Exit, Failure> {
    let loaded = opened::settings(common, opened::flags(args))?;
    let parts = parts(common, &loaded, args).await?;
    let agents = chosen(serves, &parts.agents())?;
    let role = match agents.as_slice() {
        [only] => only.to_string(),
        _ => "worker".to_owned(),
    };
    let mut service = Service::begin(screen, &loaded, &role)?;
    let outcome = match service.open(common, &loaded).await {
        Ok(backend) => take_tasks(&service, common, &loaded, &backend, parts, agents).await,
        Err(failure) => Err(failure),
    };
    service.end(outcome)
}

async fn parts(common: &Common, loaded: &Loaded, args: &FleetArgs) -> Result<Parts, Failure> {
    let (base, replay) = (opened::config_base(common), opened::replay(args));
    Ok(Parts::assemble(&loaded.settings, &Environment::of_process(), replay.as_ref(), &base).await?)
}

async fn take_tasks(
    service: &Service,
    common: &Common,
    loaded: &Loaded,
    backend: &Backend,
    parts: Parts,
    agents: Vec<AgentType>,
) -> Result<(), Failure> {
    let slots = loaded.settings.fleet.concurrency;
    let names: Vec<&str> = agents.iter().map(AgentType::as_str).collect();
    let place = opened::place(common, &loaded.settings);
    let stop = service.stop_on_signal()?;
    service.say(&format!("worker {}: {slots} slots for {} tasks in {place}", service.instance, names.join(", ")));
    let drain = opened::drain(&loaded.settings);
    Ok(fleet::work(backend, parts, service.instance.clone(), agents, slots, drain, stop).await?)
}

/// The agent types that were asked for; each must have a role.
fn chosen(serves: Serves, known: &[AgentType]) -> Result<Vec<AgentType>, Failure> {
    let named = match serves {
        Serves::All => return Ok(known.to_vec()),
        Serves::These(named) => named,
    };
    let listed = || known.iter().map(AgentType::as_str).collect::<Vec<_>>().join(", ");
    if named.is_empty() {
        let what = "a worker has to be told which agent types it serves";
        return Err(Failure::usage("CS-CLI-025", what, format!("name some with --agent ({}), or use --all", listed())));
    }
    let mut agents: Vec<AgentType> = Vec::new();
    for name in named {
        let Some(agent) = known.iter().find(|agent| agent.as_str() == name) else {
            let what = format!("there is no role for agent type {name:?}");
            let remedy = format!("use one of {}, or define [roles.{name}] in the configuration", listed());
            return Err(Failure::usage("CS-CLI-020", what, remedy));
        };
        if !agents.contains(agent) {
            agents.push(agent.clone());
        }
    }
    Ok(agents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_serves_the_types_it_is_told_once_each_and_only_those_with_a_role() {
        let known = AgentType::builtin();
        let these = |names: &[&str]| Serves::These(names.iter().map(|name| (*name).to_owned()).collect());
        let names =
            |serves| chosen(serves, &known).map(|agents| agents.iter().map(AgentType::to_string).collect::<Vec<_>>());
        assert_eq!(names(these(&["docs", "backend", "docs"])).unwrap(), ["docs", "backend"]);
        assert_eq!(names(Serves::All).unwrap().len(), known.len());
        assert!(names(these(&[])).unwrap_err().report().contains("--all"));
        let refused = names(these(&["docs", "translator"])).unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        assert!(refused.report().contains("[roles.translator]"), "{}", refused.report());
    }
}
