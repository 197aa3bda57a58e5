//! The share that less urgent work keeps while more urgent work never ends.
//!
//! Strict order would let a steady stream of urgent tasks hold back everything else for ever, so every sixteenth turn begins
//! with the least urgent work, two with normal and four with high; all the others, and every turn whose first choice has
//! nothing to do, go strictly by urgency. The turns are counted, not drawn: the shares are exact, and tests can say so. Which
//! task is taken among equally urgent ones must never be decided here.

use crate::protocol::Priority;

/// Turns after which the rotation begins anew.
pub const ROTATION: u64 = 16;

/// The order in which priorities are served on `turn`.
///
/// While every queue has work, of [`ROTATION`] turns 9 serve critical, 4 high, 2 normal and 1 low work.
#[must_use]
pub const fn order(turn: u64) -> [Priority; 4] {
    use Priority::{Critical, High, Low, Normal};
    match turn % ROTATION {
        1 | 5 | 9 | 13 => [High, Critical, Normal, Low],
        3 | 11 => [Normal, Critical, High, Low],
        7 => [Low, Critical, High, Normal],
        _ => [Critical, High, Normal, Low],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns of one rotation that serve each of `present`, when all of those always have work.
    fn shares(present: &[Priority]) -> Vec<usize> {
        let served: Vec<Priority> =
            (0..ROTATION).filter_map(|turn| order(turn).into_iter().find(|choice| present.contains(choice))).collect();
        present.iter().map(|priority| served.iter().filter(|served| *served == priority).count()).collect()
    }

    #[test]
    fn every_priority_keeps_its_share_under_load_and_idle_shares_go_to_the_most_urgent() {
        assert_eq!(shares(&Priority::ALL), [9, 4, 2, 1]);
        assert_eq!(shares(&[Priority::High, Priority::Low]), [15, 1]);
        assert_eq!(shares(&[Priority::Normal, Priority::Low]), [15, 1]);
        assert_eq!(shares(&[Priority::Critical, Priority::Normal]), [14, 2]);
        assert_eq!(shares(&[Priority::Low]), [16]);
    }

    #[test]
    fn each_order_names_every_priority_once() {
        for turn in 0..2 * ROTATION {
            let mut order = order(turn);
            order.sort();
            assert_eq!(order, Priority::ALL);
        }
    }
}
