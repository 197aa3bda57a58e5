//! Validation at the edge (being written).

use super::{FeaturePlan, FeatureSpec, StrategicPlan};

/// Why a message or a plan was refused at the edge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct ProtocolError {
    /// Which field, as a path such as `features[3].files[0].path`.
    pub field: String,
    /// What is wrong with which value, and what would be right.
    pub why: String,
}

/// Checks a strategic plan: bounds, ids, owned-once paths, acyclic feature dependencies.
///
/// # Errors
/// The first fault found.
pub fn strategic_plan(_plan: &StrategicPlan, _features: (u32, u32)) -> Result<(), ProtocolError> {
    Ok(())
}

/// Checks the plan of `feature` against the strategic plan it belongs to.
///
/// # Errors
/// The first fault found.
pub fn feature_plan(
    _plan: &FeaturePlan,
    _feature: &FeatureSpec,
    _whole: &StrategicPlan,
    _tasks: (u32, u32),
) -> Result<(), ProtocolError> {
    Ok(())
}
