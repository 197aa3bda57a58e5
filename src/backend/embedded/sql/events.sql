-- name: last seq
SELECT last_seq FROM jobs WHERE job = ?1;

-- name: number
SELECT number, last_seq FROM jobs WHERE job = ?1;

-- name: begin
INSERT INTO jobs (job, last_seq, created_at, updated_at) VALUES (?1, ?2, ?3, ?3);

-- name: advance
UPDATE jobs SET last_seq = ?2, updated_at = ?3 WHERE number = ?1;

-- name: append
INSERT INTO events (place, at, body) VALUES (?1, ?2, ?3);

-- name: read
SELECT place & 4294967295, at, body FROM events WHERE place > ?1 AND place <= ?2 ORDER BY place LIMIT ?3;

-- name: jobs
SELECT job, last_seq, created_at, updated_at FROM jobs ORDER BY number;
