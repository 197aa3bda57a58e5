//! Promises of the graph, each checked against a naive model on random graphs.
//!
//! A random graph is a list of needs per node; when needs point only backwards it is acyclic by construction, when they
//! point anywhere the model decides by asking whether a node can reach itself.

use proptest::prelude::*;

use super::*;

type Needs = Vec<Vec<usize>>;

fn specs(needs: &Needs, weights: &[u64]) -> Vec<NodeSpec<usize>> {
    let spec = |(id, needs): (usize, &Vec<usize>)| NodeSpec { id, weight: weights[id], needs: needs.clone() };
    needs.iter().enumerate().map(spec).collect()
}

fn graph(needs: &Needs) -> Result<Graph<usize>, GraphError> {
    let mut graph = Graph::default();
    graph.extend(specs(needs, &vec![1; needs.len()]), &[]).map(|()| graph)
}

/// Needs that point backwards only.
fn acyclic() -> impl Strategy<Value = Needs> {
    prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..4), 1..30).prop_map(|nodes| {
        let pick = |at: usize, picks: Vec<prop::sample::Index>| match at {
            0 => vec![],
            _ => picks.into_iter().map(|pick| pick.index(at)).collect(),
        };
        nodes.into_iter().enumerate().map(|(at, picks)| pick(at, picks)).collect()
    })
}

/// Needs that point anywhere but at the node itself.
fn any_graph() -> impl Strategy<Value = Needs> {
    (2..12_usize).prop_flat_map(|n| prop::collection::vec(prop::collection::vec(0..n, 0..3), n)).prop_map(
        |mut nodes| {
            for (at, needs) in nodes.iter_mut().enumerate() {
                needs.retain(|&need| need != at);
            }
            nodes
        },
    )
}

fn reaches(needs: &Needs, from: usize) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    let mut stack = needs[from].clone();
    while let Some(at) = stack.pop() {
        if seen.insert(at) {
            stack.extend(&needs[at]);
        }
    }
    seen
}

fn naive_tail(needs: &Needs, weights: &[u64], at: usize) -> u64 {
    let dependents = (0..needs.len()).filter(|&other| needs[other].contains(&at));
    weights[at] + dependents.map(|other| naive_tail(needs, weights, other)).max().unwrap_or(0)
}

fn naive_level(needs: &Needs, at: usize) -> usize {
    needs[at].iter().map(|&need| naive_level(needs, need) + 1).max().unwrap_or(0)
}

proptest! {
    #[test]
    fn stress_a_graph_is_refused_exactly_when_some_node_can_reach_itself(needs in any_graph()) {
        let cyclic = (0..needs.len()).any(|at| reaches(&needs, at).contains(&at));
        match graph(&needs) {
            Ok(_) => prop_assert!(!cyclic),
            Err(GraphError::Cycle { path }) => {
                prop_assert!(cyclic);
                let path: Vec<usize> = path.iter().map(|name| name.parse().unwrap()).collect();
                prop_assert_eq!(path.first(), path.last());
                prop_assert!(path.len() >= 3);
                for pair in path.windows(2) {
                    prop_assert!(needs[pair[0]].contains(&pair[1]), "{} does not need {}", pair[0], pair[1]);
                }
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn stress_a_graph_grown_in_two_steps_is_refused_exactly_when_the_whole_would_be(
        needs in any_graph(), split in any::<prop::sample::Index>(),
    ) {
        let split = split.index(needs.len());
        let (old, new): (Vec<_>, Vec<_>) =
            specs(&needs, &vec![1; needs.len()]).into_iter().partition(|spec| spec.id < split);
        // Edges of old nodes onto new ones come later, as extra edges.
        let edges: Vec<(usize, usize)> = old
            .iter()
            .flat_map(|spec| spec.needs.iter().filter(|&&need| need >= split).map(|&need| (need, spec.id)))
            .collect();
        let old = old.into_iter().map(|mut spec| {
            spec.needs.retain(|&need| need < split);
            spec
        });
        let mut grown = Graph::default();
        if grown.extend(old.collect(), &[]).is_ok() {
            let before = grown.clone();
            // What was asked before must not answer for the larger graph.
            let _ = grown.tail(&0);
            prop_assert_eq!(grown.check(&new, &edges).is_ok(), graph(&needs).is_ok());
            match grown.extend(new, &edges) {
                Ok(()) => {
                    let whole = graph(&needs).unwrap();
                    for at in 0..needs.len() {
                        prop_assert_eq!(grown.tail(&at), whole.tail(&at));
                        prop_assert_eq!(grown.is_ready(&at), whole.is_ready(&at));
                    }
                }
                Err(_) => prop_assert!(grown == before),
            }
        }
    }

    #[test]
    fn stress_ready_is_incomplete_with_complete_needs_after_every_step(
        needs in acyclic(), picks in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let mut graph = graph(&needs).unwrap();
        let mut done = BTreeSet::new();
        for pick in picks {
            let model: BTreeSet<usize> = (0..needs.len())
                .filter(|at| !done.contains(at) && needs[*at].iter().all(|need| done.contains(need)))
                .collect();
            let ready: BTreeSet<usize> = graph.ready().copied().collect();
            prop_assert_eq!(&ready, &model);
            let node = pick.index(needs.len());
            let freed: BTreeSet<usize> = graph.complete(&node).into_iter().collect();
            prop_assert!(graph.complete(&node).is_empty());
            if model.contains(&node) {
                done.insert(node);
            }
            let after: BTreeSet<usize> = graph.ready().copied().collect();
            prop_assert_eq!(freed, after.difference(&ready).copied().collect::<BTreeSet<_>>());
        }
    }

    #[test]
    fn stress_order_levels_and_reach_agree_with_the_edges(needs in acyclic()) {
        let graph = graph(&needs).unwrap();
        let order = graph.topological_order();
        let place: BTreeMap<usize, usize> = order.iter().enumerate().map(|(place, &node)| (node, place)).collect();
        prop_assert_eq!(place.len(), needs.len());
        for (at, wanted) in needs.iter().enumerate() {
            prop_assert!(wanted.iter().all(|need| place[need] < place[&at]));
            let ancestors: Vec<usize> = graph.ancestors(&at).collect();
            prop_assert_eq!(ancestors.len(), reaches(&needs, at).len());
            prop_assert_eq!(ancestors.into_iter().collect::<BTreeSet<_>>(), reaches(&needs, at));
            let below: BTreeSet<usize> = graph.all_dependents(&at).into_iter().collect();
            let model: BTreeSet<usize> = (0..needs.len()).filter(|&other| reaches(&needs, other).contains(&at)).collect();
            prop_assert_eq!(below, model);
        }
        for (depth, level) in graph.levels().into_iter().enumerate() {
            prop_assert!(level.into_iter().all(|at| naive_level(&needs, at) == depth));
        }
    }

    #[test]
    fn the_critical_path_is_a_chain_and_no_chain_is_heavier(
        needs in acyclic(), weights in prop::collection::vec(0..100_u64, 30),
    ) {
        let mut graph = Graph::default();
        graph.extend(specs(&needs, &weights), &[]).unwrap();
        let tails: Vec<u64> = (0..needs.len()).map(|at| naive_tail(&needs, &weights, at)).collect();
        for (at, tail) in tails.iter().enumerate() {
            prop_assert_eq!(graph.tail(&at), *tail);
        }
        let (path, weight) = graph.critical_path();
        prop_assert_eq!(Some(weight), tails.into_iter().max());
        prop_assert_eq!(path.iter().map(|&at| weights[at]).sum::<u64>(), weight);
        for pair in path.windows(2) {
            prop_assert!(needs[pair[1]].contains(&pair[0]));
        }
    }
}

fn named(id: &'static str, needs: &[&'static str]) -> NodeSpec<&'static str> {
    NodeSpec { id, weight: 1, needs: needs.to_vec() }
}

#[test]
fn every_refusal_names_its_nodes_and_leaves_the_graph_alone() {
    let mut graph = Graph::default();
    graph.extend(vec![named("a", &[]), named("b", &["a"]), named("done", &[])], &[]).unwrap();
    graph.complete(&"done");
    let before = graph.clone();
    let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for (nodes, edges, error) in [
        (vec![named("a", &[])], vec![], GraphError::Duplicate { node: "a".into() }),
        (vec![named("x", &[]), named("x", &[])], vec![], GraphError::Duplicate { node: "x".into() }),
        (vec![named("x", &["y"])], vec![], GraphError::Unknown { node: "x".into(), need: "y".into() }),
        (vec![], vec![("y", "a")], GraphError::Unknown { node: "a".into(), need: "y".into() }),
        (vec![named("x", &["x"])], vec![], GraphError::SelfEdge { node: "x".into() }),
        (vec![], vec![("a", "a")], GraphError::SelfEdge { node: "a".into() }),
        (vec![], vec![("b", "done")], GraphError::Complete { node: "done".into(), need: "b".into() }),
        (vec![], vec![("b", "a")], GraphError::Cycle { path: text(&["a", "b", "a"]) }),
        (vec![named("x", &["b"])], vec![("x", "a")], GraphError::Cycle { path: text(&["x", "b", "a", "x"]) }),
    ] {
        assert_eq!(graph.extend(nodes, &edges), Err(error));
        assert!(graph == before);
    }
}

#[test]
fn repeated_needs_and_edges_count_once() {
    let mut graph = Graph::default();
    graph.extend(vec![named("a", &[]), named("b", &["a", "a"])], &[]).unwrap();
    graph.extend(vec![named("c", &[])], &[("a", "b"), ("c", "b"), ("c", "b")]).unwrap();
    assert_eq!(graph.needs(&"b").collect::<Vec<_>>(), [&"a", &"c"]);
    assert_eq!(graph.complete(&"a"), Vec::<&str>::new());
    assert_eq!(graph.complete(&"c"), ["b"]);
}

#[test]
fn a_ready_node_that_gains_a_need_waits_again() {
    let mut graph = Graph::default();
    graph.extend(vec![named("a", &[])], &[]).unwrap();
    assert!(graph.is_ready(&"a"));
    graph.extend(vec![named("b", &[])], &[("b", "a")]).unwrap();
    assert!(!graph.is_ready(&"a"));
    assert_eq!(graph.complete(&"b"), ["a"]);
    assert!(graph.is_complete(&"b"));
}

#[test]
fn ten_thousand_nodes_in_a_chain_are_no_burden() {
    let needs: Needs = (0..10_000_usize).map(|at| at.checked_sub(1).into_iter().collect()).collect();
    let mut graph = graph(&needs).unwrap();
    assert_eq!(graph.critical_path().1, 10_000);
    for at in 0..10_000 {
        assert_eq!(graph.complete(&at).len(), usize::from(at < 9_999));
    }
}
