//! Who blocks whom: conflicts, order of service and deadlocks, as pure functions on a snapshot.
//!
//! A waiter is blocked by conflicting holders *and* by conflicting waiters ahead of it; leaving the latter out misses
//! real deadlocks. A permit is blocked only when all permits are taken, so one living holder is enough to free it:
//! therefore deadlock is not "a cycle exists" but "nobody in it can ever be served", found by assuming that everyone
//! who does not wait will finish, and repeating until nothing changes.

use std::collections::{HashMap, HashSet};

use crate::backend::LockMode;

/// Someone who holds or waits.
#[derive(Debug, Clone)]
pub(super) struct Claimant {
    pub(super) owner: String,
    pub(super) mode: LockMode,
}

/// A resource: its holders, and its waiters in order of service.
#[derive(Debug, Clone, Default)]
pub(super) struct Resource {
    pub(super) holders: Vec<Claimant>,
    pub(super) waiters: Vec<Claimant>,
}

/// What keeps a request from being granted.
#[derive(Debug, Default)]
pub(super) struct Blockers<'a> {
    /// All of these have to go.
    pub(super) all: Vec<&'a str>,
    /// These take permits.
    pub(super) permits: Vec<&'a str>,
    /// Permits there are; meaningless for other modes.
    capacity: usize,
}

impl<'a> Blockers<'a> {
    /// Whether the request can be granted when those for whom `gone` holds are out of the way.
    fn free(&self, gone: impl Fn(&str) -> bool) -> bool {
        self.all.iter().all(|owner| gone(owner))
            && (self.permits.is_empty() || self.permits.iter().filter(|owner| !gone(owner)).count() < self.capacity)
    }

    /// Whether the request can be granted at once.
    pub(super) fn is_free(&self) -> bool {
        self.free(|_| false)
    }

    fn each(&self) -> impl Iterator<Item = &'a str> {
        self.all.iter().chain(&self.permits).copied()
    }
}

impl Resource {
    /// What blocks the waiter `owner`.
    pub(super) fn blockers(&self, owner: &str) -> Blockers<'_> {
        let Some(place) = self.waiters.iter().position(|waiter| waiter.owner == owner) else {
            return Blockers::default();
        };
        let mode = self.waiters[place].mode;
        let mut blockers = Blockers::default();
        if let LockMode::Permit { capacity } = mode {
            blockers.capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
        }
        for other in self.holders.iter().chain(&self.waiters[..place]).filter(|other| other.owner != owner) {
            match (mode, other.mode) {
                (LockMode::Shared, LockMode::Shared) => {}
                (LockMode::Permit { .. }, LockMode::Permit { .. }) => blockers.permits.push(&other.owner),
                _ => blockers.all.push(&other.owner),
            }
        }
        blockers
    }
}

/// The part of the wait-for graph that can be reached from one request.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) resources: HashMap<String, Resource>,
    /// The resources each owner waits for; an owner without an entry is free to finish.
    pub(super) waits: HashMap<String, Vec<String>>,
}

impl Graph {
    /// The cycle that `owner` is part of and that nobody can leave, `owner` first; `None` when there is none.
    pub(super) fn deadlock(&self, owner: &str) -> Option<Vec<String>> {
        let stuck = self.stuck();
        if !stuck.contains(owner) {
            return None;
        }
        let mut path = vec![owner.to_owned()];
        let mut seen = HashSet::new();
        self.path_back(owner, owner, &stuck, &mut seen, &mut path).then_some(path)
    }

    fn blockers_of<'a>(&'a self, owner: &str) -> impl Iterator<Item = Blockers<'a>> {
        let waited = self.waits.get(owner).into_iter().flatten();
        waited.filter_map(|name| self.resources.get(name)).map(move |resource| resource.blockers(owner))
    }

    /// Owners that can never be served, whatever the others do.
    fn stuck(&self) -> HashSet<&str> {
        let mut stuck: HashSet<&str> = self.waits.keys().map(String::as_str).collect();
        loop {
            let served: Vec<&str> = stuck
                .iter()
                .copied()
                .filter(|owner| self.blockers_of(owner).all(|blockers| blockers.free(|other| !stuck.contains(other))))
                .collect();
            if served.is_empty() {
                return stuck;
            }
            served.into_iter().for_each(|owner| {
                stuck.remove(owner);
            });
        }
    }

    /// Extends `path` from its end at `from` until somebody is blocked by `goal`.
    fn path_back<'a>(
        &'a self,
        from: &str,
        goal: &str,
        stuck: &HashSet<&str>,
        seen: &mut HashSet<&'a str>,
        path: &mut Vec<String>,
    ) -> bool {
        let next: Vec<&'a str> =
            self.blockers_of(from).flat_map(|blockers| blockers.each().collect::<Vec<_>>()).collect();
        if next.contains(&goal) {
            return true;
        }
        for other in next {
            if stuck.contains(other) && seen.insert(other) {
                path.push(other.to_owned());
                if self.path_back(other, goal, stuck, seen, path) {
                    return true;
                }
                path.pop();
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERMIT: LockMode = LockMode::Permit { capacity: 2 };

    type Claims<'a> = &'a [(&'a str, LockMode)];

    fn claimants(all: Claims<'_>) -> Vec<Claimant> {
        all.iter().map(|(owner, mode)| Claimant { owner: (*owner).into(), mode: *mode }).collect()
    }

    fn graph(resources: &[(&str, Claims<'_>, Claims<'_>)]) -> Graph {
        let mut graph = Graph::default();
        for (name, holders, waiters) in resources {
            for (owner, _) in *waiters {
                graph.waits.entry((*owner).into()).or_default().push((*name).into());
            }
            let resource = Resource { holders: claimants(holders), waiters: claimants(waiters) };
            graph.resources.insert((*name).into(), resource);
        }
        graph
    }

    #[test]
    fn a_ring_is_a_deadlock_and_names_its_owners_from_the_asker_on() {
        use LockMode::Exclusive as X;
        let ring =
            graph(&[("1", &[("a", X)], &[("c", X)]), ("2", &[("b", X)], &[("a", X)]), ("3", &[("c", X)], &[("b", X)])]);
        assert_eq!(ring.deadlock("a"), Some(vec!["a".into(), "b".into(), "c".into()]));
    }

    #[test]
    fn a_free_permit_holder_breaks_a_cycle_that_would_otherwise_be_one() {
        use LockMode::Exclusive as X;
        let broken =
            graph(&[("pool", &[("b", PERMIT), ("idle", PERMIT)], &[("a", PERMIT)]), ("2", &[("a", X)], &[("b", X)])]);
        assert_eq!(broken.deadlock("a"), None);
        let closed = graph(&[
            ("pool", &[("b", PERMIT), ("c", PERMIT)], &[("a", PERMIT)]),
            ("2", &[("a", X)], &[("b", X), ("c", X)]),
        ]);
        assert!(closed.deadlock("a").is_some());
    }

    #[test]
    fn waiting_behind_a_deadlock_is_not_being_part_of_it() {
        use LockMode::Exclusive as X;
        let behind = graph(&[("1", &[("a", X)], &[("b", X), ("late", X)]), ("2", &[("b", X)], &[("a", X)])]);
        assert_eq!(behind.deadlock("late"), None);
        assert!(behind.deadlock("b").is_some());
    }

    #[test]
    fn shared_requests_wait_only_for_others_than_shared() {
        use LockMode::{Exclusive as X, Shared as S};
        let resource =
            Resource { holders: claimants(&[("r", S)]), waiters: claimants(&[("s", S), ("w", X), ("t", S)]) };
        assert!(resource.blockers("s").is_free());
        assert_eq!(resource.blockers("w").all, ["r", "s"]);
        assert_eq!(resource.blockers("t").all, ["w"]);
    }
}
