//! Slices: which features the money is kept for once it is too little for all of them, and how much of it each may spend.
//!
//! Without slices a job that runs out leaves a bit of every feature, and hardly one that works. With them, features are
//! funded whole, the most urgent first and among those the ones that most hangs on, each with a limit of its own, and the rest
//! waits for what is left over.
//! While there is enough for all, there are no slices: a limit that is not needed could only stand in somebody's way. Pure
//! arithmetic: it never raises what a job may spend, because the job's own limit is checked in the same step as its slices.

use std::collections::BTreeMap;

use crate::protocol::{FeatureId, MicroUsd, Priority};

/// What a feature would need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Which feature.
    pub feature: FeatureId,
    /// How urgent it is, or the most urgent that waits for it.
    pub urgency: Priority,
    /// Expected cost of what is left to do, retries not included.
    pub expected: MicroUsd,
    /// Worst case of the dearest call that is left to do: it has to fit, although it will cost less.
    pub call: MicroUsd,
    /// Weight of the longest path that begins in it: the larger, the more hangs on it.
    pub tail: u64,
}

impl Want {
    /// What it may cost.
    #[must_use]
    pub fn needed(&self) -> MicroUsd {
        self.expected.percent(MARGIN_PERCENT)
    }

    /// What it needs to be able to make its last call at full size after everything else has cost what was expected.
    fn comfortable(&self) -> MicroUsd {
        self.needed().max(self.expected.saturating_add(self.call))
    }
}

/// How much more than expected a funded feature may cost: an attempt out of three is repeated.
const MARGIN_PERCENT: u64 = 150;

/// What all of them may cost together.
#[must_use]
pub fn needed(wants: &[Want]) -> MicroUsd {
    wants.iter().map(Want::needed).sum()
}

/// What each funded feature may still spend, the most urgent first and among those the critical path; `None` when `available`
/// pays for all of them, so that no feature has to be kept small. A feature that does not fit leaves room for a cheaper one of
/// the same urgency, never for a less urgent one. The parts never add up to more than there is.
#[must_use]
pub fn fund(available: MicroUsd, wants: &[Want]) -> Option<BTreeMap<FeatureId, MicroUsd>> {
    if needed(wants) <= available {
        return None;
    }
    let mut order: Vec<&Want> = wants.iter().collect();
    order.sort_by(|a, b| {
        a.urgency.cmp(&b.urgency).then_with(|| b.tail.cmp(&a.tail)).then_with(|| a.feature.cmp(&b.feature))
    });
    let (mut left, mut funded) = (available, Vec::new());
    // The urgency of the first that did not fit.
    let mut short: Option<Priority> = None;
    for want in order {
        if short.is_some_and(|urgency| urgency < want.urgency) {
            break;
        }
        if want.needed() > left {
            short.get_or_insert(want.urgency);
        }
        // The first one is always tried: something has to be spent on, and the limit holds anyway.
        if want.needed() <= left || funded.is_empty() {
            let part = want.needed().min(left);
            left = left.saturating_sub(part);
            funded.push((want, part));
        }
    }
    // What pays for no further feature gives the funded ones room for calls of full size.
    let allot = |(want, part): (&Want, MicroUsd)| {
        let more = want.comfortable().saturating_sub(part).min(left);
        left = left.saturating_sub(more);
        (want.feature.clone(), part.saturating_add(more))
    };
    Some(funded.into_iter().map(allot).collect())
}

/// How much is added to a slice that has `slice` left and was too small for a call that needs `needed`, when `unallotted`
/// belongs to no slice: enough for one of full size (`call`) if possible, or nothing.
#[must_use]
pub fn relief(slice: MicroUsd, needed: MicroUsd, call: MicroUsd, unallotted: MicroUsd) -> Option<MicroUsd> {
    let short = needed.saturating_sub(slice);
    if short == MicroUsd::ZERO || short > unallotted {
        return None;
    }
    Some(needed.max(call).saturating_sub(slice).min(unallotted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(name: &str, expected: u64, call: u64, tail: u64) -> Want {
        let (feature, urgency) = (FeatureId::new(name).unwrap(), Priority::Normal);
        Want { feature, urgency, expected: MicroUsd(expected), call: MicroUsd(call), tail }
    }

    fn funded(available: u64, wants: &[Want]) -> Option<Vec<(String, u64)>> {
        let parts = fund(MicroUsd(available), wants)?;
        assert!(parts.values().map(|part| part.0).sum::<u64>() <= available, "{parts:?} of {available}");
        Some(parts.into_iter().map(|(feature, part)| (feature.to_string(), part.0)).collect())
    }

    fn parts(expected: &[(&str, u64)]) -> Option<Vec<(String, u64)>> {
        Some(expected.iter().map(|(name, part)| ((*name).to_owned(), *part)).collect())
    }

    #[test]
    fn enough_money_needs_no_slices() {
        assert_eq!(funded(300, &[want("a", 100, 900, 1), want("b", 100, 900, 2)]), None);
        assert_eq!(funded(0, &[]), None);
    }

    #[test]
    fn too_little_goes_to_the_critical_path_first_and_then_to_what_still_fits() {
        let wants = [want("docs", 10, 0, 1), want("core", 100, 0, 9), want("ui", 100, 0, 5)];
        assert_eq!(funded(200, &wants), parts(&[("core", 150), ("docs", 15)]));
    }

    #[test]
    fn the_more_urgent_comes_first_and_nothing_less_urgent_is_funded_in_its_place() {
        let of = |urgency, want| Want { urgency, ..want };
        let wants = [
            of(Priority::Low, want("docs", 10, 0, 9)),
            of(Priority::Critical, want("core", 100, 0, 1)),
            of(Priority::High, want("ui", 100, 0, 5)),
        ];
        assert_eq!(funded(200, &wants), parts(&[("core", 150)]), "docs would fit, but ui comes first");
        assert_eq!(funded(314, &wants), parts(&[("core", 150), ("ui", 150)]));
        assert_eq!(funded(140, &wants), parts(&[("core", 140)]));
    }

    #[test]
    fn what_pays_for_no_further_feature_makes_room_for_whole_calls() {
        let wants = [want("docs", 10, 40, 1), want("core", 100, 70, 9), want("ui", 100, 70, 5)];
        assert_eq!(
            funded(200, &wants),
            parts(&[("core", 170), ("docs", 30)]),
            "as far as it goes, the critical path first"
        );
        assert_eq!(funded(314, &wants), parts(&[("core", 164), ("ui", 150)]));
    }

    #[test]
    fn something_is_always_funded_with_all_there_is() {
        assert_eq!(funded(1, &[want("a", 100, 0, 1), want("b", 100, 0, 2)]), parts(&[("b", 1)]));
    }

    #[test]
    fn a_slice_is_topped_up_from_what_belongs_to_nobody_or_not_at_all() {
        let more = |slice, needed, call, unallotted| {
            relief(MicroUsd(slice), MicroUsd(needed), MicroUsd(call), MicroUsd(unallotted)).map(|more| more.0)
        };
        assert_eq!(more(10, 30, 50, 100), Some(40), "room for a call of full size");
        assert_eq!(more(10, 30, 50, 25), Some(25), "or for the smallest that is worth it");
        assert_eq!(more(10, 30, 50, 19), None);
        assert_eq!(more(30, 30, 50, 100), None, "it was not the slice that was too small");
    }
}
