-- name: present
SELECT version, revision, living FROM state WHERE key = ?1;

-- name: log
INSERT INTO state_log (key, version, value, writer, at, previous) VALUES (?1, ?2, ?3, ?4, ?5, ?6);

-- name: point
INSERT INTO state (key, version, revision, living) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (key) DO UPDATE SET version = excluded.version, revision = excluded.revision, living = excluded.living;

-- name: revision
SELECT coalesce(max(revision), 0) FROM state_log;

-- name: get
SELECT l.key, l.version, l.value, l.writer, l.at
FROM state s JOIN state_log l ON l.revision = s.revision
WHERE s.key = ?1 AND s.living = 1;

-- name: history
WITH RECURSIVE past (key, version, value, writer, at, previous) AS (
    SELECT l.key, l.version, l.value, l.writer, l.at, l.previous
    FROM state s JOIN state_log l ON l.revision = s.revision
    WHERE s.key = ?1
    UNION ALL
    SELECT l.key, l.version, l.value, l.writer, l.at, l.previous
    FROM past JOIN state_log l ON l.revision = past.previous
)
SELECT key, version, value, writer, at FROM past LIMIT ?2;

-- name: snapshot
SELECT l.key, l.version, l.value, l.writer, l.at
FROM state s JOIN state_log l ON l.revision = s.revision
WHERE s.key >= ?1 AND s.key < ?2 AND s.living = 1
ORDER BY s.key;

-- name: changes
SELECT key, version, value, writer, at, revision
FROM state_log
WHERE revision > ?1 AND key >= ?2 AND key < ?3
ORDER BY revision LIMIT ?4;
