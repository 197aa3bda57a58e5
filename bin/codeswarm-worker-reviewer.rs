//! The `reviewer` worker: writes what needs a reviewer's eye.
//!
//! A few lines over the library's worker runtime, so that every agent type can be scaled on its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    codeswarm::cli::worker_main("reviewer")
}
