//! [`Artifacts`] as blobs by digest.
//!
//! The digest is computed by the caller's side, not by the writer thread, and checked again on every read: a store
//! that hands out other bytes than were put would poison every prompt built on them.

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::Store;
use super::fault::closed;
use super::sql::statement;
use crate::backend::{Artifacts, BackendError};
use crate::protocol::ArtifactRef;

const SQL: &str = include_str!("sql/artifacts.sql");

/// Largest artifact; SQLite itself could hold a gigabyte, but one is always held in memory as a whole.
const MAX_BYTES: usize = 256 * 1024 * 1024;

/// Above this size hashing would hold an async thread for more than about a millisecond.
const INLINE_HASH_BYTES: usize = 256 * 1024;

fn to_hex(digest: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    digest
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let digits = text.as_bytes();
    (digits.len() == 64)
        .then(|| digits.chunks(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?)).collect())?
}

#[async_trait]
impl Artifacts for Store {
    async fn put(&self, bytes: Bytes) -> Result<ArtifactRef, BackendError> {
        const PUT: &str = statement(SQL, "put");
        if bytes.len() > MAX_BYTES {
            let why = format!("{} bytes are more than {MAX_BYTES}", bytes.len());
            return Err(BackendError::Invalid { field: "artifact", why });
        }
        let digest = if bytes.len() > INLINE_HASH_BYTES {
            let copy = bytes.clone();
            tokio::task::spawn_blocking(move || Sha256::digest(&copy)).await.map_err(|_| closed())?
        } else {
            Sha256::digest(&bytes)
        };
        let artifact = ArtifactRef { sha256: to_hex(&digest), bytes: bytes.len() as u64 };
        self.inbox
            .write(move |step| {
                step.db.prepare_cached(PUT)?.execute(params![digest.as_slice(), &bytes[..]])?;
                Ok(())
            })
            .await?;
        Ok(artifact)
    }

    async fn get(&self, artifact: &ArtifactRef) -> Result<Bytes, BackendError> {
        const GET: &str = statement(SQL, "get");
        let what = format!("artifact {}", artifact.sha256);
        let Some(digest) = from_hex(&artifact.sha256) else {
            return Err(BackendError::Invalid { field: "artifact", why: "the digest is not 64 hex digits".into() });
        };
        let expected = artifact.bytes;
        self.reader
            .read(move |db| {
                let found: Option<Vec<u8>> =
                    db.prepare_cached(GET)?.query_row([&digest], |row| row.get(0)).optional()?;
                let Some(bytes) = found else { return Err(BackendError::NotFound { what }.into()) };
                if Sha256::digest(&bytes)[..] != digest[..] {
                    let why = "its bytes do not match their digest".into();
                    return Err(BackendError::Corrupt { what, why }.into());
                }
                if bytes.len() as u64 != expected {
                    let why = format!("it has {} bytes, the reference says {expected}", bytes.len());
                    return Err(BackendError::Corrupt { what, why }.into());
                }
                Ok(Bytes::from(bytes))
            })
            .await
    }
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
