//! A worker of any agent types: built-in ones, or those of the user's own.
//!
//! A few lines over the library's worker runtime; the programs named after one type are the same with the type fixed.

use std::process::ExitCode;

fn main() -> ExitCode {
    codeswarm::cli::any_worker_main()
}
