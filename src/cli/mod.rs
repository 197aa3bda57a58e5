//! The command line: what people type, what they read back, and the exit codes scripts rely on.
//!
//! Commands read the stores and send commands; they decide nothing about jobs. Everything a person reads goes through
//! `screen`, so that colour and bars appear on terminals only and a closed pipe ends a program quietly. Secrets
//! never reach this room's output.

mod agents;
mod apart;
mod args;
mod bars;
mod budget;
mod configuration;
mod control;
mod coordinator;
mod dlq;
mod doctor;
mod events;
mod failure;
mod fetch;
mod interrupts;
mod jobs;
mod json;
mod list;
mod live;
mod opened;
mod models;
mod pause;
mod plan;
mod run;
mod screen;
mod service;
mod status;
mod story;
mod submit;
mod summary;
mod table;
mod watch;
mod words;
mod worker;

use std::process::ExitCode;

use clap::Parser;

pub use coordinator::coordinator_main;
pub use failure::{Exit, Failure};
pub use worker::{any_worker_main, worker_main};

use args::{Cli, Command};
use screen::Screen;

/// Runs the `codeswarm` program and answers its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let screen = Screen::of_process();
    run_to_exit(&screen, async { dispatch(&screen, cli).await })
}

/// Runs `program` on a fresh runtime and turns its failure into text and exit code.
fn run_to_exit(screen: &Screen, program: impl Future<Output = Result<Exit, Failure>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            screen.error(&format!("error[CS-CLI-000]: cannot start the runtime: {error}"));
            return Exit::Error.into();
        }
    };
    let exit = match runtime.block_on(program) {
        Ok(exit) => exit,
        Err(failure) => {
            screen.error(&failure.report());
            failure.exit
        }
    };
    // Whatever still runs in the background (a reader of standard input, say) must not keep the process alive.
    runtime.shutdown_background();
    exit.into()
}

async fn dispatch(screen: &Screen, cli: Cli) -> Result<Exit, Failure> {
    let common = &cli.common;
    match cli.command {
        Command::Run(args) => run::run(screen, common, args).await,
        Command::Submit(args) => submit::submit(screen, common, args).await,
        Command::Resume(args) => run::resume(screen, common, args).await,
        Command::List(args) => list::run(screen, common, args).await,
        Command::Status(args) => status::run(screen, common, args).await,
        Command::Events(args) => events::run(screen, common, args).await,
        Command::Watch(args) => watch::run(screen, common, args).await,
        Command::Cancel(args) => control::cancel(screen, common, args).await,
        Command::Pause(args) => control::pause(screen, common, args).await,
        Command::Approve(args) => control::approve(screen, common, args).await,
        Command::Retry(args) => control::retry(screen, common, args).await,
        Command::Fetch(args) => fetch::run(screen, common, args).await,
        Command::Agents(args) => agents::run(screen, common, args).await,
        Command::Dlq(command) => dlq::run(screen, common, command).await,
        Command::Healthcheck(args) => service::healthcheck(screen, common, &args).await,
        Command::Budget(command) => budget::run(screen, common, command).await,
        Command::Doctor(args) => doctor::run(screen, common, args).await,
        Command::Config(command) => configuration::run(screen, common, command),
        Command::Models(args) => models::run(screen, &cli.common, &args),
    }
}
