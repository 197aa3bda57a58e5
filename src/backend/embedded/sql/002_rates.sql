-- Allowances and breakers of providers, one row per provider and model. Both columns are JSON of small states that only
-- the program reads; an empty one has never been used. Losing rows costs rejected calls, nothing else.
CREATE TABLE rates (
    key  TEXT PRIMARY KEY,
    bank TEXT NOT NULL DEFAULT '',
    gate TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
