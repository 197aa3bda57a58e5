//! Warm before fan-out: one call writes a prompt head into the provider's cache, the others wait and read it.
//!
//! A cache entry can be read once the first reply that wrote it *begins*, so a fan-out of N calls with the same head would
//! pay for N writes. The first call with a head leads; the others wait until its reply begins, it ends, or their
//! patience ends, and a call that waited too long simply goes. So nobody can wait for ever: a leader that fails or
//! is dropped hands over to the next one. A gate that is shared asks the fleet before its first call with a head, once:
//! then its process leads, waits for another one's call, or knows that the head is warm and asks no more until it may have
//! been forgotten. It saves money and must never be needed for correctness.

mod fleet;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::fleet::{FleetHeads, HeadId, Word};
use super::LlmRequest;
use crate::backend::StateStore;
use crate::budget::PriceTable;
use crate::clock::Clock;
use crate::protocol::InstanceId;

/// How long the provider keeps an entry that nobody reads, counted from the start of the request, with some to spare.
const KEPT: Duration = Duration::from_secs(270);

/// How long a call waits for another one to warm its head: a slow first token, not a whole reply.
const PATIENCE: Duration = Duration::from_secs(20);

/// Heads remembered; the oldest is forgotten first, which costs one write more.
const MOST_HEADS: usize = 1_024;

/// Source bytes per token, a middle value: whether a head is worth waiting for is a guess that risks no money.
const BYTES_PER_TOKEN: u64 = 3;

/// Told when a reply begins; clones tell the same.
#[derive(Debug, Clone, Default)]
pub struct Began(Option<Arc<watch::Sender<bool>>>);

impl Began {
    /// Says that the reply has begun; repeating it changes nothing.
    pub fn tell(&self) {
        if let Some(sender) = &self.0 {
            sender.send_if_modified(|began| !std::mem::replace(began, true));
        }
    }
}

/// What is known about a head.
#[derive(Debug)]
enum Head {
    /// A call is on its way to write it.
    Warming(watch::Receiver<bool>),
    /// It can be read.
    Warm {
        /// Until then, by the calls of this process.
        until: Instant,
        /// Until then, as far as the fleet was told.
        told: Instant,
    },
}

/// The gate; clones share what is warm.
#[derive(Debug, Clone, Default)]
pub struct WarmGate {
    heads: Arc<Mutex<HashMap<u64, Head>>>,
    /// `None` for a process that shares nothing.
    fleet: Option<FleetHeads>,
}

/// Permission to go. A leader's must be kept until its call has ended.
#[derive(Debug, Default)]
pub struct Passage {
    led: Option<Led>,
}

impl Passage {
    /// What the call has to tell when its reply begins.
    #[must_use]
    pub fn began(&self) -> Began {
        self.led.as_ref().map(|led| led.began.clone()).unwrap_or_default()
    }

    /// True for the call that warms its head for others.
    #[must_use]
    pub const fn leads(&self) -> bool {
        self.led.is_some()
    }
}

/// Ends the lead of a call, whatever became of it.
#[derive(Debug)]
struct Led {
    gate: WarmGate,
    key: u64,
    /// Until when the head is warm once the reply has begun.
    kept: Instant,
    began: Began,
}

impl Led {
    /// The passage of this call once the fleet has spoken. `None` when the head is warm without it: those who waited for this
    /// call need not wait any longer.
    async fn agreed(mut self, word: oneshot::Receiver<Word>, cancel: &CancellationToken) -> Option<Passage> {
        let word = tokio::select! {
            biased;
            () = cancel.cancelled() => return Some(Passage::default()),
            word = word => word,
        };
        if let Ok(Word::Warm(left)) = word {
            self.kept = Instant::now() + left;
            self.began.tell();
            return None;
        }
        self.kept = Instant::now() + KEPT;
        Some(Passage { led: Some(self) })
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        let mut heads = self.gate.lock();
        let has_begun = self.began.0.as_ref().is_some_and(|sender| *sender.borrow());
        if has_begun {
            heads.insert(self.key, Head::Warm { until: self.kept, told: self.kept });
        } else {
            heads.remove(&self.key);
        }
    }
}

enum Step {
    /// The head is warm; the fleet has to be told that it was read if that is true.
    Go(bool),
    /// Nobody in this process warms it.
    Lead(Led, watch::Receiver<bool>),
    Wait(watch::Receiver<bool>),
}

impl WarmGate {
    /// A gate that shares what is warm with all processes on the same stores, whose clock is `clock`.
    #[must_use]
    pub fn shared(state: Arc<dyn StateStore>, instance: InstanceId, clock: Clock) -> Self {
        Self { heads: Arc::default(), fleet: Some(FleetHeads::new(state, instance, clock)) }
    }

    /// Lets the call through: at once when its head is warm, too short to be cached or not cached at all, as the leader when
    /// nobody warms it yet, otherwise once the leader's reply begins. Never waits longer than 20 s, nor after `cancel`.
    pub async fn pass(&self, request: &LlmRequest, prices: &PriceTable, cancel: &CancellationToken) -> Passage {
        let Some(last) = cacheable_head(request, prices) else { return Passage::default() };
        let key = local_key(request, last);
        let patience = Instant::now() + PATIENCE;
        loop {
            let mut leader = match self.step(key) {
                Step::Go(renews) => {
                    if let Some(fleet) = self.fleet.as_ref().filter(|_| renews) {
                        fleet.renew(HeadId::of(request, last));
                    }
                    return Passage::default();
                }
                Step::Lead(led, began) => {
                    let Some(fleet) = &self.fleet else { return Passage { led: Some(led) } };
                    let word = fleet.consult(HeadId::of(request, last), patience, began);
                    match led.agreed(word, cancel).await {
                        Some(passage) => return passage,
                        None => continue,
                    }
                }
                Step::Wait(leader) => leader,
            };
            tokio::select! {
                // An error means that the leader is gone: the next turn finds out who leads now.
                _ = leader.wait_for(|began| *began) => {}
                () = tokio::time::sleep_until(patience) => return Passage::default(),
                () = cancel.cancelled() => return Passage::default(),
            }
            if leader.borrow().to_owned() {
                return Passage::default();
            }
        }
    }

    fn step(&self, key: u64) -> Step {
        let now = Instant::now();
        let mut heads = self.lock();
        match heads.get_mut(&key) {
            Some(Head::Warm { until, told }) if *until > now => {
                // Reading an entry renews it; the fleet is told of it when half of what it knows has passed.
                *until = now + KEPT;
                let renews = *told < now + KEPT / 2;
                if renews {
                    *told = *until;
                }
                return Step::Go(renews);
            }
            Some(Head::Warming(leader)) if leader.has_changed().is_ok() => return Step::Wait(leader.clone()),
            _ => {}
        }
        if heads.len() >= MOST_HEADS {
            heads.retain(|_, head| matches!(head, Head::Warm { until, .. } if *until > now));
            if heads.len() >= MOST_HEADS {
                heads.clear();
            }
        }
        let (sender, receiver) = watch::channel(false);
        heads.insert(key, Head::Warming(receiver.clone()));
        let began = Began(Some(Arc::new(sender)));
        Step::Lead(Led { gate: self.clone(), key, kept: now + KEPT, began }, receiver)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Head>> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the cached prefix of the request ends; `None` when there is none, or it is shorter than what the provider caches.
fn cacheable_head(request: &LlmRequest, prices: &PriceTable) -> Option<usize> {
    let least = prices.get(&request.model)?.min_cache_tokens?;
    let last = request.system.iter().rposition(|block| block.cache)?;
    let bytes: u64 = request.system[..=last].iter().map(|block| block.text.len() as u64).sum();
    (bytes / BYTES_PER_TOKEN >= u64::from(least)).then_some(last)
}

/// Names the cached prefix and its model within this process, cheaply, for it is asked for every call. What changes the cache
/// besides the text (schema, effort) comes after the system prompt and is left out.
fn local_key(request: &LlmRequest, last: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    request.model.hash(&mut hasher);
    for block in &request.system[..=last] {
        block.text.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::SystemBlock;

    fn prices() -> PriceTable {
        PriceTable::builtin().unwrap()
    }

    fn request(head: &str, bytes: usize) -> LlmRequest {
        let system = vec![SystemBlock { text: head.repeat(bytes / head.len()).into(), cache: true }];
        LlmRequest { system, ..LlmRequest::of("claude-sonnet-5-5", "go") }
    }

    /// Passes at once or not at all.
    async fn passes(gate: &WarmGate, request: &LlmRequest) -> Option<Passage> {
        let never = CancellationToken::new();
        tokio::time::timeout(Duration::from_millis(1), gate.pass(request, &prices(), &never)).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_others_wait_until_the_first_reply_begins() {
        let gate = WarmGate::default();
        let shared = request("h", 9_000);
        let leader = passes(&gate, &shared).await.expect("leads");
        assert!(passes(&gate, &shared).await.is_none());
        assert!(passes(&gate, &request("x", 9_000)).await.is_some(), "another head is another gate");
        leader.began().tell();
        assert!(passes(&gate, &shared).await.is_some());
        drop(leader);
        tokio::time::advance(Duration::from_secs(200)).await;
        assert!(passes(&gate, &shared).await.is_some_and(|passage| !passage.leads()), "still warm");
        tokio::time::advance(Duration::from_secs(200)).await;
        assert!(passes(&gate, &shared).await.is_some_and(|passage| !passage.leads()), "reading renews it");
        tokio::time::advance(Duration::from_secs(300)).await;
        assert!(passes(&gate, &shared).await.is_some_and(|passage| passage.leads()), "cold again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_fails_hands_over_to_exactly_one_of_those_who_wait() {
        let gate = WarmGate::default();
        let shared = request("h", 9_000);
        let leader = passes(&gate, &shared).await.expect("leads");
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let (gate, shared) = (gate.clone(), shared.clone());
                tokio::spawn(async move {
                    let passage = gate.pass(&shared, &prices(), &CancellationToken::new()).await;
                    let led = passage.leads();
                    passage.began().tell();
                    // The reply goes on for a while after it has begun.
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    led
                })
            })
            .collect();
        tokio::task::yield_now().await;
        drop(leader);
        let mut leaders = 0;
        for waiter in waiting {
            leaders += u32::from(waiter.await.unwrap());
        }
        assert_eq!(leaders, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_patience_or_after_being_cancelled() {
        let gate = WarmGate::default();
        let shared = request("h", 9_000);
        let _leader = passes(&gate, &shared).await.expect("leads and never begins");
        let start = Instant::now();
        gate.pass(&shared, &prices(), &CancellationToken::new()).await;
        assert_eq!(start.elapsed(), PATIENCE);
        let cancelled = CancellationToken::new();
        cancelled.cancel();
        gate.pass(&shared, &prices(), &cancelled).await;
        assert_eq!(start.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_is_not_cached_is_not_waited_for() {
        let gate = WarmGate::default();
        let mut uncached = request("h", 9_000);
        uncached.system[0].cache = false;
        let unpriced = LlmRequest { model: "local".into(), ..request("h", 9_000) };
        for open in [request("h", 900), uncached, unpriced] {
            assert!(passes(&gate, &open).await.is_some());
            assert!(passes(&gate, &open).await.is_some(), "short, uncached or unknown: no gate");
        }
    }
}
