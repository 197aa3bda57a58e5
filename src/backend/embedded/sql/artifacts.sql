-- name: put
INSERT INTO artifacts (sha256, bytes) VALUES (?1, ?2) ON CONFLICT DO NOTHING;

-- name: get
SELECT bytes FROM artifacts WHERE sha256 = ?1;
