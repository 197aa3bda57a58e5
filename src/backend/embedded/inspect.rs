//! Looking at a data directory without opening it for work: is it one, of which version, and is it sound?
//!
//! For people who want to know what is wrong, so it must never repair, migrate or create anything.

use std::path::Path;

use super::connection::{self, FILE};
use super::fault::{classify, closed, io};
use crate::backend::BackendError;

/// Faults that an integrity check lists before it stops.
const MAX_FAULTS: u32 = 5;

/// What a data directory looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Version of the SQLite library in this program.
    pub sqlite: &'static str,
    /// Schema version of the file.
    pub schema: u32,
    /// Length of the database file in bytes, its log not included.
    pub bytes: u64,
    /// What SQLite's own check has found; empty for a sound file.
    pub faults: Vec<String>,
}

/// True when `directory` holds the stores of this or another version of the program.
#[must_use]
pub fn exists(directory: &Path) -> bool {
    directory.join(FILE).is_file()
}

/// Reads the whole database in `directory` and checks it (`PRAGMA quick_check`).
///
/// # Errors
/// As [`super::open`], when the file cannot be read, is not one of this program, or was written by a newer one.
pub async fn inspect(directory: &Path) -> Result<Inspection, BackendError> {
    let file = directory.join(FILE);
    tokio::task::spawn_blocking(move || look(&file)).await.map_err(|_| closed())?
}

fn look(file: &Path) -> Result<Inspection, BackendError> {
    let name = file.display().to_string();
    let fault = |error: rusqlite::Error| classify(&error, &name);
    let bytes = std::fs::metadata(file).map_err(|error| io(file, &error))?.len();
    let db = connection::reader(file)?;
    connection::check_origin(&db, &name)?;
    let schema = db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(fault)?;
    let mut faults = Vec::new();
    db.pragma(None, "quick_check", MAX_FAULTS, |row| {
        let line: String = row.get(0)?;
        if line != "ok" {
            faults.push(line);
        }
        Ok(())
    })
    .map_err(fault)?;
    Ok(Inspection { sqlite: rusqlite::version(), schema, bytes, faults })
}
