-- name: remember
INSERT INTO dedupe (queue, id, at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING;

-- name: publish
INSERT INTO messages (queue, dedupe, body) VALUES (?1, ?2, ?3);

-- name: publish body
INSERT INTO message_bodies (seq, body) VALUES (?1, ?2);

-- name: is ready
SELECT 1 FROM messages WHERE queue = ?1 AND phase = 0 LIMIT 1;

-- name: is due
SELECT 1 FROM messages WHERE phase <> 0 AND due <= ?1 LIMIT 1;

-- name: return due
UPDATE messages SET phase = 0 WHERE phase <> 0 AND due <= ?1 RETURNING queue;

-- name: first ready
SELECT seq, body, deliveries FROM messages WHERE queue = ?1 AND phase = 0 ORDER BY seq LIMIT ?2;

-- name: body
SELECT body FROM message_bodies WHERE seq = ?1;

-- name: lease
UPDATE messages
SET phase = 1, due = ?2, lease = ?3, deliveries = deliveries + 1, consumer = ?4, process = ?5
WHERE seq = ?1;

-- name: progress
UPDATE messages SET due = ?3 WHERE seq = ?1 AND lease = ?2 AND phase = 1 AND due > ?4;

-- name: ack
-- One that comes late is still good as long as nobody else has been given the message.
DELETE FROM messages WHERE seq = ?1 AND lease = ?2 RETURNING body IS NULL;

-- name: delete body
DELETE FROM message_bodies WHERE seq = ?1;

-- name: retry
UPDATE messages SET phase = ?3, due = ?4, lease = 0
WHERE seq = ?1 AND lease = ?2 AND phase = 1 AND due > ?5
RETURNING queue;

-- name: bury
INSERT INTO dead_letters (queue, dedupe, body, reason, at)
SELECT m.queue, m.dedupe, coalesce(m.body, b.body), ?3, ?4
FROM messages m LEFT JOIN message_bodies b ON b.seq = m.seq
WHERE m.seq = ?1 AND m.lease = ?2 AND m.phase = 1 AND m.due > ?4;

-- name: put back
UPDATE messages SET phase = 0, lease = 0, deliveries = deliveries - 1
WHERE seq = ?1 AND lease = ?2 AND phase = 1
RETURNING queue;

-- name: return of the dead
UPDATE messages SET phase = 0 WHERE phase = 1 AND phase <> 0 AND (process = ?1 OR consumer = ?1) RETURNING queue;

-- name: depth
SELECT
    (SELECT count(*) FROM messages WHERE queue = ?1 AND phase = 0),
    (SELECT count(*) FROM messages WHERE phase <> 0 AND queue = ?1 AND (phase = 2 OR due <= ?2)),
    (SELECT count(*) FROM messages WHERE phase <> 0 AND queue = ?1 AND phase = 1 AND due > ?2);

-- name: dead letters
SELECT id, queue, dedupe, body, reason, at FROM dead_letters WHERE id > ?1 ORDER BY id LIMIT ?2;

-- name: keep dead letter
INSERT INTO dead_letters (queue, dedupe, body, reason, at)
SELECT ?1, ?2, ?3, ?4, ?5
WHERE NOT EXISTS (SELECT 1 FROM dead_letters WHERE queue = ?1 AND dedupe = ?2);

-- name: purge dead letter
DELETE FROM dead_letters WHERE id = ?1;

-- name: signal
INSERT INTO signals (at, origin, body) VALUES (?1, ?2, ?3);

-- name: newest signal
SELECT coalesce(max(id), 0) FROM signals;

-- name: signals
SELECT id, origin, body FROM signals WHERE id > ?1 ORDER BY id;

-- name: has old
SELECT EXISTS (SELECT 1 FROM dedupe WHERE at < ?1) OR coalesce((SELECT at FROM signals ORDER BY id LIMIT 1) < ?1, 0);

-- name: forget dedupe
DELETE FROM dedupe
WHERE (queue, id) IN (SELECT queue, id FROM dedupe WHERE at < ?1 ORDER BY at LIMIT 10000);

-- name: forget signals
DELETE FROM signals WHERE id IN (SELECT id FROM signals ORDER BY id LIMIT 10000) AND at < ?1;
