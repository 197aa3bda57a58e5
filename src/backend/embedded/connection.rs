//! Opening the database file: settings, schema version, migrations.
//!
//! WAL lets readers go on while a commit is flushed. The busy handler sleeps a fraction of a millisecond, because
//! SQLite's own sleeps up to 100 ms and would starve one of two busy processes. Nothing here may repair a file: a
//! damaged or newer one is reported and left as it is.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::fault::classify;
use crate::backend::BackendError;

/// Name of the database file in the data directory.
pub(super) const FILE: &str = "codeswarm.db";

/// `CSWM`, in the file's header.
const APPLICATION_ID: i32 = 0x4353_574d;

/// All migrations, oldest first; the schema version is how many of them ran.
const MIGRATIONS: [&str; 3] =
    [include_str!("sql/001_initial.sql"), include_str!("sql/002_rates.sql"), include_str!("sql/003_tokens.sql")];

/// Waits for another process's transaction: 100 µs at first, 2 ms later, about 30 s in all.
fn busy(tries: i32) -> bool {
    let pause = match tries {
        0..20 => Duration::from_micros(100),
        20..200 => Duration::from_micros(500),
        _ => Duration::from_millis(2),
    };
    std::thread::sleep(pause);
    tries < 15_000
}

/// Opens `file` for writing, creating and migrating it if need be.
pub(super) fn writer(file: &Path) -> Result<Connection, BackendError> {
    let name = file.display().to_string();
    let fault = |error: rusqlite::Error| classify(&error, &name);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(file, flags).map_err(fault)?;
    db.busy_handler(Some(busy)).map_err(fault)?;
    check_origin(&db, &name)?;
    settings(&db).map_err(fault)?;
    migrate(&mut db, &name)?;
    Ok(db)
}

/// Opens `file`, which a [`writer`] has prepared, for reading.
pub(super) fn reader(file: &Path) -> Result<Connection, BackendError> {
    let name = file.display().to_string();
    let fault = |error: rusqlite::Error| classify(&error, &name);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(file, flags).map_err(fault)?;
    db.busy_handler(Some(busy)).map_err(fault)?;
    db.pragma_update(None, "query_only", true).map_err(fault)?;
    db.pragma_update(None, "temp_store", "memory").map_err(fault)?;
    stable_plans(&db).map_err(fault)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

/// Refuses a file of another program or of a newer version of this one, before anything is written to it.
pub(super) fn check_origin(db: &Connection, name: &str) -> Result<(), BackendError> {
    let number = |pragma: &str| db.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let (application, version) = number("application_id")
        .and_then(|application| Ok((application, number("user_version")?)))
        .map_err(|error| classify(&error, name))?;
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    let found = u32::try_from(version).unwrap_or(u32::MAX);
    if application == APPLICATION_ID {
        if found > known {
            return Err(BackendError::NewerVersion { what: name.into(), found, known });
        }
        return Ok(());
    }
    let tables: i64 = db
        .query_row(include_str!("sql/object_count.sql"), [], |row| row.get(0))
        .map_err(|error| classify(&error, name))?;
    if application != 0 || version != 0 || tables != 0 {
        return Err(BackendError::Corrupt { what: name.into(), why: "it belongs to another program".into() });
    }
    Ok(())
}

/// Per-connection settings of the writer. 2,000 pages of log (8 MiB) between checkpoints keep the file that a crash
/// leaves behind small while a checkpoint stays rare at low load.
fn settings(db: &Connection) -> rusqlite::Result<()> {
    db.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    // What has to survive loss of power is flushed by the writer; see `flush`.
    db.pragma_update(None, "synchronous", "normal")?;
    db.pragma_update(None, "foreign_keys", false)?;
    db.pragma_update(None, "temp_store", "memory")?;
    db.pragma_update(None, "cache_size", -8_000)?;
    db.pragma_update_and_check(None, "wal_autocheckpoint", 2_000, |_| Ok(()))?;
    db.pragma_update_and_check(None, "journal_size_limit", 64 << 20, |_| Ok(()))?;
    stable_plans(db)?;
    db.set_prepared_statement_cache_capacity(128);
    Ok(())
}

/// Keeps SQLite from planning a statement anew whenever a bound `LIMIT` changes, which cost 7 % of all writing.
fn stable_plans(db: &Connection) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// Runs the migrations that the file has not seen, all or none.
fn migrate(db: &mut Connection, name: &str) -> Result<(), BackendError> {
    let run = |db: &mut Connection| -> rusqlite::Result<()> {
        let step = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let done: usize = step.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))? as usize;
        for migration in MIGRATIONS.iter().skip(done) {
            step.execute_batch(migration)?;
        }
        if done < MIGRATIONS.len() {
            step.pragma_update(None, "application_id", APPLICATION_ID)?;
            step.pragma_update(None, "user_version", u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX))?;
        }
        step.commit()
    };
    run(db).map_err(|error| classify(&error, name))
}
