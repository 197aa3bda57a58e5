//! This process's share of the fleet's allowances: who waits for them, and what is taken ahead.
//!
//! The allowances are kept in the store, where one take is one write. So a process takes a little ahead while there is
//! plenty, up to twice what it used since its last take, and gives back what it did not use with its next take: under load a
//! write serves many calls, under scarcity nothing is hoarded. Callers stand in one line per provider and model, and the
//! first of them asks for all. What a call will cost in tokens is not known before, so it is estimated from those before
//! it and corrected after. A store that does not answer stops nothing here: the provider's own refusals remain.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as Line;
use tokio::time::{Instant, sleep, timeout};

use crate::backend::{Amounts, Headroom, Limits, RateTable, Take, Taken};
use crate::metric;
use crate::protocol::Usage;

/// How long what was taken ahead may be used; then it goes back.
const ADVANCE: Duration = Duration::from_secs(1);

/// Most calls taken ahead at once.
const MOST_AHEAD: u64 = 64;

/// When those should come back who have stood in line in vain, without ever learning how long it is.
const LATER: Duration = Duration::from_secs(5);

/// Bytes per input token before anything is known; fewer than usual, to err on the side of asking for less.
const BYTES_PER_TOKEN: f64 = 3.0;

/// Weight of the newest call in the estimates.
const NEWEST: f64 = 0.1;

/// Allowances by provider and model.
#[derive(Clone)]
pub struct FleetRates {
    table: Arc<dyn RateTable>,
    limits: Limits,
    /// Other limits by provider, or by provider and model.
    own: Arc<HashMap<String, Limits>>,
    keys: Arc<Mutex<HashMap<String, Arc<Key>>>>,
}

struct Key {
    name: String,
    limits: Limits,
    /// Held by the one who asks the store; the others stand in line behind.
    line: Line<Pool>,
    news: Mutex<News>,
}

/// What was taken and not used yet.
#[derive(Default)]
struct Pool {
    left: Amounts,
    /// Nobody has named a limit.
    is_free: bool,
    until: Option<Instant>,
    /// Calls since the store was last asked.
    served: u64,
}

/// What the store has to be told with the next take.
#[derive(Default)]
struct News {
    correction: [i64; 3],
    headroom: Option<(Headroom, Instant)>,
    /// What was taken ahead must not be used before the store has heard this.
    urgent: bool,
    /// Input tokens per byte and output tokens per call, learned from the calls so far.
    tokens_per_byte: Option<f64>,
    output_tokens: Option<f64>,
}

/// What a call used of its allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Used {
    /// These tokens.
    Known(Usage),
    /// No tokens: the provider refused it.
    NoTokens,
    /// Nothing at all: it was never sent.
    Nothing,
    /// Nobody knows: the estimate stands.
    Unknown,
}

/// Allowance for one call.
#[must_use = "the estimate stays taken until the ticket says what was used"]
pub struct Ticket {
    rates: FleetRates,
    key: Arc<Key>,
    /// `None` when nobody had named a limit to take from.
    taken: Option<Amounts>,
    bytes: usize,
}

impl FleetRates {
    /// Allowances in `table`, the configured ones being `limits` per provider and model.
    #[must_use]
    pub fn new(table: Arc<dyn RateTable>, limits: Limits) -> Self {
        Self { table, limits, own: Arc::default(), keys: Arc::default() }
    }

    /// The same, with other limits for what `own` names: `provider/model`, or `provider` for each model of it that is not
    /// named itself.
    #[must_use]
    pub fn with_own(self, own: HashMap<String, Limits>) -> Self {
        Self { own: Arc::new(own), ..self }
    }

    fn limits_of(&self, name: &str) -> Limits {
        let provider = || name.split_once('/').and_then(|(provider, _)| self.own.get(provider));
        *self.own.get(name).or_else(provider).unwrap_or(&self.limits)
    }

    /// Waits for the allowance of one call to `key` of `bytes` bytes that may answer with `max_tokens`, at most for
    /// `patience`.
    ///
    /// # Errors
    /// How long to stay away, when that would take longer.
    pub async fn take(&self, key: &str, bytes: usize, max_tokens: u32, patience: Duration) -> Result<Ticket, Duration> {
        let key = self.key(key);
        let began = Instant::now();
        let need = key.news().estimate(bytes, max_tokens);
        let Ok(mut pool) = timeout(patience, key.line.lock()).await else { return Err(LATER) };
        while !pool.serve(need, &mut key.news()) {
            let wait = self.ask(&key, &mut pool, need).await;
            if wait.is_zero() {
                continue;
            }
            if began.elapsed() + wait > patience {
                return Err(wait);
            }
            sleep(wait).await;
        }
        let taken = (!pool.is_free).then_some(need);
        drop(pool);
        metric::rate_waited(&key.name, began.elapsed());
        Ok(Ticket { rates: self.clone(), key, taken, bytes })
    }

    fn key(&self, name: &str) -> Arc<Key> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys.get(name) {
            return Arc::clone(key);
        }
        let key = Arc::new(Key {
            name: name.to_owned(),
            limits: self.limits_of(name),
            line: Line::new(Pool::default()),
            news: Mutex::new(News::default()),
        });
        keys.insert(name.to_owned(), Arc::clone(&key));
        key
    }

    /// Asks the store for `need` and, while there is plenty, for what is likely to follow. Answers how long to wait.
    async fn ask(&self, key: &Key, pool: &mut Pool, need: Amounts) -> Duration {
        let ahead = pool.served.saturating_mul(2).clamp(1, MOST_AHEAD);
        let want = Amounts::of_meters(need.by_meter().map(|amount| amount.saturating_mul(ahead)));
        let take = key.news().take(need, want, std::mem::take(&mut pool.left));
        metric::rate_taken(&key.name);
        let taken = self.table.take(&key.name, &key.limits, take).await;
        (pool.until, pool.served) = (Some(Instant::now() + ADVANCE), 0);
        match taken {
            Ok(Taken::Granted { amounts, limited }) => {
                // What was not taken from anything must not be given back.
                (pool.left, pool.is_free) = (if limited { amounts } else { Amounts::default() }, !limited);
                Duration::ZERO
            }
            Ok(Taken::Wait(wait)) => {
                pool.until = None;
                wait.max(Duration::from_millis(1))
            }
            Err(error) => {
                tracing::warn!(key = key.name, %error, "the fleet's rates cannot be asked; calls pass");
                pool.is_free = true;
                Duration::ZERO
            }
        }
    }

    /// Tells the store what cannot wait for the next take.
    async fn tell(&self, key: &Key) {
        let take = key.news().take(Amounts::default(), Amounts::default(), Amounts::default());
        // Whoever asks next must not go by what was known before.
        key.news().urgent = true;
        if let Err(error) = self.table.take(&key.name, &key.limits, take).await {
            tracing::warn!(key = key.name, %error, "the fleet does not hear that the provider wants a pause");
        }
    }
}

impl Key {
    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Takes `need` out of what is left; false when the store has to be asked.
    fn serve(&mut self, need: Amounts, news: &mut News) -> bool {
        let is_fresh = self.until.is_some_and(|until| Instant::now() < until);
        if !is_fresh || std::mem::take(&mut news.urgent) {
            return false;
        }
        self.served += 1;
        if self.is_free {
            return true;
        }
        match self.left.minus(need) {
            Some(left) => self.left = left,
            None => return false,
        }
        true
    }
}

impl News {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "rates")]
    fn estimate(&self, bytes: usize, max_tokens: u32) -> Amounts {
        let input = bytes as f64 * self.tokens_per_byte.unwrap_or(1.0 / BYTES_PER_TOKEN);
        let output = self.output_tokens.unwrap_or(f64::from(max_tokens) / 4.0).min(f64::from(max_tokens));
        Amounts { requests: 1, input_tokens: input.ceil() as u64, output_tokens: output.ceil() as u64 }
    }

    /// The step that takes `need` or `want`, gives `unused` back and tells what has happened.
    fn take(&mut self, need: Amounts, want: Amounts, unused: Amounts) -> Take {
        let mut correction = std::mem::take(&mut self.correction);
        for (by, unused) in correction.iter_mut().zip(unused.by_meter()) {
            *by = by.saturating_sub_unsigned(unused);
        }
        let headroom = self.headroom.take().map(|(headroom, at)| {
            let pause = headroom.pause.map(|pause| pause.saturating_sub(at.elapsed()));
            Headroom { age: headroom.age + at.elapsed(), pause, ..headroom }
        });
        self.urgent = false;
        Take { need, want, correction, headroom }
    }

    fn learn(&mut self, taken: Option<Amounts>, bytes: usize, used: Used) {
        if let Used::Known(usage) = used {
            self.note(counted(usage), usage.output, bytes);
        }
        let Some(taken) = taken else { return };
        let real = match used {
            Used::Known(usage) => Amounts { requests: 1, input_tokens: counted(usage), output_tokens: usage.output },
            Used::NoTokens => Amounts { requests: taken.requests, ..Amounts::default() },
            Used::Nothing => Amounts::default(),
            Used::Unknown => taken,
        };
        for ((by, real), taken) in self.correction.iter_mut().zip(real.by_meter()).zip(taken.by_meter()) {
            *by = by.saturating_add_unsigned(real).saturating_sub_unsigned(taken);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "rates")]
    fn note(&mut self, input: u64, output: u64, bytes: usize) {
        let per_byte = input as f64 / bytes.max(1) as f64;
        let blend = |known: Option<f64>, new: f64| Some(known.map_or(new, |known| known + NEWEST * (new - known)));
        self.tokens_per_byte = blend(self.tokens_per_byte, per_byte);
        self.output_tokens = blend(self.output_tokens, output as f64);
    }
}

/// Input tokens as providers limit them: what is read from the cache does not count.
const fn counted(usage: Usage) -> u64 {
    usage.input + usage.cache_write_5m + usage.cache_write_1h
}

impl Ticket {
    /// Says what the call used and what the provider said about its limits meanwhile.
    pub async fn finish(self, used: Used, headroom: Option<Headroom>) {
        let is_urgent = {
            let mut news = self.key.news();
            news.learn(self.taken, self.bytes, used);
            let pauses = headroom.is_some_and(|headroom| headroom.pause.is_some());
            if let Some(headroom) = headroom {
                let pause = headroom.pause.max(news.headroom.and_then(|(known, _)| known.pause));
                news.headroom = Some((Headroom { pause, ..headroom }, Instant::now()));
            }
            pauses
        };
        if is_urgent {
            self.rates.tell(&self.key).await;
        }
    }
}

#[cfg(test)]
#[path = "rates_tests.rs"]
mod tests;
