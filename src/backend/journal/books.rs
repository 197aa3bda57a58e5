//! Bringing counters and journal together: whose name counts, and what happens to a journal that was lost.
//!
//! The journal's name counts, because the counters can be made anew from it. A journal without a name beside counters that
//! were used has been lost: it is begun anew from them, under a mark that keeps everybody else away meanwhile. Counters
//! without entries beside records without a name are lost as well, and so is the beginning of the journal. Nothing may be
//! spent on books of which one half has been forgotten.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep};

use super::{Counters, Found, Journal, Name, Record, SEEDING, fresh_name, is_mark};
use crate::backend::{BackendError, Standing};
use crate::clock::{Clock, Timestamp};

/// What processes go by while nobody knows what the books are called.
const UNKNOWN: &str = "unknown";

/// Ends the name of books whose journal was begun anew.
const CARRIED: &str = "-carried";

/// How often the books are looked at before they are given up: others may be naming them.
const LOOKS: usize = 10;

/// How long another process is given to begin a lost journal anew, and how often it is looked at.
const SEEDED_WITHIN: Duration = Duration::from_secs(3);
const SEEDED_YET: Duration = Duration::from_millis(50);

/// Records of a seed that are under way at once.
const UNDER_WAY: usize = 1_000;

/// Counters and their journal.
pub(super) struct Books {
    pub(super) counters: Arc<dyn Counters>,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) clock: Clock,
    /// Held by whoever asks the journal for the books' name.
    adopting: tokio::sync::Mutex<()>,
}

impl Books {
    pub(super) fn new(counters: Arc<dyn Counters>, journal: Arc<dyn Journal>, clock: Clock) -> Self {
        Self { counters, journal, clock, adopting: tokio::sync::Mutex::default() }
    }

    /// Settles which counters to go by. They may be lost for all that: then every step says so.
    pub(super) async fn join(&self) -> Result<(), BackendError> {
        for _ in 0..LOOKS {
            // Before the name: a number may be too low for it, never too high.
            let newest = self.journal.newest().await?;
            if let Some(name) = self.journal.name().await? {
                self.counters.go_by(&name.epoch, newest.unwrap_or_default());
                return Ok(());
            }
            let Found { epoch, entry } = self.counters.look().await?;
            match epoch {
                Some(found) if found.starts_with(SEEDING) => {
                    if !self.is_named_soon().await? {
                        self.seed(&found).await?;
                    }
                }
                Some(found) if entry > 0 && !is_mark(&found) => self.seed(&found).await?,
                epoch if entry == 0 && newest.is_none() && epoch.as_deref().is_none_or(|epoch| !is_mark(epoch)) => {
                    // Of processes that are the first, one names the counters; all go by that name.
                    let first = self.counters.first_name().await?;
                    self.journal.rename(&first, 0).await?;
                }
                _ => break,
            }
        }
        self.counters.go_by(UNKNOWN, 0);
        Ok(())
    }

    /// Waits for another process that is naming the books.
    async fn is_named_soon(&self) -> Result<bool, BackendError> {
        let deadline = Instant::now() + SEEDED_WITHIN;
        while Instant::now() < deadline {
            if self.journal.name().await?.is_some() {
                return Ok(true);
            }
            sleep(SEEDED_YET).await;
        }
        Ok(false)
    }

    /// Begins a lost journal anew from the counters called `found`. Nobody can use them meanwhile; should this process die
    /// over it, the next one does it. Does nothing when somebody else has changed their name.
    async fn seed(&self, found: &str) -> Result<(), BackendError> {
        let epoch = format!("{}{CARRIED}", fresh_name(&self.clock));
        let mark = format!("{SEEDING}{epoch}");
        let records = match self.counters.carry(found, &mark, &epoch).await {
            Err(BackendError::DataLost { .. }) => return Ok(()),
            records => records?,
        };
        tracing::warn!(
            records = records.len(),
            "the ledger's journal is empty beside counters that were used: NATS has lost it. It is begun anew from the counters"
        );
        let mut records = records.into_iter();
        // What it begins with comes first.
        if let Some(first) = records.next() {
            self.journal.append(first).await?;
        }
        let records: Vec<Record> = records.collect();
        for records in records.chunks(UNDER_WAY) {
            try_join_all(records.iter().map(|record| self.journal.append(record.clone()))).await?;
        }
        match self.name(&mark, &epoch, true).await {
            Ok(name) => match self.counters.open(&mark, &name, 0).await {
                Err(BackendError::DataLost { .. }) => Ok(()),
                opened => opened,
            },
            Err(BackendError::DataLost { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes the books' new name into the journal, for as long as the counters have `mark`: whoever took them over has
    /// taken over the naming, and whatever was written between the look at the mark and the writing is noticed. Answers the
    /// name; with `is_first` one that they have already.
    pub(super) async fn name(&self, mark: &str, epoch: &str, is_first: bool) -> Result<String, BackendError> {
        loop {
            let last = self.journal.name().await?;
            match last {
                // Counters under this mark have not changed since the other one read the same ones.
                Some(name) if is_first || name.epoch == epoch => return Ok(name.epoch),
                _ => {}
            }
            let found = self.counters.look().await?.epoch;
            if found.as_deref() != Some(mark) {
                let why = format!("they have the mark {} instead of {mark}", found.as_deref().unwrap_or("none"));
                return Err(BackendError::DataLost { store: "ledger", why });
            }
            if self.journal.rename(epoch, last.map_or(0, |name| name.place)).await? {
                return Ok(epoch.to_owned());
            }
        }
    }

    /// Goes by the books' present name, should it not be `tried`. Answers whether it is another one.
    pub(super) async fn adopt(&self, tried: &str) -> Result<bool, BackendError> {
        let _one = self.adopting.lock().await;
        if self.counters.known().0 != tried {
            return Ok(true);
        }
        let newest = self.journal.newest().await?;
        match self.journal.name().await? {
            Some(Name { epoch, .. }) if epoch != tried => {
                tracing::info!(epoch, "the budget's books have been made anew");
                self.counters.go_by(&epoch, newest.unwrap_or_default());
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// How counters and journal stand to each other.
    pub(super) async fn standing(&self) -> Result<Standing, BackendError> {
        let journal = self.journal.newest().await?;
        let name = self.journal.name().await?.map(|name| name.epoch);
        let Found { epoch, entry } = self.counters.look().await?;
        let first = self.journal.first_name().await?.unwrap_or_default();
        let began = first.strip_suffix(CARRIED).and_then(|first| first.split('-').next()?.parse().ok());
        let is_whole = name.is_some() && name == epoch && entry >= journal.unwrap_or_default();
        Ok(Standing { is_whole, entry, journal, carried: began.map(Timestamp) })
    }

    /// True while the counters are called `epoch`: a rebuild that begins now reads what is in the journal now.
    pub(super) async fn are_still(&self, epoch: &str) -> Result<bool, BackendError> {
        Ok(self.counters.look().await?.epoch.as_deref() == Some(epoch))
    }
}
