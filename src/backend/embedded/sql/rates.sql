-- name: bank
SELECT bank FROM rates WHERE key = ?1;

-- name: keep bank
INSERT INTO rates (key, bank) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET bank = excluded.bank;

-- name: gate
SELECT gate FROM rates WHERE key = ?1;

-- name: keep gate
INSERT INTO rates (key, gate) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET gate = excluded.gate;

-- name: list
SELECT key, bank, gate FROM rates ORDER BY key;
