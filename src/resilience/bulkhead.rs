//! Who is next when calls have to wait: a bulkhead between agent types that leaves nothing idle.
//!
//! A fixed partition would keep slots empty in every phase of a job in which only one type has work. So a type may hold
//! more than its share only as long as no other type waits; once one does, every freed place goes to types below their
//! share first, in order of arrival. Pure: it only answers who is next.

use crate::protocol::AgentType;

/// How large a share of all places one agent type may hold while another waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bulkhead {
    /// In percent, 1 to 100; 100 serves everybody in order of arrival.
    pub share_percent: u32,
}

impl Bulkhead {
    /// Places that a type may hold while another waits; at least 1.
    #[must_use]
    pub fn share(&self, places: u32) -> u32 {
        let share = u64::from(places) * u64::from(self.share_percent) / 100;
        u32::try_from(share).unwrap_or(places).max(1)
    }

    /// Index of the next of `waiting`, oldest first, when there are `places` in all and `held` tells how many each type
    /// has; `None` when nobody waits.
    pub fn next<'a>(
        &self,
        waiting: impl Iterator<Item = &'a AgentType>,
        held: impl Fn(&AgentType) -> u32,
        places: u32,
    ) -> Option<usize> {
        let share = self.share(places);
        let mut anybody = None;
        for (at, agent) in waiting.enumerate() {
            if held(agent) < share {
                return Some(at);
            }
            anybody.get_or_insert(at);
        }
        anybody
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(waiting: &[&str], held: &[(&str, u32)], share_percent: u32) -> Option<usize> {
        let waiting: Vec<AgentType> = waiting.iter().map(|name| AgentType::new(*name).unwrap()).collect();
        let held = |agent: &AgentType| held.iter().find(|(name, _)| *name == agent.as_str()).map_or(0, |(_, n)| *n);
        Bulkhead { share_percent }.next(waiting.iter(), held, 10)
    }

    #[test]
    fn a_type_below_its_share_goes_before_one_above_it_and_order_counts_otherwise() {
        assert_eq!(next(&["coder", "coder", "testing"], &[("coder", 5)], 50), Some(2));
        assert_eq!(next(&["coder", "testing"], &[("coder", 4)], 50), Some(0));
        assert_eq!(next(&["coder", "testing"], &[("coder", 9)], 100), Some(0));
        assert_eq!(next(&["coder", "testing"], &[("coder", 5), ("testing", 5)], 50), Some(0));
    }

    #[test]
    fn nothing_stays_idle_while_only_one_type_has_work() {
        assert_eq!(next(&["coder"], &[("coder", 9)], 10), Some(0));
        assert_eq!(next(&[], &[], 50), None);
    }

    #[test]
    fn every_type_has_at_least_one_place() {
        assert_eq!(Bulkhead { share_percent: 1 }.share(10), 1);
        assert_eq!(Bulkhead { share_percent: 50 }.share(10), 5);
    }
}
