-- name: scope
SELECT ceiling, spent, reserved, hold_back, frozen, overdraft FROM scopes WHERE name = ?1;

-- name: write scope
INSERT INTO scopes (name, ceiling, spent, reserved, hold_back, frozen, overdraft)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
ON CONFLICT (name) DO UPDATE SET
    ceiling = excluded.ceiling, spent = excluded.spent, reserved = excluded.reserved,
    hold_back = excluded.hold_back, frozen = excluded.frozen, overdraft = excluded.overdraft;

-- name: is reserved
SELECT 1 FROM reservations WHERE id = ?1;

-- name: reserve
INSERT INTO reservations (id, state, amount, until, scopes, instance, process, job, task, agent, model, tokens)
VALUES (?1, 0, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11);

-- name: reservation
SELECT id, state, amount, charged, overrun, scopes, job, task, agent, model, tokens, charged_tokens
FROM reservations WHERE id = ?1;

-- name: due
SELECT id, state, amount, charged, overrun, scopes, job, task, agent, model, tokens, charged_tokens
FROM reservations WHERE state = 0 AND until <= ?1 ORDER BY until;

-- name: of the dead
SELECT id, state, amount, charged, overrun, scopes, job, task, agent, model, tokens, charged_tokens
FROM reservations WHERE state = 0 AND (process = ?1 OR instance = ?1) ORDER BY until;

-- name: is due
SELECT 1 FROM reservations WHERE state = 0 AND until <= ?1 LIMIT 1;

-- name: close
UPDATE reservations SET state = ?2, charged = ?3, overrun = ?4, charged_tokens = ?5 WHERE id = ?1;

-- name: enter
INSERT INTO entries (at, kind, reservation, job, task, agent, model, reserved, charged,
                     input, cache_write_5m, cache_write_1h, cache_read, output, note)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15);

-- name: entries
SELECT id, at, kind, reservation, job, task, agent, model, reserved, charged,
       input, cache_write_5m, cache_write_1h, cache_read, output, note
FROM entries
WHERE id > ?1
  AND (?3 IS NULL OR job = ?3) AND (?4 IS NULL OR agent = ?4) AND (?5 IS NULL OR model = ?5)
  AND (?6 IS NULL OR at >= ?6) AND (?7 IS NULL OR at < ?7)
ORDER BY id LIMIT ?2;

-- name: adjustment
SELECT ceiling, spent, reserved, hold_back, frozen FROM adjustments WHERE request = ?1;

-- name: adjust
INSERT INTO adjustments (request, ceiling, spent, reserved, hold_back, frozen) VALUES (?1, ?2, ?3, ?4, ?5, ?6);
