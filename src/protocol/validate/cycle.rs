//! Finds a cycle among numbered nodes, for plans here and for the dependency graph.
//!
//! One depth-first search with an explicit stack, because a plan from outside may be a chain of any length and must
//! never overflow the call stack. It must never allocate per edge.

/// A cycle in the graph whose node `i` points at `edges[i]`, first node repeated at the end; `None` if there is none.
/// Takes O(nodes + edges).
pub(crate) fn find_cycle(edges: &[Vec<usize>]) -> Option<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; edges.len()];
    let mut stack: Vec<(usize, usize)> = Vec::new();
    for start in 0..edges.len() {
        if marks[start] != Mark::New {
            continue;
        }
        marks[start] = Mark::Open;
        stack.push((start, 0));
        while let Some((node, next)) = stack.last_mut() {
            let Some(&target) = edges[*node].get(*next) else {
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

    #[test]
    fn names_the_cycle_in_the_order_of_its_edges() {
        assert_eq!(find_cycle(&[vec![1], vec![2], vec![3], vec![1]]), Some(vec![1, 2, 3, 1]));
        assert_eq!(find_cycle(&[vec![0]]), Some(vec![0, 0]));
    }

    #[test]
    fn accepts_diamonds_and_long_chains() {
        assert_eq!(find_cycle(&[vec![1, 2], vec![3], vec![3], vec![]]), None);
        let chain: Vec<Vec<usize>> = (1..=200_000).map(|i| if i < 200_000 { vec![i] } else { vec![] }).collect();
        assert_eq!(find_cycle(&chain), None);
    }
}
