//! Limits of the account that stand in a configuration: applied when they change, not whenever a process starts.
//!
//! A person who lowers a limit with `budget set` must not find it raised again by the next worker that an autoscaler starts.
//! So the stores remember what was configured last, and only another value is news. Whoever spoke last wins: a person over an
//! unchanged configuration, a changed configuration over the person. What is configured is never compared with the present
//! limit: that may be anybody's.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::backend::{Adjustment, Backend, BackendError, Expected, Scope, Write};
use crate::protocol::{InstanceId, MicroUsd};

/// What was configured last for a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Configured {
    limit: MicroUsd,
    /// How often it has changed: it makes going back to an earlier value a request of its own.
    changes: u64,
}

/// Sets the limit of `scope` to the configured `limit`, unless that is what was configured before.
///
/// The limit is set first and remembered afterwards: whoever is interrupted in between, or does it at the same time, repeats
/// the same request, which the ledger knows.
///
/// # Errors
/// Store errors; nothing is remembered then.
pub async fn apply(
    backend: &Backend,
    instance: &InstanceId,
    scope: &Scope,
    limit: MicroUsd,
) -> Result<(), BackendError> {
    let key = format!("budget/configured/{scope}");
    let found = backend.state.get(std::slice::from_ref(&key)).await?.into_iter().next().flatten();
    let version = found.as_ref().map_or(Expected::Absent, |found| Expected::Version(found.version));
    let known: Option<Configured> =
        found.and_then(|found| found.value).and_then(|value| serde_json::from_slice(&value).ok());
    if known.is_some_and(|known| known.limit == limit) {
        return Ok(());
    }
    let next = Configured { limit, changes: known.unwrap_or_default().changes + 1 };
    let request = format!("configured:{scope}:{}:{}", next.changes, limit.0);
    backend.ledger.adjust(&request, scope, Adjustment::SetLimit(Some(limit))).await?;
    let value = serde_json::to_vec(&next)
        .map_err(|error| BackendError::Invalid { field: "configured limit", why: error.to_string() })?;
    let write = Write { key, expected: version, value: Some(Bytes::from(value)) };
    match backend.state.commit(instance, vec![write]).await {
        // Another process has started meanwhile and remembers what it has set.
        Ok(_) | Err(BackendError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::embedded::{self, Durability};
    use crate::clock::Clock;

    #[tokio::test]
    async fn whoever_spoke_last_wins_and_a_configuration_speaks_only_when_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let instance = InstanceId::fresh("start");
        let backend = embedded::open(directory.path(), &instance, Durability::Process, Clock::system()).await.unwrap();
        let (a, b, c) = (MicroUsd(100), MicroUsd(7), MicroUsd(300));
        let limit = || async { backend.ledger.balance(&Scope::PerDay).await.unwrap().limit };
        let configure = |limit| {
            let (backend, instance) = (&backend, &instance);
            async move { apply(backend, instance, &Scope::PerDay, limit).await.unwrap() }
        };
        configure(a).await;
        assert_eq!(limit().await, Some(a));
        backend.ledger.adjust("person", &Scope::PerDay, Adjustment::SetLimit(Some(b))).await.unwrap();
        for _ in 0..3 {
            configure(a).await;
            assert_eq!(limit().await, Some(b), "what a person has set stays");
        }
        configure(c).await;
        assert_eq!(limit().await, Some(c), "another value is news");
        configure(a).await;
        assert_eq!(limit().await, Some(a), "and so is going back to the first one");
        backend.ledger.adjust("again", &Scope::PerDay, Adjustment::SetLimit(None)).await.unwrap();
        configure(a).await;
        assert_eq!(limit().await, None, "a person may remove it");
    }

    #[tokio::test]
    async fn a_start_that_was_interrupted_does_not_speak_twice() {
        let directory = tempfile::tempdir().unwrap();
        let instance = InstanceId::fresh("start");
        let backend = embedded::open(directory.path(), &instance, Durability::Process, Clock::system()).await.unwrap();
        let (scope, set) = (Scope::Account, MicroUsd(5));
        // The limit was set, and the process died before it could remember that.
        let first = Adjustment::SetLimit(Some(MicroUsd(100)));
        backend.ledger.adjust("configured:account:1:100", &scope, first).await.unwrap();
        backend.ledger.adjust("person", &scope, Adjustment::SetLimit(Some(set))).await.unwrap();
        apply(&backend, &instance, &scope, MicroUsd(100)).await.unwrap();
        assert_eq!(backend.ledger.balance(&scope).await.unwrap().limit, Some(set));
    }
}
