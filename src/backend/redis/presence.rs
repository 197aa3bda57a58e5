//! Who is alive: every process says so now and then, and whoever is silent for too long is buried by another.
//!
//! | Key below `<namespace>:{presence}:` | What |
//! |---|---|
//! | `beats` | sorted set of living processes by when they last said so |
//! | `dying` | those found silent, by when somebody else may bury them if the present one does not finish |
//! | `dead` | those buried, by when; forgotten after an hour |
//! | `deaf` | when nobody at all had been heard for a while: the server was away, and silence before that proves nothing |
//!
//! Burying has several steps in several places, each idempotent: reservations become spent, leases and places in queues
//! end, and `fleet/instance/<id>` says dead, in this order, so that whoever reads "dead" finds the rest done. Only then do
//! messages come back that were put away because the dead process held their attempts. Silence proves
//! nothing, unlike the file locks of the embedded backend: a process that was only stopped says so again, and what was
//! taken from it stays taken. Fences, claims and settled charges make that safe.

use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Store;
use super::reply::{Reply, parsed, text};
use super::script::{PRESENCE_BEAT, PRESENCE_END, millis};
use crate::backend::{BackendError, Expected, StateStore, Write, presence};
use crate::protocol::InstanceId;

/// After this time in death a process is forgotten, and its keys are removed.
const MEMORY: Duration = Duration::from_secs(3_600);

/// Members of a sorted set that one step looks at.
const STEP: usize = 256;

/// A round trip that took longer says too little about the server's clock, unless nothing better is known.
const CLEAR_ROUND_TRIP: Duration = Duration::from_millis(50);

/// What a beat has found.
struct Beat {
    /// This process was not known to live.
    is_new: bool,
    bury: Vec<InstanceId>,
    forget: Vec<InstanceId>,
}

impl Store {
    async fn say(&self, dead_after: Duration) -> Result<Beat, BackendError> {
        let mut call = self.call(&PRESENCE_BEAT, &self.space.presence);
        call.arg(self.process.as_str()).arg(millis(dead_after).max(1)).arg(millis(MEMORY));
        let start = Instant::now();
        let mut reply = Reply::of(self.links.ask(call).await?)?;
        let round_trip = start.elapsed();
        let now = reply.time()?;
        if let Some(setter) = &self.setter
            && (round_trip <= CLEAR_ROUND_TRIP || !self.is_set.swap(true, std::sync::atomic::Ordering::Relaxed))
        {
            setter.set(now.after(round_trip / 2));
        }
        let is_new = reply.number()? == 1;
        let ids = |reply: Reply| reply.texts()?.iter().map(|id| parsed(id)).collect::<Result<Vec<_>, _>>();
        Ok(Beat { is_new, bury: ids(reply.list()?)?, forget: ids(reply.list()?)? })
    }

    /// Enters this process among the living.
    pub(super) async fn enter(&self, dead_after: Duration) -> Result<(), BackendError> {
        self.say(dead_after).await?;
        self.announce().await
    }

    async fn announce(&self) -> Result<(), BackendError> {
        self.write_presence(&self.process, Expected::Any, Some(presence::ALIVE)).await
    }

    async fn write_presence(
        &self,
        instance: &InstanceId,
        expected: Expected,
        value: Option<&'static [u8]>,
    ) -> Result<(), BackendError> {
        let write = Write { key: presence::key(instance), expected, value: value.map(Bytes::from_static) };
        self.commit(&self.process, vec![write]).await.map(drop)
    }

    /// Takes over from `dead`.
    async fn bury(&self, dead: &InstanceId) -> Result<(), BackendError> {
        if self.known.seen().is_none() {
            // This process is not ready yet; another beat will do it.
            return Ok(());
        }
        // Read first: a process that says that it lives while it is being buried moves the version on.
        let found = self.get(&[presence::key(dead)]).await?.into_iter().flatten().next();
        let mut is_dying = redis::cmd("ZSCORE");
        is_dying.arg(format!("{}:dying", self.space.presence)).arg(dead.as_str());
        if self.links.ask(is_dying).await? == Value::Nil {
            return Ok(());
        }
        for ids in self.members(&format!("{}:open", self.space.budget)).await?.chunks(STEP) {
            self.orphan_reservations(dead, ids).await?;
        }
        for resources in self.members(&format!("{}:resources", self.space.locks)).await?.chunks(STEP) {
            self.orphan_locks(dead, resources).await?;
        }
        let is_dead =
            found.as_ref().and_then(|entry| entry.value.as_ref()).is_some_and(|value| presence::is_dead(value));
        if !is_dead {
            let expected = found.map_or(Expected::Absent, |entry| Expected::Version(entry.version));
            match self.write_presence(dead, expected, Some(presence::DEAD)).await {
                Ok(()) => tracing::info!(instance = %dead, "took over from a process that has died"),
                // It lives, or somebody else has buried it.
                Err(BackendError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        // After the word, for whoever gets them looks for it.
        self.orphan_delays(dead).await?;
        self.end("bury", dead).await
    }

    /// Removes what a process has left in the state, long after it died.
    async fn forget(&self, dead: &InstanceId) -> Result<(), BackendError> {
        let keys = presence::left_behind(dead);
        let found = self.get(&keys).await?;
        let is_alive = |value: &Bytes| !presence::is_dead(value);
        let present = found.first().and_then(|entry| entry.as_ref()).and_then(|entry| entry.value.as_ref());
        if !present.is_some_and(is_alive) {
            let left = found.into_iter().flatten();
            let remove = |entry: crate::backend::Versioned| Write {
                key: entry.key,
                expected: Expected::Version(entry.version),
                value: None,
            };
            let writes: Vec<Write> = left.map(remove).collect();
            match self.commit(&self.process, writes).await {
                // It lives, or somebody else has removed them.
                Ok(_) | Err(BackendError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.end("forget", dead).await
    }

    async fn end(&self, how: &str, dead: &InstanceId) -> Result<(), BackendError> {
        let mut call = self.call(&PRESENCE_END, &self.space.presence);
        call.arg(how).arg(dead.as_str());
        self.links.ask(call).await.map(drop)
    }

    /// All members of a sorted set that are in it from beginning to end of the scan.
    async fn members(&self, key: &str) -> Result<Vec<String>, BackendError> {
        let (mut members, mut cursor) = (Vec::new(), "0".to_owned());
        loop {
            let mut scan = redis::cmd("ZSCAN");
            scan.arg(key).arg(&cursor).arg("COUNT").arg(STEP);
            let mut reply = Reply::of(self.links.ask(scan).await?)?;
            cursor = reply.text()?;
            // Each member comes with its score.
            let found: Vec<Value> = reply.list()?.rest().step_by(2).collect();
            for member in found {
                members.push(text(member)?);
            }
            if cursor == "0" {
                return Ok(members);
            }
        }
    }

    async fn beat(&self, dead_after: Duration, must_announce: &mut bool) -> Result<(), BackendError> {
        let beat = self.say(dead_after).await?;
        if beat.is_new {
            tracing::warn!(
                instance = %self.process,
                "others may have taken this process for dead: its open reservations count as spent, its leases are over"
            );
            *must_announce = true;
        }
        if *must_announce {
            self.announce().await?;
            *must_announce = false;
        }
        for dead in &beat.bury {
            self.bury(dead).await?;
        }
        for dead in &beat.forget {
            self.forget(dead).await?;
        }
        Ok(())
    }
}

/// Beats until the stores are dropped.
pub(super) async fn run(store: Weak<Store>, every: Duration, dead_after: Duration, ending: CancellationToken) {
    let mut ticks = interval(every.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut must_announce, mut is_failing) = (false, false);
    while ending.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(store) = store.upgrade() else { return };
        match store.beat(dead_after, &mut must_announce).await {
            Ok(()) => {
                if std::mem::take(&mut is_failing) {
                    tracing::info!("this process can say again that it lives");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(%error, "this process cannot say that it lives, or bury one that does not");
                }
            }
        }
    }
}
