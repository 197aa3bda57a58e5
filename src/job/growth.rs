//! What a plan adds to a job: tasks, nodes of the graph and edges onto the virtual nodes.
//!
//! The strategic plan adds one planning task, one feature node and the file nodes per feature; a feature plan adds its
//! file tasks and hangs them between what they need and the virtual nodes they complete. This file only computes; it
//! checks no more than the shape that the graph relies on, so that stricter limits never make an old log unreadable.

use std::collections::HashSet;

use super::error::PlanFault;
use super::task::{Node, Task};
use crate::graph::NodeSpec;
use crate::protocol::validate::{self, Need};
use crate::protocol::{
    AgentType, FeaturePlan, FeatureSpec, JobSettings, Priority, ProtocolError, StrategicPlan, TaskId, TaskKind,
};

/// An addition to a job.
pub(super) struct Growth {
    pub(super) tasks: Vec<Task>,
    pub(super) nodes: Vec<NodeSpec<Node>>,
    pub(super) edges: Vec<(Node, Node)>,
}

/// The one task that every job begins with.
pub(super) fn of_submission(settings: &JobSettings) -> Growth {
    let kind = TaskKind::Plan { features: settings.features, tasks: settings.tasks_per_feature };
    let task = Task { title: "Plan".into(), ..Task::new(TaskId::plan(), kind, AgentType::planner(), Priority::High) };
    let node = NodeSpec { id: Node::Task(TaskId::plan()), weight: task.weight(), needs: Vec::new() };
    Growth { tasks: vec![task], nodes: vec![node], edges: Vec::new() }
}

/// The planning tasks of all features, with the virtual nodes that stand for their results.
pub(super) fn of_strategy(plan: &StrategicPlan, settings: &JobSettings) -> Growth {
    let mut growth = Growth { tasks: Vec::new(), nodes: Vec::new(), edges: Vec::new() };
    for feature in &plan.features {
        let id = TaskId::feature_plan(&feature.id);
        let kind = TaskKind::FeaturePlan { feature: feature.id.clone(), tasks: settings.tasks_per_feature };
        let task = Task {
            title: feature.name.clone(),
            ..Task::new(id.clone(), kind, AgentType::feature_coordinator(), feature.priority)
        };
        let planning = Node::Task(id);
        let stands_for = |id| NodeSpec { id, weight: 0, needs: vec![planning.clone()] };
        growth.nodes.push(stands_for(Node::FeatureDone(feature.id.clone())));
        growth.nodes.extend(feature.files.iter().map(|file| stands_for(Node::File(file.path.as_str().into()))));
        let needs = vec![Node::Task(TaskId::plan())];
        growth.nodes.push(NodeSpec { id: planning, weight: task.weight(), needs });
        growth.tasks.push(task);
    }
    growth
}

/// The file tasks of one feature.
pub(super) fn of_feature(
    feature: &FeatureSpec,
    plan: &FeaturePlan,
    whole: &StrategicPlan,
) -> Result<Growth, PlanFault> {
    covers(feature, plan)?;
    let resolved = validate::needs(plan, whole)?;
    let invalid = |field, error: crate::protocol::ids::InvalidId| ProtocolError::field(field, error.to_string());
    let ids = plan.tasks.iter().map(|task| TaskId::file(&feature.id, &task.id)).collect::<Result<Vec<_>, _>>();
    let ids = ids.map_err(|error| invalid("tasks.id", error))?;
    let mut growth = Growth { tasks: Vec::new(), nodes: Vec::new(), edges: Vec::new() };
    for ((spec, id), local) in plan.tasks.iter().zip(&ids).zip(resolved) {
        let agent = AgentType::new(&spec.agent).map_err(|error| invalid("tasks.agent", error))?;
        let kind = TaskKind::File { feature: feature.id.clone(), path: spec.path.clone() };
        let task = Task {
            title: spec.title.clone(),
            instructions: spec.instructions.clone(),
            estimated_tokens: spec.estimated_tokens,
            ..Task::new(id.clone(), kind, agent, feature.priority)
        };
        let mut needs = vec![Node::Task(TaskId::feature_plan(&feature.id))];
        needs.extend(feature.depends_on.iter().cloned().map(Node::FeatureDone));
        needs.extend(local.into_iter().map(|need| match need {
            Need::Local(other) => Node::Task(ids[other].clone()),
            Need::File(path) => Node::File(path.into()),
        }));
        let node = Node::Task(id.clone());
        growth.edges.push((node.clone(), Node::File(spec.path.as_str().into())));
        growth.edges.push((node.clone(), Node::FeatureDone(feature.id.clone())));
        growth.nodes.push(NodeSpec { id: node, weight: task.weight(), needs });
        growth.tasks.push(task);
    }
    Ok(growth)
}

/// One task per file of the feature and no other, or the virtual nodes would never or wrongly complete.
fn covers(feature: &FeatureSpec, plan: &FeaturePlan) -> Result<(), ProtocolError> {
    let owned: HashSet<&str> = feature.files.iter().map(|file| file.path.as_str()).collect();
    let planned: HashSet<&str> = plan.tasks.iter().map(|task| task.path.as_str()).collect();
    if owned == planned && plan.tasks.len() == owned.len() {
        Ok(())
    } else {
        let why = format!("do not cover the {} files of feature {} exactly once each", owned.len(), feature.id);
        Err(ProtocolError::field("tasks", why))
    }
}
