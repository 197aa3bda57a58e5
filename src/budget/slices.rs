//! Slices: which features the money is kept for once it is too little for all of them.
//!
//! Without slices a job that runs out leaves a bit of every feature, and hardly one that works. With them, features are
//! funded whole, in the order of what hangs on them, and the rest waits for what is left over. Pure arithmetic: it
//! never raises what a job may spend, because the job's own limit is checked in the same step as its slices.

use crate::protocol::{FeatureId, MicroUsd};

/// What a feature would need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Which feature.
    pub feature: FeatureId,
    /// Expected cost of what is left to do, retries not included.
    pub expected: MicroUsd,
    /// Weight of the longest path that begins in it: the larger, the more hangs on it.
    pub tail: u64,
}

/// How much more than expected a funded feature may cost: an attempt out of three is repeated.
const MARGIN_PERCENT: u64 = 150;

/// What all of them may cost together.
#[must_use]
pub fn needed(wants: &[Want]) -> MicroUsd {
    wants.iter().map(margin).sum()
}

fn margin(want: &Want) -> MicroUsd {
    want.expected.percent(MARGIN_PERCENT)
}

/// The features that `available` pays for, critical path first; `None` when it pays for all of them, so that no feature has to
/// be kept small. A feature that does not fit leaves room for a cheaper one behind it.
#[must_use]
pub fn fund(available: MicroUsd, wants: &[Want]) -> Option<Vec<FeatureId>> {
    if needed(wants) <= available {
        return None;
    }
    let mut order: Vec<&Want> = wants.iter().collect();
    order.sort_by(|a, b| b.tail.cmp(&a.tail).then_with(|| a.feature.cmp(&b.feature)));
    let mut left = available;
    let mut funded = Vec::new();
    for want in order {
        let needed = margin(want);
        // The first one is always tried: something has to be spent on, and the limit holds anyway.
        if needed <= left || funded.is_empty() {
            left = left.saturating_sub(needed);
            funded.push(want.feature.clone());
        }
    }
    Some(funded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(name: &str, expected: u64, tail: u64) -> Want {
        Want { feature: FeatureId::new(name).unwrap(), expected: MicroUsd(expected), tail }
    }

    fn funded(available: u64, wants: &[Want]) -> Option<Vec<String>> {
        fund(MicroUsd(available), wants).map(|ids| ids.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn enough_money_needs_no_slices() {
        assert_eq!(funded(300, &[want("a", 100, 1), want("b", 100, 2)]), None);
        assert_eq!(funded(0, &[]), None);
    }

    #[test]
    fn too_little_goes_to_the_critical_path_first_and_then_to_what_still_fits() {
        let wants = [want("docs", 10, 1), want("core", 100, 9), want("ui", 100, 5)];
        assert_eq!(funded(200, &wants), Some(vec!["core".into(), "docs".into()]));
    }

    #[test]
    fn something_is_always_funded() {
        assert_eq!(funded(1, &[want("a", 100, 1), want("b", 100, 2)]), Some(vec!["b".into()]));
    }
}
