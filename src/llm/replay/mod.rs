//! Recorded replies behind the real wire formats: a local server that speaks the Messages API and chat completions.
//!
//! Tests, benchmarks, `--replay` and the `fake-claude` program all call the same HTTP client that production uses, so
//! nothing between the client and the socket is ever mocked. A [`Script`] says what is answered, when, and with which
//! [`Fault`]; the [`FakeServer`] delivers it and keeps a [`Bill`] of its own, which tests compare with the ledger. The
//! server must never be kinder than the real one: it refuses what the real one refuses, and it bills what the real one
//! might bill.

mod answer;
mod bill;
mod cache;
mod chat;
mod count;
mod deliver;
mod dialect;
mod error;
mod fault;
mod generate;
mod latency;
mod limits;
mod line;
mod page;
mod pricer;
mod request;
mod script;
mod server;
mod synthetic;
#[cfg(test)]
mod dialect_tests;
#[cfg(test)]
mod pace_tests;
#[cfg(test)]
mod tests;
mod wire;
mod wire_chat;

pub use bill::{Bill, BillEntry, Tally};
pub use error::{LineFault, ReplayError};
pub use fault::{Fault, Faults};
pub use latency::{Latency, SplitMix64};
pub use limits::RateLimits;
pub(in crate::llm) use request::request_key;
pub use script::{MAX_SCRIPT_BYTES, Reply, Script, Stop};
pub use server::{FakeOptions, FakeServer};
pub use synthetic::{Durations, Synthetic, SyntheticJob, SyntheticTask};
