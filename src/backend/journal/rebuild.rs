//! Making lost counters anew from the journal.
//!
//! A rebuild puts its own mark on the counters and every step of it is refused without that mark, so of several at once the
//! last to begin is the only one to end well. It reads the journal after that, so it misses no step that was confirmed to
//! anybody; and it ends by giving the books a new name, first in the journal, then on the counters: whatever dies in between
//! leaves books that nobody can use, never books that say too little.

use super::books::Books;
use super::{Found, REBUILDING, ROLLED_BACK, Record, fresh_name};
use crate::backend::{BackendError, Rebuilt};

/// The records of a page that count. A seed other than `first` never came to count; from the one that did on, all that was
/// before is contained in it: then true, and only what follows it.
fn sift(records: Vec<Record>, first: Option<&str>) -> (bool, Vec<Record>) {
    let (mut begins_anew, mut counting) = (false, Vec::with_capacity(records.len()));
    for record in records {
        match &record {
            Record::Seed { epoch, .. } if Some(epoch.as_str()) == first => {
                (begins_anew, counting) = (true, Vec::new());
            }
            Record::Carry { epoch, .. } if Some(epoch.as_str()) == first => counting.push(record),
            Record::Seed { .. } | Record::Carry { .. } => {}
            _ => counting.push(record),
        }
    }
    (begins_anew, counting)
}

impl Books {
    /// [`crate::backend::Ledger::rebuild`].
    pub(super) async fn rebuild(&self, even_if_whole: bool) -> Result<Rebuilt, BackendError> {
        let newest = self.journal.newest().await?;
        let name = self.journal.name().await?;
        if let Some(name) = &name {
            let (epoch, seen) = self.counters.known();
            let seen = if epoch == name.epoch { seen } else { 0 };
            self.counters.go_by(&name.epoch, newest.unwrap_or_default().max(seen));
        }
        if !even_if_whole && (newest.is_none() || name.is_none()) {
            return Err(self.without_journal().await?);
        }
        let epoch = fresh_name(&self.clock);
        let mark = format!("{REBUILDING}{epoch}");
        if !self.counters.mark(&mark, !even_if_whole).await? {
            return Err(nothing_is_lost());
        }
        match self.make_anew(&mark, &epoch).await {
            Err(error @ BackendError::DataLost { .. }) => Err(self.overtaken(&mark).await.unwrap_or(error)),
            outcome => outcome,
        }
    }

    async fn make_anew(&self, mark: &str, epoch: &str) -> Result<Rebuilt, BackendError> {
        self.counters.remove(mark).await?;
        let first = self.journal.first_name().await?;
        let (mut rebuilt, mut after, mut newest) = (Rebuilt::default(), 0, self.counters.known().1.max(1));
        while let Some((page, records)) = self.journal.read(after).await? {
            after = page;
            newest = records.iter().map(Record::entry).fold(newest, u64::max);
            let (begins_anew, records) = sift(records, first.as_deref());
            if begins_anew {
                self.counters.remove(mark).await?;
                rebuilt = Rebuilt::default();
            }
            rebuilt.records += records.len() as u64;
            self.counters.replay(mark, &records).await?;
        }
        self.name(mark, epoch, false).await?;
        self.counters.open(mark, epoch, newest).await?;
        self.counters.go_by(epoch, 0);
        Ok(rebuilt)
    }

    /// Why a journal without records or without a name must not be trusted, unless the counters are whole.
    async fn without_journal(&self) -> Result<BackendError, BackendError> {
        let (known, seen) = self.counters.known();
        let Found { epoch, entry } = self.counters.look().await?;
        if epoch.is_some_and(|epoch| epoch == known) && entry >= seen {
            return Ok(nothing_is_lost());
        }
        Ok(BackendError::Refused {
            server: "the ledger's journal in NATS".into(),
            why: "it holds no records, or not its beginning: books made from it would forget what was spent and every limit"
                .into(),
            remedy: "restore NATS from a backup; or, if nothing was ever spent here or all limits are set again, add --force"
                .into(),
        })
    }

    /// The error of a rebuild that lost its mark to another one; `None` when the counters were lost once more, or went back.
    async fn overtaken(&self, mark: &str) -> Option<BackendError> {
        let found = self.counters.look().await.ok()?.epoch?;
        let is_of_before = found == self.counters.known().0 || found.starts_with(ROLLED_BACK);
        (found != mark && !is_of_before).then_some(BackendError::Overtaken { what: "rebuild of the budget's books" })
    }
}

fn nothing_is_lost() -> BackendError {
    let why = "its counters are those that belong to the journal: nothing is lost".into();
    BackendError::Invalid { field: "budget", why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn only_the_seed_that_became_the_first_name_counts_and_all_before_it_does_not() {
        let void = |id: &str| Record::Void { id: id.into() };
        let seed = |epoch: &str| Record::Seed { epoch: epoch.into(), at: Timestamp(0), entry: 1 };
        let records = || vec![void("before"), seed("a"), void("between"), seed("b"), void("after")];
        assert_eq!(sift(records(), Some("b")), (true, vec![void("after")]));
        assert_eq!(sift(records(), Some("a")), (true, vec![void("between"), void("after")]));
        assert_eq!(sift(records(), None), (false, vec![void("before"), void("between"), void("after")]));
    }
}
