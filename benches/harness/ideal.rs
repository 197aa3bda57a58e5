//! The yardstick: a list scheduler without overhead, critical path first, and the plain lower bound.
//!
//! It is given what no real scheduler has: the whole graph from the start of planning on and exact durations. It still
//! respects the order of things: the plan, then the plan of a task's feature, then the tasks it depends on.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use codeswarm::llm::replay::SyntheticJob;

/// The whole job as one graph; every edge leads from a smaller index to a larger one.
pub(crate) struct Graph {
    duration_us: Vec<u64>,
    needs: Vec<Vec<usize>>,
}

impl Graph {
    /// The graph of `job` with its planning tasks.
    pub(crate) fn of(job: &SyntheticJob, planning_us: u64) -> Self {
        let features = job.plan.features.len();
        let mut duration_us = vec![planning_us; 1 + features];
        let mut needs = vec![Vec::new()];
        needs.extend((0..features).map(|_| vec![0]));
        for task in &job.tasks {
            let feature = job.plan.features.iter().position(|spec| spec.id == task.feature).expect("known feature");
            let others = task.depends_on.iter().map(|&other| 1 + features + other);
            needs.push(std::iter::once(1 + feature).chain(others).collect());
            duration_us.push(u64::try_from(task.duration.as_micros()).expect("short"));
        }
        Self { duration_us, needs }
    }

    /// Number of tasks.
    pub(crate) fn len(&self) -> usize {
        self.needs.len()
    }

    /// Longest path from each task to the end, itself included.
    fn tails(&self) -> Vec<u64> {
        let mut tails = self.duration_us.clone();
        for at in (0..self.len()).rev() {
            for &need in &self.needs[at] {
                tails[need] = tails[need].max(self.duration_us[need] + tails[at]);
            }
        }
        tails
    }

    /// The longer of critical path and work ÷ slots (Graham 1969).
    pub(crate) fn lower_bound_us(&self, slots: u32) -> u64 {
        let work: u64 = self.duration_us.iter().sum();
        let path = self.tails().into_iter().max().unwrap_or(0);
        path.max(work.div_ceil(u64::from(slots)))
    }

    /// Makespan when every freed slot takes the ready task with the longest path at once.
    pub(crate) fn list_schedule_us(&self, slots: u32) -> u64 {
        let tails = self.tails();
        let mut missing: Vec<usize> = self.needs.iter().map(Vec::len).collect();
        let mut dependents = vec![Vec::new(); self.len()];
        for (at, needs) in self.needs.iter().enumerate() {
            needs.iter().for_each(|&need| dependents[need].push(at));
        }
        let mut ready: BinaryHeap<(u64, Reverse<usize>)> =
            (0..self.len()).filter(|&at| missing[at] == 0).map(|at| (tails[at], Reverse(at))).collect();
        let mut running: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
        let mut now = 0;
        loop {
            while running.len() < slots as usize
                && let Some((_, Reverse(at))) = ready.pop()
            {
                running.push(Reverse((now + self.duration_us[at], at)));
            }
            let Some(Reverse((end, at))) = running.pop() else { return now };
            now = end;
            for &next in &dependents[at] {
                missing[next] -= 1;
                if missing[next] == 0 {
                    ready.push((tails[next], Reverse(next)));
                }
            }
        }
    }
}
