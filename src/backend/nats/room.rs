//! The pulls of one process that wait for messages, and the decisions about them; no input or output.
//!
//! A pull walks its queues in order: it takes what lies here, skips queues known to be empty, asks the first of the others
//! and waits for that answer before it goes on, so that urgent queues are served first. At the end of the walk it is
//! parked, and alerts are set on all its queues. Pulls that ask the same queue at the same time share one request. What comes
//! for nobody is offered to the next pull for a moment and then given back. Nothing here may forget a message.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Subject;
use tokio::sync::mpsc;

use super::caught::Caught;
use super::line::{ALERT, Ask, GRACE, Kind, Line, Unseen};
use super::sources::Source;
use super::waiter::{Command, Handover, Pull, Refusal, Stage, Waiter};

/// Most messages asked for at once.
const MAX_BATCH: usize = 1_024;

/// A probe that is silent for this long is asked again, after making sure of the consumer: the server forgets to answer one
/// whose messages another got first, and does not answer for a consumer that is gone.
const PROBE_PATIENCE: Duration = Duration::from_millis(250);

/// How long a pull of many waits for the rest of an answer.
const GATHERING: Duration = Duration::from_millis(50);

/// Pause after an ask that ended early for no reason.
const REST: Duration = Duration::from_millis(20);

/// Longest time between two sweeps.
const SWEEP: Duration = Duration::from_secs(1);

/// What has to be done on the wire.
#[derive(Debug)]
pub(super) enum Action {
    /// Ask the server.
    Ask { line: usize, id: u64, kind: Kind, batch: usize },
    /// Give a message back.
    GiveBack(Subject),
    /// See to it that the consumer of a line exists.
    Recreate(usize),
}

/// Everyone who waits in this process.
pub(super) struct Room {
    lines: Vec<Line>,
    by_subject: HashMap<String, usize>,
    waiters: Vec<Waiter>,
    unseen: Unseen,
    actions: Vec<Action>,
    /// Lines whose alerts may have to be set.
    untended: Vec<usize>,
    next_id: u64,
    back: mpsc::UnboundedSender<Command>,
    patience: Duration,
    connected: bool,
    /// Since when nothing can be asked, while not connected.
    away_since: Instant,
    wake: Instant,
}

impl Room {
    pub(super) fn new(back: mpsc::UnboundedSender<Command>, patience: Duration, now: Instant) -> Self {
        Self {
            lines: Vec::new(),
            by_subject: HashMap::new(),
            waiters: Vec::new(),
            unseen: Unseen::default(),
            actions: Vec::new(),
            untended: Vec::new(),
            next_id: 1,
            back,
            patience,
            connected: true,
            away_since: now,
            wake: now + SWEEP,
        }
    }

    /// When [`Room::sweep`] is due.
    pub(super) const fn wake(&self) -> Instant {
        self.wake
    }

    fn note(&mut self, at: Instant) {
        self.wake = self.wake.min(at);
    }

    /// The line of a subject.
    pub(super) fn line_of(&self, subject: &str) -> Option<(usize, &Arc<Source>)> {
        let line = *self.by_subject.get(subject)?;
        Some((line, &self.lines[line].source))
    }

    /// The source of a line.
    pub(super) fn source(&self, line: usize) -> Option<&Arc<Source>> {
        self.lines.get(line).map(|line| &line.source)
    }

    /// Lets a pull in.
    pub(super) fn enter(&mut self, pull: Pull, now: Instant) {
        let lines: Vec<usize> = pull.sources.into_iter().map(|source| self.line(source)).collect();
        let waiter = Waiter::new(lines, pull.max.min(MAX_BATCH), pull.wait, pull.answer, now, self.patience);
        self.note(if waiter.at_once { waiter.patience } else { waiter.deadline });
        self.waiters.push(waiter);
    }

    fn line(&mut self, source: Arc<Source>) -> usize {
        if let Some(&line) = self.by_subject.get(&source.subject) {
            return line;
        }
        self.by_subject.insert(source.subject.clone(), self.lines.len());
        self.lines.push(Line::new(source));
        self.lines.len() - 1
    }

    /// A message has come for an ask of this kind.
    pub(super) fn caught(&mut self, kind: Kind, line: usize, caught: Caught, now: Instant) {
        let last = self.lines[line].count(kind, caught.pending);
        let more = last.is_none() && self.lines[line].ask(kind).is_some();
        self.assign(line, caught, more, now);
        if last.is_some() {
            self.ended(kind, line, None);
        }
    }

    /// Gives a message to whoever is first in need of it; `more` when others of the same answer follow.
    fn assign(&mut self, line: usize, mut caught: Caught, more: bool, now: Instant) {
        caught.deliveries = caught.deliveries.saturating_sub(self.unseen.of(line, caught.sequence)).max(1);
        let wants = |waiter: &Waiter| match waiter.stage {
            Stage::Parked => waiter.is_interested(line),
            Stage::Gathering { line: of } | Stage::Asking { line: of, .. } => of == line && !waiter.is_full(),
            Stage::Walking | Stage::Served => false,
        };
        let found = self.waiters.iter_mut().find(|waiter| wants(waiter) && !waiter.answer.is_closed());
        let Some(waiter) = found else {
            self.lines[line].stash.push_back((now, caught));
            return self.note(now + GRACE);
        };
        waiter.got.push(caught);
        if waiter.is_full() {
            waiter.stage = Stage::Served;
        } else if waiter.stage == Stage::Parked {
            waiter.stage = if more { Stage::Gathering { line } } else { Stage::Served };
            waiter.deadline = now + GATHERING;
            let deadline = waiter.deadline;
            self.note(deadline);
        }
    }

    /// The server has ended an ask with this status.
    pub(super) fn status(&mut self, kind: Kind, line: usize, id: u64, code: u16, text: &str, now: Instant) {
        if code == 100 {
            return;
        }
        let Some(state) = self.lines.get_mut(line) else { return };
        let Some(ask) = state.end(kind, id) else { return };
        state.pending = 0;
        if matches!(code, 404 | 408) {
            let is_early = kind == Kind::Alert && !ask.fruitful && now < ask.sent + ALERT - SWEEP;
            state.rest_until = is_early.then(|| now + REST);
            // Messages that are promised to an alert of ours are as good as here.
            let is_promised = code == 408 && kind == Kind::Probe && !ask.fruitful && state.alert.is_some();
            if is_early {
                self.note(now + REST);
            }
            return self.ended(kind, line, (!is_promised).then_some(id));
        }
        state.trouble = Some(format!("{}: {code} {text}", state.source.queue));
        self.actions.push(Action::Recreate(line));
        self.ended(kind, line, None);
    }

    /// An ask is over. With `seen_empty`, those who waited for it know that there is nothing left.
    fn ended(&mut self, kind: Kind, line: usize, seen_empty: Option<u64>) {
        for waiter in &mut self.waiters {
            match waiter.stage {
                Stage::Asking { line: of, probe } if of == line && kind == Kind::Probe => {
                    if Some(probe) == seen_empty
                        && let Some(place) = waiter.lines.iter().position(|one| *one == line)
                    {
                        waiter.empty[place] = true;
                    }
                    waiter.stage = Stage::Walking;
                }
                Stage::Gathering { line: of } if of == line => waiter.stage = Stage::Served,
                _ => {}
            }
        }
        self.untended.push(line);
    }

    /// The consumer of `line` is there.
    pub(super) fn ready(&mut self, line: usize) {
        if let Some(state) = self.lines.get_mut(line) {
            state.trouble = None;
            // Asked with a probe first, which is not silent for long if it was removed again.
            state.pending = state.pending.max(1);
            self.untended.push(line);
        }
    }

    /// Messages that never reached their pull: for the next one.
    pub(super) fn returned(&mut self, returned: Vec<Caught>, now: Instant) {
        for caught in returned.into_iter().rev() {
            if let Some(&line) = self.by_subject.get(&caught.source.subject) {
                self.lines[line].stash.push_front((now, caught));
                self.untended.push(line);
            }
        }
        self.note(now + GRACE);
    }

    /// The connection is down: nothing can be asked.
    pub(super) const fn disconnected(&mut self, now: Instant) {
        if self.connected {
            self.away_since = now;
        }
        self.connected = false;
    }

    /// There is a new connection: all questions of the earlier one are void.
    pub(super) fn connected(&mut self) {
        self.connected = true;
        for (number, line) in self.lines.iter_mut().enumerate() {
            (line.alert, line.probe, line.planned, line.rest_until) = (None, None, None, None);
            line.trouble = None;
            line.pending = 0;
            self.untended.push(number);
        }
        for waiter in &mut self.waiters {
            waiter.empty.fill(false);
            waiter.stage = if waiter.got.is_empty() { Stage::Walking } else { Stage::Served };
        }
    }

    /// Carries on with everyone who can be carried on with. Then takes what has to be done on the wire.
    pub(super) fn settle(&mut self, now: Instant) -> Vec<Action> {
        // Parking sets alerts, which changes nothing for those who have walked already: one round is enough.
        for place in 0..self.waiters.len() {
            if self.waiters[place].stage == Stage::Walking {
                self.walk(place);
            }
        }
        self.untended.sort_unstable();
        self.untended.dedup();
        for line in mem::take(&mut self.untended) {
            self.hand_out(line);
            self.tend(line, now);
        }
        for line in 0..self.lines.len() {
            if let Some((id, batch)) = self.lines[line].planned.take() {
                self.ask(line, Kind::Probe, id, batch.min(MAX_BATCH), now);
            }
        }
        self.answer_served();
        mem::take(&mut self.actions)
    }

    fn walk(&mut self, place: usize) {
        let waiter = &mut self.waiters[place];
        for (nth, &number) in waiter.lines.iter().enumerate() {
            let line = &mut self.lines[number];
            while !waiter.is_full()
                && let Some((_, caught)) = line.stash.pop_front()
            {
                waiter.got.push(caught);
            }
            if waiter.is_full() {
                waiter.stage = Stage::Served;
                return;
            }
            let is_known_empty = waiter.empty[nth] || (line.alert.is_some() && !waiter.at_once);
            if is_known_empty || (line.trouble.is_some() && !waiter.at_once) {
                continue;
            }
            if line.trouble.is_some() || !self.connected {
                return;
            }
            let probe = if let Some(open) = &line.probe {
                // Its answer may have been made before this pull came.
                if waiter.at_once { 0 } else { open.id }
            } else {
                let (id, batch) = line.planned.unwrap_or((self.next_id, 0));
                self.next_id = self.next_id.max(id + 1);
                line.planned = Some((id, batch + waiter.max - waiter.got.len()));
                id
            };
            waiter.stage = Stage::Asking { line: number, probe };
            return;
        }
        if waiter.at_once || !waiter.got.is_empty() {
            waiter.stage = Stage::Served;
        } else {
            waiter.stage = Stage::Parked;
            self.untended.extend(waiter.lines.iter().filter(|line| !self.lines[**line].is_asked()));
        }
    }

    /// Gives what lies here to those who are parked.
    fn hand_out(&mut self, line: usize) {
        while !self.lines[line].stash.is_empty() {
            let wants = |waiter: &&mut Waiter| waiter.stage == Stage::Parked && waiter.is_interested(line);
            let Some(waiter) = self.waiters.iter_mut().find(wants) else { return };
            while !waiter.is_full()
                && let Some((_, caught)) = self.lines[line].stash.pop_front()
            {
                waiter.got.push(caught);
            }
            waiter.stage = Stage::Served;
        }
    }

    /// Asks for those who are parked, if nothing is asked yet.
    fn tend(&mut self, line: usize, now: Instant) {
        let state = &mut self.lines[line];
        let rests = state.rest_until.is_some_and(|until| now < until);
        if state.is_asked() || state.trouble.is_some() || rests || !self.connected {
            return;
        }
        state.rest_until = None;
        let parked = self.waiters.iter().filter(|one| one.stage == Stage::Parked && one.is_interested(line));
        let (all, largest) = parked.fold((0, 0), |(all, largest), one| (all + one.max, one.max.max(largest)));
        if all == 0 {
            return;
        }
        let pending = usize::try_from(state.pending).unwrap_or(usize::MAX);
        let id = self.next_id;
        self.next_id += 1;
        if pending > 0 {
            self.ask(line, Kind::Probe, id, all.min(pending).min(MAX_BATCH), now);
        } else {
            self.ask(line, Kind::Alert, id, largest.min(MAX_BATCH), now);
        }
    }

    fn ask(&mut self, line: usize, kind: Kind, id: u64, batch: usize, now: Instant) {
        *self.lines[line].ask(kind) = Some(Ask { id, left: batch, fruitful: false, sent: now });
        self.actions.push(Action::Ask { line, id, kind, batch });
        self.note(now + if kind == Kind::Probe { PROBE_PATIENCE } else { ALERT + SWEEP });
    }

    fn answer_served(&mut self) {
        let mut place = 0;
        while place < self.waiters.len() {
            if self.waiters[place].stage == Stage::Served {
                let waiter = self.waiters.remove(place);
                self.answer(waiter);
            } else {
                place += 1;
            }
        }
    }

    fn answer(&self, waiter: Waiter) {
        let trouble = || waiter.lines.iter().find_map(|line| self.lines[*line].trouble.clone());
        let refusal = match () {
            () if !waiter.got.is_empty() => None,
            () if !self.connected => Some("not connected".to_owned()),
            () if waiter.stage == Stage::Parked || waiter.stage == Stage::Served => trouble(),
            () => Some(trouble().unwrap_or_else(|| "a pull was not answered in time".into())),
        };
        let handover = Handover { caught: waiter.got, back: self.back.clone() };
        // A pull that is gone drops the handover, which returns the messages.
        let _ = waiter.answer.send(refusal.map_or(Ok(handover), |reason| Err(Refusal(reason))));
    }

    /// Ends what has taken too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.wake = now + SWEEP;
        for number in 0..self.lines.len() {
            self.sweep_line(number, now);
        }
        let mut place = 0;
        while place < self.waiters.len() {
            let waiter = &self.waiters[place];
            let is_walked = matches!(waiter.stage, Stage::Parked | Stage::Gathering { .. });
            let mut until = if is_walked { waiter.deadline } else { waiter.deadline.max(waiter.patience) };
            if !self.connected {
                // Whoever waits has to know that the server is away long before a wait of half a minute is over.
                until = until.min(waiter.patience.max(self.away_since + self.patience));
            }
            if waiter.answer.is_closed() || until <= now {
                let waiter = self.waiters.remove(place);
                self.answer(waiter);
            } else {
                self.note(until);
                place += 1;
            }
        }
    }

    fn sweep_line(&mut self, number: usize, now: Instant) {
        let line = &mut self.lines[number];
        while let Some((since, caught)) = line.stash.pop_front() {
            if now < since + GRACE {
                line.stash.push_front((since, caught));
                self.wake = self.wake.min(since + GRACE);
                break;
            }
            self.unseen.add(number, caught.sequence);
            self.actions.push(Action::GiveBack(caught.reply));
            line.pending = line.pending.max(1);
        }
        if let Some(until) = line.rest_until {
            self.wake = self.wake.min(until.max(now));
            if until <= now {
                line.rest_until = None;
                self.untended.push(number);
            }
        }
        let alert = line.alert.take_if(|ask| ask.sent + ALERT + SWEEP <= now).is_some();
        let probe = line.probe.take_if(|ask| ask.sent + PROBE_PATIENCE <= now).is_some();
        if let Some(open) = &line.probe {
            self.wake = self.wake.min(open.sent + PROBE_PATIENCE);
        }
        if (alert || probe) && self.connected && line.trouble.is_none() {
            line.trouble = Some(format!("{}: the server does not answer", line.source.queue));
            self.actions.push(Action::Recreate(number));
        }
        for (over, kind) in [(alert, Kind::Alert), (probe, Kind::Probe)] {
            if over {
                self.ended(kind, number, None);
            }
        }
    }

    /// Everything that lies here or is on its way to a pull: for the end of the process.
    pub(super) fn clear(&mut self) -> Vec<Subject> {
        let stashed = self.lines.iter_mut().flat_map(|line| mem::take(&mut line.stash)).map(|(_, caught)| caught);
        let held = self.waiters.drain(..).flat_map(|waiter| waiter.got);
        stashed.chain(held).map(|caught| caught.reply).collect()
    }
}
