//! Where SQLite's errors enter: what stops an operation, and what its caller is told.
//!
//! The distinction that matters is between a refusal (the store answered, nothing is wrong) and a fault (the
//! transaction has to be rolled back). Nothing above this room ever sees a SQLite error or reads its text.

use rusqlite::ErrorCode;

use crate::backend::BackendError;

/// Name of this store in errors.
pub(super) const STORE: &str = "the embedded store";

/// Why an operation ended without a value.
#[derive(Debug)]
pub(super) enum Halt {
    /// The answer is an error; what the operation has written so far stands.
    Refused(BackendError),
    /// SQLite failed; the transaction is rolled back.
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Halt {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<BackendError> for Halt {
    fn from(error: BackendError) -> Self {
        Self::Refused(error)
    }
}

impl Halt {
    /// What the caller is told about the store in `file`.
    pub(super) fn into_error(self, file: &str) -> BackendError {
        match self {
            Self::Refused(error) => error,
            Self::Sql(error) => classify(&error, file),
        }
    }
}

/// Classifies an error of the database in `file`.
pub(super) fn classify(error: &rusqlite::Error, file: &str) -> BackendError {
    let reason = error.to_string();
    let what = file.to_owned();
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        return BackendError::Corrupt { what, why: reason };
    };
    match failure.code {
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::FileLockingProtocolFailed
        | ErrorCode::OperationInterrupted
        | ErrorCode::OutOfMemory
        | ErrorCode::SchemaChanged => BackendError::Unavailable { store: STORE, reason },
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation => {
            BackendError::Corrupt { what, why: reason }
        }
        _ => BackendError::Storage { what, reason },
    }
}

/// A failed operation of the file system at `path`.
pub(super) fn io(path: &std::path::Path, error: &std::io::Error) -> BackendError {
    BackendError::Storage { what: path.display().to_string(), reason: error.to_string() }
}

/// The threads of this store have ended.
pub(super) fn closed() -> BackendError {
    BackendError::Unavailable { store: STORE, reason: "it has been closed".into() }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;
    use crate::error::Coded;

    #[test]
    fn each_kind_of_fault_tells_its_reader_what_to_do() {
        let code = |code| {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            classify(&error, "file").code()
        };
        for full in [ffi::SQLITE_FULL, ffi::SQLITE_READONLY, ffi::SQLITE_CANTOPEN, ffi::SQLITE_IOERR_FSYNC] {
            assert_eq!(code(full), "CS-STORE-008");
        }
        for busy in [ffi::SQLITE_BUSY, ffi::SQLITE_BUSY_SNAPSHOT, ffi::SQLITE_LOCKED] {
            assert_eq!(code(busy), "CS-STORE-001");
        }
        for damaged in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB, ffi::SQLITE_CONSTRAINT_CHECK] {
            assert_eq!(code(damaged), "CS-STORE-006");
        }
        assert_eq!(classify(&rusqlite::Error::InvalidColumnIndex(1), "file").code(), "CS-STORE-006");
    }
}
