//! Plans that break the rules: refused with the reason, mended when the model learns it, given up when it does not.
//!
//! A plan decides about every file that follows, so nothing of a wrong one may be kept. The model is told what was wrong
//! within bounds; a task whose model does not learn is given up, with the money of its attempts accounted for.

use codeswarm::llm::replay::{Fault, Reply, SyntheticJob};
use codeswarm::protocol::{FeaturePlan, StrategicPlan};
use serde_json::{Value, json};

use super::{Bout, Wrong, job, script};

/// A wrong plan, the code of its refusal and a part of what the model is told.
type Row = (Reply, &'static str, &'static str);

fn bent(plan: &impl serde::Serialize, bend: impl FnOnce(&mut Value)) -> Reply {
    let mut value = serde_json::to_value(plan).unwrap();
    bend(&mut value);
    Reply::new(value.to_string())
}

/// Strategic plans that must not be accepted.
fn wrong_plans(plan: &StrategicPlan) -> Vec<Row> {
    let with_features = |count: usize| {
        let all: Vec<Value> = job(count.max(1), 2).plan.features.iter().map(|it| json!(it)).take(count).collect();
        bent(plan, |value| value["features"] = Value::Array(all))
    };
    let depends = |on: &[(usize, &str)]| {
        bent(plan, |value| on.iter().for_each(|(at, id)| value["features"][at]["depends_on"] = json!([id])))
    };
    let path = |path: &str| bent(plan, |value| value["features"][0]["files"][0]["path"] = json!(path));
    vec![
        (with_features(0), "CS-REPLY-019", "features"),
        (with_features(4), "CS-REPLY-019", "4 features"),
        (with_features(40), "CS-REPLY-019", "40 features"),
        (bent(plan, |value| value["features"][1]["id"] = json!("f0000")), "CS-REPLY-019", "f0000 is already taken"),
        (depends(&[(0, "nobody")]), "CS-REPLY-019", "nobody is not a feature of this plan"),
        (depends(&[(2, "f0002")]), "CS-REPLY-019", "f0002 is the feature itself"),
        (depends(&[(0, "f0001"), (1, "f0002"), (2, "f0000")]), "CS-REPLY-019", "f0000 -> f0001 -> f0002"),
        (path("f0001/t0000.py"), "CS-REPLY-019", "already owned by feature"),
        (path("F0001/T0000.PY"), "CS-REPLY-019", "already owned by feature"),
        (path("../x.py"), "CS-REPLY-019", "../x.py"),
        (path("/etc/passwd"), "CS-REPLY-019", "/etc/passwd"),
        (path(".git/hooks/pre-commit"), "CS-REPLY-019", ".git"),
        (bent(plan, |value| value["features"][3]["files"] = json!([])), "CS-REPLY-019", "features[3].files"),
        (Reply::new("I would start with five features."), "CS-REPLY-017", "not JSON"),
        (bent(plan, |value| value["vibe"] = json!("good")), "CS-REPLY-018", "vibe"),
        (bent(plan, |value| value["features"] = json!("five")), "CS-REPLY-018", "five"),
        (Reply::new(""), "CS-REPLY-006", "no complete answer"),
        (Reply::new("x".repeat(2_200_000)).output_tokens(10), "CS-REPLY-014", "2200000 bytes"),
        (Reply::new(json!(plan).to_string()).fault(Fault::MaxTokens), "CS-REPLY-001", "truncated"),
    ]
}

/// Plans of one feature that must not be accepted; `own` is its first file.
fn wrong_feature_plans(plan: &FeaturePlan) -> Vec<Row> {
    let depends = |on: &[(usize, &str)]| {
        bent(plan, |value| on.iter().for_each(|(at, id)| value["tasks"][at]["depends_on"] = json!([id])))
    };
    let own = plan.tasks[0].path.clone();
    let twice = own.clone();
    let with_tasks = |count: usize| bent(plan, |value| value["tasks"] = vec![value["tasks"][0].clone(); count].into());
    vec![
        (with_tasks(0), "CS-REPLY-019", "tasks"),
        (with_tasks(1), "CS-REPLY-019", "1 tasks"),
        (with_tasks(40), "CS-REPLY-019", "40 tasks"),
        (bent(plan, |value| value["tasks"][1]["id"] = json!("t0000")), "CS-REPLY-019", "already taken"),
        (bent(plan, |value| value["tasks"][1]["path"] = json!(twice)), "CS-REPLY-019", "already has a task"),
        (bent(plan, |value| value["tasks"][0]["path"] = json!("../../x.py")), "CS-REPLY-019", "not a file of feature"),
        (depends(&[(0, "nowhere.py")]), "CS-REPLY-019", "neither a task id of this feature nor the path"),
        (depends(&[(0, "t0000")]), "CS-REPLY-019", "is the task itself"),
        (depends(&[(1, &plan.tasks[1].path)]), "CS-REPLY-019", "is the task itself"),
        (depends(&[(0, "t0001"), (1, &own)]), "CS-REPLY-019", "t0000 -> t0001"),
        (bent(plan, |value| value["tasks"][0]["agent"] = json!("plumber")), "CS-REPLY-019", "not an agent type"),
        (
            bent(plan, |value| value["tasks"][0]["agent"] = json!("coordinator-planner")),
            "CS-REPLY-019",
            "coordinator-planner",
        ),
        (bent(plan, |value| value["tasks"][0]["mood"] = json!(1)), "CS-REPLY-018", "mood"),
        (Reply::new("{\"tasks\": ["), "CS-REPLY-017", "not JSON"),
        (Reply::new(""), "CS-REPLY-006", "no complete answer"),
    ]
}

fn replies(rows: &[Row]) -> Vec<Reply> {
    rows.iter().map(|row| row.0.clone()).collect()
}

fn reasons(rows: &[Row]) -> Vec<(&'static str, &'static str)> {
    rows.iter().map(|row| (row.1, row.2)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_plan_is_refused_with_its_reason_and_a_right_one_is_taken_at_last() {
    let job = job(5, 2);
    let rows = wrong_plans(&job.plan);
    let wrong = Wrong::from([("plan".to_owned(), replies(&rows))]);
    let bout = Bout::of(script(&job, wrong, false), &[("CODESWARM_JOB_MAX_ATTEMPTS", "20")]).await;
    bout.ran.assert_ended(0, &["completed", "10 of 10"]);
    bout.assert_files(&job, &[]);
    bout.assert_told("plan", "plan", &reasons(&rows));
}

/// A feature for every wrong plan.
fn feature_rows() -> (SyntheticJob, Vec<Vec<Row>>) {
    let count = wrong_feature_plans(&job(1, 2).feature_plans[0]).len();
    let job = job(count, 2);
    let rows = job.feature_plans.iter().enumerate().map(|(at, plan)| vec![wrong_feature_plans(plan).swap_remove(at)]);
    let rows = rows.collect();
    (job, rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_plan_of_a_feature_is_refused_with_its_reason_and_mended() {
    let (job, rows) = feature_rows();
    let wrong = job
        .plan
        .features
        .iter()
        .zip(&rows)
        .map(|(feature, rows)| (format!("feature-plan {}", feature.id), replies(rows)));
    let bout = Bout::of(script(&job, wrong.collect(), false), &[]).await;
    bout.ran.assert_ended(0, &["completed", "30 of 30"]);
    bout.assert_files(&job, &[]);
    for (feature, rows) in job.plan.features.iter().zip(&rows) {
        let (task, key) = (format!("feature/{}", feature.id), format!("feature-plan {}", feature.id));
        bout.assert_told(&task, &key, &reasons(rows));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_stays_wrong_fails_the_job_and_nothing_is_written() {
    let job = job(5, 2);
    let rows = wrong_plans(&job.plan);
    let wrong = Wrong::from([("plan".to_owned(), replies(&rows[..1]))]);
    let bout = Bout::of(script(&job, wrong, true), &[]).await;
    bout.ran.assert_ended(
        1,
        &["failed", "no strategic plan was accepted", "CS-REPLY-019", "plan is missing", "codeswarm resume"],
    );
    assert!(bout.story.is_dead("plan") && bout.sandbox.output().is_empty());
    assert_eq!((bout.story.failures("plan").len(), bout.provider.requests()), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn features_whose_plans_stay_wrong_are_left_out_and_the_others_are_delivered() {
    let (job, rows) = feature_rows();
    let good = 2;
    let named = job.plan.features.iter().zip(&rows).skip(good);
    let wrong = named.clone().map(|(feature, rows)| (format!("feature-plan {}", feature.id), replies(rows)));
    let bout = Bout::of(script(&job, wrong.collect(), true), &[("CODESWARM_JOB_MAX_ATTEMPTS", "2")]).await;
    bout.ran.assert_ended(3, &["completed with warnings", "4 of 30"]);
    let missing: Vec<&str> = job.tasks.iter().skip(good * 2).map(|task| task.path.as_str()).collect();
    bout.assert_files(&job, &missing);
    for (feature, rows) in named {
        let task = format!("feature/{}", feature.id);
        assert!(bout.story.is_dead(&task));
        bout.ran.assert_ended(3, &[&format!("warning        {task}")]);
        let failures = bout.story.failures(&task);
        assert!(failures.len() == 2 && failures.iter().all(|(code, ..)| *code == rows[0].1), "{task}: {failures:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_across_features_is_named_to_the_planner_that_closed_it() {
    let job = job(5, 2);
    let on = |at: usize, path: &str| {
        let plan = &job.feature_plans[at];
        vec![bent(plan, |value| value["tasks"][0]["depends_on"] = json!([path]))]
    };
    let wrong = Wrong::from([
        ("feature-plan f0000".to_owned(), on(0, "f0001/t0000.py")),
        ("feature-plan f0001".to_owned(), on(1, "f0000/t0000.py")),
    ]);
    let bout = Bout::of(script(&job, wrong, false), &[]).await;
    bout.ran.assert_ended(0, &["completed"]);
    bout.assert_files(&job, &[]);
    let failed: Vec<&str> =
        ["f0000", "f0001"].into_iter().filter(|id| !bout.story.failures(&format!("feature/{id}")).is_empty()).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    let (task, key) = (format!("feature/{}", failed[0]), format!("feature-plan {}", failed[0]));
    bout.assert_told(&task, &key, &[("CS-GRAPH-005", "dependency cycle: ")]);
}
