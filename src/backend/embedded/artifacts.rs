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
use crate::backend::digest::{MAX_ARTIFACT_BYTES, from_hex, sha256, to_hex};
use crate::backend::{Artifacts, BackendError};
use crate::protocol::ArtifactRef;

const SQL: &str = include_str!("sql/artifacts.sql");

#[async_trait]
impl Artifacts for Store {
    async fn put(&self, bytes: Bytes) -> Result<ArtifactRef, BackendError> {
        const PUT: &str = statement(SQL, "put");
        if bytes.len() > MAX_ARTIFACT_BYTES {
            let why = format!("{} bytes are more than {MAX_ARTIFACT_BYTES}", bytes.len());
            return Err(BackendError::Invalid { field: "artifact", why });
        }
        let digest = sha256(&bytes).await.ok_or_else(closed)?;
        let artifact = ArtifactRef { sha256: to_hex(&digest), bytes: bytes.len() as u64 };
        self.inbox
            .write(move |step| {
                step.db.prepare_cached(PUT)?.execute(params![&digest[..], &bytes[..]])?;
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
