//! What the whole fleet knows about warm heads: a few small records in the state store.
//!
//! | Key | What |
//! |---|---|
//! | `warm/00` … `warm/ff` | the heads whose digest begins so: who warms each of them or that it is warm, and until when |
//!
//! The keys are a fixed set, because a store remembers the versions of a key for ever: a key for each head would pile up.
//! Whatever has lapsed goes with the next write, and so does what goes beyond the room of a record. Times are the stores',
//! so that processes need not agree on theirs. A lead lapses by itself, which is all that becomes of a leader that died.
//! Nothing here may stop a call: a store that does not answer is a fleet of one process.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

use super::{KEPT, PATIENCE};
use crate::backend::{BackendError, Expected, StateStore, Write};
use crate::clock::{Clock, Timestamp};
use crate::llm::LlmRequest;
use crate::protocol::InstanceId;

/// How long the store may take to answer, a record that others change meanwhile included.
const STORE_PATIENCE: Duration = Duration::from_secs(3);

/// Pauses between two looks at a head that somebody else warms: the first, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Heads in one record, some two hundred bytes each; of more, those that lapse first are forgotten.
const MOST_HEADS: usize = 32;

/// How often a record is read again because somebody else has just changed it.
const MOST_RACES: u32 = 8;

/// A head, the same for all processes: SHA-256 of its model and its text, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeadId(String);

impl HeadId {
    /// The head of `request` up to its last cached block, which is at `last`. A model's name begins with that of its
    /// endpoint, so it stands for the provider as well.
    pub(super) fn of(request: &LlmRequest, last: usize) -> Self {
        let mut hasher = Sha256::new();
        let texts = request.system.iter().take(last + 1).map(|block| &*block.text);
        for text in std::iter::once(request.model.as_str()).chain(texts) {
            // Lengths keep two blocks from being taken for one.
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        }
        Self(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn key(&self) -> String {
        format!("warm/{}", &self.0[..2])
    }
}

/// One head in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    head: String,
    /// Who is on the way to warm it; nobody once it is warm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leader: Option<InstanceId>,
    until: Timestamp,
}

/// A record as it was last seen.
#[derive(Debug, Clone)]
struct Record {
    expected: Expected,
    entries: Vec<Entry>,
}

/// What the fleet says to a process that would warm a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// Lead: nobody else does, or nobody can be asked.
    Lead,
    /// It is warm, for so long.
    Warm(Duration),
    /// Somebody else warms it, for so long at most.
    Wait(Duration),
}

/// The records; clones share them.
#[derive(Clone)]
pub(super) struct FleetHeads {
    state: Arc<dyn StateStore>,
    instance: InstanceId,
    clock: Clock,
}

impl fmt::Debug for FleetHeads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetHeads").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl FleetHeads {
    pub(super) fn new(state: Arc<dyn StateStore>, instance: InstanceId, clock: Clock) -> Self {
        Self { state, instance, clock }
    }

    /// Finds out whether this process has to warm `head`: answers [`Word::Lead`] or [`Word::Warm`], at the latest at
    /// `patience`. A lead is then seen through in a task of its own: the head is warm once `began` says so, and if that
    /// can no longer be, somebody else may lead. A caller that gives up takes its lead back.
    pub(super) fn consult(
        &self,
        head: HeadId,
        patience: Instant,
        mut began: watch::Receiver<bool>,
    ) -> oneshot::Receiver<Word> {
        let (mut answer, answered) = oneshot::channel();
        let fleet = self.clone();
        tokio::spawn(async move {
            let (word, record) = tokio::select! {
                settled = fleet.settle(&head, patience) => settled,
                // Whether a question on the way still becomes a lead is not known, so it is taken for one.
                () = answer.closed() => (Word::Lead, None),
            };
            let led_at = fleet.clock.now();
            let is_led = answer.send(word).is_ok();
            if word != Word::Lead {
                return;
            }
            // An error means that the call is over; it may have begun all the same.
            let has_begun = is_led && (began.wait_for(|began| *began).await.is_ok() || *began.borrow());
            let step = async {
                match has_begun {
                    true => fleet.change(&head, record, |entries, _| warmed(entries, &head, led_at.after(KEPT))).await,
                    false => fleet.change(&head, record, |entries, _| fleet.withdrawn(entries, &head)).await,
                }
            };
            told("told", timeout(STORE_PATIENCE, step).await);
        });
        answered
    }

    /// Says that a warm head was read just now, unless others have said so lately.
    pub(super) fn renew(&self, head: HeadId) {
        let fleet = self.clone();
        tokio::spawn(async move {
            let step = fleet.change(&head, None, |entries, now| {
                let lately = now.after(KEPT * 3 / 4);
                let is_known = entries
                    .iter()
                    .any(|entry| entry.head == head.0 && (entry.leader.is_some() || entry.until > lately));
                !is_known && warmed(entries, &head, now.after(KEPT))
            });
            told("renewed", timeout(STORE_PATIENCE, step).await);
        });
    }

    /// Asks until the answer is not to wait. A store that does not answer, and patience that ends, let the call go as if there
    /// were nobody else. Also answers the record of a lead.
    async fn settle(&self, head: &HeadId, patience: Instant) -> (Word, Option<Record>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let left = match timeout(STORE_PATIENCE, self.ask(head)).await {
                Ok(Ok((Word::Wait(left), _))) => left,
                Ok(Ok((word, record))) => return (word, Some(record)),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the fleet's warm heads cannot be read");
                    return (Word::Lead, None);
                }
                Err(_) => return (Word::Lead, None),
            };
            let rest = patience.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return (Word::Lead, None);
            }
            tokio::time::sleep(pause.min(left).min(rest)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Leads if nobody else does and nobody has to.
    async fn ask(&self, head: &HeadId) -> Result<(Word, Record), BackendError> {
        let mut word = Word::Lead;
        let record = self
            .change(head, None, |entries, now| {
                let found = entries.iter().find(|entry| entry.head == head.0);
                word = match found {
                    Some(Entry { leader: None, until, .. }) => Word::Warm(until.since(now)),
                    Some(Entry { leader: Some(leader), until, .. }) if *leader != self.instance => {
                        Word::Wait(until.since(now))
                    }
                    // A lead of this process that it no longer knows of is as good as none.
                    _ => Word::Lead,
                };
                if word == Word::Lead {
                    let leader = Some(self.instance.clone());
                    put(entries, Entry { head: head.0.clone(), leader, until: now.after(PATIENCE) });
                }
                word == Word::Lead
            })
            .await?;
        Ok((word, record))
    }

    /// Takes the lead of this process away; false when it has none.
    fn withdrawn(&self, entries: &mut Vec<Entry>, head: &HeadId) -> bool {
        let before = entries.len();
        entries.retain(|entry| entry.head != head.0 || entry.leader.as_ref() != Some(&self.instance));
        entries.len() < before
    }

    /// Changes the record of `head` by `step`, which says whether it has changed anything; begins with `known`, if the record
    /// may still be so, and reads it again as often as somebody else was faster.
    async fn change(
        &self,
        head: &HeadId,
        mut known: Option<Record>,
        mut step: impl FnMut(&mut Vec<Entry>, Timestamp) -> bool,
    ) -> Result<Record, BackendError> {
        let mut races = 0;
        loop {
            let mut record = match known.take() {
                Some(record) => record,
                None => self.read(head).await?,
            };
            let now = self.clock.now();
            record.entries.retain(|entry| entry.until > now);
            if !step(&mut record.entries, now) {
                return Ok(record);
            }
            let value = serde_json::to_vec(&record.entries).unwrap_or_default();
            let value = (!record.entries.is_empty()).then_some(value.into());
            let write = Write { key: head.key(), expected: record.expected, value };
            match self.state.commit(&self.instance, vec![write]).await {
                Ok(versions) => {
                    record.expected = versions.first().map_or(Expected::Any, |version| Expected::Version(*version));
                    return Ok(record);
                }
                Err(BackendError::Conflict { .. }) if races < MOST_RACES => races += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn read(&self, head: &HeadId) -> Result<Record, BackendError> {
        let found = self.state.get(&[head.key()]).await?.into_iter().next().flatten();
        let Some(found) = found else { return Ok(Record { expected: Expected::Absent, entries: Vec::new() }) };
        // What cannot be read was written by another version of the program; it is worth no more than one write of a cache.
        let entries = found.value.and_then(|value| serde_json::from_slice(&value).ok()).unwrap_or_default();
        Ok(Record { expected: Expected::Version(found.version), entries })
    }
}

/// Makes the head warm until then, or for longer if it was so already.
fn warmed(entries: &mut Vec<Entry>, head: &HeadId, until: Timestamp) -> bool {
    let known = entries.iter().find(|entry| entry.head == head.0 && entry.leader.is_none());
    if known.is_some_and(|known| known.until >= until) {
        return false;
    }
    put(entries, Entry { head: head.0.clone(), leader: None, until });
    true
}

/// Puts `entry` in the place of whatever was known of its head; beyond the room of a record the first to lapse goes.
fn put(entries: &mut Vec<Entry>, entry: Entry) {
    entries.retain(|other| other.head != entry.head);
    if entries.len() >= MOST_HEADS {
        let first = entries.iter().enumerate().min_by_key(|(_, entry)| entry.until).map(|(at, _)| at);
        entries.swap_remove(first.unwrap_or(0));
    }
    entries.push(entry);
}

/// The fleet learns of a head when a record lapses, too, only later; so a step that failed is worth a line and no more.
fn told<T>(what: &str, ended: Result<Result<T, BackendError>, tokio::time::error::Elapsed>) {
    match ended {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a warm head could not be {what} to the fleet"),
        Err(_) => tracing::debug!("a warm head could not be {what} to the fleet in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::SystemBlock;

    fn id(model: &str, blocks: &[&str]) -> HeadId {
        let system = blocks.iter().map(|text| SystemBlock { text: (*text).into(), cache: true }).collect();
        HeadId::of(&LlmRequest { system, ..LlmRequest::of(model, "go") }, blocks.len().saturating_sub(1))
    }

    #[test]
    fn a_head_has_one_name_in_every_process_and_no_other_head_has_it() {
        let name = id("claude-sonnet-5-5", &["contract"]);
        // Worked out by hand: the lengths as eight bytes, least first, before each text.
        let bytes = b"\x11\0\0\0\0\0\0\0claude-sonnet-5-5\x08\0\0\0\0\0\0\0contract";
        assert_eq!(name.0, Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        assert_eq!((name.key().len(), name.0.len()), ("warm/".len() + 2, 64));
        for other in [
            id("claude-opus-5-5", &["contract"]),
            id("claude-sonnet-5-5", &["con", "tract"]),
            id("claude-sonnet-5-5", &["contract", ""]),
            id("gateway/claude-sonnet-5-5", &["contract"]),
        ] {
            assert_ne!(name, other);
        }
    }

    #[test]
    fn a_record_has_room_for_so_many_heads_and_the_first_to_lapse_makes_room() {
        let entry = |number: i64| Entry { head: format!("{number:064x}"), leader: None, until: Timestamp(number) };
        let mut entries = Vec::new();
        for number in (0..100).rev() {
            put(&mut entries, entry(number));
        }
        put(&mut entries, entry(1_000));
        assert_eq!(entries.len(), MOST_HEADS);
        assert!(entries.contains(&entry(1_000)) && entries.contains(&entry(99)) && !entries.contains(&entry(0)));
        put(&mut entries, Entry { until: Timestamp(7), ..entry(1_000) });
        assert_eq!(
            entries.iter().filter(|other| other.head == entry(1_000).head).count(),
            1,
            "a head stands there once"
        );
        let longest = InstanceId::new("i".repeat(40)).unwrap();
        let full: Vec<_> = entries.iter().map(|one| Entry { leader: Some(longest.clone()), ..one.clone() }).collect();
        assert!(serde_json::to_vec(&full).unwrap().len() < 8_192, "small enough to be read in passing");
    }

    #[test]
    fn a_head_is_warm_for_as_long_as_anybody_has_said() {
        let head = id("m", &["contract"]);
        let mut entries = Vec::new();
        assert!(warmed(&mut entries, &head, Timestamp(50)));
        assert!(!warmed(&mut entries, &head, Timestamp(40)), "an older word changes nothing");
        assert!(warmed(&mut entries, &head, Timestamp(60)));
        let leader = Some(InstanceId::new("somebody").unwrap());
        put(&mut entries, Entry { head: head.0.clone(), leader, until: Timestamp(70) });
        assert!(warmed(&mut entries, &head, Timestamp(65)), "a reply that has begun beats a lead");
        assert_eq!(entries, [Entry { head: head.0, leader: None, until: Timestamp(65) }]);
    }
}
