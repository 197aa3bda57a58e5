//! Bounds that every backend keeps, checked before a store is asked.
//!
//! Stated once so that no backend is more generous than another: what one accepts, all accept. A bound here must never
//! depend on a store's own limits; a backend that carries less (a NATS payload, say) has to find a way.

use super::broker::{MAX_MESSAGE_BYTES, Outgoing};
use super::{Adjustment, BackendError, LockMode, LockRequest, ReserveRequest};
use crate::protocol::MicroUsd;

/// Largest amount of money, in micro-dollars, that one ledger operation may name: beyond 2⁵³ a Lua double is not exact.
const MAX_MONEY: u64 = 1 << 53;

/// Longest dedupe id, in bytes.
const MAX_DEDUPE_BYTES: usize = 512;

/// Longest reason of a dead letter, in characters.
const MAX_REASON: usize = 4_096;

/// Longest id of a reservation or adjustment, in bytes.
const MAX_ID_BYTES: usize = 512;

/// Longest name of a resource or owner, in bytes.
const MAX_NAME_BYTES: usize = 512;

/// Refuses an empty or oversized text, and one with control characters.
pub(super) fn check_text(field: &'static str, text: &str, max_bytes: usize) -> Result<(), BackendError> {
    let why = if text.is_empty() {
        "it is empty".to_owned()
    } else if text.len() > max_bytes {
        format!("it has {} bytes, at most {max_bytes} are allowed", text.len())
    } else if text.chars().any(char::is_control) {
        "it holds a control character".to_owned()
    } else {
        return Ok(());
    };
    Err(BackendError::Invalid { field, why })
}

/// Refuses a message that no broker carries.
pub(super) fn check_message(message: &Outgoing) -> Result<(), BackendError> {
    check_text("dedupe id", &message.dedupe, MAX_DEDUPE_BYTES)?;
    if message.body.len() > MAX_MESSAGE_BYTES {
        let why = format!("{} bytes are more than {MAX_MESSAGE_BYTES}", message.body.len());
        return Err(BackendError::Invalid { field: "message body", why });
    }
    Ok(())
}

/// The reason of a dead letter, cut to what is kept.
pub(super) fn bounded(reason: &str) -> String {
    reason.chars().take(MAX_REASON).collect()
}

/// Refuses an amount that no ledger can hold exactly.
pub(super) fn check_money(field: &'static str, amount: MicroUsd) -> Result<(), BackendError> {
    if amount.0 > MAX_MONEY {
        return Err(BackendError::Invalid { field, why: format!("{} micro-dollars are more than 2^53", amount.0) });
    }
    Ok(())
}

/// Refuses a reservation that no ledger can record.
pub(super) fn check_reservation(request: &ReserveRequest) -> Result<(), BackendError> {
    check_text("reservation id", &request.id, MAX_ID_BYTES)?;
    check_text("model", &request.model, MAX_ID_BYTES)?;
    check_money("amount", request.amount)?;
    check_money("tokens", MicroUsd(request.tokens))?;
    if request.scopes.is_empty() {
        return Err(BackendError::Invalid { field: "scopes", why: "a reservation needs at least one".into() });
    }
    Ok(())
}

/// Refuses an adjustment that no ledger can record.
pub(super) fn check_adjustment(request: &str, adjustment: Adjustment) -> Result<(), BackendError> {
    check_text("request id", request, MAX_ID_BYTES)?;
    match adjustment {
        Adjustment::SetLimit(Some(amount)) | Adjustment::TopUp(amount) | Adjustment::HoldBack(amount) => {
            check_money("amount", amount)
        }
        _ => Ok(()),
    }
}

/// Refuses a lock request that no lock table can keep.
pub(super) fn check_lock(request: &LockRequest) -> Result<(), BackendError> {
    check_text("resource", &request.resource, MAX_NAME_BYTES)?;
    check_text("owner", &request.owner, MAX_NAME_BYTES)?;
    if request.mode == (LockMode::Permit { capacity: 0 }) {
        return Err(BackendError::Invalid { field: "capacity", why: "a resource needs at least one permit".into() });
    }
    Ok(())
}
