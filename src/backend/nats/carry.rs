//! Bodies that a message cannot carry: stored as artifacts, with only a reference on the wire ("claim check").
//!
//! A server takes 1 MiB by default, our messages may have ten. Whoever reads resolves the reference before anybody sees the
//! message, so no room above knows of it. A reference that leads nowhere is the message's fault, never the store's: it
//! must end as a dead letter, not as a retry.

use async_nats::HeaderMap;
use bytes::Bytes;

use super::artifacts::ObjectStore;
use super::link::{Link, header, set};
use super::names::BODY;
use crate::backend::{Artifacts, BackendError};
use crate::protocol::ArtifactRef;

/// Room for headers and subject beside the body.
const HEADROOM: usize = 32 * 1024;

/// Gives `body` to `headers` and the payload it returns: as it is, or as a reference to an artifact.
pub(super) async fn wrap(
    link: &Link,
    objects: &ObjectStore,
    headers: &mut HeaderMap,
    body: Bytes,
) -> Result<Bytes, BackendError> {
    if body.len() + HEADROOM <= link.client.max_payload() {
        return Ok(body);
    }
    let artifact = objects.put(body).await?;
    set(headers, BODY, print(&artifact));
    Ok(Bytes::new())
}

/// The body of a message with these headers and this payload.
pub(super) async fn unwrap(
    objects: &ObjectStore,
    headers: Option<&HeaderMap>,
    payload: &Bytes,
) -> Result<Bytes, BackendError> {
    let Some(text) = header(headers, BODY) else { return Ok(payload.clone()) };
    let Some(artifact) = parse(text) else {
        let why = format!("{text:?} is no reference to an artifact");
        return Err(BackendError::Corrupt { what: "a message".into(), why });
    };
    objects.get(&artifact).await
}

/// How a reference is written down.
pub(super) fn print(artifact: &ArtifactRef) -> String {
    format!("{}:{}", artifact.sha256, artifact.bytes)
}

/// Reads a reference.
pub(super) fn parse(text: &str) -> Option<ArtifactRef> {
    let (sha256, bytes) = text.split_once(':')?;
    Some(ArtifactRef { sha256: sha256.to_owned(), bytes: bytes.parse().ok()? })
}
