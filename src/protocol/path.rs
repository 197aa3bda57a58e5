//! Which relative paths a plan may name (being written).

use super::ProtocolError;

/// Checks that `path` is a plain relative path that is safe on every platform.
///
/// # Errors
/// What is wrong with it.
pub fn check(_path: &str) -> Result<(), ProtocolError> {
    Ok(())
}
