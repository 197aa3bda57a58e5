//! What a schema cannot say about plans: counts, ownership of paths, edges that exist and do not go round.
//!
//! The checks of a feature plan need only the strategic plan, so a worker can run them before it reports; cycles that
//! span several feature plans are seen by [`crate::job`] alone. It must never accept a plan that the job's graph would
//! refuse within one feature.

use std::cell::LazyCell;
use std::collections::{HashMap, HashSet};

use super::{ProtocolError, bounded, count, find_cycle, line, prose};
use crate::protocol::{
    AgentType, Contract, FeatureId, FeaturePlan, FeatureSpec, StrategicPlan, TaskId, TaskSpec, path,
};

/// Longest name or title, in characters.
const MAX_NAME: usize = 120;
/// Longest description of a feature, summary of a plan or rule of a contract, in characters.
const MAX_DESCRIPTION: usize = 4_000;
/// Longest instructions of a task, in characters.
const MAX_INSTRUCTIONS: usize = 8_000;
/// Longest name of an identifier (a path with a symbol may be long), in characters.
const MAX_IDENTIFIER: usize = 500;
/// Longest purpose of a file or key of a note, in characters.
const MAX_PURPOSE: usize = 1_000;
/// Most identifiers in a contract.
const MAX_IDENTIFIERS: usize = 500;
/// Most rules in a contract.
const MAX_RULES: usize = 100;
/// Most notes on a feature.
const MAX_METADATA: usize = 50;
/// Most files of one feature, whatever is configured.
const MAX_FILES: u32 = 200;
/// Most dependencies of one feature or task.
const MAX_DEPENDENCIES: usize = 200;
/// Largest estimate of one file, in tokens; no model writes as much in one reply.
const MAX_ESTIMATE: u32 = 1_000_000;

/// What a task waits for besides its feature's own dependencies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// The task of the same feature at this index of [`FeaturePlan::tasks`].
    Local(usize),
    /// A file that another feature owns.
    File(String),
}

/// Checks a strategic plan: bounds, ids, owned-once paths, acyclic feature dependencies.
///
/// # Errors
/// The first fault found.
pub fn strategic_plan(plan: &StrategicPlan, features: (u32, u32)) -> Result<(), ProtocolError> {
    line("name", &plan.name, MAX_NAME)?;
    prose("summary", &plan.summary, MAX_DESCRIPTION)?;
    contract(&plan.contract).map_err(|error| error.within("contract"))?;
    count("features", "features", plan.features.len(), features)?;
    let mut index = HashMap::new();
    for (i, feature) in plan.features.iter().enumerate() {
        feature_spec(feature).map_err(|error| error.within(&format!("features[{i}]")))?;
        if index.insert(&feature.id, i).is_some() {
            let why = format!("{} is already taken; give every feature its own id", feature.id);
            return Err(ProtocolError::field(format!("features[{i}].id"), why));
        }
    }
    ownership(plan)?;
    feature_edges(plan, &index)
}

/// Checks that every feature has as many files as it may have tasks, since each task writes one file.
///
/// # Errors
/// The first feature with too few or too many.
pub fn tasks_fit(plan: &StrategicPlan, tasks: (u32, u32)) -> Result<(), ProtocolError> {
    plan.features
        .iter()
        .enumerate()
        .try_for_each(|(i, feature)| count(&format!("features[{i}].files"), "files", feature.files.len(), tasks))
}

/// Checks the plan of `feature` against the strategic plan it belongs to.
///
/// # Errors
/// The first fault found.
pub fn feature_plan(
    plan: &FeaturePlan,
    feature: &FeatureSpec,
    whole: &StrategicPlan,
    tasks: (u32, u32),
) -> Result<(), ProtocolError> {
    count("tasks", "tasks", plan.tasks.len(), tasks)?;
    let owned: HashSet<&str> = feature.files.iter().map(|file| file.path.as_str()).collect();
    let (mut ids, mut paths) = (HashSet::new(), HashSet::new());
    for (i, task) in plan.tasks.iter().enumerate() {
        let inside = |error: ProtocolError| error.within(&format!("tasks[{i}]"));
        task_spec(task, &feature.id).map_err(inside)?;
        if !ids.insert(task.id.as_str()) {
            let why = format!("{:?} is already taken; give every task its own id", task.id);
            return Err(inside(ProtocolError::field("id", why)));
        }
        if !owned.contains(task.path.as_str()) {
            let why = format!("{:?} is not a file of feature {}; use one of its files", task.path, feature.id);
            return Err(inside(ProtocolError::field("path", why)));
        }
        if !paths.insert(task.path.as_str()) {
            let why = format!("{:?} already has a task; plan exactly one task per file", task.path);
            return Err(inside(ProtocolError::field("path", why)));
        }
    }
    if let Some(missing) = feature.files.iter().find(|file| !paths.contains(file.path.as_str())) {
        let why = format!("none of them writes {:?}; plan exactly one task for it", missing.path);
        return Err(ProtocolError::field("tasks", why));
    }
    task_edges(plan, &needs(plan, whole)?)
}

/// Resolves every task's `depends_on`, in the order of tasks: a local id first, else the path of a planned file; the
/// path of an own file means its task.
///
/// # Errors
/// The first name that is neither, or that names the task itself.
pub fn needs(plan: &FeaturePlan, whole: &StrategicPlan) -> Result<Vec<Vec<Need>>, ProtocolError> {
    let ids: HashMap<&str, usize> = plan.tasks.iter().enumerate().map(|(i, task)| (task.id.as_str(), i)).collect();
    let own: HashMap<&str, usize> = plan.tasks.iter().enumerate().map(|(i, task)| (task.path.as_str(), i)).collect();
    // Most plans name only their own tasks; the set of all files is made when it is first needed.
    let planned: LazyCell<HashSet<&str>, _> =
        LazyCell::new(|| whole.features.iter().flat_map(|it| &it.files).map(|file| file.path.as_str()).collect());
    let resolve = |i: usize, name: &String| {
        let field = || format!("tasks[{i}].depends_on");
        match ids.get(name.as_str()).or_else(|| own.get(name.as_str())) {
            Some(&target) if target == i => {
                Err(ProtocolError::field(field(), format!("{name:?} is the task itself; remove it")))
            }
            Some(&target) => Ok(Need::Local(target)),
            None if planned.contains(name.as_str()) => Ok(Need::File(name.clone())),
            None => {
                let shown: String = name.chars().take(80).collect();
                let why = format!("{shown:?} is neither a task id of this feature nor the path of a planned file");
                Err(ProtocolError::field(field(), why + "; name one of those"))
            }
        }
    };
    plan.tasks
        .iter()
        .enumerate()
        .map(|(i, task)| task.depends_on.iter().map(|name| resolve(i, name)).collect())
        .collect()
}

fn contract(contract: &Contract) -> Result<(), ProtocolError> {
    prose("language", &contract.language, MAX_DESCRIPTION)?;
    at_most("identifiers", contract.identifiers.len(), MAX_IDENTIFIERS)?;
    for (i, identifier) in contract.identifiers.iter().enumerate() {
        let inside = |error: ProtocolError| error.within(&format!("identifiers[{i}]"));
        line("kind", &identifier.kind, MAX_NAME).map_err(inside)?;
        line("name", &identifier.name, MAX_IDENTIFIER).map_err(inside)?;
        bounded("definition", &identifier.definition, MAX_DESCRIPTION).map_err(inside)?;
        if !identifier.path.is_empty() {
            path::check(&identifier.path).map_err(inside)?;
        }
    }
    at_most("rules", contract.rules.len(), MAX_RULES)?;
    contract.rules.iter().try_for_each(|rule| prose("rules", rule, MAX_DESCRIPTION))
}

fn feature_spec(feature: &FeatureSpec) -> Result<(), ProtocolError> {
    line("name", &feature.name, MAX_NAME)?;
    prose("description", &feature.description, MAX_DESCRIPTION)?;
    count("files", "files", feature.files.len(), (1, MAX_FILES))?;
    for (i, file) in feature.files.iter().enumerate() {
        let inside = |error: ProtocolError| error.within(&format!("files[{i}]"));
        path::check(&file.path).map_err(inside)?;
        bounded("purpose", &file.purpose, MAX_PURPOSE).map_err(inside)?;
    }
    at_most("depends_on", feature.depends_on.len(), MAX_DEPENDENCIES)?;
    at_most("metadata", feature.metadata.len(), MAX_METADATA)?;
    feature.metadata.iter().try_for_each(|note| {
        bounded("metadata", &note.key, MAX_PURPOSE)?;
        bounded("metadata", &note.value, MAX_DESCRIPTION)
    })
}

fn task_spec(task: &TaskSpec, feature: &FeatureId) -> Result<(), ProtocolError> {
    TaskId::file(feature, &task.id).map_err(|error| ProtocolError::field("id", error.to_string()))?;
    let agent = AgentType::new(&task.agent).map_err(|error| ProtocolError::field("agent", error.to_string()))?;
    if agent == AgentType::planner() || agent == AgentType::feature_coordinator() {
        return Err(ProtocolError::field("agent", format!("{agent} plans and writes no files; name a type that does")));
    }
    line("title", &task.title, MAX_NAME)?;
    prose("instructions", &task.instructions, MAX_INSTRUCTIONS)?;
    at_most("depends_on", task.depends_on.len(), MAX_DEPENDENCIES)?;
    if task.estimated_tokens > MAX_ESTIMATE {
        let why = format!("is {}; the limit is {MAX_ESTIMATE}", task.estimated_tokens);
        return Err(ProtocolError::field("estimated_tokens", why));
    }
    Ok(())
}

/// Every path belongs to one feature, whatever the case of its letters, and no file is another file's directory.
fn ownership(plan: &StrategicPlan) -> Result<(), ProtocolError> {
    let mut owners: HashMap<String, (&str, &FeatureId)> = HashMap::new();
    let files = || {
        plan.features.iter().enumerate().flat_map(|(f, feature)| {
            feature
                .files
                .iter()
                .enumerate()
                .map(move |(i, file)| (format!("features[{f}].files[{i}].path"), feature, file))
        })
    };
    for (field, feature, file) in files() {
        if let Some((other, owner)) = owners.insert(path::fold(&file.path), (&file.path, &feature.id)) {
            let why = format!("{:?} is already owned by feature {owner} as {other:?}; give it one owner", file.path);
            return Err(ProtocolError::field(field, why));
        }
    }
    for (field, _, file) in files() {
        let folded = path::fold(&file.path);
        let parent = folded.match_indices('/').find_map(|(end, _)| owners.get(&folded[..end]));
        if let Some((other, owner)) = parent {
            let why = format!("{:?} lies below {other:?}, a file of feature {owner}; rename one of them", file.path);
            return Err(ProtocolError::field(field, why));
        }
    }
    Ok(())
}

fn feature_edges(plan: &StrategicPlan, index: &HashMap<&FeatureId, usize>) -> Result<(), ProtocolError> {
    let mut edges = Vec::with_capacity(plan.features.len());
    for (i, feature) in plan.features.iter().enumerate() {
        let mut targets = Vec::with_capacity(feature.depends_on.len());
        for need in &feature.depends_on {
            let fault = |why| Err(ProtocolError::field(format!("features[{i}].depends_on"), why));
            match index.get(need) {
                Some(&target) if target == i => return fault(format!("{need} is the feature itself; remove it")),
                Some(&target) => targets.push(target),
                None => return fault(format!("{need} is not a feature of this plan; name one that is")),
            }
        }
        edges.push(targets);
    }
    acyclic("features", &edges, |i| plan.features[i].id.as_str())
}

fn task_edges(plan: &FeaturePlan, needs: &[Vec<Need>]) -> Result<(), ProtocolError> {
    let local = |need: &Need| match need {
        Need::Local(target) => Some(*target),
        Need::File(_) => None,
    };
    let edges: Vec<Vec<usize>> = needs.iter().map(|needs| needs.iter().filter_map(local).collect()).collect();
    acyclic("tasks", &edges, |i| &plan.tasks[i].id)
}

/// `name(i)` depends on `name(j)` for each `j` in `edges[i]`.
fn acyclic<'a>(field: &str, edges: &[Vec<usize>], name: impl Fn(usize) -> &'a str) -> Result<(), ProtocolError> {
    match find_cycle(edges.len(), 0..edges.len(), |node, k| edges[node].get(k).copied()) {
        None => Ok(()),
        Some(cycle) => {
            let names: Vec<&str> = cycle.into_iter().map(name).collect();
            let why = format!("depend on each other in a circle: {}; remove one of these edges", names.join(" -> "));
            Err(ProtocolError::field(field, why))
        }
    }
}

fn at_most(field: &str, count: usize, limit: usize) -> Result<(), ProtocolError> {
    if count <= limit {
        Ok(())
    } else {
        Err(ProtocolError::field(field, format!("has {count} entries; the limit is {limit}")))
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
