//! The `coordinator-planner` worker: makes the one strategic plan of a job.
//!
//! A few lines over the library's worker runtime, so that every agent type can be scaled on its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    codeswarm::cli::worker_main("coordinator-planner")
}
