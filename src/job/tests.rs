//! Promises of the job as a whole: replay equals the living job, decisions are always legal, and a job whose
//! dispatches are all answered ends by itself.
//!
//! Random walks choose wishes at random, duplicates and senseless ones included; short scenarios state what the walks
//! cannot say by name.

use proptest::prelude::*;
use proptest::sample::Index;

use super::fixtures::*;
use super::*;
use crate::protocol::{Event, FailureKind, FeaturePlan, TaskKind};

const KINDS: [FailureKind; 8] = [
    FailureKind::Rejected,
    FailureKind::Transient,
    FailureKind::Parked,
    FailureKind::Budget,
    FailureKind::Lost,
    FailureKind::Exhausted,
    FailureKind::Fatal,
    FailureKind::Cancelled,
];

/// Features with files and backward dependencies.
fn shape() -> impl Strategy<Value = StrategicPlan> {
    prop::collection::vec((1..4_usize, prop::collection::vec(any::<Index>(), 0..3)), 1..5).prop_map(|features| {
        let names: Vec<String> = (0..features.len()).map(|n| format!("f{n}")).collect();
        let needs = |at: usize, picks: &[Index]| -> Vec<&str> {
            if at == 0 { vec![] } else { picks.iter().map(|pick| names[pick.index(at)].as_str()).collect() }
        };
        let needs: Vec<Vec<&str>> = features.iter().enumerate().map(|(at, (_, picks))| needs(at, picks)).collect();
        let specs: Vec<_> = features.iter().enumerate().map(|(at, f)| (&*names[at], f.0, &*needs[at])).collect();
        strategy(&specs)
    })
}

/// A plan for `feature`: tasks depend on earlier ones, and now and then on a file of any feature (which may close a
/// cycle across features).
fn plan_for(job: &Job, feature: &FeatureId, pick: &Index) -> FeaturePlan {
    let whole = job.plan().unwrap();
    let spec = whole.features.iter().find(|spec| spec.id == *feature).unwrap();
    let paths: Vec<&str> = whole.features.iter().flat_map(|f| &f.files).map(|file| file.path.as_str()).collect();
    let foreign = *pick.get(&paths);
    let names: Vec<String> = (0..spec.files.len()).map(|n| format!("t{n}")).collect();
    let needs: Vec<Vec<&str>> = (0..spec.files.len())
        .map(|n| {
            let mut needs: Vec<&str> = names[..n].iter().map(String::as_str).filter(|_| pick.index(3) > 0).collect();
            if pick.index(4) == 0 && !foreign.starts_with(&format!("{feature}/")) {
                needs.push(foreign);
            }
            needs
        })
        .collect();
    let needs: Vec<&[&str]> = needs.iter().map(Vec::as_slice).collect();
    tasks(feature.as_str(), &needs)
}

/// Reports an attempt of `task` with a fitting product.
fn answer(bench: &mut Bench, task: &TaskId, outcome: Result<(), FailureKind>, plan: &StrategicPlan, pick: &Index) {
    let product = outcome.is_ok().then(|| match &bench.job.task(task).unwrap().kind {
        TaskKind::Plan { .. } => Some(Product::Plan(plan.clone(), digest("plan"))),
        TaskKind::FeaturePlan { feature, .. } => Some(Product::Feature(plan_for(&bench.job, feature, pick))),
        TaskKind::File { .. } => None,
    });
    let result = bench.result(task.as_str(), outcome);
    let retry_at = (pick.index(2) == 0).then(|| Timestamp(bench.now.0 + 5));
    let decision = Decision::Accept { result, product: product.flatten(), retry_at };
    bench.wish(decision.clone()).unwrap();
    // Results are delivered at least once.
    assert_eq!(bench.wish(decision), Ok(vec![]));
}

/// One random wish; refusals are fine, illegal events are not (see [`Bench::wish`]).
fn step(bench: &mut Bench, choice: u8, pick: &Index, plan: &StrategicPlan) {
    bench.now = Timestamp(bench.now.0 + 2);
    let any_task = bench.job.tasks().get(pick.index(bench.job.tasks().len())).map(|task| task.id.clone()).unwrap();
    let in_flight: Vec<TaskId> = bench.job.in_flight().map(|task| task.id.clone()).collect();
    match choice {
        0..=79 => {
            let tasks: Vec<TaskId> = bench.job.dispatchable(bench.now).map(|task| task.id.clone()).take(2).collect();
            bench.wish(Decision::Dispatch { tasks }).unwrap_or_default();
        }
        80..=159 if !in_flight.is_empty() => answer(bench, pick.get(&in_flight), Ok(()), plan, pick),
        160..=199 if !in_flight.is_empty() => {
            answer(bench, pick.get(&in_flight), Err(*pick.get(&KINDS)), plan, pick);
        }
        200..=209 => bench.commit_all_that_may(),
        _ => {
            let reason = "because".to_owned();
            let wish = match choice % 9 {
                0 => Decision::Dispatch { tasks: vec![any_task] },
                1 => Decision::Retry { task: any_task },
                2 => Decision::Pause { reason: None },
                3 | 4 => Decision::Resume,
                5 => Decision::Cancel { reason },
                6 => Decision::RequestApproval { estimate: MicroUsd(5) },
                7 => Decision::Approve,
                _ => Decision::End { outcome: JobOutcome::BudgetExhausted, reason },
            };
            bench.wish(wish).unwrap_or_default();
        }
    }
}

impl Bench {
    fn commit_all_that_may(&mut self) {
        if !matches!(self.job.status(), JobStatus::Ended(JobOutcome::Completed)) {
            self.commit_all();
        }
    }
}

/// Answers every dispatch until the job ends by itself.
fn run_to_end(bench: &mut Bench, plan: &StrategicPlan, picks: &[Index]) {
    for round in 0..10_000 {
        bench.now = Timestamp(bench.now.0 + 100);
        if let Some((outcome, reason)) = bench.job.natural_end() {
            bench.wish(Decision::End { outcome, reason }).unwrap();
            return;
        }
        let pick = &picks[round % picks.len()];
        bench.wish(Decision::Resume).unwrap_or_default();
        bench.wish(Decision::RequestApproval { estimate: MicroUsd(1) }).unwrap_or_default();
        bench.wish(Decision::Approve).unwrap_or_default();
        bench.commit_all();
        let tasks: Vec<TaskId> = bench.job.dispatchable(bench.now).map(|task| task.id.clone()).collect();
        bench.wish(Decision::Dispatch { tasks }).unwrap_or_default();
        let in_flight: Vec<TaskId> = bench.job.in_flight().map(|task| task.id.clone()).collect();
        for (n, task) in in_flight.iter().enumerate() {
            let fails = (pick.index(7) + n + round).is_multiple_of(4);
            answer(bench, task, if fails { Err(FailureKind::Rejected) } else { Ok(()) }, plan, pick);
        }
    }
    panic!("the job did not end: {:?} {:?}", bench.job.status(), bench.job.totals());
}

proptest! {
    #[test]
    fn stress_any_walk_replays_to_an_equal_job_and_ends_by_itself_once_all_dispatches_are_answered(
        plan in shape(),
        approval in any::<bool>(),
        attempts in 1..4_u32,
        steps in prop::collection::vec((any::<u8>(), any::<Index>()), 0..150),
        picks in prop::collection::vec(any::<Index>(), 1..20),
    ) {
        let mut bench = Bench::submitted(approval, attempts);
        for (choice, pick) in &steps {
            step(&mut bench, *choice, pick, &plan);
        }
        bench.check();
        if !matches!(bench.job.status(), JobStatus::Ended(_)) || bench.wish(Decision::Resume).is_ok() {
            run_to_end(&mut bench, &plan, &picks);
            bench.check();
        }
        prop_assert!(matches!(bench.job.status(), JobStatus::Ended(_)));
    }

    #[test]
    fn stress_dispatchable_agrees_with_a_full_scan(
        plan in shape(), steps in prop::collection::vec((any::<u8>(), any::<Index>()), 0..60),
    ) {
        let mut bench = Bench::submitted(false, 2);
        for (choice, pick) in &steps {
            step(&mut bench, *choice, pick, &plan);
            bench.job.rank();
            let open = !matches!(bench.job.status(), JobStatus::Paused | JobStatus::Ended(_));
            let scan: BTreeSet<&TaskId> = bench.job.tasks().iter().filter(|task| match task.status {
                TaskStatus::Ready => open,
                TaskStatus::RetryAt { at, .. } => open && at <= bench.now,
                _ => false,
            }).map(|task| &task.id).collect();
            let offered: BTreeSet<&TaskId> = bench.job.dispatchable(bench.now).map(|task| &task.id).collect();
            prop_assert_eq!(&scan, &offered);
            let leading = bench.job.leading(bench.now, usize::MAX, |_| true);
            prop_assert!(leading.iter().all(|(task, tail)| *tail == bench.job.tail(&task.id)));
            prop_assert_eq!(offered, leading.iter().map(|(task, _)| &task.id).collect());
            let heaviest = |task: &Task| (task.priority, task.agent.clone());
            let first = bench.job.leading(bench.now, 1, |task| task.status == TaskStatus::Ready);
            for (task, tail) in leading.iter().filter(|(task, _)| task.status == TaskStatus::Ready) {
                prop_assert!(first.iter().any(|(one, most)| heaviest(one) == heaviest(task) && most >= tail));
            }
        }
    }
}

/// Two features, `web` waiting for `core`; both planned.
fn two_features(max_attempts: u32) -> Bench {
    let mut bench = Bench::planned(strategy(&[("core", 2, &[]), ("web", 1, &["core"])]), false, max_attempts);
    bench.plan_feature("core", tasks("core", &[&[], &["t0"]]));
    bench.plan_feature("web", tasks("web", &[&[]]));
    bench
}

#[test]
fn the_plain_walk_goes_through_every_status() {
    let mut bench = Bench::new();
    bench.wish(Decision::Submit(submission(true, 3))).unwrap();
    assert_eq!(bench.job.status(), JobStatus::Submitted);
    bench.dispatch("plan");
    assert_eq!(bench.job.status(), JobStatus::Planning);
    let plan = strategy(&[("core", 1, &[])]);
    bench.answer("plan", Ok(Some(Product::Plan(plan, digest("plan")))));
    bench.plan_feature("core", tasks("core", &[&[]]));
    assert_eq!(bench.job.status(), JobStatus::Planning);
    assert!(bench.job.approval_due());
    bench.wish(Decision::RequestApproval { estimate: MicroUsd(9) }).unwrap();
    assert_eq!(bench.job.status(), JobStatus::AwaitingApproval);
    assert!(bench.dispatchable().is_empty());
    assert_eq!(bench.wish(Decision::Dispatch { tasks: vec![task_id("file/core/t0")] }), Err(Refusal::NotApproved));
    bench.wish(Decision::Pause { reason: None }).unwrap();
    assert_eq!(bench.job.status(), JobStatus::Paused);
    bench.wish(Decision::Resume).unwrap();
    assert_eq!(bench.job.status(), JobStatus::AwaitingApproval);
    bench.wish(Decision::Approve).unwrap();
    assert_eq!(bench.wish(Decision::Approve), Ok(vec![]));
    assert_eq!(bench.job.status(), JobStatus::Running);
    bench.succeed("file/core/t0");
    assert_eq!(bench.job.status(), JobStatus::Verifying);
    assert_eq!(bench.job.natural_end(), None);
    bench.commit_all();
    let (outcome, reason) = bench.job.natural_end().unwrap();
    bench.wish(Decision::End { outcome, reason }).unwrap();
    assert_eq!(bench.job.status(), JobStatus::Ended(JobOutcome::Completed));
    assert_eq!(bench.job.warnings(), Vec::<String>::new());
    assert_eq!(bench.job.sequential_duration_ms(), 30);
    bench.check();
}

#[test]
fn features_run_side_by_side_unless_an_edge_says_otherwise() {
    let mut bench = Bench::planned(strategy(&[("a", 1, &[]), ("b", 2, &[]), ("c", 1, &["a"])]), false, 3);
    assert_eq!(bench.dispatchable(), ["feature/a", "feature/b", "feature/c"]);
    bench.plan_feature("c", tasks("c", &[&[]]));
    bench.plan_feature("b", tasks("b", &[&[], &["a/0"]]));
    assert_eq!(bench.dispatchable(), ["feature/a", "file/b/t0"]);
    bench.plan_feature("a", tasks("a", &[&[]]));
    assert_eq!(bench.dispatchable(), ["file/b/t0", "file/a/t0"]);
    bench.succeed("file/a/t0");
    assert_eq!(bench.dispatchable(), ["file/c/t0", "file/b/t0", "file/b/t1"]);
    let files = bench.job.dependency_files(&task_id("file/b/t1"));
    assert_eq!(files.direct.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["a/0"]);
    assert!(files.indirect.is_empty());
    let files = bench.job.dependency_files(&task_id("file/c/t0"));
    assert!(files.direct.is_empty());
    assert_eq!(files.indirect.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["a/0"]);
}

#[test]
fn a_cycle_across_features_makes_the_second_plan_a_rejected_attempt_that_names_it() {
    let mut bench = Bench::planned(strategy(&[("a", 1, &[]), ("b", 1, &[])]), false, 2);
    bench.plan_feature("a", tasks("a", &[&["b/0"]]));
    let bad = tasks("b", &[&["a/0"]]);
    let fault = bench.job.check_feature_plan(&feature_id("b"), &bad).unwrap_err();
    assert!(fault.to_string().contains("file/b/t0 -> a/0 -> file/a/t0 -> b/0 -> file/b/t0"), "{fault}");
    let events = bench.plan_feature("b", bad);
    let [Event::TaskFailed { failure, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((failure.kind, &failure.message), (FailureKind::Rejected, &fault.to_string()));
    bench.plan_feature("b", tasks("b", &[&[]]));
    assert_eq!(bench.dispatchable(), ["file/b/t0"]);
}

#[test]
fn a_dead_task_takes_with_it_what_needs_it_and_nothing_else() {
    let mut bench = two_features(2);
    let events = bench.kill("file/core/t0");
    let skipped: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            Event::TaskSkipped { task, .. } => Some(task.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(skipped, ["file/core/t1", "file/web/t0"]);
    assert_eq!(bench.job.task(&task_id("file/core/t0")).unwrap().failures, 2);
    assert_eq!(bench.job.warnings().len(), 3);
    assert_eq!(bench.job.natural_end().unwrap().0, JobOutcome::Failed);
    bench.check();
}

#[test]
fn a_plan_that_arrives_after_a_death_is_skipped_where_it_has_to_be() {
    let plan = strategy(&[("core", 1, &[]), ("web", 2, &[]), ("app", 1, &[]), ("cli", 1, &["web"])]);
    let mut bench = Bench::planned(plan, false, 1);
    bench.plan_feature("core", tasks("core", &[&[]]));
    bench.plan_feature("app", tasks("app", &[&["web/1"]]));
    bench.kill("file/core/t0");
    bench.plan_feature("web", tasks("web", &[&[], &["core/0"]]));
    bench.plan_feature("cli", tasks("cli", &[&[]]));
    for (task, status) in [
        ("file/web/t0", TaskStatus::Ready),
        ("file/web/t1", TaskStatus::Skipped),
        ("file/app/t0", TaskStatus::Skipped),
        ("file/cli/t0", TaskStatus::Skipped),
    ] {
        assert_eq!(bench.status(task), status, "{task}");
    }
    bench.succeed("file/web/t0");
    assert_eq!(bench.job.natural_end().unwrap().0, JobOutcome::CompletedWithWarnings);
    assert_eq!(bench.job.uncommitted(), [feature_id("web")]);
    bench.check();
}

#[test]
fn reviving_a_task_frees_exactly_what_it_blocked() {
    let mut bench = Bench::planned(strategy(&[("a", 3, &[]), ("b", 1, &[])]), false, 1);
    bench.plan_feature("a", tasks("a", &[&[], &[], &["t0", "t1"]]));
    bench.plan_feature("b", tasks("b", &[&["a/0"]]));
    bench.kill("file/a/t0");
    bench.kill("file/a/t1");
    assert_eq!(bench.job.task(&task_id("file/a/t2")).unwrap().blocked_by, Some(task_id("file/a/t0")));
    bench.wish(Decision::Retry { task: task_id("file/a/t0") }).unwrap();
    assert_eq!(bench.job.task(&task_id("file/a/t2")).unwrap().blocked_by, Some(task_id("file/a/t1")));
    assert_eq!(bench.status("file/b/t0"), TaskStatus::Waiting);
    bench.succeed("file/a/t0");
    bench.wish(Decision::Retry { task: task_id("file/a/t1") }).unwrap();
    assert_eq!(bench.status("file/a/t2"), TaskStatus::Waiting);
    bench.succeed("file/a/t1");
    assert_eq!(bench.dispatchable(), ["file/a/t2", "file/b/t0"]);
    let refusal = bench.wish(Decision::Retry { task: task_id("file/a/t2") }).unwrap_err();
    assert!(matches!(refusal, Refusal::TaskState { .. }));
    bench.check();
}

#[test]
fn only_failures_of_the_attempt_itself_burn_attempts() {
    for kind in KINDS {
        let mut bench = Bench::submitted(false, 3);
        bench.dispatch("plan");
        bench.answer("plan", Err(kind));
        let task = bench.job.task(&TaskId::plan()).unwrap();
        let burns =
            matches!(kind, FailureKind::Rejected | FailureKind::Transient | FailureKind::Lost | FailureKind::Exhausted);
        assert_eq!(task.failures, u32::from(burns), "{kind:?}");
        assert_eq!(task.attempt, 1);
        let ended = matches!(bench.job.status(), JobStatus::Ended(JobOutcome::Failed));
        assert_eq!(ended, kind == FailureKind::Fatal);
        assert_eq!(task.status == TaskStatus::Dead, kind == FailureKind::Exhausted, "two attempts are left: {kind:?}");
        if kind == FailureKind::Parked {
            assert_eq!(bench.job.next_retry_at(), Some(Timestamp(NOW.0 + 50)));
            let early = bench.wish(Decision::Dispatch { tasks: vec![TaskId::plan()] });
            assert!(matches!(early, Err(Refusal::NotDue { .. })));
            bench.now = Timestamp(NOW.0 + 50);
            assert_eq!(bench.dispatchable(), ["plan"]);
            bench.dispatch("plan");
            assert_eq!(bench.status("plan"), TaskStatus::Dispatched { attempt: 2 });
        }
    }
}

#[test]
fn results_that_arrive_after_the_end_are_recorded_because_they_were_paid() {
    for outcome in [JobOutcome::BudgetExhausted, JobOutcome::Failed, JobOutcome::Cancelled] {
        let mut bench = two_features(3);
        bench.dispatch("file/core/t0");
        bench.wish(Decision::End { outcome, reason: "enough".into() }).unwrap();
        assert!(bench.dispatchable().is_empty());
        bench.answer("file/core/t0", Ok(None));
        assert_eq!(bench.status("file/core/t0"), TaskStatus::Succeeded);
        assert_eq!(bench.job.cost(), MicroUsd(28));
        assert_eq!(bench.job.uncommitted(), [feature_id("core")]);
        let refusal = bench.wish(Decision::Dispatch { tasks: vec![task_id("file/core/t1")] });
        assert!(matches!(refusal, Err(Refusal::Ended(_))));
        bench.wish(Decision::Resume).unwrap();
        assert_eq!(bench.dispatchable(), ["file/core/t1"]);
        bench.check();
    }
}

#[test]
fn a_stale_or_repeated_result_changes_nothing() {
    let mut bench = two_features(3);
    bench.dispatch("file/core/t0");
    let late = bench.result("file/core/t0", Ok(()));
    bench.answer("file/core/t0", Err(FailureKind::Lost));
    bench.dispatch("file/core/t0");
    let before = bench.job.clone();
    let stale = Decision::Accept { result: late, product: None, retry_at: None };
    assert_eq!(bench.wish(stale), Ok(vec![]));
    assert!(bench.job == before);
}

#[test]
fn a_resumption_with_nothing_left_to_do_is_refused() {
    let mut bench = two_features(1);
    bench.kill("file/core/t0");
    bench.wish(Decision::End { outcome: JobOutcome::Failed, reason: "none".into() }).unwrap();
    assert_eq!(bench.wish(Decision::Resume), Err(Refusal::NothingToResume));
    bench.wish(Decision::Retry { task: task_id("file/core/t0") }).unwrap();
    bench.wish(Decision::Resume).unwrap();
    assert_eq!(bench.dispatchable(), ["file/core/t0"]);
}

#[test]
fn the_critical_path_and_tails_follow_expected_tokens() {
    let bench = two_features(3);
    let (path, weight) = bench.job.critical_path();
    let names: Vec<&str> = path.iter().map(TaskId::as_str).collect();
    assert_eq!(names, ["plan", "feature/core", "file/core/t0", "file/core/t1", "file/web/t0"]);
    assert_eq!(weight, 4_300);
    assert_eq!(bench.job.tail(&task_id("file/core/t0")), 300);
}

#[test]
fn a_job_of_ten_thousand_tasks_is_folded_without_scans() {
    let names: Vec<String> = (0..1_250).map(|n| format!("f{n}")).collect();
    let specs: Vec<(&str, usize, &[&str])> = names.iter().map(|name| (name.as_str(), 8, &[][..])).collect();
    let mut wide = submission(false, 3);
    wide.settings.features = (1, 2_000);
    let mut bench = Bench::new();
    bench.wish(Decision::Submit(wide)).unwrap();
    bench.dispatch("plan");
    bench.answer("plan", Ok(Some(Product::Plan(strategy(&specs), digest("plan")))));
    for name in &names {
        bench.plan_feature(name, tasks(name, &[&[], &["t0"], &["t1"], &["t2"], &[], &[], &[], &["t4"]]));
    }
    let next = |bench: &Bench| bench.job.dispatchable(bench.now).next().map(|task| task.id.to_string());
    while let Some(task) = next(&bench) {
        bench.succeed(&task);
    }
    bench.commit_all();
    assert_eq!(bench.job.totals().files.succeeded, 10_000);
    assert_eq!(bench.job.natural_end().unwrap().0, JobOutcome::Completed);
}
