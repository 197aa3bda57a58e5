//! Living with faults of others: when to try again, how long to wait, how much to ask for, when to stop asking.
//!
//! Every part knows one thing: [`RetryPolicy`] when to try again, [`Permits`] how many calls at once, [`Bulkhead`] who is
//! next, [`FleetRates`] how much per minute, [`Breaker`] whether at all, [`Absence`] for how long. None of them makes a call or knows what one is;
//! `llm::Guards` puts them in order. Whoever owns a loop keeps it visible and pays for every turn of it. Nothing in this
//! room may repeat a step on its own.

pub mod absence;
pub mod aimd;
pub mod breaker;
pub mod bulkhead;
pub mod permits;
pub mod rates;
pub mod retry;
#[cfg(test)]
pub(crate) mod test_table;

pub use absence::Absence;
pub use aimd::{AimdPolicy, Load};
pub use breaker::{Breaker, Health, Passage};
pub use bulkhead::Bulkhead;
pub use permits::{Permit, Permits};
pub use rates::{FleetRates, Ticket, Used};
pub use retry::{Next, RetryPolicy};
