//! The dependency graph (REQUIREMENTS A5): who may start, who waits for whom, and which chain decides the end.
//!
//! Pure and generic, so that its promises can be tested against naive models. Inside, nodes are numbers in insertion
//! order; every whole-graph question takes O(nodes + edges) and completing a node takes O(its dependents). The graph
//! grows only by [`Graph::extend`], all or nothing. It must never hold a cycle, not even for a moment, and must never
//! forget a completed node, because latecomers may depend on it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::hash::Hash;
use std::sync::OnceLock;

use crate::error::Coded;
use crate::protocol::validate::find_cycle;

/// A node to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSpec<N> {
    /// Its name, unique in the graph.
    pub id: N,
    /// How long it takes, in any one unit (the job uses expected tokens); 0 for nodes that only join others.
    pub weight: u64,
    /// What must be complete before it is ready; repeated names count once.
    pub needs: Vec<N>,
}

/// Why an extension was refused. Nodes are named as people know them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A node of that name is already there.
    #[error("{node} is there already")]
    Duplicate {
        /// The name.
        node: String,
    },
    /// An edge names a node that does not exist.
    #[error("{node} needs {need}, which does not exist")]
    Unknown {
        /// The node with the edge.
        node: String,
        /// The name that leads nowhere.
        need: String,
    },
    /// A node needs itself.
    #[error("{node} needs itself")]
    SelfEdge {
        /// The name.
        node: String,
    },
    /// A new edge leads onto a node that is already complete.
    #[error("{node} is complete and can no longer wait for {need}")]
    Complete {
        /// The completed node.
        node: String,
        /// What it should have waited for.
        need: String,
    },
    /// Nodes wait for each other.
    #[error("dependency cycle: {}", path.join(" -> "))]
    Cycle {
        /// Each node needs the next; the first is repeated at the end.
        path: Vec<String>,
    },
}

impl Coded for GraphError {
    fn code(&self) -> &'static str {
        match self {
            Self::Duplicate { .. } => "CS-GRAPH-001",
            Self::Unknown { .. } => "CS-GRAPH-002",
            Self::SelfEdge { .. } => "CS-GRAPH-003",
            Self::Complete { .. } => "CS-GRAPH-004",
            Self::Cycle { .. } => "CS-GRAPH-005",
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::Duplicate { node } => format!("give {node} another name"),
            Self::Unknown { need, .. } => format!("remove the dependency on {need} or plan it"),
            Self::SelfEdge { node } => format!("remove {node} from its own dependencies"),
            Self::Complete { need, .. } => format!("plan {need} without dependents that are already done"),
            Self::Cycle { .. } => "remove one dependency of the cycle".into(),
        }
    }
}

/// A directed acyclic graph of things to do.
#[derive(Debug, Clone)]
pub struct Graph<N> {
    index: HashMap<N, usize>,
    nodes: Vec<Node<N>>,
    ready: BTreeSet<usize>,
    /// Longest weighted path from each node to a sink; completing a node does not change it, extending does.
    tails: OnceLock<Vec<u64>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node<N> {
    id: N,
    weight: u64,
    needs: Vec<usize>,
    dependents: Vec<usize>,
    /// Number of `needs` that are not complete.
    open: usize,
    complete: bool,
}

/// An extension whose names have been resolved: existing nodes are below `first`, new ones from there on.
struct Extension {
    first: usize,
    needs: Vec<Vec<usize>>,
    /// Existing node to its additional needs; ordered, so that equal histories give equal graphs.
    extra: BTreeMap<usize, Vec<usize>>,
}

impl<N> Default for Graph<N> {
    fn default() -> Self {
        Self { index: HashMap::new(), nodes: Vec::new(), ready: BTreeSet::new(), tails: OnceLock::new() }
    }
}

/// Two graphs are equal when they grew alike and are equally complete; what is cached does not matter.
impl<N: PartialEq> PartialEq for Graph<N> {
    fn eq(&self, other: &Self) -> bool {
        self.nodes == other.nodes
    }
}

impl<N: Clone + Eq + Hash + Display> Graph<N> {
    /// Adds `nodes`, and for each `(from, to)` of `edges` makes the existing, incomplete node `to` wait for `from`.
    ///
    /// # Errors
    /// [`GraphError`]; the graph is then unchanged.
    pub fn extend(&mut self, nodes: Vec<NodeSpec<N>>, edges: &[(N, N)]) -> Result<(), GraphError> {
        let extension = self.resolve(&nodes, edges)?;
        self.refuse_cycles(&nodes, &extension)?;
        for node in nodes {
            self.index.insert(node.id.clone(), self.nodes.len());
            self.nodes.push(Node {
                id: node.id,
                weight: node.weight,
                needs: Vec::new(),
                dependents: Vec::new(),
                open: 0,
                complete: false,
            });
        }
        for (i, needs) in extension.needs.into_iter().enumerate() {
            self.connect(extension.first + i, needs);
        }
        for (node, needs) in extension.extra {
            self.connect(node, needs);
        }
        self.tails = OnceLock::new();
        Ok(())
    }

    /// Whether [`Graph::extend`] would accept the same arguments.
    ///
    /// # Errors
    /// What it would refuse.
    pub fn check(&self, nodes: &[NodeSpec<N>], edges: &[(N, N)]) -> Result<(), GraphError> {
        self.refuse_cycles(nodes, &self.resolve(nodes, edges)?)
    }

    fn resolve(&self, nodes: &[NodeSpec<N>], edges: &[(N, N)]) -> Result<Extension, GraphError> {
        let first = self.nodes.len();
        let mut fresh: HashMap<&N, usize> = HashMap::with_capacity(nodes.len());
        for (i, node) in nodes.iter().enumerate() {
            if self.index.contains_key(&node.id) || fresh.insert(&node.id, first + i).is_some() {
                return Err(GraphError::Duplicate { node: node.id.to_string() });
            }
        }
        let find = |node: &N, need: &N| {
            if node == need {
                return Err(GraphError::SelfEdge { node: node.to_string() });
            }
            let unknown = || GraphError::Unknown { node: node.to_string(), need: need.to_string() };
            fresh.get(need).or_else(|| self.index.get(need)).copied().ok_or_else(unknown)
        };
        let mut needs = Vec::with_capacity(nodes.len());
        for node in nodes {
            let mut seen = HashSet::with_capacity(node.needs.len());
            let mut resolved = Vec::with_capacity(node.needs.len());
            for need in &node.needs {
                let target = find(&node.id, need)?;
                if seen.insert(target) {
                    resolved.push(target);
                }
            }
            needs.push(resolved);
        }
        let mut extra: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut seen = HashSet::with_capacity(edges.len());
        for (from, to) in edges {
            let source = find(to, from)?;
            let unknown = || GraphError::Unknown { node: from.to_string(), need: to.to_string() };
            let target = self.index.get(to).copied().ok_or_else(unknown)?;
            if self.nodes[target].complete {
                return Err(GraphError::Complete { node: to.to_string(), need: from.to_string() });
            }
            // An edge from a new node cannot be there yet.
            let known = source < first && self.nodes[target].needs.contains(&source);
            if !known && seen.insert((source, target)) {
                extra.entry(target).or_default().push(source);
            }
        }
        Ok(Extension { first, needs, extra })
    }

    /// Every cycle would pass through a new edge, and none through a complete node, whose needs are all complete: so
    /// the search starts at the new edges and stops at complete nodes.
    fn refuse_cycles(&self, nodes: &[NodeSpec<N>], extension: &Extension) -> Result<(), GraphError> {
        let Extension { first, needs, extra } = extension;
        let edge = |node: usize, k: usize| match self.nodes.get(node) {
            None => needs[node - first].get(k).copied(),
            Some(old) if old.complete => None,
            Some(old) => match old.needs.get(k) {
                Some(&need) => Some(need),
                None => extra.get(&node)?.get(k - old.needs.len()).copied(),
            },
        };
        let total = first + nodes.len();
        let starts = (*first..total).chain(extra.keys().copied());
        let Some(cycle) = find_cycle(total, starts, edge) else { return Ok(()) };
        let name =
            |node: usize| self.nodes.get(node).map_or_else(|| &nodes[node - first].id, |old| &old.id).to_string();
        Err(GraphError::Cycle { path: cycle.into_iter().map(name).collect() })
    }

    fn connect(&mut self, node: usize, needs: Vec<usize>) {
        for &need in &needs {
            self.nodes[need].dependents.push(node);
            self.nodes[node].open += usize::from(!self.nodes[need].complete);
        }
        self.nodes[node].needs.extend(needs);
        if self.nodes[node].open == 0 {
            self.ready.insert(node);
        } else {
            self.ready.remove(&node);
        }
    }

    /// Completes a ready node and returns the nodes that became ready by it. Completing it again, or a node that is
    /// not ready, changes nothing.
    pub fn complete(&mut self, node: &N) -> Vec<N> {
        let Some(&at) = self.index.get(node) else { return Vec::new() };
        if !self.ready.remove(&at) {
            return Vec::new();
        }
        self.nodes[at].complete = true;
        let mut freed = Vec::new();
        for i in 0..self.nodes[at].dependents.len() {
            let dependent = self.nodes[at].dependents[i];
            self.nodes[dependent].open -= 1;
            if self.nodes[dependent].open == 0 {
                self.ready.insert(dependent);
                freed.push(self.nodes[dependent].id.clone());
            }
        }
        freed
    }

    /// True for a node that is incomplete and whose needs are all complete.
    #[must_use]
    pub fn is_ready(&self, node: &N) -> bool {
        self.index.get(node).is_some_and(|at| self.ready.contains(at))
    }

    /// True for a completed node.
    #[must_use]
    pub fn is_complete(&self, node: &N) -> bool {
        self.index.get(node).is_some_and(|&at| self.nodes[at].complete)
    }

    /// The ready nodes in the order they were added.
    pub fn ready(&self) -> impl Iterator<Item = &N> {
        self.ready.iter().map(|&at| &self.nodes[at].id)
    }

    /// What `node` directly waits for; empty for an unknown node.
    pub fn needs(&self, node: &N) -> impl Iterator<Item = &N> {
        self.neighbours(node, |node| &node.needs)
    }

    /// What directly waits for `node`; empty for an unknown node.
    pub fn dependents(&self, node: &N) -> impl Iterator<Item = &N> {
        self.neighbours(node, |node| &node.dependents)
    }

    /// Everything that waits for `node`, directly or not, nearest first.
    #[must_use]
    pub fn all_dependents(&self, node: &N) -> Vec<N> {
        self.reach(node, |node| &node.dependents).collect()
    }

    /// Everything `node` waits for, directly or not, nearest first; lazily, so that a caller may stop early.
    pub fn ancestors(&self, node: &N) -> impl Iterator<Item = N> {
        self.reach(node, |node| &node.needs)
    }

    fn neighbours(&self, node: &N, side: fn(&Node<N>) -> &Vec<usize>) -> impl Iterator<Item = &N> {
        let at = self.index.get(node).copied();
        at.into_iter().flat_map(move |at| side(&self.nodes[at])).map(|&other| &self.nodes[other].id)
    }

    fn reach(&self, node: &N, side: fn(&Node<N>) -> &Vec<usize>) -> impl Iterator<Item = N> {
        let mut queue: VecDeque<usize> = self.index.get(node).copied().into_iter().collect();
        let mut seen: HashSet<usize> = queue.iter().copied().collect();
        let mut first = true;
        std::iter::from_fn(move || {
            loop {
                let at = queue.pop_front()?;
                queue.extend(side(&self.nodes[at]).iter().copied().filter(|&other| seen.insert(other)));
                if !std::mem::take(&mut first) {
                    return Some(self.nodes[at].id.clone());
                }
            }
        })
    }

    /// All nodes, each after everything it needs.
    #[must_use]
    pub fn topological_order(&self) -> Vec<N> {
        self.levels().into_iter().flatten().collect()
    }

    /// All nodes by depth: a node stands one level below its deepest need. Nodes of one level can run side by side.
    #[must_use]
    pub fn levels(&self) -> Vec<Vec<N>> {
        self.layers().into_iter().map(|layer| layer.into_iter().map(|at| self.nodes[at].id.clone()).collect()).collect()
    }

    fn layers(&self) -> Vec<Vec<usize>> {
        let mut open: Vec<usize> = self.nodes.iter().map(|node| node.needs.len()).collect();
        let mut layer: Vec<usize> = (0..self.nodes.len()).filter(|&at| open[at] == 0).collect();
        let mut layers = Vec::new();
        while !layer.is_empty() {
            let mut next = Vec::new();
            for &dependent in layer.iter().flat_map(|&at| &self.nodes[at].dependents) {
                open[dependent] -= 1;
                if open[dependent] == 0 {
                    next.push(dependent);
                }
            }
            layers.push(std::mem::replace(&mut layer, next));
        }
        layers
    }

    /// The heaviest chain of nodes and its weight; of several, the one whose nodes were added first.
    #[must_use]
    pub fn critical_path(&self) -> (Vec<N>, u64) {
        let tails = self.tails();
        let heaviest = |nodes: &mut dyn Iterator<Item = usize>| {
            nodes.reduce(|best, other| if tails[other] > tails[best] { other } else { best })
        };
        let Some(start) = heaviest(&mut (0..self.nodes.len())) else { return (Vec::new(), 0) };
        let mut path = Vec::new();
        let mut next = Some(start);
        while let Some(at) = next {
            path.push(self.nodes[at].id.clone());
            next = heaviest(&mut self.nodes[at].dependents.iter().copied());
        }
        (path, tails[start])
    }

    /// Weight of the heaviest chain that begins with `node` (its own weight included); 0 for an unknown node. The
    /// larger, the more urgent. The first call after an extension takes O(nodes + edges), all others O(1).
    #[must_use]
    pub fn tail(&self, node: &N) -> u64 {
        self.index.get(node).map_or(0, |&at| self.tails()[at])
    }

    /// For every node the least of what `own` says of it and of all nodes that wait for it, directly or not.
    #[must_use]
    pub fn least_behind<T: Copy + Ord>(&self, own: impl Fn(&N) -> T) -> HashMap<&N, T> {
        let mut least: Vec<T> = self.nodes.iter().map(|node| own(&node.id)).collect();
        for at in self.layers().into_iter().rev().flatten() {
            let behind = self.nodes[at].dependents.iter().map(|&dependent| least[dependent]).min();
            least[at] = behind.map_or(least[at], |behind| behind.min(least[at]));
        }
        self.nodes.iter().map(|node| &node.id).zip(least).collect()
    }

    fn tails(&self) -> &[u64] {
        self.tails.get_or_init(|| {
            let mut tails = vec![0_u64; self.nodes.len()];
            for at in self.layers().into_iter().rev().flatten() {
                let longest = self.nodes[at].dependents.iter().map(|&dependent| tails[dependent]).max().unwrap_or(0);
                tails[at] = self.nodes[at].weight.saturating_add(longest);
            }
            tails
        })
    }
}

#[cfg(test)]
mod tests;
