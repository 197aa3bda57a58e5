//! What the end-to-end tests share: a sandbox, real processes in it, trees of files, the books of a data directory.
//!
//! Everything here looks at the program from outside: processes by their output and exit, directories by their bytes,
//! money by the ledger and by the fake server's own bill. Every wait ends with the process or with [`PATIENCE`]; nothing
//! here may sleep until something has probably happened.

mod books;
mod fleet;
mod git;
mod process;
pub(crate) mod properties;
mod sandbox;
pub(crate) mod servers;
mod settled;
pub(crate) mod stores;
mod tree;

pub(crate) use books::{Books, billed_calls};
pub(crate) use fleet::{AGENTS, Fleet, coordinator, program, worker};
pub(crate) use git::Git;
pub(crate) use process::{Ended, Running};
pub(crate) use sandbox::{Example, Sandbox};
pub(crate) use settled::Settled;
pub(crate) use tree::{Tree, differences, tree};

use std::time::Duration;

/// Longest wait for a process to do anything: a hang, not a slow machine, takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// True when the long form of a test is wanted (`make stress`).
pub(crate) fn is_stress() -> bool {
    std::env::var_os("CODESWARM_STRESS").is_some_and(|value| value != "0" && !value.is_empty())
}

/// `few` by default, `many` under `make stress`.
pub(crate) fn share<T>(few: T, many: T) -> T {
    if is_stress() { many } else { few }
}
