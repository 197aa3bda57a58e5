//! (being written)
/// Why money could not be set aside.
#[derive(Debug, thiserror::Error)]
#[error("budget")]
pub struct BudgetError;
/// Money set aside for one call attempt.
#[derive(Debug)]
pub struct Reservation;
/// Makes reservations.
#[derive(Debug)]
pub struct Treasurer;
