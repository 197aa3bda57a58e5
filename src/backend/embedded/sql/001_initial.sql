-- Schema 1. Amounts are micro-dollars, instants are milliseconds since the Unix epoch.

-- Broker ------------------------------------------------------------------------------------------------------------

-- phase: 0 ready, 1 leased until due, 2 delayed until due. lease names the newest delivery and is never used twice,
-- while seq may be. A body over 4 KiB lives in message_bodies, because every change of a row rewrites the whole row.
CREATE TABLE messages (
    seq        INTEGER PRIMARY KEY,
    queue      TEXT    NOT NULL,
    dedupe     TEXT    NOT NULL,
    body       BLOB,
    phase      INTEGER NOT NULL DEFAULT 0 CHECK (phase IN (0, 1, 2)),
    due        INTEGER NOT NULL DEFAULT 0,
    lease      INTEGER NOT NULL DEFAULT 0,
    deliveries INTEGER NOT NULL DEFAULT 0 CHECK (deliveries >= 0),
    consumer   TEXT    NOT NULL DEFAULT '',
    process    TEXT    NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX messages_ready ON messages (queue) WHERE phase = 0;
CREATE INDEX messages_due ON messages (due) WHERE phase <> 0;

CREATE TABLE message_bodies (seq INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;

CREATE TABLE dedupe (queue TEXT NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (queue, id))
    STRICT, WITHOUT ROWID;
CREATE INDEX dedupe_at ON dedupe (at);

CREATE TABLE dead_letters (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    queue  TEXT    NOT NULL,
    dedupe TEXT    NOT NULL,
    body   BLOB    NOT NULL,
    reason TEXT    NOT NULL,
    at     INTEGER NOT NULL
) STRICT;

CREATE TABLE signals (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,
    origin TEXT    NOT NULL,
    body   TEXT    NOT NULL
) STRICT;

-- Event log ---------------------------------------------------------------------------------------------------------

CREATE TABLE jobs (
    number     INTEGER PRIMARY KEY,
    job        TEXT    NOT NULL UNIQUE,
    last_seq   INTEGER NOT NULL CHECK (last_seq > 0 AND last_seq < 4294967296),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- place = number of the job * 2^32 + sequence: one integer key keeps a job's events together and in order.
CREATE TABLE events (place INTEGER PRIMARY KEY, at INTEGER NOT NULL, body BLOB NOT NULL) STRICT;

-- Artifacts ---------------------------------------------------------------------------------------------------------

CREATE TABLE artifacts (sha256 BLOB NOT NULL UNIQUE CHECK (length(sha256) = 32), bytes BLOB NOT NULL) STRICT;

-- State -------------------------------------------------------------------------------------------------------------

-- Every write of every key; previous is the revision of the key's write before this one, 0 for the first.
CREATE TABLE state_log (
    revision INTEGER PRIMARY KEY,
    key      TEXT    NOT NULL,
    version  INTEGER NOT NULL CHECK (version > 0),
    value    BLOB,
    writer   TEXT    NOT NULL,
    at       INTEGER NOT NULL,
    previous INTEGER NOT NULL
) STRICT;

-- The newest write of every key; living is 0 once it was deleted.
CREATE TABLE state (
    key      TEXT PRIMARY KEY,
    version  INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    living   INTEGER NOT NULL CHECK (living IN (0, 1))
) STRICT, WITHOUT ROWID;

-- Ledger ------------------------------------------------------------------------------------------------------------

-- overdraft is how far a recorded overrun or a lowered limit has taken the scope past its limit; nothing else may.
CREATE TABLE scopes (
    name      TEXT PRIMARY KEY,
    ceiling   INTEGER CHECK (ceiling >= 0),
    spent     INTEGER NOT NULL CHECK (spent >= 0),
    reserved  INTEGER NOT NULL CHECK (reserved >= 0),
    hold_back INTEGER NOT NULL CHECK (hold_back >= 0),
    frozen    INTEGER NOT NULL CHECK (frozen IN (0, 1)),
    overdraft INTEGER NOT NULL CHECK (overdraft >= 0),
    CHECK (ceiling IS NULL OR spent + reserved <= ceiling + overdraft)
) STRICT, WITHOUT ROWID;

-- state: 0 open, 1 settled, 2 released, 3 expired. scopes holds one scope name per line.
CREATE TABLE reservations (
    id       TEXT PRIMARY KEY,
    state    INTEGER NOT NULL CHECK (state IN (0, 1, 2, 3)),
    amount   INTEGER NOT NULL CHECK (amount >= 0),
    charged  INTEGER NOT NULL DEFAULT 0 CHECK (charged >= 0),
    overrun  INTEGER NOT NULL DEFAULT 0 CHECK (overrun IN (0, 1)),
    until    INTEGER NOT NULL,
    scopes   TEXT    NOT NULL,
    instance TEXT    NOT NULL,
    process  TEXT    NOT NULL,
    job      TEXT    NOT NULL,
    task     TEXT    NOT NULL,
    agent    TEXT    NOT NULL,
    model    TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX reservations_open ON reservations (until) WHERE state = 0;

CREATE TABLE entries (
    id             INTEGER PRIMARY KEY,
    at             INTEGER NOT NULL,
    kind           INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 4),
    reservation    TEXT    NOT NULL,
    job            TEXT,
    task           TEXT,
    agent          TEXT,
    model          TEXT,
    reserved       INTEGER NOT NULL,
    charged        INTEGER NOT NULL,
    input          INTEGER NOT NULL,
    cache_write_5m INTEGER NOT NULL,
    cache_write_1h INTEGER NOT NULL,
    cache_read     INTEGER NOT NULL,
    output         INTEGER NOT NULL,
    note           TEXT    NOT NULL
) STRICT;
CREATE TRIGGER entries_are_never_changed BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END;
CREATE TRIGGER entries_are_never_deleted BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END;

-- The balance that each adjustment answered, for replays.
CREATE TABLE adjustments (
    request   TEXT PRIMARY KEY,
    ceiling   INTEGER,
    spent     INTEGER NOT NULL,
    reserved  INTEGER NOT NULL,
    hold_back INTEGER NOT NULL,
    frozen    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Locks -------------------------------------------------------------------------------------------------------------

-- mode: 0 exclusive, 1 shared, 2 permit (of capacity).
CREATE TABLE lock_fences (resource TEXT PRIMARY KEY, fence INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE lock_holders (
    resource TEXT    NOT NULL,
    owner    TEXT    NOT NULL,
    mode     INTEGER NOT NULL CHECK (mode IN (0, 1, 2)),
    capacity INTEGER NOT NULL,
    fence    INTEGER NOT NULL,
    until    INTEGER NOT NULL,
    process  TEXT    NOT NULL,
    PRIMARY KEY (resource, owner)
) STRICT, WITHOUT ROWID;
CREATE INDEX lock_holders_until ON lock_holders (until);

CREATE TABLE lock_waiters (
    arrival  INTEGER PRIMARY KEY AUTOINCREMENT,
    resource TEXT    NOT NULL,
    owner    TEXT    NOT NULL,
    mode     INTEGER NOT NULL CHECK (mode IN (0, 1, 2)),
    capacity INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    since    INTEGER NOT NULL,
    until    INTEGER NOT NULL,
    process  TEXT    NOT NULL,
    UNIQUE (resource, owner)
) STRICT;
CREATE INDEX lock_waiters_owner ON lock_waiters (owner);
CREATE INDEX lock_waiters_until ON lock_waiters (until);
