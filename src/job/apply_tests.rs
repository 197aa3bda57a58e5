//! Every illegal transition is refused, and a refused event leaves the job as it was.
//!
//! The table pairs a job in a known state with an event that must not follow.

use super::*;
use crate::job::fixtures::*;
use crate::job::{Decision, Product, Refusal};
use crate::protocol::Receipt;

fn dispatched(task: &str, attempt: u32) -> Event {
    Event::TaskDispatched { task: task_id(task), attempt }
}

fn succeeded(task: &str, attempt: u32) -> Event {
    Event::TaskSucceeded {
        task: task_id(task),
        attempt,
        receipt: Receipt { artifact: digest("x"), model: "m".into(), checks: vec![] },
        cost: MicroUsd(1),
        usage: Usage::default(),
        duration_ms: 1,
    }
}

fn failed(task: &str, attempt: u32, kind: FailureKind, retry_at: Option<Timestamp>) -> Event {
    let (cost, usage) = (MicroUsd(1), Usage::default());
    Event::TaskFailed { task: task_id(task), attempt, failure: fault(kind), cost, usage, retry_at }
}

fn dead(task: &str) -> Event {
    Event::TaskDead { task: task_id(task), reason: "it broke".into() }
}

fn skipped(task: &str, because: &str) -> Event {
    Event::TaskSkipped { task: task_id(task), because: task_id(because) }
}

fn revived(task: &str) -> Event {
    Event::TaskRevived { task: task_id(task) }
}

fn committed(feature: &str, files: u32, complete: bool) -> Event {
    Event::FeatureCommitted { feature: feature_id(feature), files, complete, commit: None }
}

fn ended(outcome: JobOutcome) -> Event {
    Event::JobEnded { outcome, reason: "so it is".into() }
}

fn submission_event() -> Event {
    let Submission { name, proposal, budget, origin, settings } = submission(false, 2);
    Event::JobSubmitted { name, proposal, budget, origin, settings }
}

fn accepted() -> Event {
    Event::PlanAccepted { plan: strategy(&[("core", 1, &[])]), artifact: digest("plan") }
}

fn planned(feature: &str, files: &[&[&str]]) -> Event {
    Event::FeaturePlanned { feature: feature_id(feature), plan: tasks(feature, files) }
}

fn asked() -> Event {
    Event::ApprovalRequested { estimate: MicroUsd(1) }
}

#[track_caller]
fn refuses(bench: &Bench, events: Vec<Event>) {
    for event in events {
        let mut job = bench.job.clone();
        let outcome = job.apply(&event, bench.now);
        assert!(outcome.is_err(), "{event:?} was accepted");
        assert!(job == bench.job, "{event:?} was refused and changed the job all the same");
    }
}

/// `core` has two files, the second needing the first; attempts: 2.
fn running() -> Bench {
    let mut bench = Bench::planned(strategy(&[("core", 2, &[]), ("web", 1, &[])]), false, 2);
    bench.plan_feature("core", tasks("core", &[&[], &["t0"]]));
    bench
}

#[test]
fn nothing_precedes_submission_and_it_happens_once() {
    let every = vec![
        dispatched("plan", 1),
        succeeded("plan", 1),
        failed("plan", 1, FailureKind::Lost, None),
        dead("plan"),
        skipped("plan", "plan"),
        revived("plan"),
        accepted(),
        planned("core", &[&[]]),
        asked(),
        Event::PlanApproved,
        committed("core", 1, true),
        Event::BudgetWarning { spent: MicroUsd(1), limit: MicroUsd(1) },
        Event::BudgetChanged { limit: MicroUsd(1) },
        Event::JobPaused { reason: None },
        Event::JobResumed,
        ended(JobOutcome::Failed),
    ];
    refuses(&Bench::new(), every);
    refuses(&Bench::submitted(false, 2), vec![submission_event()]);
    assert_eq!(Bench::new().wish(Decision::Pause { reason: None }), Err(Refusal::NotSubmitted));
}

#[test]
fn before_the_plan_only_the_plan_task_lives() {
    let mut bench = Bench::submitted(false, 2);
    let never = || {
        vec![
            accepted(),
            planned("core", &[&[]]),
            dispatched("feature/core", 1),
            dispatched("plan", 2),
            dead("plan"),
            revived("plan"),
            asked(),
            Event::PlanApproved,
            committed("core", 1, true),
            Event::JobResumed,
            ended(JobOutcome::Completed),
            ended(JobOutcome::CompletedWithWarnings),
        ]
    };
    refuses(&bench, never());
    refuses(&bench, vec![succeeded("plan", 1), failed("plan", 1, FailureKind::Lost, None)]);
    bench.dispatch("plan");
    refuses(&bench, never());
    refuses(&bench, vec![dispatched("plan", 1), succeeded("plan", 2), succeeded("ghost", 1)]);
}

#[test]
fn a_plan_is_accepted_once_and_planned_features_once() {
    let mut bench = running();
    refuses(&bench, vec![accepted(), planned("core", &[&[], &[]]), planned("web", &[&[]]), planned("ghost", &[&[]])]);
    bench.dispatch("feature/web");
    bench.record(succeeded("feature/web", 1)).unwrap();
    // Wrong number of files, unknown dependency, cycle.
    refuses(&bench, vec![planned("web", &[]), planned("web", &[&[], &[]])]);
    refuses(&bench, vec![planned("web", &[&["ghost"]]), planned("web", &[&["t0"]])]);
    bench.record(planned("web", &[&["core/1"]])).unwrap();
    refuses(&bench, vec![planned("web", &[&[]])]);
}

#[test]
fn a_task_is_dispatched_only_when_ready_and_only_as_its_next_attempt() {
    let mut bench = running();
    refuses(&bench, vec![dispatched("file/core/t1", 1), dispatched("file/core/t0", 0), dispatched("file/core/t0", 2)]);
    bench.dispatch("file/core/t0");
    refuses(&bench, vec![dispatched("file/core/t0", 1), dispatched("file/core/t0", 2)]);
    bench.answer("file/core/t0", Ok(None));
    refuses(&bench, vec![dispatched("file/core/t0", 2), succeeded("file/core/t0", 1), revived("file/core/t0")]);
    refuses(&bench, vec![failed("file/core/t0", 1, FailureKind::Lost, None), skipped("file/core/t0", "file/core/t1")]);
    bench.wish(Decision::Pause { reason: None }).unwrap();
    refuses(&bench, vec![dispatched("file/core/t1", 1), Event::JobPaused { reason: None }]);
}

#[test]
fn a_stale_attempt_cannot_speak() {
    let mut bench = running();
    bench.dispatch("file/core/t0");
    bench.answer("file/core/t0", Err(FailureKind::Lost));
    refuses(&bench, vec![succeeded("file/core/t0", 1), failed("file/core/t0", 1, FailureKind::Lost, None)]);
    bench.dispatch("file/core/t0");
    refuses(&bench, vec![succeeded("file/core/t0", 1), failed("file/core/t0", 1, FailureKind::Lost, None)]);
    // The second failure is the last: no time for a next attempt, and death only after it.
    let later = Some(Timestamp(5));
    refuses(&bench, vec![failed("file/core/t0", 2, FailureKind::Lost, later), dead("file/core/t0")]);
    refuses(&bench, vec![failed("file/core/t0", 2, FailureKind::Fatal, later)]);
    bench.record(failed("file/core/t0", 2, FailureKind::Lost, None)).unwrap();
    refuses(
        &bench,
        vec![dispatched("file/core/t0", 3), revived("file/core/t0"), skipped("file/core/t1", "file/core/t0")],
    );
    bench.record(dead("file/core/t0")).unwrap();
    refuses(&bench, vec![dead("file/core/t0"), dispatched("file/core/t0", 3), succeeded("file/core/t0", 2)]);
    refuses(&bench, vec![skipped("file/core/t0", "file/core/t0"), skipped("feature/web", "file/core/t0")]);
    bench.record(skipped("file/core/t1", "file/core/t0")).unwrap();
    refuses(
        &bench,
        vec![skipped("file/core/t1", "file/core/t0"), revived("file/core/t1"), dispatched("file/core/t1", 1)],
    );
}

#[test]
fn approval_is_asked_once_all_plans_are_in_and_given_once() {
    let mut bench = Bench::planned(strategy(&[("core", 1, &[])]), true, 2);
    refuses(&bench, vec![asked(), Event::PlanApproved]);
    bench.plan_feature("core", tasks("core", &[&[]]));
    refuses(&bench, vec![Event::PlanApproved, dispatched("file/core/t0", 1)]);
    bench.record(asked()).unwrap();
    refuses(&bench, vec![asked(), dispatched("file/core/t0", 1)]);
    bench.record(Event::PlanApproved).unwrap();
    refuses(&bench, vec![asked(), Event::PlanApproved]);
    refuses(&running(), vec![asked(), Event::PlanApproved]);
}

#[test]
fn a_feature_is_committed_with_the_files_it_has_and_whole_only_once() {
    let mut bench = running();
    refuses(&bench, vec![committed("core", 1, false), committed("ghost", 1, false), committed("core", 0, false)]);
    bench.succeed("file/core/t0");
    refuses(&bench, vec![committed("core", 2, false), committed("core", 1, true)]);
    bench.record(committed("core", 1, false)).unwrap();
    bench.succeed("file/core/t1");
    refuses(&bench, vec![committed("core", 1, true), ended(JobOutcome::Completed)]);
    bench.record(committed("core", 2, true)).unwrap();
    refuses(&bench, vec![committed("core", 2, true), committed("core", 1, false)]);
}

#[test]
fn after_an_end_nothing_starts_and_a_completed_job_only_reads() {
    for outcome in [JobOutcome::BudgetExhausted, JobOutcome::Failed, JobOutcome::Cancelled] {
        let mut bench = running();
        bench.record(ended(outcome)).unwrap();
        refuses(
            &bench,
            vec![dispatched("file/core/t0", 1), Event::JobPaused { reason: None }, asked(), Event::PlanApproved],
        );
        refuses(&bench, vec![ended(outcome), ended(JobOutcome::Cancelled)]);
        bench.record(Event::BudgetChanged { limit: MicroUsd(9) }).unwrap();
        bench.record(Event::JobResumed).unwrap();
        refuses(&bench, vec![Event::JobResumed]);
    }
    let mut bench = Bench::planned(strategy(&[("core", 1, &[])]), false, 2);
    let early = ended(JobOutcome::CompletedWithWarnings);
    refuses(&bench, vec![early.clone(), ended(JobOutcome::Completed)]);
    bench.plan_feature("core", tasks("core", &[&[]]));
    bench.succeed("file/core/t0");
    refuses(&bench, vec![ended(JobOutcome::Completed)]);
    bench.record(committed("core", 1, true)).unwrap();
    bench.record(ended(JobOutcome::Completed)).unwrap();
    let warning = Event::BudgetWarning { spent: MicroUsd(1), limit: MicroUsd(1) };
    refuses(&bench, vec![Event::JobResumed, Event::BudgetChanged { limit: MicroUsd(1) }, warning, early]);
    refuses(
        &bench,
        vec![committed("core", 1, true), revived("plan"), succeeded("plan", 1), Event::JobPaused { reason: None }],
    );
}

#[test]
fn a_plan_without_its_product_is_refused_and_a_bad_one_is_a_failed_attempt() {
    let mut bench = Bench::submitted(false, 2);
    bench.dispatch("plan");
    let result = bench.result("plan", Ok(()));
    let accept = |product| Decision::Accept { result: result.clone(), product, retry_at: None };
    assert_eq!(bench.wish(accept(None)), Err(Refusal::ProductMismatch(TaskId::plan())));
    let wrong = Some(Product::Feature(tasks("core", &[&[]])));
    assert_eq!(bench.wish(accept(wrong)), Err(Refusal::ProductMismatch(TaskId::plan())));
    let too_many_files = strategy(&[("core", 9, &[])]);
    let events = bench.wish(accept(Some(Product::Plan(too_many_files, digest("plan"))))).unwrap();
    assert!(matches!(&events[..], [Event::TaskFailed { failure, .. }] if failure.kind == FailureKind::Rejected));
}

#[test]
fn calls_that_failed_for_money_are_counted_until_a_person_revives_the_task() {
    let mut bench = Bench::submitted(false, 3);
    let failing = |kind, calls| TaskFailure { failed_calls: calls, ..fault(kind) };
    bench.dispatch("plan");
    bench.answer_with("plan", failing(FailureKind::Rejected, 1));
    bench.dispatch("plan");
    bench.answer_with("plan", failing(FailureKind::Budget, 2));
    assert_eq!(bench.job.task(&TaskId::plan()).unwrap().failed_calls, 3, "whatever the attempts ended with");
    bench.dispatch("plan");
    bench.answer_with("plan", failing(FailureKind::Exhausted, 1));
    assert_eq!(bench.status("plan"), TaskStatus::Dead);
    bench.wish(Decision::Retry { task: TaskId::plan() }).unwrap();
    assert_eq!(bench.job.task(&TaskId::plan()).unwrap().failed_calls, 0);
}
