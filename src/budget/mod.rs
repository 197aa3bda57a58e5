//! Money before the call: the worst-case bound, the price table and the reservation guard.
//!
//! `spent + reserved ≤ limit` is enforced by the [`Ledger`](crate::backend::Ledger); this room decides *how much* must be
//! reserved, and makes sure that every reservation ends: settled, released, or charged in full. A dropped guard is
//! charged in full, never forgotten.

pub mod audit;
pub mod bound;
pub mod configured;
pub mod context;
pub mod error;
pub mod price;
pub mod reservation;
mod settler;
pub mod slices;
#[cfg(test)]
pub(crate) mod test_ledger;
#[cfg(test)]
mod tests;

pub use bound::{WorstCase, WorstCaseInput};
pub use context::CallContext;
pub use error::BudgetError;
pub use price::{EndpointPrices, ModelPrice, PriceError, PriceTable, Terms, Unpinned};
pub use reservation::{Reservation, Treasurer};
