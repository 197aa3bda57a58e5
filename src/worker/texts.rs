//! Files read lately, kept in memory: a file that many others depend on is fetched once, not once for each of them.
//!
//! Artifacts are immutable and named by their digest, so nothing kept here can be out of date. The memory is bounded;
//! the oldest goes first. It must never be the only place anything is in.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::try_join_all;

use crate::agent::ContextText;
use crate::backend::{Artifacts, BackendError};
use crate::protocol::ContextFile;

/// Most bytes kept: room for a few hundred source files.
const MAX_BYTES: usize = 8 << 20;

/// The texts of artifacts.
#[derive(Default)]
pub(super) struct Texts {
    /// Std mutex: held for map operations only, never across an await.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    texts: HashMap<String, Bytes>,
    /// Digests in the order they came.
    order: VecDeque<String>,
    bytes: usize,
}

impl Texts {
    /// Reads `files`, in order; what is not kept is fetched side by side.
    pub(super) async fn read(
        &self,
        artifacts: &dyn Artifacts,
        files: &[ContextFile],
    ) -> Result<Vec<ContextText>, BackendError> {
        try_join_all(files.iter().map(|file| self.read_one(artifacts, file))).await
    }

    async fn read_one(&self, artifacts: &dyn Artifacts, file: &ContextFile) -> Result<ContextText, BackendError> {
        let digest = &file.artifact.sha256;
        let known = self.kept.lock().unwrap_or_else(PoisonError::into_inner).texts.get(digest).cloned();
        let bytes = match known {
            Some(bytes) => bytes,
            None => {
                let bytes = artifacts.get(&file.artifact).await?;
                self.kept.lock().unwrap_or_else(PoisonError::into_inner).keep(digest, &bytes);
                bytes
            }
        };
        Ok(ContextText { path: file.path.clone(), bytes })
    }
}

impl Kept {
    fn keep(&mut self, digest: &str, bytes: &Bytes) {
        if bytes.len() > MAX_BYTES / 4 || self.texts.insert(digest.to_owned(), bytes.clone()).is_some() {
            return;
        }
        self.order.push_back(digest.to_owned());
        self.bytes += bytes.len();
        while self.bytes > MAX_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.texts.remove(&oldest).map_or(0, |bytes| bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_there_is_no_more_room_and_giants_are_not_kept() {
        let mut kept = Kept::default();
        let megabyte = Bytes::from(vec![b'x'; 1 << 20]);
        (0..10).for_each(|n| kept.keep(&format!("d{n}"), &megabyte));
        kept.keep("d9", &megabyte);
        assert_eq!((kept.bytes, kept.texts.len(), kept.order.len()), (8 << 20, 8, 8));
        assert!(!kept.texts.contains_key("d1") && kept.texts.contains_key("d2"));
        kept.keep("giant", &Bytes::from(vec![b'x'; 4 << 20]));
        assert!(!kept.texts.contains_key("giant"));
    }
}
