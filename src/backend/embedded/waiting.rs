//! Those who wait: pulls without messages, tails without events, followers without changes.
//!
//! The writer thread keeps them, first come first served, and satisfies them in the transaction that makes something
//! available, so that one message wakes one waiter. What another process wrote is found by comparing with the
//! database when its data version has moved. Nothing here may write outside a transaction of the writer.

use std::collections::HashSet;
use std::time::Instant;

use rusqlite::Connection;

use super::inbox::{Follower, Handover, Puller, Tailer};
use super::step::{Effects, Step};
use super::{broker, events, state};
use crate::backend::{BackendError, Delivery};
use crate::clock::Timestamp;

/// Everyone who waits in this process.
#[derive(Default)]
pub(super) struct WaitingRoom {
    pulls: Vec<Puller>,
    tails: Vec<Tailer>,
    followers: Vec<Follower>,
    /// No deadline is earlier than this; `None` when nobody waits.
    earliest: Option<Instant>,
}

/// Messages claimed for the pull at this place in the room.
pub(super) type Claim = (usize, Vec<Delivery>);

impl WaitingRoom {
    /// Lets a pull in.
    pub(super) fn pull(&mut self, puller: Puller) {
        self.note(puller.until);
        self.pulls.push(puller);
    }

    /// Lets a tail in.
    pub(super) fn tail(&mut self, tailer: Tailer) {
        self.note(tailer.until);
        self.tails.push(tailer);
    }

    /// Lets a follower in.
    pub(super) fn follow(&mut self, follower: Follower) {
        self.note(follower.until);
        self.followers.push(follower);
    }

    fn note(&mut self, until: Instant) {
        self.earliest = Some(self.earliest.map_or(until, |earliest| earliest.min(until)));
    }

    /// When the first of them gives up, if anybody waits.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.earliest
    }

    /// Whether a look at the database would give some pull a message: the new ones' queues, or everyone's with `all`.
    pub(super) fn has_work(&self, db: &Connection, now: Timestamp, all: bool) -> rusqlite::Result<bool> {
        let mut known_empty = HashSet::new();
        for puller in self.pulls.iter().filter(|puller| all || puller.fresh) {
            for (_, name) in &puller.queues {
                if known_empty.insert(name.as_str()) && broker::is_ready(db, name)? {
                    return Ok(true);
                }
            }
        }
        Ok(!known_empty.is_empty() && broker::is_due(db, now)?)
    }

    /// Claims messages for the pulls: new ones, those whose queue just got something, or everyone with `all`.
    pub(super) fn claim(&mut self, step: &mut Step<'_>, all: bool) -> rusqlite::Result<Vec<Claim>> {
        let mut claims = Vec::new();
        if self.pulls.is_empty() {
            return Ok(claims);
        }
        broker::return_due(step)?;
        let mut empty: HashSet<&str> = HashSet::new();
        for (place, puller) in self.pulls.iter().enumerate() {
            if puller.answer.is_closed() {
                continue;
            }
            let mut found = Vec::new();
            for (queue, name) in &puller.queues {
                let news = all || puller.fresh || step.effects.ready.iter().any(|ready| ready == name);
                if found.len() >= puller.max || !news || empty.contains(name.as_str()) {
                    continue;
                }
                let wanted = puller.max - found.len();
                let got = broker::claim(step, &puller.consumer, queue, name, wanted)?;
                if got.len() < wanted {
                    empty.insert(name);
                }
                found.extend(got);
            }
            if !found.is_empty() {
                claims.push((place, found));
            }
        }
        Ok(claims)
    }

    /// Hands out what was claimed, once that is durable. The rest of the pulls are no longer new.
    pub(super) fn deliver(&mut self, claims: Vec<Claim>) {
        for puller in &mut self.pulls {
            puller.fresh = false;
        }
        // From the back, so that the places in front stay what they were.
        for (place, deliveries) in claims.into_iter().rev() {
            let puller = self.pulls.remove(place);
            let handover = Handover { deliveries, inbox: puller.inbox };
            // A puller that is gone drops the handover, which returns the messages.
            let _ = puller.answer.send(Ok(handover));
        }
    }

    /// Answers new pulls with an error, because the transaction that looked for them failed.
    pub(super) fn fail(&mut self, error: impl Fn() -> BackendError) {
        for puller in self.pulls.extract_if(.., |puller| puller.fresh) {
            let _ = puller.answer.send(Err(error()));
        }
    }

    /// Wakes those whom this process's own commit concerns.
    pub(super) fn tell(&mut self, effects: &Effects) {
        for (job, last) in &effects.appended {
            for tailer in self.tails.extract_if(.., |tailer| tailer.job == *job && tailer.after < *last) {
                let _ = tailer.answer.send(true);
            }
        }
        if !effects.written.is_empty() {
            let concerned =
                |follower: &mut Follower| effects.written.iter().any(|key| key.starts_with(&follower.prefix));
            for follower in self.followers.extract_if(.., concerned) {
                let _ = follower.answer.send(true);
            }
        }
    }

    /// Compares tails and followers with the database: the new ones, or everyone with `all`.
    pub(super) fn compare(&mut self, db: &Connection, all: bool) -> rusqlite::Result<()> {
        let mut place = 0;
        while place < self.tails.len() {
            let tailer = &mut self.tails[place];
            if (all || tailer.fresh) && events::last_seq(db, &tailer.job)? > tailer.after {
                let _ = self.tails.swap_remove(place).answer.send(true);
            } else {
                tailer.fresh = false;
                place += 1;
            }
        }
        if self.followers.iter().any(|follower| all || follower.fresh) {
            let newest = state::revision(db)?;
            let behind = |follower: &mut Follower| (all || follower.fresh) && follower.revision < newest;
            for follower in self.followers.extract_if(.., behind) {
                let _ = follower.answer.send(true);
            }
            for follower in &mut self.followers {
                follower.fresh = false;
            }
        }
        Ok(())
    }

    /// Answers those whose time is over and forgets those who have left.
    pub(super) fn sweep(&mut self, now: Instant) {
        for puller in self.pulls.extract_if(.., |puller| puller.until <= now || puller.answer.is_closed()) {
            let _ = puller.answer.send(Ok(Handover { deliveries: Vec::new(), inbox: puller.inbox }));
        }
        for tailer in self.tails.extract_if(.., |tailer| tailer.until <= now || tailer.answer.is_closed()) {
            let _ = tailer.answer.send(false);
        }
        for follower in self.followers.extract_if(.., |one| one.until <= now || one.answer.is_closed()) {
            let _ = follower.answer.send(false);
        }
        let pulls = self.pulls.iter().map(|puller| puller.until);
        let tails = self.tails.iter().map(|tailer| tailer.until);
        self.earliest = pulls.chain(tails).chain(self.followers.iter().map(|follower| follower.until)).min();
    }
}
