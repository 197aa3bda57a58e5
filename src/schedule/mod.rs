//! Which ready task goes out next, and how many may be out at once. Pure decisions, no input or output.
//!
//! Tasks go out by urgency (with a [share](order) for the less urgent), then by the length of the path that hangs on them
//! (critical path first), then by name so that the order is reproducible. Only about as many are out as there are free slots: whatever is still held back can be
//! overtaken by something more urgent that becomes ready later, which a first-come-first-served queue never allows.

mod share;

use std::collections::{BTreeMap, VecDeque};

pub use share::{ROTATION, order};

use crate::protocol::{AgentType, Priority, TaskId};

/// A task that could go out now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate<J> {
    /// The job, in whatever form the caller finds it again.
    pub job: J,
    /// The task.
    pub task: TaskId,
    /// The queue it would go to.
    pub agent: AgentType,
    /// Urgency.
    pub priority: Priority,
    /// Weight of the longest path that starts with this task.
    pub tail: u64,
}

/// Slots of the fleet, and how many are taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Slots of all workers together.
    total: u64,
    /// Slots that serve an agent type; workers of several types count for each.
    by_agent: BTreeMap<AgentType, u64>,
}

/// Tasks of a type that may be out when no worker of that type is known: enough for an autoscaler to see a queue.
const UNSERVED_WINDOW: u64 = 4;

impl Capacity {
    /// Adds a worker with `slots` slots that serves `agents`.
    pub fn add_worker(&mut self, agents: &[AgentType], slots: u64) {
        self.total += slots;
        for agent in agents {
            *self.by_agent.entry(agent.clone()).or_default() += slots;
        }
    }

    /// Slots of all workers together.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }
}

/// Tasks that are out, by agent type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InFlight {
    total: u64,
    by_agent: BTreeMap<AgentType, u64>,
}

impl InFlight {
    /// Counts one more task of `agent`.
    pub fn add(&mut self, agent: &AgentType) {
        self.total += 1;
        match self.by_agent.get_mut(agent) {
            Some(count) => *count += 1,
            None => drop(self.by_agent.insert(agent.clone(), 1)),
        }
    }
}

/// How many tasks may be out for `slots` slots: a little more, so that a freed slot never waits for the coordinator.
fn window(slots: u64, prefetch_percent: u32) -> u64 {
    if slots == 0 { UNSERVED_WINDOW } else { slots + (slots * u64::from(prefetch_percent)).div_ceil(100) }
}

/// How many more tasks may go out at most, of whatever type: looking at more candidates than that is of no use.
#[must_use]
pub fn room(capacity: &Capacity, out: &InFlight, prefetch_percent: u32) -> u64 {
    window(capacity.total, prefetch_percent).saturating_sub(out.total)
}

/// Chooses which candidates go out now, in the order in which they should; `turn` is the number of tasks that have gone out
/// before, so that shares hold across calls.
#[must_use]
pub fn choose<J: Ord>(
    mut candidates: Vec<Candidate<J>>,
    capacity: &Capacity,
    mut out: InFlight,
    prefetch_percent: u32,
    mut turn: u64,
) -> Vec<Candidate<J>> {
    let room = window(capacity.total, prefetch_percent);
    if out.total >= room {
        return Vec::new();
    }
    candidates.sort_by(|a, b| b.tail.cmp(&a.tail).then_with(|| a.job.cmp(&b.job)).then_with(|| a.task.cmp(&b.task)));
    let mut waiting: BTreeMap<Priority, VecDeque<Candidate<J>>> = BTreeMap::new();
    for candidate in candidates {
        waiting.entry(candidate.priority).or_default().push_back(candidate);
    }
    let mut chosen = Vec::new();
    while out.total < room {
        let mut takes = |candidate: &Candidate<J>| {
            let slots = capacity.by_agent.get(&candidate.agent).copied().unwrap_or(0);
            let taken = out.by_agent.get(&candidate.agent).copied().unwrap_or(0);
            taken < window(slots, prefetch_percent)
        };
        let next = order(turn).iter().find_map(|priority| next_of(waiting.get_mut(priority)?, &mut takes));
        let Some(candidate) = next else { break };
        out.add(&candidate.agent);
        chosen.push(candidate);
        turn += 1;
    }
    chosen
}

/// The first that is taken; those before it are of types that have no room left, and will not get any in this round.
fn next_of<J>(
    waiting: &mut VecDeque<Candidate<J>>,
    takes: &mut impl FnMut(&Candidate<J>) -> bool,
) -> Option<Candidate<J>> {
    std::iter::from_fn(|| waiting.pop_front()).find(takes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(task: &str, agent: &str, priority: Priority, tail: u64) -> Candidate<u8> {
        let agent = AgentType::new(agent).unwrap();
        Candidate { job: 0, task: TaskId::new(task).unwrap(), agent, priority, tail }
    }

    fn capacity(slots: &[(&str, u64)]) -> Capacity {
        let mut capacity = Capacity::default();
        for (agent, n) in slots {
            capacity.add_worker(&[AgentType::new(agent).unwrap()], *n);
        }
        capacity
    }

    fn names(chosen: &[Candidate<u8>]) -> Vec<&str> {
        chosen.iter().map(|c| c.task.as_str()).collect()
    }

    #[test]
    fn urgency_comes_before_the_critical_path_and_both_before_names() {
        let candidates = vec![
            candidate("b", "coder", Priority::Normal, 5),
            candidate("a", "coder", Priority::Normal, 5),
            candidate("long", "coder", Priority::Normal, 9),
            candidate("urgent", "coder", Priority::Critical, 1),
        ];
        let chosen = choose(candidates, &capacity(&[("coder", 10)]), InFlight::default(), 0, 0);
        assert_eq!(names(&chosen), ["urgent", "long", "a", "b"]);
    }

    #[test]
    fn low_work_keeps_its_share_whether_tasks_go_out_together_or_one_by_one() {
        let urgent = (0..64).map(|i| candidate(&format!("u{i:02}"), "coder", Priority::High, 9));
        let low = (0..64).map(|i| candidate(&format!("l{i:02}"), "coder", Priority::Low, 1));
        let candidates: Vec<_> = urgent.chain(low).collect();
        let together = choose(candidates.clone(), &capacity(&[("coder", 32)]), InFlight::default(), 0, 0);
        let count = |chosen: &[Candidate<u8>]| chosen.iter().filter(|one| one.priority == Priority::Low).count();
        assert_eq!((together.len(), count(&together)), (32, 2));
        let one = |turn| choose(candidates.clone(), &capacity(&[("coder", 1)]), InFlight::default(), 0, turn);
        let one_by_one: Vec<_> = (0..32).flat_map(one).collect();
        assert_eq!((one_by_one.len(), count(&one_by_one)), (32, 2));
    }

    #[test]
    fn no_more_goes_out_than_the_window_allows() {
        let candidates: Vec<_> = (0..10).map(|i| candidate(&format!("t{i}"), "coder", Priority::Normal, 1)).collect();
        let mut out = InFlight::default();
        out.add(&AgentType::new("coder").unwrap());
        assert_eq!(choose(candidates.clone(), &capacity(&[("coder", 4)]), out.clone(), 0, 0).len(), 3);
        assert_eq!(choose(candidates, &capacity(&[("coder", 4)]), out, 50, 0).len(), 5);
    }

    #[test]
    fn a_full_type_does_not_block_the_others() {
        let candidates = vec![
            candidate("a", "docs", Priority::Normal, 9),
            candidate("b", "docs", Priority::Normal, 8),
            candidate("c", "coder", Priority::Normal, 1),
        ];
        let chosen = choose(candidates, &capacity(&[("docs", 1), ("coder", 1)]), InFlight::default(), 0, 0);
        assert_eq!(names(&chosen), ["a", "c"]);
    }

    #[test]
    fn a_type_without_workers_still_gets_a_short_queue() {
        let candidates: Vec<_> = (0..10).map(|i| candidate(&format!("t{i}"), "docs", Priority::Normal, 1)).collect();
        let chosen = choose(candidates, &capacity(&[("coder", 8)]), InFlight::default(), 0, 0);
        assert_eq!(chosen.len(), 4);
    }
}
