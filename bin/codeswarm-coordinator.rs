//! The coordinator alone: leads the jobs of a data directory, or stands by.
//!
//! A few lines over the library; everything is in `codeswarm::coordinator`.

use std::process::ExitCode;

fn main() -> ExitCode {
    codeswarm::cli::coordinator_main()
}
