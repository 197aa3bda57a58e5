//! Where Redis' errors enter: what the connection is worth after one, and what the caller is told.
//!
//! The distinction that matters is between a server that answered (repeating changes nothing) and one that cannot just now
//! (its steps are idempotent, so they are repeated while there is time). Nothing above this room reads an error's text,
//! and no text made here may hold a credential.

use redis::{ErrorKind, RedisError, Value};

use crate::backend::BackendError;
use crate::backend::journal::ROLLED_BACK;

/// Name of this store in errors.
pub(super) const STORE: &str = "Redis";

/// The settings that hold a login.
const LOGIN: &str = "redis.user, redis.password_file or the credentials in redis.url";

/// What to do about an error before anybody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The connection is broken, or leads to a server that may not write any more: use another one, then repeat.
    Reconnect,
    /// The server is there but cannot answer yet: repeat after a moment.
    Wait,
    /// This is the answer.
    Final,
}

/// Judges `error`.
pub(super) fn verdict(error: &RedisError) -> Verdict {
    if matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse) {
        return Verdict::Reconnect;
    }
    match code(error) {
        Some("READONLY") => Verdict::Reconnect,
        Some("LOADING" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "NOREPLICAS") => Verdict::Wait,
        // The server closes the connection after saying this.
        _ if error.detail().is_some_and(|detail| detail.contains("max number of clients")) => Verdict::Reconnect,
        _ => Verdict::Final,
    }
}

/// The error's code. Before version 7 the server wraps what a command in a script has met: `ERR Error running script (…):
/// @user_script:57: -OOM command not allowed …`.
fn code(error: &RedisError) -> Option<&str> {
    let wrapped = || {
        let words = error.detail()?.split_whitespace();
        let mut codes = words.filter_map(|word| word.strip_prefix('-'));
        codes.find(|code| code.len() > 1 && code.chars().all(|letter| letter.is_ascii_uppercase()))
    };
    error.code().map(|code| if code == "ERR" { wrapped().unwrap_or(code) } else { code })
}

/// What the caller is told about `error` of the server at `address`.
pub(super) fn classify(error: &RedisError, address: &str) -> BackendError {
    let reason = format!("{error} (server {address})");
    if verdict(error) != Verdict::Final {
        return BackendError::Unavailable { store: STORE, reason };
    }
    let refused = |field, why| BackendError::Invalid { field, why };
    let login = || refused(LOGIN, format!("the server at {address} refuses it: {error}"));
    match (error.kind(), code(error)) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => login(),
        (ErrorKind::InvalidClientConfig, _) => refused("redis.url", reason),
        (_, Some("MOVED" | "ASK" | "CROSSSLOT")) => {
            refused("redis.url", format!("{address} is a node of a cluster; name a server that holds all keys"))
        }
        (_, Some("OOM" | "MISCONF")) => {
            BackendError::Storage { what: format!("{STORE} at {address}"), reason: error.to_string() }
        }
        (_, Some("DATALOST")) => lost(error.detail().unwrap_or("none"), address),
        _ => BackendError::Corrupt { what: format!("the data in {STORE}"), why: reason },
    }
}

/// The ledger's epoch is no longer the one this process has seen.
fn lost(found: &str, address: &str) -> BackendError {
    let why = if found.starts_with(ROLLED_BACK) {
        format!(
            "the budget's books of the server at {address} are older than what was seen of them, an old copy: {found}"
        )
    } else {
        let found = if found == "none" { "none".to_owned() } else { format!("another one, {found}") };
        format!("the server at {address} should hold the budget's epoch that this process has seen and holds {found}")
    };
    BackendError::DataLost { store: STORE, why }
}

/// An answer that no script of this version gives.
pub(super) fn unexpected(value: &Value) -> BackendError {
    let mut why = format!("unexpected answer {value:?}");
    why.truncate(why.floor_char_boundary(200));
    BackendError::Corrupt { what: format!("the data in {STORE}"), why }
}

#[cfg(test)]
mod tests {
    use redis::{ServerErrorKind, make_extension_error};

    use super::*;
    use crate::error::Coded;

    fn server(code: &str, detail: &str) -> RedisError {
        make_extension_error(code.into(), Some(detail.into()))
    }

    #[test]
    fn each_kind_of_fault_tells_its_reader_what_to_do() {
        let code = |error: &RedisError| classify(error, "host:1").code();
        for full in ["OOM", "MISCONF"] {
            assert_eq!(code(&server(full, "no")), "CS-STORE-008");
        }
        for login in ["NOAUTH", "WRONGPASS"] {
            assert_eq!(code(&server(login, "no")), "CS-STORE-005");
        }
        assert_eq!(code(&server("BUSY", "a script runs")), "CS-STORE-001");
        assert_eq!(code(&server("DATALOST", "none")), "CS-STORE-010");
        assert_eq!(code(&server("WRONGTYPE", "no")), "CS-STORE-006");
        let wrapped = |inner| format!("Error running script (call to f_1): @user_script:57: -{inner} not now -");
        assert_eq!(code(&server("ERR", &wrapped("OOM"))), "CS-STORE-008");
        assert_eq!(code(&server("ERR", &wrapped("READONLY"))), "CS-STORE-001");
        assert_eq!(code(&server("ERR", "attempt to index a nil value")), "CS-STORE-006");
        assert_eq!(code(&std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()), "CS-STORE-001");
    }

    #[test]
    fn only_what_may_pass_is_repeated() {
        let read_only = RedisError::from((ErrorKind::Server(ServerErrorKind::ReadOnly), "a replica"));
        assert_eq!(verdict(&read_only), Verdict::Reconnect);
        let loading = RedisError::from((ErrorKind::Server(ServerErrorKind::BusyLoading), "loading"));
        assert_eq!(verdict(&loading), Verdict::Wait);
        assert_eq!(verdict(&server("OOM", "no")), Verdict::Final);
    }
}
