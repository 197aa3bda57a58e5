//! Price table as data (being written).

use super::WorstCaseInput;
use crate::protocol::{MicroUsd, Usage};

/// Why a price cannot be computed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PriceError(pub String);

/// Prices of all known models.
#[derive(Debug)]
pub struct PriceTable;

/// Price of one model.
#[derive(Debug)]
pub struct ModelPrice;

impl PriceTable {
    /// The table that ships with the program (`config/prices.json`).
    pub fn builtin() -> Result<Self, PriceError> {
        Ok(Self)
    }

    /// The price of `model`, if it is known.
    #[must_use]
    pub fn get(&self, _model: &str) -> Option<&ModelPrice> {
        None
    }

    /// The most that a call can cost.
    pub fn worst_case(&self, _input: &WorstCaseInput) -> Result<MicroUsd, PriceError> {
        Ok(MicroUsd::ZERO)
    }

    /// Largest `max_tokens` (at most the input's own) whose worst case fits into `available`; 0 when none does.
    pub fn largest_output(&self, _input: &WorstCaseInput, _available: MicroUsd) -> Result<u32, PriceError> {
        Ok(0)
    }

    /// What a call with this usage costs.
    pub fn charge(&self, _model: &str, _usage: &Usage) -> Result<MicroUsd, PriceError> {
        Ok(MicroUsd::ZERO)
    }
}
