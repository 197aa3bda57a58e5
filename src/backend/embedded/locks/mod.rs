//! [`LockTable`] on tables: holders, waiters and a fence counter per resource that outlives them.
//!
//! A request is judged in one step against a snapshot of its resource: granted, queued, or refused as the victim of
//! the deadlock it would close. A waiter's place ends by its own deadline, never by a predecessor's, because chained
//! deadlines drift. Grants happen only when a waiter asks again, so nothing is ever granted to the dead.

mod graph;

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, Row, params};

use self::graph::{Claimant, Graph, Resource};
use super::Store;
use super::column::{PrefixEnd, ends, loaded, stored};
use super::fault::Halt;
use super::sql::statement;
use super::step::Step;
use crate::backend::bound::check_lock;
use crate::backend::{Acquired, BackendError, LockInfo, LockMode, LockRequest, LockTable};
use crate::clock::Timestamp;
use crate::protocol::{InstanceId, Priority};

const SQL: &str = include_str!("../sql/locks.sql");

/// Most owners that one search for a deadlock visits; a larger tangle is resolved by its leases instead.
const MAX_OWNERS: usize = 10_000;

const fn mode_code(mode: LockMode) -> (i64, u32) {
    match mode {
        LockMode::Exclusive => (0, 0),
        LockMode::Shared => (1, 0),
        LockMode::Permit { capacity } => (2, capacity),
    }
}

fn read_mode(row: &Row<'_>, column: usize) -> rusqlite::Result<LockMode> {
    match row.get(column)? {
        0 => Ok(LockMode::Exclusive),
        1 => Ok(LockMode::Shared),
        2 => Ok(LockMode::Permit { capacity: row.get(column + 1)? }),
        other => Err(rusqlite::Error::IntegralValueOutOfRange(column, other)),
    }
}

const fn class(priority: Priority) -> i64 {
    match priority {
        Priority::Critical => 0,
        Priority::High => 1,
        Priority::Normal => 2,
        Priority::Low => 3,
    }
}

/// Removes ended leases and abandoned waiters, once per transaction.
fn purge(step: &mut Step<'_>) -> rusqlite::Result<()> {
    const PURGE_HOLDERS: &str = statement(SQL, "purge holders");
    const PURGE_WAITERS: &str = statement(SQL, "purge waiters");
    if !step.locks_purged {
        step.db.prepare_cached(PURGE_HOLDERS)?.execute([step.now.0])?;
        step.db.prepare_cached(PURGE_WAITERS)?.execute([step.now.0])?;
        step.locks_purged = true;
    }
    Ok(())
}

/// A resource as stored, with the fences of its holders and the classes of its waiters in the same order.
struct Loaded {
    resource: Resource,
    fences: Vec<u64>,
    classes: Vec<i64>,
}

fn load(db: &Connection, name: &str, now: Timestamp) -> rusqlite::Result<Loaded> {
    const HOLDERS: &str = statement(SQL, "holders");
    const WAITERS: &str = statement(SQL, "waiters");
    let mut loaded = Loaded { resource: Resource::default(), fences: Vec::new(), classes: Vec::new() };
    let mut holders = db.prepare_cached(HOLDERS)?;
    let mut rows = holders.query([name])?;
    while let Some(row) = rows.next()? {
        loaded.resource.holders.push(Claimant { owner: row.get(0)?, mode: read_mode(row, 1)? });
        loaded.fences.push(super::column::loaded(row.get(3)?));
    }
    let mut waiters = db.prepare_cached(WAITERS)?;
    let mut rows = waiters.query(params![name, now.0])?;
    while let Some(row) = rows.next()? {
        loaded.resource.waiters.push(Claimant { owner: row.get(0)?, mode: read_mode(row, 1)? });
        loaded.classes.push(row.get(3)?);
    }
    Ok(loaded)
}

/// Everything that can be reached from `owner`'s request for `name`, which stands as `resource`.
fn explore(db: &Connection, owner: &str, name: &str, resource: Resource, now: Timestamp) -> rusqlite::Result<Graph> {
    const WAITS: &str = statement(SQL, "waits");
    let mut graph = Graph::default();
    graph.resources.insert(name.to_owned(), resource);
    let waits_for = |owner: &str| -> rusqlite::Result<Vec<String>> {
        db.prepare_cached(WAITS)?.query_map([owner], |row| row.get(0))?.collect()
    };
    let mut own = waits_for(owner)?;
    if !own.iter().any(|waited| waited == name) {
        own.push(name.to_owned());
    }
    let mut open = vec![(owner.to_owned(), own)];
    while let Some((owner, waited)) = open.pop() {
        for name in &waited {
            if !graph.resources.contains_key(name) {
                graph.resources.insert(name.clone(), load(db, name, now)?.resource);
            }
            let blockers = graph.resources[name].blockers(&owner);
            let next: Vec<String> = blockers.all.iter().chain(&blockers.permits).map(|one| (*one).to_owned()).collect();
            for other in next {
                if !graph.waits.contains_key(&other) && open.iter().all(|(known, _)| *known != other) && other != owner
                {
                    let waited = waits_for(&other)?;
                    if !waited.is_empty() && graph.waits.len() < MAX_OWNERS {
                        open.push((other, waited));
                    }
                }
            }
        }
        graph.waits.insert(owner, waited);
    }
    Ok(graph)
}

/// Puts the request into the queue of `loaded`, where it has a place already or where it belongs by class.
fn enqueue(loaded: &mut Loaded, request: &LockRequest) -> usize {
    let waiters = &mut loaded.resource.waiters;
    if let Some(place) = waiters.iter().position(|waiter| waiter.owner == request.owner) {
        waiters[place].mode = request.mode;
        return place;
    }
    let place = loaded.classes.partition_point(|other| *other <= class(request.priority));
    waiters.insert(place, Claimant { owner: request.owner.clone(), mode: request.mode });
    place
}

fn check_capacity(resource: &Resource, mode: LockMode) -> Result<(), BackendError> {
    let LockMode::Permit { capacity } = mode else { return Ok(()) };
    for other in resource.holders.iter().chain(&resource.waiters) {
        if let LockMode::Permit { capacity: known } = other.mode
            && known != capacity
        {
            let why = format!("{} knows {known} permits, the request names {capacity}", other.owner);
            return Err(BackendError::Invalid { field: "capacity", why });
        }
    }
    Ok(())
}

fn acquire(step: &mut Step<'_>, request: &LockRequest) -> Result<Acquired, Halt> {
    const EXTEND: &str = statement(SQL, "extend");
    const QUEUE: &str = statement(SQL, "queue");
    purge(step)?;
    let (name, owner) = (&request.resource, &request.owner);
    let until = ends(step.now, request.lease);
    let mut loaded = load(step.db, name, step.now)?;
    check_capacity(&loaded.resource, request.mode)?;
    if let Some(held) = loaded.resource.holders.iter().position(|holder| holder.owner == *owner) {
        if loaded.resource.holders[held].mode == request.mode {
            let fence = loaded.fences[held];
            step.db.prepare_cached(EXTEND)?.execute(params![name, owner, stored(fence), until])?;
            return Ok(Acquired::Granted { fence, until: Timestamp(until) });
        }
        // Waiting for another mode would be waiting for oneself.
        return Ok(if request.queue {
            Acquired::Deadlock { cycle: vec![owner.clone()] }
        } else {
            Acquired::Busy { holder: owner.clone() }
        });
    }
    let place = enqueue(&mut loaded, request);
    let blockers = loaded.resource.blockers(owner);
    if blockers.is_free() {
        return Ok(grant(step, request, until)?);
    }
    if !request.queue {
        let holder = blockers.all.first().or(blockers.permits.first()).copied().unwrap_or_default().to_owned();
        return Ok(Acquired::Busy { holder });
    }
    let graph = explore(step.db, owner, name, loaded.resource, step.now)?;
    if let Some(cycle) = graph.deadlock(owner) {
        leave(step.db, name, owner)?;
        return Ok(Acquired::Deadlock { cycle });
    }
    let (mode, capacity) = mode_code(request.mode);
    let process = step.process.as_str();
    let row = params![name, owner, mode, capacity, class(request.priority), step.now.0, until, process];
    step.db.prepare_cached(QUEUE)?.execute(row)?;
    Ok(Acquired::Queued { ahead: place as u64 })
}

fn grant(step: &Step<'_>, request: &LockRequest, until: i64) -> rusqlite::Result<Acquired> {
    const NEXT_FENCE: &str = statement(SQL, "next fence");
    const HOLD: &str = statement(SQL, "hold");
    let (name, owner) = (&request.resource, &request.owner);
    leave(step.db, name, owner)?;
    let fence: i64 = step.db.prepare_cached(NEXT_FENCE)?.query_row([name], |row| row.get(0))?;
    let (mode, capacity) = mode_code(request.mode);
    let process = step.process.as_str();
    step.db.prepare_cached(HOLD)?.execute(params![name, owner, mode, capacity, fence, until, process])?;
    Ok(Acquired::Granted { fence: loaded(fence), until: Timestamp(until) })
}

fn leave(db: &Connection, resource: &str, owner: &str) -> rusqlite::Result<()> {
    const LEAVE: &str = statement(SQL, "leave");
    db.prepare_cached(LEAVE)?.execute([resource, owner]).map(drop)
}

/// Ends the leases and places of a dead process.
pub(super) fn orphan(step: &mut Step<'_>, instance: &InstanceId) -> rusqlite::Result<()> {
    const HOLDERS: &str = statement(SQL, "holders of the dead");
    const WAITERS: &str = statement(SQL, "waiters of the dead");
    step.db.prepare_cached(HOLDERS)?.execute([instance.as_str()])?;
    step.db.prepare_cached(WAITERS)?.execute([instance.as_str()])?;
    Ok(())
}

#[async_trait]
impl LockTable for Store {
    async fn acquire(&self, request: LockRequest) -> Result<Acquired, BackendError> {
        check_lock(&request)?;
        self.inbox.write(move |step| acquire(step, &request)).await
    }

    async fn renew(&self, resource: &str, owner: &str, fence: u64, lease: Duration) -> Result<Timestamp, BackendError> {
        const EXTEND: &str = statement(SQL, "extend");
        let (resource, owner) = (resource.to_owned(), owner.to_owned());
        self.inbox
            .write(move |step| {
                purge(step)?;
                let until = ends(step.now, lease);
                let held = step.db.prepare_cached(EXTEND)?.execute(params![resource, owner, stored(fence), until])?;
                if held == 0 {
                    return Err(BackendError::LeaseLost { what: format!("the lock on {resource}") }.into());
                }
                Ok(Timestamp(until))
            })
            .await
    }

    async fn release(&self, resource: &str, owner: &str) -> Result<(), BackendError> {
        const RELEASE: &str = statement(SQL, "release");
        let (resource, owner) = (resource.to_owned(), owner.to_owned());
        self.inbox
            .write(move |step| {
                step.db.prepare_cached(RELEASE)?.execute([&resource, &owner])?;
                Ok(leave(step.db, &resource, &owner)?)
            })
            .await
    }

    async fn inspect(&self, prefix: &str) -> Result<Vec<LockInfo>, BackendError> {
        const INSPECT: &str = statement(SQL, "inspect");
        let (prefix, now) = (prefix.to_owned(), self.clock.now());
        self.reader
            .read(move |db| {
                let mut select = db.prepare_cached(INSPECT)?;
                let found = select.query_map(params![prefix, PrefixEnd::of(&prefix), now.0], |row| {
                    Ok(LockInfo {
                        resource: row.get(0)?,
                        owner: row.get(1)?,
                        mode: read_mode(row, 2)?,
                        fence: row.get::<_, Option<i64>>(4)?.map(loaded),
                        until: Timestamp(row.get(5)?),
                    })
                })?;
                Ok(found.collect::<Result<_, _>>()?)
            })
            .await
    }
}
