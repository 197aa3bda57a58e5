//! Whole jobs of any size, made up from a seed.
//!
//! Benchmarks and chaos tests need jobs that are valid in every detail, of ten or ten thousand tasks, and whose best
//! possible schedule is known. Tasks are numbered, and a task depends on earlier ones only, so there is never a cycle;
//! the graph and the durations are handed back beside the script.

use std::time::Duration;

use super::latency::{Latency, SplitMix64};
use super::script::{Reply, Script};
use crate::protocol::ids::InvalidId;
use crate::protocol::{Contract, FeatureId, FeaturePlan, FeatureSpec, FilePlan, Priority, StrategicPlan, TaskSpec};

/// Agent types that tasks go to in turn, unless told otherwise.
const AGENTS: [&str; 5] = ["backend", "frontend", "database", "docs", "coder"];

/// How the durations of files are drawn, in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Durations {
    /// Evenly between two values.
    Even {
        /// The least.
        shortest: Duration,
        /// The most.
        longest: Duration,
    },
    /// Log-normal, cut off at both ends, as the durations of real calls are.
    LogNormal {
        /// Half of the files are faster.
        median: Duration,
        /// Standard deviation of the logarithm.
        sigma: f64,
        /// Nothing is faster.
        shortest: Duration,
        /// Nothing is slower.
        longest: Duration,
    },
}

impl Durations {
    fn draw_ms(self, random: &mut SplitMix64) -> u64 {
        match self {
            Self::Even { shortest, longest } => {
                let [shortest, longest] = [shortest, longest].map(milliseconds);
                shortest + random.below(longest.max(shortest) - shortest + 1)
            }
            Self::LogNormal { median, sigma, shortest, longest } => {
                let latency = Latency::LogNormal { median, sigma, seed: random.next() };
                milliseconds(latency.sample("file", 0).clamp(shortest, longest.max(shortest)))
            }
        }
    }
}

/// The measures of a job that is to be made up.
#[derive(Debug, Clone)]
pub struct Synthetic {
    features: usize,
    tasks_per_feature: usize,
    seed: u64,
    durations: Durations,
    planning: Duration,
    local_percent: u64,
    cross_edges: usize,
    file_bytes: usize,
    agents: Vec<String>,
}

/// One file of a made-up job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntheticTask {
    /// The feature that owns it.
    pub feature: FeatureId,
    /// Its id within the feature.
    pub id: String,
    /// Its path.
    pub path: String,
    /// How long the server thinks about it.
    pub duration: Duration,
    /// Tasks that must be done first, as indices into [`SyntheticJob::tasks`]; all are smaller than its own.
    pub depends_on: Vec<usize>,
}

/// A made-up job.
#[derive(Debug, Clone)]
pub struct SyntheticJob {
    /// The answer to `plan`.
    pub plan: StrategicPlan,
    /// The answer to each `feature-plan`, in the order of the plan's features.
    pub feature_plans: Vec<FeaturePlan>,
    /// All files, in an order in which they could be written one after another.
    pub tasks: Vec<SyntheticTask>,
    /// All answers.
    pub script: Script,
}

impl Synthetic {
    /// `features` features of `tasks_per_feature` files each (at least one of each): independent files of 400 bytes,
    /// answered at once.
    #[must_use]
    pub fn new(features: usize, tasks_per_feature: usize, seed: u64) -> Self {
        Self {
            features: features.max(1),
            tasks_per_feature: tasks_per_feature.max(1),
            seed,
            durations: Durations::Even { shortest: Duration::ZERO, longest: Duration::ZERO },
            planning: Duration::ZERO,
            local_percent: 0,
            cross_edges: 0,
            file_bytes: 400,
            agents: AGENTS.map(String::from).to_vec(),
        }
    }

    /// Draws the duration of every file evenly from `shortest` to `longest`, in whole milliseconds.
    #[must_use]
    pub fn durations(self, shortest: Duration, longest: Duration) -> Self {
        self.drawn(Durations::Even { shortest, longest })
    }

    /// Draws the duration of every file in this way.
    #[must_use]
    pub fn drawn(self, durations: Durations) -> Self {
        Self { durations, ..self }
    }

    /// Lets every plan take so long.
    #[must_use]
    pub fn planning(self, duration: Duration) -> Self {
        Self { planning: duration, ..self }
    }

    /// Makes each file depend on the one before it in its feature with this chance; 100 makes every feature a chain.
    #[must_use]
    pub fn local_edges(self, percent: u64) -> Self {
        Self { local_percent: percent.min(100), ..self }
    }

    /// Draws so many edges between files of different features; an edge drawn twice counts once.
    #[must_use]
    pub fn cross_edges(self, edges: usize) -> Self {
        Self { cross_edges: edges, ..self }
    }

    /// Fills every file to about so many bytes.
    #[must_use]
    pub fn file_bytes(self, bytes: usize) -> Self {
        Self { file_bytes: bytes, ..self }
    }

    /// Sends the files to these agent types in turn; an empty list changes nothing.
    #[must_use]
    pub fn agents(self, agents: &[&str]) -> Self {
        if agents.is_empty() {
            return self;
        }
        Self { agents: agents.iter().map(ToString::to_string).collect(), ..self }
    }

    /// Makes the job up; the same measures give the same job.
    ///
    /// # Errors
    /// Never for fewer than 10³⁶ features; ids are checked like any others.
    pub fn build(&self) -> Result<SyntheticJob, InvalidId> {
        let tasks = self.tasks()?;
        let features: Vec<FeatureSpec> =
            tasks.chunks(self.tasks_per_feature).enumerate().map(|(number, files)| feature(number, files)).collect();
        let feature_plans: Vec<FeaturePlan> =
            (0..self.features).map(|number| self.feature_plan(number, &tasks)).collect();
        let plan = StrategicPlan {
            name: "synthetic".into(),
            summary: format!("A made-up job of {} files in {} features.", tasks.len(), self.features),
            contract: Contract {
                language: "Python 3.11, standard library only".into(),
                identifiers: Vec::new(),
                rules: vec!["Every file stands alone.".into()],
            },
            features,
        };
        let mut script = Script::new();
        script.push("plan", Reply::new(json(&plan)).delay(self.planning));
        for (feature, answer) in plan.features.iter().zip(&feature_plans) {
            let key = format!("feature-plan {}", feature.id);
            script.push(&key, Reply::new(json(answer)).delay(self.planning));
        }
        for task in &tasks {
            script.push(&format!("file {}", task.path), Reply::new(self.file(&task.path)).delay(task.duration));
        }
        Ok(SyntheticJob { plan, feature_plans, tasks, script })
    }

    fn tasks(&self) -> Result<Vec<SyntheticTask>, InvalidId> {
        let mut random = SplitMix64::new(self.seed);
        let total = self.features * self.tasks_per_feature;
        let mut tasks = Vec::with_capacity(total);
        for index in 0..total {
            let (number, local) = (index / self.tasks_per_feature, index % self.tasks_per_feature);
            let chained = local > 0 && random.below(100) < self.local_percent;
            tasks.push(SyntheticTask {
                feature: FeatureId::new(format!("f{number:04}"))?,
                id: format!("t{local:04}"),
                path: format!("f{number:04}/t{local:04}.py"),
                duration: Duration::from_millis(self.durations.draw_ms(&mut random)),
                depends_on: if chained { vec![index - 1] } else { Vec::new() },
            });
        }
        let below = |random: &mut SplitMix64| usize::try_from(random.below(total as u64)).unwrap_or(0);
        for _ in 0..self.cross_edges {
            let (a, b) = (below(&mut random), below(&mut random));
            let (first, second) = (a.min(b), a.max(b));
            if tasks[first].feature != tasks[second].feature && !tasks[second].depends_on.contains(&first) {
                tasks[second].depends_on.push(first);
            }
        }
        Ok(tasks)
    }

    fn feature_plan(&self, number: usize, tasks: &[SyntheticTask]) -> FeaturePlan {
        let start = number * self.tasks_per_feature;
        let own = &tasks[start..start + self.tasks_per_feature];
        let name = |index: &usize| match own.get(index.wrapping_sub(start)) {
            Some(local) => local.id.clone(),
            None => tasks[*index].path.clone(),
        };
        let spec = |(local, task): (usize, &SyntheticTask)| TaskSpec {
            id: task.id.clone(),
            path: task.path.clone(),
            agent: self.agents[(start + local) % self.agents.len()].clone(),
            title: format!("Write {}", task.path),
            instructions: "Define the constant NAME as the path of the file.".into(),
            depends_on: task.depends_on.iter().map(name).collect(),
            // One token a millisecond: a scheduler that trusts the estimate sees the true proportions.
            estimated_tokens: u32::try_from(task.duration.as_millis()).unwrap_or(u32::MAX).max(1),
        };
        FeaturePlan { tasks: own.iter().enumerate().map(spec).collect() }
    }

    fn file(&self, path: &str) -> String {
        let mut text = format!("<file path=\"{path}\" id=\"{{{{id}}}}\">\nNAME = \"{path}\"\n");
        let end = text.len().max(self.file_bytes);
        let mut line = 0;
        while text.len() < end {
            line += 1;
            text.push_str(&format!("# line {line} of what makes this file as long as it was ordered\n"));
        }
        text.push_str("</file-{{id}}>\n");
        text
    }
}

impl SyntheticJob {
    /// The sum of all durations: what one worker needs.
    #[must_use]
    pub fn total_work(&self) -> Duration {
        self.tasks.iter().map(|task| task.duration).sum()
    }

    /// The longest chain of dependent files: what no number of workers can beat.
    #[must_use]
    pub fn critical_path(&self) -> Duration {
        let mut ends: Vec<Duration> = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            let start = task.depends_on.iter().map(|earlier| ends[*earlier]).max().unwrap_or_default();
            ends.push(start + task.duration);
        }
        ends.into_iter().max().unwrap_or_default()
    }

    /// No schedule of the files on so many workers is shorter than this (Graham 1969); planning comes on top.
    #[must_use]
    pub fn lower_bound(&self, workers: u32) -> Duration {
        self.critical_path().max(self.total_work() / workers.max(1))
    }
}

fn feature(number: usize, files: &[SyntheticTask]) -> FeatureSpec {
    let id = files[0].feature.clone();
    let file = |task: &SyntheticTask| FilePlan { path: task.path.clone(), purpose: "Holds one constant.".into() };
    FeatureSpec {
        name: format!("Feature {number}"),
        description: format!("The files below {id}."),
        id,
        priority: Priority::default(),
        files: files.iter().map(file).collect(),
        depends_on: Vec::new(),
        metadata: Vec::new(),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX - 1)
}

#[expect(clippy::expect_used, reason = "plans are plain structs with string keys: serialising to memory cannot fail")]
fn json(plan: &impl serde::Serialize) -> String {
    serde_json::to_string(plan).expect("serialises")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::protocol::validate;

    fn busy() -> SyntheticJob {
        Synthetic::new(7, 5, 42)
            .durations(Duration::from_millis(10), Duration::from_millis(90))
            .local_edges(50)
            .cross_edges(40)
            .file_bytes(1_000)
            .build()
            .expect("valid")
    }

    #[test]
    fn a_made_up_job_passes_the_checks_of_a_real_one() {
        let job = busy();
        validate::strategic_plan(&job.plan, (5, 15)).expect("valid plan");
        for (feature, plan) in job.plan.features.iter().zip(&job.feature_plans) {
            validate::feature_plan(plan, feature, &job.plan, (2, 8)).expect("valid feature plan");
            let owned: BTreeSet<_> = feature.files.iter().map(|file| &file.path).collect();
            let planned: BTreeSet<_> = plan.tasks.iter().map(|task| &task.path).collect();
            assert_eq!(owned, planned);
        }
        assert_eq!(job.script.len(), 1 + 7 + 35);
    }

    #[test]
    fn the_graph_that_is_handed_back_is_the_one_in_the_plans() {
        let job = busy();
        let specs: Vec<_> = job.feature_plans.iter().flat_map(|plan| &plan.tasks).collect();
        let mut edges = 0;
        for (task, spec) in job.tasks.iter().zip(&specs) {
            let found = |name: &String| {
                let same =
                    |other: &SyntheticTask| other.path == *name || (other.feature == task.feature && other.id == *name);
                job.tasks.iter().position(same).expect("names a task")
            };
            assert_eq!(spec.depends_on.iter().map(found).collect::<Vec<_>>(), task.depends_on);
            assert_eq!(u128::from(spec.estimated_tokens), task.duration.as_millis());
            edges += task.depends_on.len();
        }
        assert!(edges > 30, "{edges}");
        assert!(job.tasks.iter().enumerate().all(|(index, task)| task.depends_on.iter().all(|other| *other < index)));
    }

    #[test]
    fn the_same_seed_gives_the_same_job() {
        assert_eq!(busy().tasks, busy().tasks);
        assert_ne!(Synthetic::new(7, 5, 43).cross_edges(40).build().expect("valid").tasks, busy().tasks);
    }

    #[test]
    fn the_bound_is_the_longer_of_work_and_chain() {
        let ten = Duration::from_millis(10);
        let chains = Synthetic::new(4, 3, 1).durations(ten, ten).local_edges(100).build().expect("valid");
        assert_eq!((chains.total_work(), chains.critical_path()), (ten * 12, ten * 3));
        assert_eq!(chains.lower_bound(2), ten * 6);
        assert_eq!(chains.lower_bound(100), ten * 3);
    }

    #[test]
    fn ten_thousand_tasks_are_made_quickly_enough_to_test_with() {
        let job = Synthetic::new(1_000, 10, 1).cross_edges(10_000).build().expect("valid");
        assert_eq!((job.tasks.len(), job.script.len()), (10_000, 11_001));
    }
}
