//! [`Artifacts`] in an object store that `nats object get` can read.
//!
//! The name is the digest, and so is the place of the chunks, so a small artifact is written with two messages in flight at
//! once and read with one request, without a look at its description. A subject takes its first message only, which makes
//! writing the same bytes twice harmless. What is read is hashed again; other bytes than were put must never come out.

use std::sync::Arc;

use async_nats::jetstream::object_store::{ObjectInfo, ObjectOptions};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use bytes::{Bytes, BytesMut};

use super::Lifeline;
use super::link::{Link, Post, Posted, headers, set};
use super::names::{EXPECTED_LAST, StreamKind};
use super::stored::{Reader, Stored};
use crate::backend::digest::{MAX_ARTIFACT_BYTES, from_hex, sha256, to_hex};
use crate::backend::{Artifacts, BackendError};
use crate::clock::random_token;
use crate::protocol::ArtifactRef;

/// Bytes of a chunk; what is not larger has one.
const CHUNK: usize = 128 * 1024;

/// Chunks in flight at once.
const WINDOW: usize = 16;

/// The artifacts of a namespace.
#[derive(Debug, Clone)]
pub(super) struct ObjectStore {
    link: Link,
    reader: Reader,
    bucket: String,
    /// All stores of a process hold the artifacts, and so what keeps them going.
    _lifeline: Arc<Lifeline>,
}

impl ObjectStore {
    pub(super) async fn new(link: &Link, lifeline: Lifeline) -> Result<Self, BackendError> {
        let reader = Reader::new(link, StreamKind::Artifacts).await?;
        Ok(Self { link: link.clone(), reader, bucket: link.names.bucket(), _lifeline: Arc::new(lifeline) })
    }

    fn chunk_subject(&self, nuid: &str) -> String {
        format!("$O.{}.C.{nuid}", self.bucket)
    }

    fn info_subject(&self, name: &str) -> String {
        format!("$O.{}.M.{}", self.bucket, URL_SAFE.encode(name))
    }

    /// The description of an object, as every NATS client reads it. `expected` is the sequence of the one it replaces.
    fn description(
        &self,
        artifact: &ArtifactRef,
        digest: &[u8],
        nuid: &str,
        expected: u64,
    ) -> Result<Post, BackendError> {
        let size = usize::try_from(artifact.bytes).unwrap_or(usize::MAX);
        let info = ObjectInfo {
            name: artifact.sha256.clone(),
            description: None,
            metadata: std::collections::HashMap::default(),
            headers: None,
            options: Some(ObjectOptions { link: None, max_chunk_size: Some(CHUNK) }),
            bucket: self.bucket.clone(),
            nuid: nuid.to_owned(),
            size,
            chunks: size.div_ceil(CHUNK).max(1),
            modified: None,
            digest: Some(format!("SHA-256={}", URL_SAFE.encode(digest))),
            deleted: false,
        };
        let payload = serde_json::to_vec(&info)
            .map_err(|error| BackendError::Invalid { field: "artifact", why: error.to_string() })?;
        let mut headers = headers([(EXPECTED_LAST, expected.to_string())]);
        if expected > 0 {
            set(&mut headers, "Nats-Rollup", "sub".into());
        }
        Ok(Post { subject: self.info_subject(&artifact.sha256), headers, payload: payload.into() })
    }

    /// The newest description of an object, deleted ones included.
    async fn describe(&self, name: &str) -> Result<Option<(u64, ObjectInfo)>, BackendError> {
        let Some(found) = self.reader.last(&self.info_subject(name)).await? else { return Ok(None) };
        match serde_json::from_slice(&found.payload) {
            Ok(info) => Ok(Some((found.sequence, info))),
            Err(error) => Err(corrupt(name, format!("its description cannot be read: {error}"))),
        }
    }

    async fn put_small(&self, artifact: &ArtifactRef, digest: &[u8], bytes: Bytes) -> Result<(), BackendError> {
        let nuid = &artifact.sha256;
        let chunk =
            Post { subject: self.chunk_subject(nuid), headers: headers([(EXPECTED_LAST, "0".into())]), payload: bytes };
        let posts = vec![chunk, self.description(artifact, digest, nuid, 0)?];
        let posted = self.link.publish_repeatedly(posts).await?;
        if let [Posted::Stored(_), Posted::Overtaken] = posted[..] {
            // Bytes that were not there under a description that was: somebody has deleted the object.
            self.revive(artifact, digest, nuid).await?;
        }
        Ok(())
    }

    /// Describes an object again if it was deleted; false when it was not.
    async fn revive(&self, artifact: &ArtifactRef, digest: &[u8], nuid: &str) -> Result<bool, BackendError> {
        match self.describe(nuid.get(..64).unwrap_or(nuid)).await? {
            Some((sequence, info)) if info.deleted => {
                let posted = self.link.publish(vec![self.description(artifact, digest, nuid, sequence)?]).await?;
                Ok(posted.first().is_some_and(|one| one.stored().is_some()))
            }
            _ => Ok(false),
        }
    }

    /// Large bytes get a place of their own for every attempt, and the first whose chunks are complete is described. So an
    /// attempt that dies in the middle is in nobody's way.
    async fn put_large(&self, artifact: &ArtifactRef, digest: &[u8], bytes: Bytes) -> Result<(), BackendError> {
        match self.describe(&artifact.sha256).await {
            Ok(Some((_, info))) if !info.deleted => return Ok(()),
            Ok(_) | Err(BackendError::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
        let nuid = format!("{}-{}", artifact.sha256, random_token(16));
        let subject = self.chunk_subject(&nuid);
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut posts = Vec::with_capacity(WINDOW);
            while !rest.is_empty() && posts.len() < WINDOW {
                let payload = rest.split_to(rest.len().min(CHUNK));
                posts.push(Post { subject: subject.clone(), headers: headers([]), payload });
            }
            self.link.publish(posts).await?;
        }
        let posted = self.link.publish(vec![self.description(artifact, digest, &nuid, 0)?]).await?;
        let is_ours = posted.first().is_some_and(|one| one.stored().is_some());
        if !is_ours && !self.revive(artifact, digest, &nuid).await? {
            self.reader.purge(&subject).await?;
        }
        Ok(())
    }

    /// The bytes at `nuid`.
    async fn chunks(&self, nuid: &str) -> Result<Bytes, BackendError> {
        let mut scan = self.reader.scan(&self.chunk_subject(nuid), 1).await?;
        let mut bytes = BytesMut::new();
        loop {
            let found: Vec<Stored> = scan.read(WINDOW).await?;
            if found.is_empty() {
                return Ok(bytes.freeze());
            }
            for chunk in found {
                if bytes.len() + chunk.payload.len() > MAX_ARTIFACT_BYTES {
                    return Err(corrupt(nuid, format!("it has more than {MAX_ARTIFACT_BYTES} bytes")));
                }
                bytes.extend_from_slice(&chunk.payload);
            }
        }
    }

    /// The bytes under `name`, unchecked.
    async fn find(&self, artifact: &ArtifactRef) -> Result<Option<Bytes>, BackendError> {
        let name = &artifact.sha256;
        if artifact.bytes <= CHUNK as u64
            && let Some(found) = self.reader.last(&self.chunk_subject(name)).await?
        {
            return Ok(Some(found.payload));
        }
        match self.describe(name).await? {
            Some((_, info)) if !info.deleted => self.chunks(&info.nuid).await.map(Some),
            _ => Ok(None),
        }
    }
}

fn corrupt(name: &str, why: String) -> BackendError {
    BackendError::Corrupt { what: format!("artifact {name}"), why }
}

#[async_trait]
impl Artifacts for ObjectStore {
    async fn put(&self, bytes: Bytes) -> Result<ArtifactRef, BackendError> {
        if bytes.len() > MAX_ARTIFACT_BYTES {
            let why = format!("{} bytes are more than {MAX_ARTIFACT_BYTES}", bytes.len());
            return Err(BackendError::Invalid { field: "artifact", why });
        }
        let digest = sha256(&bytes).await.ok_or_else(|| self.link.unavailable("the process is ending"))?;
        let artifact = ArtifactRef { sha256: to_hex(&digest), bytes: bytes.len() as u64 };
        if bytes.len() <= CHUNK {
            self.put_small(&artifact, &digest, bytes).await?;
        } else {
            self.put_large(&artifact, &digest, bytes).await?;
        }
        Ok(artifact)
    }

    async fn get(&self, artifact: &ArtifactRef) -> Result<Bytes, BackendError> {
        let name = &artifact.sha256;
        let Some(digest) = from_hex(name) else {
            return Err(BackendError::Invalid { field: "artifact", why: "the digest is not 64 hex digits".into() });
        };
        let found = self.find(artifact).await?;
        let bytes = found.ok_or_else(|| BackendError::NotFound { what: format!("artifact {name}") })?;
        let actual = sha256(&bytes).await.ok_or_else(|| self.link.unavailable("the process is ending"))?;
        if actual[..] != digest[..] {
            return Err(corrupt(name, "its bytes do not match their digest".into()));
        }
        if bytes.len() as u64 != artifact.bytes {
            let why = format!("it has {} bytes, the reference says {}", bytes.len(), artifact.bytes);
            return Err(corrupt(name, why));
        }
        Ok(bytes)
    }
}
