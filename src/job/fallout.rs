//! What a death, a new plan or a revival means for the tasks behind it: who is skipped, and who waits again.
//!
//! A task is skipped as soon as something it needs, directly or not, is dead, and it remembers that one dead task, so
//! that reviving it frees exactly what it blocked. This file only computes events; it must never miss a task, for a
//! task that waits for a dead one keeps its job from ending.

use std::collections::{HashMap, HashSet};

use super::Job;
use super::error::Refusal;
use super::growth::Growth;
use super::task::{Node, Task, TaskStatus};
use crate::protocol::{Event, FeatureId, Priority, TaskId};

impl Job {
    /// The skips that follow when `root` dies.
    pub(super) fn skips_below(&self, root: &TaskId) -> impl Iterator<Item = Event> {
        self.waiting_below(&Node::Task(root.clone())).map(move |at| skip(&self.tasks[at], root))
    }

    /// Tasks that wait for `node`, directly or not.
    fn waiting_below<'a>(&'a self, node: &Node) -> impl Iterator<Item = usize> + use<'a> {
        self.below(node).filter(|&at| self.tasks[at].status == TaskStatus::Waiting)
    }

    /// True for a task of low priority that nothing more urgent needs, directly or not.
    #[must_use]
    pub fn is_optional(&self, id: &TaskId) -> bool {
        let is_low = |task: &Task| task.priority == Priority::Low;
        self.task(id).is_some_and(is_low) && self.below(&Node::Task(id.clone())).all(|at| is_low(&self.tasks[at]))
    }

    fn below<'a>(&'a self, node: &Node) -> impl Iterator<Item = usize> + use<'a> {
        self.graph.all_dependents(node).into_iter().filter_map(|node| match node {
            Node::Task(task) => self.task_index.get(&task).copied(),
            Node::FeatureDone(_) | Node::File(_) => None,
        })
    }

    /// Tasks that are skipped because of `root`.
    pub(super) fn skipped_because(&self, root: &TaskId) -> impl Iterator<Item = usize> {
        self.below(&Node::Task(root.clone())).filter(move |&at| self.tasks[at].blocked_by.as_ref() == Some(root))
    }

    /// The skips that follow when `growth` arrives in a job in which something is dead already.
    pub(super) fn blocked_in(&self, feature: &FeatureId, growth: &Growth) -> Vec<Event> {
        if self.totals.all.dead == 0 {
            return Vec::new();
        }
        let mut roots: HashMap<&Node, TaskId> = HashMap::new();
        let mut events = Vec::new();
        loop {
            let found = roots.len();
            for (node, task) in growth.nodes.iter().zip(&growth.tasks) {
                let root = |need: &Node| roots.get(need).cloned().or_else(|| self.root_of(need).cloned());
                if !roots.contains_key(&node.id)
                    && let Some(root) = node.needs.iter().find_map(root)
                {
                    events.push(skip(task, &root));
                    roots.insert(&node.id, root);
                }
            }
            if roots.len() == found {
                break;
            }
        }
        let mut listed = HashSet::new();
        for task in &growth.tasks {
            let Some(root) = roots.get(&Node::Task(task.id.clone())) else { continue };
            let stands_for =
                [task.path().map(|path| Node::File(path.into())), Some(Node::FeatureDone(feature.clone()))];
            for at in stands_for.iter().flatten().flat_map(|node| self.waiting_below(node)) {
                if listed.insert(at) {
                    events.push(skip(&self.tasks[at], root));
                }
            }
        }
        events
    }

    /// The dead task because of which `node` cannot complete, if any.
    fn root_of(&self, node: &Node) -> Option<&TaskId> {
        match node {
            Node::Task(id) => {
                let task = self.task(id)?;
                if task.status == TaskStatus::Dead { Some(&task.id) } else { task.blocked_by.as_ref() }
            }
            Node::FeatureDone(_) | Node::File(_) => self.graph.needs(node).find_map(|need| self.root_of(need)),
        }
    }

    /// The events that give the dead task `id` new attempts and let wait again what was skipped because of it.
    ///
    /// What also waits for another dead task is skipped again, now because of that one.
    pub(super) fn revive(&self, id: &TaskId) -> Result<Vec<Event>, Refusal> {
        let task = self.task(id).ok_or_else(|| Refusal::UnknownTask(id.clone()))?;
        if task.status != TaskStatus::Dead {
            let status = task.status.as_str();
            return Err(Refusal::TaskState { task: id.clone(), status, wanted: "dead" });
        }
        let mut events = vec![Event::TaskRevived { task: id.clone() }];
        let mut freed: HashSet<usize> = self.skipped_because(id).collect();
        for other in self.tasks.iter().filter(|other| other.status == TaskStatus::Dead && other.id != *id) {
            if freed.is_empty() {
                break;
            }
            let still = self.below(&Node::Task(other.id.clone())).filter(|at| freed.remove(at));
            events.extend(still.map(|at| skip(&self.tasks[at], &other.id)));
        }
        Ok(events)
    }
}

fn skip(task: &Task, root: &TaskId) -> Event {
    Event::TaskSkipped { task: task.id.clone(), because: root.clone() }
}
