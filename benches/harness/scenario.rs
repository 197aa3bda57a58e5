//! What is measured: shapes of jobs, durations of replies, slots.
//!
//! The first two shapes are those on which other schedulers were measured (a fan-out of equal tasks; a random graph with
//! log-normal durations), so that ratios can be compared; the last shows the engine's own cost. A scenario must be
//! reproducible from its numbers alone.

use std::time::Duration;

use codeswarm::llm::replay::{Durations, Synthetic};
use serde::{Deserialize, Serialize};

/// One measured job.
pub(crate) struct Scenario {
    /// Name on the command line and in the table.
    pub(crate) name: &'static str,
    /// Tasks worked on at once.
    pub(crate) slots: u32,
    /// Features and files per feature.
    pub(crate) shape: (usize, usize),
    /// Edges between files of different features, and the chance in percent of a chain within a feature.
    pub(crate) edges: (usize, u64),
    /// Durations of replies.
    pub(crate) replies: Replies,
}

/// Durations of replies.
#[derive(Clone, Copy)]
pub(crate) enum Replies {
    /// All at once.
    Instant,
    /// Every reply takes this many milliseconds, plans included.
    Fixed(u64),
    /// Log-normal between 50 and 500 ms around a median of 160 ms; plans take 200 ms.
    LogNormal,
}

const fn scenario(
    name: &'static str,
    slots: u32,
    shape: (usize, usize),
    edges: (usize, u64),
    replies: Replies,
) -> Scenario {
    Scenario { name, slots, shape, edges, replies }
}

/// All of them.
pub(crate) const SCENARIOS: [Scenario; 6] = [
    scenario("fan-out-10", 10, (10, 10), (0, 0), Replies::Fixed(200)),
    scenario("fan-out-50", 50, (10, 10), (0, 0), Replies::Fixed(200)),
    scenario("random-10", 10, (10, 100), (1_500, 0), Replies::LogNormal),
    scenario("random-50", 50, (10, 100), (1_500, 0), Replies::LogNormal),
    scenario("random-100", 100, (10, 100), (1_500, 0), Replies::LogNormal),
    scenario("overhead-1000", 64, (10, 100), (0, 0), Replies::Instant),
];

/// The figures of one run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// All tasks, plans included.
    pub(crate) tasks: usize,
    /// From submission to the end of the process's work, files written.
    pub(crate) makespan_s: f64,
    /// Makespan of the ideal list scheduler.
    pub(crate) ideal_s: f64,
    /// The longer of critical path and work ÷ slots.
    pub(crate) lower_bound_s: f64,
    /// Processor time of the whole process, fake server included, in microseconds per task.
    pub(crate) cpu_us_per_task: f64,
    /// Peak resident memory of the whole process, fake server included.
    pub(crate) peak_mib: f64,
}

impl Scenario {
    /// The job to run.
    pub(crate) fn synthetic(&self) -> Synthetic {
        let (features, files) = self.shape;
        let job = Synthetic::new(features, files, 42).cross_edges(self.edges.0).local_edges(self.edges.1);
        match self.replies {
            Replies::Instant => job,
            Replies::Fixed(ms) => {
                let duration = Duration::from_millis(ms);
                job.durations(duration, duration).planning(duration)
            }
            Replies::LogNormal => job
                .drawn(Durations::LogNormal {
                    median: Duration::from_millis(160),
                    sigma: 0.6,
                    shortest: Duration::from_millis(50),
                    longest: Duration::from_millis(500),
                })
                .planning(Duration::from_millis(200)),
        }
    }
}
