//! A job under test: decides, applies and logs in one step, with plans and results made to order.
//!
//! Every granted wish goes through [`Job::apply`], so a test that uses this can never skip the rules.

use super::*;
use crate::protocol::{
    Contract, Event, FailureKind, FeaturePlan, FeatureSpec, FilePlan, InstanceId, Priority, Receipt, TaskFailure,
    TaskKind, TaskOutcome, TaskResult, TaskSpec,
};

pub(super) const NOW: Timestamp = Timestamp(1_000_000);

pub(super) fn digest(seed: &str) -> ArtifactRef {
    let hex: String = seed.bytes().map(|byte| format!("{byte:02x}")).collect();
    ArtifactRef { sha256: format!("{hex:0<64}").chars().take(64).collect(), bytes: 1 }
}

pub(super) fn feature_id(id: &str) -> FeatureId {
    FeatureId::new(id).unwrap()
}

pub(super) fn task_id(id: &str) -> TaskId {
    TaskId::new(id).unwrap()
}

pub(super) fn submission(approval: bool, max_attempts: u32) -> Submission {
    Submission {
        name: "todo".into(),
        proposal: digest("proposal"),
        budget: MicroUsd(5_000_000),
        origin: Origin::Live,
        settings: JobSettings {
            output: "/tmp/out".into(),
            git: false,
            approval,
            features: (1, 50),
            tasks_per_feature: (1, 8),
            max_attempts,
            hold_back_percent: 0,
        },
    }
}

/// A plan of features given as (id, number of files, dependencies); files are `<id>/<n>`.
pub(super) fn strategy(features: &[(&str, usize, &[&str])]) -> StrategicPlan {
    let spec = |&(id, files, needs): &(&str, usize, &[&str])| FeatureSpec {
        id: feature_id(id),
        name: id.to_owned(),
        description: "Does it.".into(),
        priority: Priority::Normal,
        files: (0..files).map(|n| FilePlan { path: format!("{id}/{n}"), purpose: String::new() }).collect(),
        depends_on: needs.iter().map(|need| feature_id(need)).collect(),
        metadata: vec![],
    };
    StrategicPlan {
        name: "todo".into(),
        summary: "A list.".into(),
        contract: Contract { language: "Python".into(), identifiers: vec![], rules: vec![] },
        features: features.iter().map(spec).collect(),
    }
}

/// A feature plan with one task `t<n>` per file `<feature>/<n>`, whose dependencies are `needs[n]`.
pub(super) fn tasks(feature: &str, needs: &[&[&str]]) -> FeaturePlan {
    let spec = |(n, needs): (usize, &&[&str])| TaskSpec {
        id: format!("t{n}"),
        path: format!("{feature}/{n}"),
        agent: "coder".into(),
        title: format!("Write {n}"),
        instructions: "Write it.".into(),
        depends_on: needs.iter().map(|&need| need.to_owned()).collect(),
        estimated_tokens: 100,
    };
    FeaturePlan { tasks: needs.iter().enumerate().map(spec).collect() }
}

pub(super) fn fault(kind: FailureKind) -> TaskFailure {
    TaskFailure {
        kind,
        code: "CS-TEST-001".into(),
        message: "it broke".into(),
        retry_after_ms: (kind == FailureKind::Parked).then_some(50),
        needed: None,
        failed_calls: 0,
    }
}

pub(super) struct Bench {
    pub(super) job: Job,
    pub(super) log: Vec<RecordedEvent>,
    pub(super) now: Timestamp,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self { job: Job::new(JobId::new("j").unwrap()), log: Vec::new(), now: NOW }
    }

    pub(super) fn submitted(approval: bool, max_attempts: u32) -> Self {
        let mut bench = Self::new();
        bench.wish(Decision::Submit(submission(approval, max_attempts))).unwrap();
        bench
    }

    /// A job whose strategic plan is accepted.
    pub(super) fn planned(plan: StrategicPlan, approval: bool, max_attempts: u32) -> Self {
        let mut bench = Self::submitted(approval, max_attempts);
        bench.dispatch("plan");
        bench.answer("plan", Ok(Some(Product::Plan(plan, digest("plan")))));
        bench
    }

    /// Grants a wish; answers the events it took.
    pub(super) fn wish(&mut self, decision: Decision) -> Result<Vec<Event>, Refusal> {
        let events = self.job.decide(decision, self.now)?;
        for event in &events {
            self.record(event.clone()).unwrap_or_else(|error| panic!("decided an illegal event: {error}"));
        }
        Ok(events)
    }

    pub(super) fn record(&mut self, event: Event) -> Result<(), IllegalTransition> {
        self.job.apply(&event, self.now)?;
        self.log.push(RecordedEvent { seq: self.log.len() as u64 + 1, at: self.now, event });
        Ok(())
    }

    #[track_caller]
    pub(super) fn dispatch(&mut self, task: &str) {
        self.wish(Decision::Dispatch { tasks: vec![task_id(task)] }).unwrap();
    }

    /// The result of the attempt of `task` that is in flight.
    pub(super) fn result(&self, task: &str, outcome: Result<(), FailureKind>) -> TaskResult {
        let found = self.job.task(&task_id(task)).unwrap();
        TaskResult {
            job: self.job.id().clone(),
            task: found.id.clone(),
            attempt: found.attempt,
            worker: InstanceId::new("worker").unwrap(),
            started_at: self.now,
            finished_at: Timestamp(self.now.0 + 10),
            usage: Usage { output: 5, ..Usage::default() },
            cost: MicroUsd(7),
            overrun: None,
            outcome: match outcome {
                Ok(()) => TaskOutcome::Succeeded {
                    receipt: Receipt { artifact: digest(task), model: "m".into(), checks: vec![] },
                },
                Err(kind) => TaskOutcome::Failed { failure: fault(kind) },
            },
        }
    }

    /// Reports the attempt in flight, with what it produced or how it failed; a retry may start at once.
    #[track_caller]
    pub(super) fn answer(&mut self, task: &str, outcome: Result<Option<Product>, FailureKind>) -> Vec<Event> {
        let (outcome, product) = match outcome {
            Ok(product) => (Ok(()), product),
            Err(kind) => (Err(kind), None),
        };
        let result = self.result(task, outcome);
        self.wish(Decision::Accept { result, product, retry_at: None }).unwrap()
    }

    /// Reports the attempt in flight as failed with exactly this failure.
    #[track_caller]
    pub(super) fn answer_with(&mut self, task: &str, failure: TaskFailure) -> Vec<Event> {
        let mut result = self.result(task, Err(failure.kind));
        result.outcome = TaskOutcome::Failed { failure };
        self.wish(Decision::Accept { result, product: None, retry_at: None }).unwrap()
    }

    #[track_caller]
    pub(super) fn succeed(&mut self, task: &str) -> Vec<Event> {
        self.dispatch(task);
        self.answer(task, Ok(None))
    }

    #[track_caller]
    pub(super) fn plan_feature(&mut self, feature: &str, plan: FeaturePlan) -> Vec<Event> {
        let task = format!("feature/{feature}");
        self.dispatch(&task);
        self.answer(&task, Ok(Some(Product::Feature(plan))))
    }

    /// Lets every attempt of `task` fail until it is dead.
    #[track_caller]
    pub(super) fn kill(&mut self, task: &str) -> Vec<Event> {
        loop {
            self.dispatch(task);
            let events = self.answer(task, Err(FailureKind::Transient));
            if self.status(task) == TaskStatus::Dead {
                return events;
            }
        }
    }

    #[track_caller]
    pub(super) fn status(&self, task: &str) -> TaskStatus {
        self.job.task(&task_id(task)).unwrap().status
    }

    pub(super) fn dispatchable(&self) -> Vec<String> {
        self.job.dispatchable(self.now).map(|task| task.id.to_string()).collect()
    }

    pub(super) fn commit_all(&mut self) {
        for feature in self.job.commit_ready() {
            let files = self.job.feature(&feature).unwrap().counts.total;
            self.wish(Decision::FeatureCommitted { feature, files, complete: true, commit: None }).unwrap();
        }
    }

    /// Replaying the log must give the same job, and every counter and set must agree with a full scan.
    pub(super) fn check(&self) {
        let replayed = Job::replay(self.job.id().clone(), &self.log).unwrap();
        assert!(replayed == self.job, "the replayed job differs");
        let job = &self.job;
        let scan = |files_only: bool| {
            let mut counts = Counts { total: job.totals().files.total, ..Counts::default() };
            if !files_only {
                counts.total = job.totals().all.total;
            }
            for task in job.tasks().iter().filter(|task| task.is_file() || !files_only) {
                if let Some(count) = counts.slot(task.status) {
                    *count += 1;
                }
            }
            counts
        };
        assert_eq!(job.totals().all, scan(false));
        assert_eq!(job.totals().files, scan(true));
        assert_eq!(job.open, job.tasks().iter().filter(|task| !task.status.is_over()).count());
        let planning = |task: &&Task| !task.status.is_over() && !matches!(task.kind, TaskKind::File { .. });
        assert_eq!(job.planning, job.tasks().iter().filter(planning).count());
        for feature in job.features() {
            let mine: Vec<&Task> = job.feature_tasks(&feature.spec.id).collect();
            let done = mine.iter().filter(|task| task.status == TaskStatus::Succeeded).count();
            assert_eq!(feature.counts.succeeded as usize, done);
            assert_eq!(feature.counts.total as usize, feature.spec.files.len());
        }
        assert_eq!(job.cost(), job.tasks().iter().map(|task| task.cost).sum());
    }
}
