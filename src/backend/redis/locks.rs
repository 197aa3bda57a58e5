//! [`LockTable`] on hashes: holders and waiters per resource, and a fence per resource that outlives them.
//!
//! | Key below `<namespace>:{locks}:` | What |
//! |---|---|
//! | `holders:<resource>` | hash by owner: `mode capacity fence until process` |
//! | `waiters:<resource>` | hash by owner: `mode capacity class since until arrival process` |
//! | `waiting` | hash by owner: the resources it waits for, one per line |
//! | `resources` | sorted set of resources with anybody on them, by when to look for ended leases |
//! | `fences`, `arrival` | the newest fence of each resource, and how many have ever queued |
//!
//! A request is judged in one script, deadlocks included, with the same rules as in the embedded backend. A resource's
//! first fence is the time in milliseconds: fences then grow even over a server that has lost all its data.

use std::time::Duration;

use async_trait::async_trait;
use redis::Value;

use super::Store;
use super::fault::unexpected;
use super::reply::{Reply, number, parsed};
use super::script::{LOCK_ACQUIRE, LOCK_INSPECT, LOCK_ORPHAN, LOCK_RELEASE, LOCK_RENEW, lease_millis};
use crate::backend::bound::check_lock;
use crate::backend::{Acquired, BackendError, LockInfo, LockMode, LockRequest, LockTable};
use crate::clock::Timestamp;
use crate::protocol::{InstanceId, Priority};

const fn mode_name(mode: LockMode) -> (&'static str, u32) {
    match mode {
        LockMode::Exclusive => ("exclusive", 0),
        LockMode::Shared => ("shared", 0),
        LockMode::Permit { capacity } => ("permit", capacity),
    }
}

fn mode(name: &str, capacity: u64) -> Result<LockMode, BackendError> {
    match name {
        "exclusive" => Ok(LockMode::Exclusive),
        "shared" => Ok(LockMode::Shared),
        "permit" => Ok(LockMode::Permit { capacity: u32::try_from(capacity).unwrap_or(u32::MAX) }),
        other => Err(unexpected(&Value::SimpleString(other.to_owned()))),
    }
}

const fn class(priority: Priority) -> u8 {
    match priority {
        Priority::Critical => 0,
        Priority::High => 1,
        Priority::Normal => 2,
        Priority::Low => 3,
    }
}

fn info(value: Value) -> Result<LockInfo, BackendError> {
    let mut reply = Reply::of(value)?;
    let (resource, owner) = (reply.text()?, reply.text()?);
    let (name, capacity, fence) = (reply.text()?, reply.number()?, reply.text()?);
    let fence = if fence.is_empty() { None } else { Some(parsed(&fence)?) };
    Ok(LockInfo { resource, owner, mode: mode(&name, capacity)?, fence, until: reply.time()? })
}

impl Store {
    /// Ends the leases and places of a dead process on `resources`.
    pub(super) async fn orphan_locks(&self, dead: &InstanceId, resources: &[String]) -> Result<(), BackendError> {
        let mut call = self.call(&LOCK_ORPHAN, &self.space.locks);
        call.arg(dead.as_str()).arg(resources);
        self.links.ask(call).await.map(drop)
    }
}

#[async_trait]
impl LockTable for Store {
    async fn acquire(&self, request: LockRequest) -> Result<Acquired, BackendError> {
        check_lock(&request)?;
        let (name, capacity) = mode_name(request.mode);
        let mut call = self.call(&LOCK_ACQUIRE, &self.space.locks);
        call.arg(&request.resource).arg(&request.owner).arg(name).arg(capacity).arg(class(request.priority));
        call.arg(lease_millis(request.lease)).arg(u8::from(request.queue)).arg(self.process.as_str());
        let mut reply = Reply::of(self.links.ask(call).await?)?;
        let outcome = reply.text()?;
        match outcome.as_str() {
            "granted" => Ok(Acquired::Granted { fence: reply.number()?, until: reply.time()? }),
            "queued" => Ok(Acquired::Queued { ahead: reply.number()? }),
            "busy" => Ok(Acquired::Busy { holder: reply.text()? }),
            "deadlock" => Ok(Acquired::Deadlock { cycle: reply.texts()? }),
            "capacity" => {
                let (owner, known) = (reply.text()?, reply.number()?);
                let why = format!("{owner} knows {known} permits, the request names {capacity}");
                Err(BackendError::Invalid { field: "capacity", why })
            }
            _ => Err(unexpected(&Value::SimpleString(outcome))),
        }
    }

    async fn renew(&self, resource: &str, owner: &str, fence: u64, lease: Duration) -> Result<Timestamp, BackendError> {
        let mut call = self.call(&LOCK_RENEW, &self.space.locks);
        call.arg(resource).arg(owner).arg(fence).arg(lease_millis(lease));
        match number(self.links.ask(call).await?)? {
            0 => Err(BackendError::LeaseLost { what: format!("the lock on {resource}") }),
            until => Ok(Timestamp(i64::try_from(until).unwrap_or(i64::MAX))),
        }
    }

    async fn release(&self, resource: &str, owner: &str) -> Result<(), BackendError> {
        let mut call = self.call(&LOCK_RELEASE, &self.space.locks);
        call.arg(resource).arg(owner);
        self.links.ask(call).await.map(drop)
    }

    async fn inspect(&self, prefix: &str) -> Result<Vec<LockInfo>, BackendError> {
        let mut call = self.call(&LOCK_INSPECT, &self.space.locks);
        call.arg(prefix);
        let found = Reply::of(self.links.ask(call).await?)?;
        let mut all: Vec<LockInfo> = found.rest().map(info).collect::<Result<_, _>>()?;
        // Stable: those of one resource stay in order of service. The server would sort by its locale.
        all.sort_by(|one, other| one.resource.cmp(&other.resource));
        Ok(all)
    }
}
