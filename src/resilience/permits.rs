//! The places for calls of one process to one provider and model: as many as [`Aimd`] allows, handed out by
//! [`Bulkhead`].
//!
//! A permit is a place; dropping it, however that comes about, frees the place and wakes the next. Whoever gives up waiting
//! leaves no trace. The lock is held for a few comparisons and never across a wait.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::aimd::{Aimd, AimdPolicy, Load};
use super::bulkhead::Bulkhead;
use crate::metric;
use crate::protocol::AgentType;

/// Places with a moving limit.
#[derive(Debug, Clone)]
pub struct Permits(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// For metrics: provider and model.
    key: String,
    bulkhead: Bulkhead,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    aimd: Aimd,
    under_way: u32,
    held: HashMap<AgentType, u32>,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    agent: AgentType,
    place: oneshot::Sender<Permit>,
}

/// A place for one call.
#[derive(Debug)]
#[must_use = "a dropped permit frees its place"]
pub struct Permit {
    shared: Arc<Shared>,
    agent: AgentType,
    began: Instant,
    load: Load,
}

impl Permits {
    /// Places for calls to `key`.
    #[must_use]
    pub fn new(key: &str, policy: AimdPolicy, bulkhead: Bulkhead) -> Self {
        let state = State { aimd: Aimd::new(policy), under_way: 0, held: HashMap::new(), waiting: VecDeque::new() };
        Self(Arc::new(Shared { key: key.to_owned(), bulkhead, state: Mutex::new(state) }))
    }

    /// Waits for a place, at most for `patience`; `None` when none became free. Dropping the future leaves the queue.
    pub async fn acquire(&self, agent: &AgentType, patience: Duration) -> Option<Permit> {
        let (place, mut got) = oneshot::channel();
        {
            let mut state = self.0.lock();
            state.waiting.push_back(Waiter { agent: agent.clone(), place });
            self.0.hand_out(state);
        }
        // A permit that arrives at the last moment is in the channel, and is freed when the channel is dropped.
        match timeout(patience, &mut got).await {
            Ok(permit) => permit.ok(),
            Err(_) => {
                got.close();
                got.try_recv().ok()
            }
        }
    }

    /// Calls that may be under way, that are, and that wait.
    #[must_use]
    pub fn counts(&self) -> (u32, u32, usize) {
        let state = self.0.lock();
        let waiting = state.waiting.iter().filter(|waiter| !waiter.place.is_closed());
        (state.aimd.limit(), state.under_way, waiting.count())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives free places to those who wait.
    fn hand_out(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let mut unwanted = Vec::new();
        state.waiting.retain(|waiter| !waiter.place.is_closed());
        while state.under_way < state.aimd.limit() {
            let places = state.aimd.limit();
            let held = |agent: &AgentType| state.held.get(agent).copied().unwrap_or(0);
            let Some(at) = self.bulkhead.next(state.waiting.iter().map(|waiter| &waiter.agent), held, places) else {
                break;
            };
            let Some(Waiter { agent, place }) = state.waiting.remove(at) else { break };
            state.under_way += 1;
            *state.held.entry(agent.clone()).or_default() += 1;
            let permit = Permit { shared: Arc::clone(self), agent, began: Instant::now(), load: Load::Unknown };
            unwanted.extend(place.send(permit).err());
        }
        metric::permits(&self.key, state.aimd.limit(), state.under_way, state.waiting.len());
        drop(state);
        // Freeing a place takes the lock again, so it has to come after.
        drop(unwanted);
    }
}

impl Permit {
    /// The call begins now, after all other waiting.
    pub fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// Frees the place and says how the call went.
    pub fn finish(mut self, load: Load) {
        self.load = load;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let under_way = state.under_way;
        state.aimd.ended(self.load, self.began, Instant::now(), under_way);
        state.under_way = under_way.saturating_sub(1);
        let is_last = state.held.get_mut(&self.agent).is_none_or(|held| {
            *held = held.saturating_sub(1);
            *held == 0
        });
        if is_last {
            state.held.remove(&self.agent);
        }
        self.shared.hand_out(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn permits(start: u32, share_percent: u32) -> Permits {
        let policy = AimdPolicy { start, max: start, slowdown: 0 };
        Permits::new("test/model", policy, Bulkhead { share_percent })
    }

    fn agent(name: &str) -> AgentType {
        AgentType::new(name).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_limit_are_under_way_and_a_dropped_permit_serves_the_next() {
        let (permits, coder) = (permits(2, 100), agent("coder"));
        let one = permits.acquire(&coder, LONG).await.unwrap();
        let _two = permits.acquire(&coder, LONG).await.unwrap();
        let start = Instant::now();
        assert!(permits.acquire(&coder, Duration::from_secs(3)).await.is_none());
        assert_eq!((start.elapsed(), permits.counts()), (Duration::from_secs(3), (2, 2, 0)));
        let waiting = tokio::spawn({
            let (permits, coder) = (permits.clone(), coder.clone());
            async move { permits.acquire(&coder, LONG).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(permits.counts(), (2, 2, 1));
        drop(one);
        assert!(waiting.await.unwrap().is_some());
        assert_eq!(permits.counts(), (2, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_waiting_takes_no_place() {
        let (permits, coder) = (permits(1, 100), agent("coder"));
        let held = permits.acquire(&coder, LONG).await.unwrap();
        let gone = tokio::spawn({
            let (permits, coder) = (permits.clone(), coder.clone());
            async move { permits.acquire(&coder, LONG).await }
        });
        tokio::task::yield_now().await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        drop(held);
        assert!(permits.acquire(&coder, Duration::ZERO).await.is_some());
        assert_eq!(permits.counts().1, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_type_cannot_starve_another() {
        let (permits, coder, testing) = (permits(4, 50), agent("coder"), agent("testing"));
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(permits.acquire(&coder, LONG).await.unwrap());
        }
        let wait = |agent: &AgentType| {
            let (permits, agent) = (permits.clone(), agent.clone());
            tokio::spawn(async move { permits.acquire(&agent, LONG).await })
        };
        let mut coders: Vec<_> = (0..10).map(|_| wait(&coder)).collect();
        tokio::task::yield_now().await;
        let tester = wait(&testing);
        tokio::task::yield_now().await;
        held.pop();
        assert!(tester.await.unwrap().is_some(), "ten coders came earlier, and four hold everything");
        drop(held);
        assert!(coders.remove(0).await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_calls_report_moves_the_limit() {
        let policy = AimdPolicy { start: 10, max: 20, slowdown: 0 };
        let permits = Permits::new("test/model", policy, Bulkhead { share_percent: 100 });
        let coder = agent("coder");
        let mut all = Vec::new();
        for _ in 0..10 {
            all.push(permits.acquire(&coder, LONG).await.unwrap());
        }
        all.pop().unwrap().finish(Load::TooMuch);
        assert_eq!(permits.counts().0, 9);
        all.into_iter().for_each(|permit| permit.finish(Load::Unknown));
        assert_eq!(permits.counts(), (9, 0, 0));
    }
}
