//! The `codeswarm` command line: run, watch, pay, resume.
//!
//! A few lines over the library; everything is in `codeswarm::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    codeswarm::cli::main()
}
