//! The promises of `Artifacts`.
//!
//! Content addressing is what makes them safe to share: same bytes, same reference, and never other bytes under a
//! reference that was handed out.

use bytes::Bytes;
use codeswarm::backend::BackendError;
use codeswarm::protocol::ArtifactRef;

use crate::support::stores::TestBackend;

pub(crate) async fn what_is_put_can_be_got_byte_for_byte(test: &TestBackend) {
    for bytes in [0_usize, 1, 5_000, 3_000_000] {
        let content: Bytes = (0..=250_u8).cycle().take(bytes).collect();
        let first = test.backend.artifacts.put(content.clone()).await.unwrap();
        assert_eq!(test.backend.artifacts.put(content.clone()).await.unwrap(), first, "same bytes, same reference");
        assert_eq!(first.bytes, bytes as u64);
        assert!(test.backend.artifacts.get(&first).await.unwrap() == content, "{bytes} bytes");
    }
}

pub(crate) async fn the_reference_is_the_sha_256_of_the_bytes(test: &TestBackend) {
    let artifact = test.backend.artifacts.put(Bytes::from_static(b"abc")).await.unwrap();
    assert_eq!(artifact.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

pub(crate) async fn an_unknown_or_wrong_reference_never_yields_bytes(test: &TestBackend) {
    let known = test.backend.artifacts.put(Bytes::from_static(b"abc")).await.unwrap();
    let unknown = ArtifactRef { sha256: "0".repeat(64), bytes: 3 };
    let outcome = test.backend.artifacts.get(&unknown).await;
    assert!(matches!(outcome, Err(BackendError::NotFound { .. })), "{outcome:?}");
    let wrong_length = ArtifactRef { bytes: 4, ..known.clone() };
    let outcome = test.backend.artifacts.get(&wrong_length).await;
    assert!(matches!(outcome, Err(BackendError::Corrupt { .. })), "{outcome:?}");
    let no_digest = ArtifactRef { sha256: "../../etc/passwd".into(), bytes: 3 };
    let outcome = test.backend.artifacts.get(&no_digest).await;
    assert!(matches!(outcome, Err(BackendError::Invalid { .. } | BackendError::NotFound { .. })), "{outcome:?}");
}
