//! `LockTable`: leases with fair queues, fencing tokens and exact deadlock detection.
//!
//! Leases rather than locks, because a holder may die; fencing tokens, because a dead-looking holder may wake up. The graph
//! of waiters is checked in the step that would close a cycle, so a deadlock is answered at once and never waited out.

use std::time::Duration;

use async_trait::async_trait;

use super::BackendError;
use crate::clock::Timestamp;
use crate::protocol::Priority;

/// How a lease excludes others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Nobody else.
    Exclusive,
    /// Other shared holders only.
    Shared,
    /// At most this many holders (a semaphore); all requests for one resource name the same capacity.
    Permit {
        /// Number of permits.
        capacity: u32,
    },
}

/// A request for a lease. Repeating it is how a waiter keeps its place in the queue.
#[derive(Debug, Clone)]
pub struct LockRequest {
    /// What is locked.
    pub resource: String,
    /// Who asks: the attempt, not the process, so that a successor never inherits a crashed attempt's edges.
    pub owner: String,
    /// How.
    pub mode: LockMode,
    /// Urgency in the queue; ageing lets low ones win eventually.
    pub priority: Priority,
    /// How long the lease lasts without renewal; also how long a waiter keeps its place without asking again.
    pub lease: Duration,
    /// Whether to queue when the resource is taken.
    pub queue: bool,
}

/// Answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// The lease is held. `fence` grows with every grant of the resource.
    Granted {
        /// Fencing token for storage to check.
        fence: u64,
        /// When the lease ends without renewal.
        until: Timestamp,
    },
    /// Waiting, with this many ahead; ask again.
    Queued {
        /// Requests to be served first.
        ahead: u64,
    },
    /// Taken, and the request did not want to queue.
    Busy {
        /// One of the holders.
        holder: String,
    },
    /// Waiting would close this cycle of owners, and this request is its victim. It is not queued. An owner that asks
    /// for another mode of what it holds would wait for itself: a cycle of one.
    Deadlock {
        /// Owners of the cycle, this one first.
        cycle: Vec<String>,
    },
}

/// A lease or a waiting request, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockInfo {
    /// What is locked.
    pub resource: String,
    /// Who.
    pub owner: String,
    /// How.
    pub mode: LockMode,
    /// The fencing token of a holder; `None` while waiting.
    pub fence: Option<u64>,
    /// End of the lease, or of the place in the queue.
    pub until: Timestamp,
}

/// Leases.
///
/// Promises: conflicting leases never overlap by the store's clock; `fence` strictly grows per resource; an owner that
/// already holds the resource in the same mode gets the same fence again; requests are granted by priority, then
/// arrival, raised one priority class per 10 s of waiting; a shared request does not overtake a waiting exclusive one; a
/// wait that closes a cycle is answered with `Deadlock` in the same step; ended leases and abandoned waiters are gone at
/// the next operation.
#[async_trait]
pub trait LockTable: Send + Sync {
    /// Asks for a lease.
    async fn acquire(&self, request: LockRequest) -> Result<Acquired, BackendError>;

    /// Extends a lease; [`BackendError::LeaseLost`] when it is over or held with another fence.
    async fn renew(&self, resource: &str, owner: &str, fence: u64, lease: Duration) -> Result<Timestamp, BackendError>;

    /// Gives a lease or a place in the queue back. Giving back what is not held changes nothing.
    async fn release(&self, resource: &str, owner: &str) -> Result<(), BackendError>;

    /// Holders and waiters of resources that start with `prefix`.
    async fn inspect(&self, prefix: &str) -> Result<Vec<LockInfo>, BackendError>;
}
