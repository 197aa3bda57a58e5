//! Living with faults of others: when to try again, how long to wait, when to stop.
//!
//! Policies here only answer questions; whoever owns the loop keeps it visible and pays for every turn of it. Nothing in
//! this room may repeat a step on its own.

pub mod retry;

pub use retry::{Next, RetryPolicy};
