//! Leadership: one lease, renewed while leading, with a term that grows with every grant.
//!
//! The lease only keeps two coordinators from doing the same work; that they cannot both *write* is the event log's
//! compare-and-set. The term goes into the ids of re-published messages, so that a new leader's copies are not taken for
//! the old leader's duplicates.

use std::time::Duration;

use super::CoordinatorError;
use crate::backend::{Acquired, Backend, BackendError, LockMode, LockRequest};
use crate::clock::Timestamp;
use crate::protocol::{InstanceId, Priority};

/// The lease all coordinators of a shard compete for. There is one shard for now.
const RESOURCE: &str = "leader/0";

/// How long a dead leader is waited for; the standby leads within 5 s (REQUIREMENTS F8).
const LEASE: Duration = Duration::from_secs(4);

/// Renewed when this much of the lease is left.
const RENEW_BEFORE: Duration = Duration::from_millis(2_500);

/// A held lease.
pub(super) struct Leadership {
    owner: String,
    term: u64,
    until: Timestamp,
}

impl Leadership {
    pub(super) async fn acquire(backend: &Backend, instance: &InstanceId) -> Result<Self, CoordinatorError> {
        let owner = instance.to_string();
        let request = LockRequest {
            resource: RESOURCE.into(),
            owner: owner.clone(),
            mode: LockMode::Exclusive,
            priority: Priority::Normal,
            lease: LEASE,
            queue: false,
        };
        match backend.locks.acquire(request).await? {
            Acquired::Granted { fence, until } => Ok(Self { owner, term: fence, until }),
            Acquired::Busy { holder } => Err(CoordinatorError::NotLeader { holder }),
            other => Err(CoordinatorError::NotLeader { holder: format!("unknown ({other:?})") }),
        }
    }

    /// Who leads, if anybody does.
    pub(super) async fn holder(backend: &Backend) -> Result<Option<String>, BackendError> {
        let held = backend.locks.inspect(RESOURCE).await?;
        Ok(held.into_iter().find(|info| info.resource == RESOURCE && info.fence.is_some()).map(|info| info.owner))
    }

    /// Grows with every grant of the lead.
    pub(super) const fn term(&self) -> u64 {
        self.term
    }

    /// Renews the lease when it is time to.
    pub(super) async fn keep(&mut self, backend: &Backend) -> Result<(), CoordinatorError> {
        if self.until.since(backend.clock.now()) > RENEW_BEFORE {
            return Ok(());
        }
        match backend.locks.renew(RESOURCE, &self.owner, self.term, LEASE).await {
            Ok(until) => {
                self.until = until;
                Ok(())
            }
            Err(BackendError::LeaseLost { .. }) => Err(CoordinatorError::Deposed),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn resign(&self, backend: &Backend) {
        if let Err(error) = backend.locks.release(RESOURCE, &self.owner).await {
            tracing::warn!(%error, "the lead was not given back; it ends by itself");
        }
    }
}
