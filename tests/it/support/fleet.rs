//! A coordinator and one worker process per agent type, on one data directory.
//!
//! Every helper returns only when the process says that it is ready, so that tests need not guess.

use std::path::Path;
use std::process::Command;

use super::{Example, Running, Sandbox};

/// Agent types that the examples' plans name, the planners included.
pub(crate) const AGENTS: [&str; 11] = [
    "coordinator-planner",
    "feature-coordinator",
    "architect",
    "backend",
    "coder",
    "database",
    "devops",
    "docs",
    "frontend",
    "integrator",
    "testing",
];

/// The running processes.
pub(crate) struct Fleet {
    pub(crate) coordinator: Running,
    pub(crate) workers: Vec<Running>,
}

/// `codeswarm-<name>` in the sandbox, on its data directory, with the recorded replies of `example`.
pub(crate) fn program(sandbox: &Sandbox, name: &str, example: Example) -> Command {
    let directory = Path::new(env!("CARGO_BIN_EXE_codeswarm")).parent().expect("a program lies in a directory");
    let mut command = sandbox.command(directory.join(format!("codeswarm-{name}")), &["--data"]);
    command.arg(sandbox.data()).env("CODESWARM_REPLAY", example.replay());
    command
}

/// Starts a coordinator and waits until it says that it serves.
pub(crate) fn coordinator(sandbox: &Sandbox, example: Example) -> Running {
    let mut running = Running::start(program(sandbox, "coordinator", example).arg("serve"));
    assert!(running.wait_for(|line| line.contains("serving")).is_some(), "the coordinator does not serve");
    running
}

/// Starts a worker that takes `latency` milliseconds for every reply, and waits until it says that it works.
pub(crate) fn worker(sandbox: &Sandbox, example: Example, agent: &str, latency: u64) -> Running {
    let mut command = program(sandbox, &format!("worker-{agent}"), example);
    command.arg("--replay-bill").arg(sandbox.bill()).args(["--replay-latency", &latency.to_string()]);
    let mut running = Running::start(&mut command);
    assert!(running.wait_for(|line| line.contains("slots for")).is_some(), "the {agent} worker does not work");
    running
}

impl Fleet {
    /// Starts all of it.
    pub(crate) fn start(sandbox: &Sandbox, example: Example) -> Self {
        let coordinator = coordinator(sandbox, example);
        Self { coordinator, workers: AGENTS.iter().map(|agent| worker(sandbox, example, agent, 0)).collect() }
    }

    /// Asks every process to stop; all must do so in good order.
    pub(crate) fn stop(self) {
        let everybody: Vec<Running> = self.workers.into_iter().chain([self.coordinator]).collect();
        for running in &everybody {
            running.signal("TERM");
        }
        for running in everybody {
            running.end().expect_code(0);
        }
    }
}
