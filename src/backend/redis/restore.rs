//! [`Counters`]: going by the right counters, and making lost ones anew from the journal.
//!
//! The counters have a name, their epoch, which the journal knows as well. A server that holds another name, or none, has
//! lost them, and every ledger script refuses. While they are made anew the epoch is one that no process goes by, so that
//! nothing can be counted in between; only the last step gives them their old name back.

use async_trait::async_trait;

use super::Store;
use super::fault::unexpected;
use super::reply::{Reply, number, text};
use super::script::{self, LEDGER_CLEAR, LEDGER_EPOCH, LEDGER_REPLAY};
use crate::backend::BackendError;
use crate::backend::journal::{Counters, Record};
use crate::clock::random_token;

/// Records that one script does again: it must not keep the server from others for long.
const STEP: usize = 100;

/// Keys that one command removes.
const KEYS: usize = 1_000;

impl Store {
    pub(super) fn epoch_or_none(&self) -> String {
        self.epoch.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// Removes every key of the budget but the epoch.
    async fn remove_counters(&self) -> Result<(), BackendError> {
        let prefix = &self.space.budget;
        let epoch = format!("{prefix}:epoch");
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SCAN");
            // Braces mean nothing in a pattern; the namespace holds no special characters.
            scan.arg(&cursor).arg("MATCH").arg(format!("{prefix}:*")).arg("COUNT").arg(KEYS);
            let mut reply = Reply::of(self.links.ask(scan).await?)?;
            cursor = reply.text()?;
            let keys: Vec<String> = reply.list()?.texts()?.into_iter().filter(|key| *key != epoch).collect();
            if !keys.is_empty() {
                let mut unlink = redis::cmd("UNLINK");
                unlink.arg(keys);
                self.links.ask(unlink).await?;
            }
            if cursor == "0" {
                return Ok(());
            }
        }
    }
}

#[async_trait]
impl Counters for Store {
    async fn adopt(&self, epoch: Option<&str>) -> Result<String, BackendError> {
        let name = match epoch {
            Some(epoch) => epoch.to_owned(),
            None => {
                let mut call = script::call(&LEDGER_EPOCH, &self.space.budget, &self.clock);
                call.arg(format!("{}-{}", self.clock.now().0, random_token(16)));
                text(self.links.ask(call).await?)?
            }
        };
        *self.epoch.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(name.clone());
        Ok(name)
    }

    async fn clear(&self, must_be_lost: bool) -> Result<(), BackendError> {
        let mut call = script::call(&LEDGER_CLEAR, &self.space.budget, &self.clock);
        call.arg(self.epoch_or_none()).arg(u8::from(must_be_lost));
        if number(self.links.ask(call).await?)? == 0 {
            let why = "its counters are those that belong to the journal: nothing is lost".into();
            return Err(BackendError::Invalid { field: "budget", why });
        }
        self.remove_counters().await
    }

    async fn replay(&self, records: &[Record]) -> Result<(), BackendError> {
        for step in records.chunks(STEP) {
            let json = serde_json::to_string(step)
                .map_err(|error| BackendError::Invalid { field: "journal record", why: error.to_string() })?;
            let mut call = script::call(&LEDGER_REPLAY, &self.space.budget, &self.clock);
            call.arg(format!("rebuilding {}", self.epoch_or_none())).arg(json);
            let answer = self.links.ask(call).await?;
            if number(answer.clone())? != 1 {
                return Err(unexpected(&answer));
            }
        }
        Ok(())
    }

    async fn open(&self) -> Result<(), BackendError> {
        let mut set = redis::cmd("SET");
        set.arg(format!("{}:epoch", self.space.budget)).arg(self.epoch_or_none());
        self.links.ask(set).await.map(drop)
    }
}
