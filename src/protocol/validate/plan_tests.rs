//! Promises of plan validation: what the graph, the disk or a person could trip over is refused by name.
//!
//! A small valid plan is bent in one place at a time; each refusal must name the field and the offending value.

use super::*;
use crate::protocol::{FilePlan, Identifier, Metadata, Priority};

fn feature(id: &str, files: &[&str], needs: &[&str]) -> FeatureSpec {
    FeatureSpec {
        id: FeatureId::new(id).unwrap(),
        name: id.to_owned(),
        description: "Does it.".into(),
        priority: Priority::Normal,
        files: files.iter().map(|path| FilePlan { path: (*path).into(), purpose: String::new() }).collect(),
        depends_on: needs.iter().map(|id| FeatureId::new(id).unwrap()).collect(),
        metadata: vec![],
    }
}

fn whole(features: Vec<FeatureSpec>) -> StrategicPlan {
    let contract = Contract { language: "Python 3.12".into(), identifiers: vec![], rules: vec![] };
    StrategicPlan { name: "todo".into(), summary: "A list.".into(), contract, features }
}

fn sound() -> StrategicPlan {
    whole(vec![feature("core", &["src/a.py", "src/b.py"], &[]), feature("web", &["web/x.py", "web/y.py"], &["core"])])
}

fn task(id: &str, path: &str, needs: &[&str]) -> TaskSpec {
    TaskSpec {
        id: id.into(),
        path: path.into(),
        agent: "coder".into(),
        title: "Write".into(),
        instructions: "Write it.".into(),
        depends_on: needs.iter().map(|need| (*need).to_owned()).collect(),
        estimated_tokens: 500,
    }
}

fn web(tasks: Vec<TaskSpec>) -> Result<(), ProtocolError> {
    let whole = sound();
    feature_plan(&FeaturePlan { tasks }, &whole.features[1], &whole, (2, 8))
}

#[track_caller]
fn refused(outcome: Result<(), ProtocolError>, at: &str, naming: &str) {
    match outcome {
        Err(ProtocolError::Field { field, why }) => {
            assert_eq!(field, at, "{why}");
            assert!(why.contains(naming), "{why:?} should name {naming:?}");
        }
        other => panic!("expected {at} to be refused, got {other:?}"),
    }
}

#[test]
fn a_sound_plan_is_accepted() {
    assert_eq!(strategic_plan(&sound(), (1, 15)), Ok(()));
    let tasks = vec![task("x", "web/x.py", &["y", "src/a.py"]), task("y", "web/y.py", &["src/b.py"])];
    assert_eq!(web(tasks), Ok(()));
}

#[test]
fn the_number_of_features_and_files_is_bounded() {
    refused(strategic_plan(&sound(), (5, 15)), "features", "2 features; give 5 to 15");
    refused(strategic_plan(&sound(), (1, 1)), "features", "give 1 to 1");
    refused(strategic_plan(&whole(vec![feature("a", &[], &[])]), (1, 9)), "features[0].files", "0 files");
    assert_eq!(tasks_fit(&sound(), (2, 8)), Ok(()));
    refused(tasks_fit(&sound(), (3, 8)), "features[0].files", "2 files; give 3 to 8");
}

#[test]
fn texts_of_a_strategic_plan_are_bounded() {
    let bend = |change: fn(&mut StrategicPlan)| {
        let mut plan = sound();
        change(&mut plan);
        strategic_plan(&plan, (1, 9))
    };
    refused(bend(|p| p.name = " ".into()), "name", "empty");
    refused(bend(|p| p.name = "a\u{1b}[2J".into()), "name", "control");
    refused(bend(|p| p.summary = "x".repeat(4_001)), "summary", "4001");
    refused(bend(|p| p.contract.language = String::new()), "contract.language", "empty");
    refused(bend(|p| p.contract.rules = vec!["x".into(); 101]), "contract.rules", "101");
    refused(bend(|p| p.features[1].name = "x".repeat(121)), "features[1].name", "121");
    refused(bend(|p| p.features[1].description = String::new()), "features[1].description", "empty");
    refused(bend(|p| p.features[0].files[1].path = "../b".into()), "features[0].files[1].path", "../b");
    let note = || Metadata { key: "k".into(), value: "v".repeat(4_001) };
    let mut plan = sound();
    plan.features[0].metadata = vec![note()];
    refused(strategic_plan(&plan, (1, 9)), "features[0].metadata", "4001");
    let mut plan = sound();
    let definition = "fn a()".to_owned();
    plan.contract.identifiers =
        vec![Identifier { kind: "symbol".into(), name: "a".into(), definition, path: "/a".into() }];
    refused(strategic_plan(&plan, (1, 9)), "contract.identifiers[0].path", "absolute");
}

#[test]
fn a_feature_id_is_taken_once() {
    let plan = whole(vec![feature("a", &["x"], &[]), feature("a", &["y"], &[])]);
    refused(strategic_plan(&plan, (1, 9)), "features[1].id", "a is already taken");
}

#[test]
fn a_path_has_one_owner_whatever_its_case() {
    let plan = whole(vec![feature("a", &["src/Main.py"], &[]), feature("b", &["SRC/main.py"], &[])]);
    refused(strategic_plan(&plan, (1, 9)), "features[1].files[0].path", "owned by feature a as \"src/Main.py\"");
    let plan = whole(vec![feature("a", &["x", "X"], &[])]);
    refused(strategic_plan(&plan, (1, 9)), "features[0].files[1].path", "already owned");
}

#[test]
fn a_file_cannot_also_be_a_directory() {
    for files in [["src/App", "SRC/app/x.py"], ["src/app/x.py", "src/app"]] {
        let plan = whole(vec![feature("a", &files, &[])]);
        let at = if files[0].ends_with(".py") { "features[0].files[0].path" } else { "features[0].files[1].path" };
        refused(strategic_plan(&plan, (1, 9)), at, "lies below");
    }
}

#[test]
fn feature_edges_must_exist_and_not_go_round() {
    let plan = |needs: [&[&str]; 3]| {
        strategic_plan(
            &whole(vec![
                feature("a", &["a.py"], needs[0]),
                feature("b", &["b.py"], needs[1]),
                feature("c", &["c.py"], needs[2]),
            ]),
            (1, 9),
        )
    };
    assert_eq!(plan([&["b", "c"], &["c"], &[]]), Ok(()));
    refused(plan([&["ghost"], &[], &[]]), "features[0].depends_on", "ghost is not a feature");
    refused(plan([&["a"], &[], &[]]), "features[0].depends_on", "itself");
    refused(plan([&["b"], &["a"], &[]]), "features", "a -> b -> a");
    refused(plan([&["b"], &["c"], &["b"]]), "features", "b -> c -> b");
}

#[test]
fn a_feature_plan_covers_exactly_the_files_of_its_feature() {
    let x = || task("x", "web/x.py", &[]);
    refused(web(vec![x()]), "tasks", "1 tasks; give 2 to 8");
    refused(web(vec![x(), task("z", "src/a.py", &[])]), "tasks[1].path", "not a file of feature web");
    refused(web(vec![x(), task("z", "web/x.py", &[])]), "tasks[1].path", "already has a task");
    refused(web(vec![x(), task("x", "web/y.py", &[])]), "tasks[1].id", "already taken");
    let whole = whole(vec![feature("f", &["a", "b", "c"], &[])]);
    let tasks = vec![task("x", "a", &[]), task("y", "b", &[])];
    refused(feature_plan(&FeaturePlan { tasks }, &whole.features[0], &whole, (1, 8)), "tasks", "\"c\"");
}

#[test]
fn a_task_is_bounded_and_written_by_an_agent_that_writes() {
    let with = |change: fn(&mut TaskSpec)| {
        let mut bent = task("y", "web/y.py", &[]);
        change(&mut bent);
        web(vec![task("x", "web/x.py", &[]), bent])
    };
    refused(with(|t| t.id = "A/b".into()), "tasks[1].id", "A/b");
    refused(with(|t| t.agent = "Not A Type".into()), "tasks[1].agent", "Not A Type");
    refused(with(|t| t.agent = "coordinator-planner".into()), "tasks[1].agent", "coordinator-planner");
    refused(with(|t| t.agent = "feature-coordinator".into()), "tasks[1].agent", "feature-coordinator");
    refused(with(|t| t.title = "two\nlines".into()), "tasks[1].title", "one line");
    refused(with(|t| t.instructions = "x".repeat(8_001)), "tasks[1].instructions", "8001");
    refused(with(|t| t.estimated_tokens = u32::MAX), "tasks[1].estimated_tokens", "4294967295");
    assert_eq!(with(|t| t.agent = "my-own-type".into()), Ok(()));
}

#[test]
fn task_edges_must_exist_and_not_go_round() {
    let edges = |x: &[&str], y: &[&str]| web(vec![task("x", "web/x.py", x), task("y", "web/y.py", y)]);
    refused(edges(&["ghost"], &[]), "tasks[0].depends_on", "\"ghost\"");
    refused(edges(&["x"], &[]), "tasks[0].depends_on", "itself");
    refused(edges(&["web/x.py"], &[]), "tasks[0].depends_on", "itself");
    refused(edges(&["y"], &["x"]), "tasks", "x -> y -> x");
    refused(edges(&["web/y.py"], &["x"]), "tasks", "x -> y -> x");
    refused(edges(&["SRC/a.py"], &[]), "tasks[0].depends_on", "SRC/a.py");
}

#[test]
fn needs_are_local_tasks_or_files_of_other_features() {
    let tasks = vec![task("x", "web/x.py", &["web/y.py", "src/a.py"]), task("y", "web/y.py", &[])];
    let needs = needs(&FeaturePlan { tasks }, &sound()).unwrap();
    assert_eq!(needs, [vec![Need::Local(1), Need::File("src/a.py".into())], vec![]]);
}
