//! Which processes live: the key and the value under which the state store says so.
//!
//! A backend writes it, workers and coordinators read it, so key and value are named once, between them. Only the word
//! "dead" has a meaning: a process nobody has heard of, or of another version, must never be taken for a dead one.

use serde::Deserialize;

use crate::protocol::InstanceId;

/// The value of a process that lives.
pub(super) const ALIVE: &[u8] = br#"{"state":"alive"}"#;

/// The value of a process that another one has found dead.
pub(super) const DEAD: &[u8] = br#"{"state":"dead"}"#;

/// What readers look at; other members are for people.
#[derive(Deserialize)]
struct Presence {
    state: String,
}

/// The state key that says whether `instance` lives.
#[must_use]
pub fn key(instance: &InstanceId) -> String {
    format!("fleet/instance/{instance}")
}

/// The keys that a process leaves behind when it dies: its own and the card of the worker that ran in it.
pub(super) fn left_behind(instance: &InstanceId) -> [String; 2] {
    [key(instance), format!("fleet/worker/{instance}")]
}

/// True when `value`, read under a process's [`key`], says that it is dead.
#[must_use]
pub fn is_dead(value: &[u8]) -> bool {
    serde_json::from_slice::<Presence>(value).is_ok_and(|presence| presence.state == "dead")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_was_found_dead_is_dead() {
        assert!(is_dead(DEAD));
        for other in [ALIVE, b"", b"dead", br#"{"state":"gone"}"#, br#"{"state":1}"#] {
            assert!(!is_dead(other), "{}", String::from_utf8_lossy(other));
        }
    }
}
