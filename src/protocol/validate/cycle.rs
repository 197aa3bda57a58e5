//! Finds a cycle among numbered nodes, for plans here and for the dependency graph.
//!
//! One depth-first search with an explicit stack, because a plan from outside may be a chain of any length and must
//! never overflow the call stack. It must never allocate per edge.

/// A cycle that can be reached from one of `starts`, first node repeated at the end; `None` if there is none.
///
/// Nodes are `0..nodes`; `edge(i, k)` is the `k`-th node that `i` points at. Takes O(nodes + edges reached).
pub(crate) fn find_cycle(
    nodes: usize,
    starts: impl IntoIterator<Item = usize>,
    edge: impl Fn(usize, usize) -> Option<usize>,
) -> Option<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; nodes];
    let mut stack: Vec<(usize, usize)> = Vec::new();
    for start in starts {
        if marks[start] != Mark::New {
            continue;
        }
        marks[start] = Mark::Open;
        stack.push((start, 0));
        while let Some((node, next)) = stack.last_mut() {
            let Some(target) = edge(*node, *next) else {
                marks[*node] = Mark::Done;
                stack.pop();
                continue;
            };
            *next += 1;
            match marks[target] {
                Mark::Done => {}
                Mark::New => {
                    marks[target] = Mark::Open;
                    stack.push((target, 0));
                }
                Mark::Open => {
                    let from = stack.iter().position(|&(open, _)| open == target).unwrap_or(0);
                    let mut cycle: Vec<usize> = stack[from..].iter().map(|&(open, _)| open).collect();
                    cycle.push(target);
                    return Some(cycle);
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(edges: &[Vec<usize>]) -> Option<Vec<usize>> {
        find_cycle(edges.len(), 0..edges.len(), |node, k| edges[node].get(k).copied())
    }

    #[test]
    fn names_the_cycle_in_the_order_of_its_edges() {
        assert_eq!(search(&[vec![1], vec![2], vec![3], vec![1]]), Some(vec![1, 2, 3, 1]));
        assert_eq!(search(&[vec![0]]), Some(vec![0, 0]));
    }

    #[test]
    fn looks_only_where_it_is_told_to_start() {
        let edges = [vec![0], vec![2], vec![]];
        assert_eq!(find_cycle(3, [1], |node, k| edges[node].get(k).copied()), None);
    }

    #[test]
    fn accepts_diamonds_and_long_chains() {
        assert_eq!(search(&[vec![1, 2], vec![3], vec![3], vec![]]), None);
        let chain: Vec<Vec<usize>> = (1..=200_000).map(|i| if i < 200_000 { vec![i] } else { vec![] }).collect();
        assert_eq!(search(&chain), None);
    }
}
