//! SHA-256 digests as every backend needs them: of an artifact's bytes, in hexadecimal and back.
//!
//! One implementation, so that a reference made by one backend names the same bytes in another. It must never block an
//! async thread for long: large inputs are hashed on a thread for blocking work.

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// Largest artifact; one is always held in memory as a whole.
pub(super) const MAX_ARTIFACT_BYTES: usize = 256 * 1024 * 1024;

/// Above this size hashing would hold an async thread for more than about a millisecond.
const INLINE_HASH_BYTES: usize = 256 * 1024;

/// The digest of `bytes`; `None` when the runtime is ending.
pub(super) async fn sha256(bytes: &Bytes) -> Option<[u8; 32]> {
    if bytes.len() <= INLINE_HASH_BYTES {
        return Some(Sha256::digest(bytes).into());
    }
    let copy = bytes.clone();
    tokio::task::spawn_blocking(move || Sha256::digest(&copy).into()).await.ok()
}

/// Lower-case hexadecimal digits.
pub(super) fn to_hex(digest: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    digest
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

/// The digest that 64 lower-case hexadecimal digits spell.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let digits = text.as_bytes();
    (digits.len() == 64)
        .then(|| digits.chunks(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?)).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_survive_the_way_to_hexadecimal_and_back() {
        let digest = Sha256::digest(b"");
        assert_eq!(to_hex(&digest), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(from_hex(&to_hex(&digest)).as_deref(), Some(&digest[..]));
        assert_eq!(from_hex("e3b0"), None);
        assert_eq!(from_hex(&"G".repeat(64)), None);
    }
}
