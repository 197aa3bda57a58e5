-- name: purge holders
DELETE FROM lock_holders WHERE until <= ?1;

-- name: purge waiters
DELETE FROM lock_waiters WHERE until <= ?1;

-- name: holders
SELECT owner, mode, capacity, fence FROM lock_holders WHERE resource = ?1 ORDER BY fence;

-- name: waiters
-- In order of service: the priority class, raised by one per 10,000 ms of waiting, then arrival.
SELECT owner, mode, capacity, max(0, priority - (?2 - since) / 10000), arrival
FROM lock_waiters WHERE resource = ?1 ORDER BY 4, 5;

-- name: waits
SELECT resource FROM lock_waiters WHERE owner = ?1;

-- name: next fence
INSERT INTO lock_fences (resource, fence) VALUES (?1, 1)
ON CONFLICT (resource) DO UPDATE SET fence = fence + 1
RETURNING fence;

-- name: hold
INSERT INTO lock_holders (resource, owner, mode, capacity, fence, until, process) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7);

-- name: extend
UPDATE lock_holders SET until = ?4 WHERE resource = ?1 AND owner = ?2 AND fence = ?3;

-- name: queue
INSERT INTO lock_waiters (resource, owner, mode, capacity, priority, since, until, process)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
ON CONFLICT (resource, owner) DO UPDATE SET
    mode = excluded.mode, capacity = excluded.capacity, priority = excluded.priority,
    until = excluded.until, process = excluded.process;

-- name: release
DELETE FROM lock_holders WHERE resource = ?1 AND owner = ?2;

-- name: leave
DELETE FROM lock_waiters WHERE resource = ?1 AND owner = ?2;

-- name: holders of the dead
DELETE FROM lock_holders WHERE process = ?1 OR owner = ?1 OR (owner >= ?1 || '/' AND owner < ?1 || '0');

-- name: waiters of the dead
DELETE FROM lock_waiters WHERE process = ?1 OR owner = ?1 OR (owner >= ?1 || '/' AND owner < ?1 || '0');

-- name: inspect
SELECT resource, owner, mode, capacity, fence, until, 0 AS class, fence AS place
FROM lock_holders WHERE resource >= ?1 AND resource < ?2 AND until > ?3
UNION ALL
SELECT resource, owner, mode, capacity, NULL, until, 1 + max(0, priority - (?3 - since) / 10000), arrival
FROM lock_waiters WHERE resource >= ?1 AND resource < ?2 AND until > ?3
ORDER BY resource, class, place;
