//! The `researcher` worker: writes the files planned for the `researcher` agent type.
//!
//! A few lines over the library's worker runtime, so that every agent type can be scaled on its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    codeswarm::cli::worker_main("researcher")
}
