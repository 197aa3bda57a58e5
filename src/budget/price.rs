//! What tokens cost: the price table, the worst case before a call and the charge after it.
//!
//! Prices are integers in pico-dollars per token, which is the same number as micro-dollars per million tokens, so every
//! price that a provider prints with up to six decimals is exact. Sums are `u128`, and the one rounding (up, to a whole
//! micro-dollar) comes last. This room must never guess: a model without a price is an error, and where a price depends
//! on the hour or the date, the dearest one that can hold before the call ends counts.

mod parse;
mod season;
mod terms;
#[cfg(test)]
mod terms_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use parse::ThinkingGate;
pub(crate) use terms::keep;
pub use terms::{Named, Part, Terms, Unpinned};

use self::season::{Season, Window};
use self::terms::{Cost, Surcharges};
use super::{WorstCase, WorstCaseInput};
use crate::clock::Clock;
use crate::error::Coded;
use crate::protocol::{MicroUsd, Usage};

/// Longest price table accepted, in bytes: room for thousands of models.
pub const MAX_TABLE_BYTES: usize = 1024 * 1024;
/// Input tokens a provider may add on its own whatever is asked (tool prompt, structured-output prompt).
const INJECTED_TOKENS: u64 = 1_024;
/// Input tokens a provider may add per message and per tool (role markers, separators).
const INJECTED_TOKENS_PER_ITEM: u64 = 64;
/// Pico-dollars in a micro-dollar.
const PICO_PER_MICRO: u128 = 1_000_000;

/// Why a price cannot be computed. Every variant means: make no call.
#[derive(Debug, thiserror::Error)]
pub enum PriceError {
    /// The table has no entry for the model.
    #[error("there is no price for model {model:?}")]
    UnknownModel {
        /// The model, cut to 100 characters.
        model: String,
    },
    /// The table is not the JSON it should be; the cause names line and column.
    #[error("the price table cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// The table is longer than [`MAX_TABLE_BYTES`].
    #[error("the price table is {bytes} bytes long, more than {MAX_TABLE_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// An entry is well-formed, but its prices cannot be right.
    #[error("the price of {model} is unusable: {why}")]
    Entry {
        /// The model.
        model: String,
        /// What is wrong.
        why: String,
    },
}

impl Coded for PriceError {
    fn code(&self) -> &'static str {
        match self {
            Self::UnknownModel { .. } => "CS-PRICE-001",
            Self::Malformed(_) => "CS-PRICE-002",
            Self::TooLong { .. } => "CS-PRICE-003",
            Self::Entry { .. } => "CS-PRICE-004",
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::UnknownModel { .. } => "use a model of the price table, or add its price to the table".into(),
            _ => "correct the price table; config/prices.json shows the format".into(),
        }
    }
}

/// Prices of one prompt-size tier, in pico-dollars per token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Input that touches no cache.
    pub input: u64,
    /// Output, thinking included.
    pub output: u64,
    /// Input written to the 5-minute cache (for other providers: to their default cache).
    pub cache_write_5m: u64,
    /// Input written to the 1-hour cache.
    pub cache_write_1h: u64,
    /// Input read from the cache.
    pub cache_read: u64,
}

impl Rates {
    const FREE: Self = Self { input: 0, output: 0, cache_write_5m: 0, cache_write_1h: 0, cache_read: 0 };

    /// The dearer of the two, kind by kind.
    fn dearest(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            output: self.output.max(other.output),
            cache_write_5m: self.cache_write_5m.max(other.cache_write_5m),
            cache_write_1h: self.cache_write_1h.max(other.cache_write_1h),
            cache_read: self.cache_read.max(other.cache_read),
        }
    }
}

/// Prices of a request whose whole prompt is longer than `over` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tier {
    over: u64,
    rates: Rates,
}

/// Price and limits of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPrice {
    /// At least one; of those that hold at a time the dearest counts.
    seasons: Vec<(Season, Rates)>,
    /// Ascending by `over`.
    long_prompt: Vec<Tier>,
    /// The provider writes its cache, and charges for it, without being asked.
    implicit_cache_write: bool,
    surcharges: Surcharges,
    /// Largest prompt, in tokens.
    pub context: u64,
    /// Largest reply in tokens, thinking included; `None` when the provider does not say.
    pub max_output: Option<u32>,
    /// Shortest prefix that is cached, in tokens; `None` when the provider does not say.
    pub min_cache_tokens: Option<u32>,
    /// How thinking is switched, for the models that have it.
    pub thinking: Option<ThinkingGate>,
    /// Whether `tool_choice` may force a tool; `None` when the provider does not say.
    pub forced_tool_choice: Option<bool>,
    /// Whether it can be told how hard to think; `None` when the table does not say.
    pub effort: Option<bool>,
    /// Whether a reply can be bound to a JSON schema.
    pub structured_output: Option<bool>,
    /// Whether the region can be pinned.
    pub geo: Option<bool>,
    /// Whether sampling parameters other than the default are accepted.
    pub sampling: Option<bool>,
    /// Whether the reply may be begun by the caller.
    pub prefill: Option<bool>,
    /// The day on which the price was read from its source, as `2026-10-08`.
    pub as_of: String,
}

impl ModelPrice {
    /// True when the provider writes its cache, and charges for it, without being asked.
    #[must_use]
    pub const fn writes_cache_unasked(&self) -> bool {
        self.implicit_cache_write
    }

    /// The sizes of prompts, in tokens, above which other prices hold, ascending.
    pub fn tiers(&self) -> impl Iterator<Item = u64> {
        self.long_prompt.iter().map(|tier| tier.over)
    }

    /// The prices of short prompts, with when they hold in words.
    pub fn seasons(&self) -> impl Iterator<Item = (String, Rates)> {
        self.seasons.iter().map(|(season, rates)| (season.to_string(), *rates))
    }

    /// True when its calls cost nothing because somebody said so; a price of zero in the table is refused.
    #[must_use]
    pub const fn is_free(&self) -> bool {
        self.seasons.is_empty()
    }

    /// The most input tokens that a request can be: every byte a token, and what the provider may add; or what the provider
    /// has counted with a margin, if that is less.
    fn most_input(&self, input: &WorstCaseInput) -> u64 {
        let items = u64::from(input.messages) + u64::from(input.tools);
        let added = INJECTED_TOKENS + INJECTED_TOKENS_PER_ITEM * items;
        let by_bytes = input.body_bytes.saturating_add(added).saturating_add(input.schema_bytes);
        by_bytes.min(input.counted_input.map_or(u64::MAX, with_margin)).min(self.context)
    }

    /// The prices of a request whose prompt is `prompt_tokens` long, cached parts included. They hold for the whole
    /// request, output too. What depends on the time is the dearest of all times.
    #[must_use]
    pub fn rates(&self, prompt_tokens: u64) -> Rates {
        self.rates_within(prompt_tokens, None)
    }

    fn rates_within(&self, prompt_tokens: u64, window: Option<Window>) -> Rates {
        self.reachable(prompt_tokens).last().map_or_else(|| self.base(window), |tier| tier.rates)
    }

    /// The dearest prices, kind by kind, that any prompt of at most `prompt_tokens` can have within the window.
    fn dearest_rates(&self, prompt_tokens: u64, window: Window) -> Rates {
        self.reachable(prompt_tokens).fold(self.base(Some(window)), |rates, tier| rates.dearest(tier.rates))
    }

    /// The dearest prices of short prompts that hold at any moment of the window, or ever.
    fn base(&self, window: Option<Window>) -> Rates {
        let holds = |season: &Season| window.is_none_or(|window| season.touches(window));
        let holding = self.seasons.iter().filter(|(season, _)| holds(season)).map(|(_, rates)| *rates);
        holding.reduce(Rates::dearest).unwrap_or(Rates::FREE)
    }

    /// What so many tokens cost within the window, by the tier that the whole prompt falls into.
    fn cost(&self, usage: &Usage, window: Window) -> Cost {
        let prompt = [usage.cache_write_5m, usage.cache_write_1h, usage.cache_read];
        let prompt = prompt.into_iter().fold(usage.input, u64::saturating_add);
        let rates = self.rates_within(prompt, Some(window));
        let input = [
            (usage.input, rates.input),
            (usage.cache_write_5m, rates.cache_write_5m),
            (usage.cache_write_1h, rates.cache_write_1h),
            (usage.cache_read, rates.cache_read),
        ];
        let times = |(tokens, price)| u128::from(tokens) * u128::from(price);
        Cost { input: input.into_iter().map(times).sum(), output: times((usage.output, rates.output)) }
    }

    /// The most that a request can come to within the window, whatever region and tier make of it.
    fn most(&self, input: &WorstCaseInput, window: Window) -> Bound {
        let tokens = self.most_input(input);
        let rates = self.dearest_rates(tokens, window);
        let mut price = rates.input.max(rates.cache_read);
        if input.writes_5m || self.implicit_cache_write {
            price = price.max(rates.cache_write_5m);
        }
        if input.writes_1h {
            price = price.max(rates.cache_write_1h);
        }
        Bound {
            input_cost: u128::from(tokens) * u128::from(price),
            output_price: u128::from(rates.output),
            max_output: self.max_output.unwrap_or(u32::MAX),
            factor: self.surcharges.dearest(input.unpinned),
        }
    }

    fn reachable(&self, prompt_tokens: u64) -> impl Iterator<Item = &Tier> {
        self.long_prompt.iter().take_while(move |tier| prompt_tokens > tier.over)
    }
}

/// What the models of a named endpoint cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointPrices {
    /// What the table says of the model, whoever serves it.
    List,
    /// Only what the table says of `endpoint/model`.
    Own,
    /// Nothing, because somebody said so.
    Free,
}

/// Prices of all known models.
#[derive(Debug, Clone)]
pub struct PriceTable {
    /// How `endpoint/model` is priced unless the table names it whole.
    endpoints: BTreeMap<String, EndpointPrices>,
    models: BTreeMap<String, ModelPrice>,
    /// Names without their date suffix; `None` where several dated models share one.
    aliases: BTreeMap<String, Option<String>>,
    /// Tells which of several prices hold.
    clock: Clock,
}

/// Both halves of a bound, so that it can be inverted without rounding.
struct Bound {
    /// Everything but output, in pico-dollars.
    input_cost: u128,
    /// Price of one output token, in pico-dollars.
    output_price: u128,
    /// The model's own limit on output.
    max_output: u32,
    /// What region and service tier can multiply both by, as a fraction.
    factor: (u128, u128),
}

impl Bound {
    fn cost(&self, max_tokens: u32) -> Cost {
        let output = u128::from(max_tokens.min(self.max_output));
        Cost { input: self.input_cost, output: output * self.output_price }
    }

    fn amount(&self, max_tokens: u32) -> MicroUsd {
        let Cost { input, output } = self.cost(max_tokens);
        let (over, under) = self.factor;
        round_up((input + output).saturating_mul(over).div_ceil(under))
    }

    /// What `available` may cost before region and service tier; exact, so that the bound can be inverted.
    fn within(&self, available: MicroUsd) -> u128 {
        let (over, under) = self.factor;
        (u128::from(available.0) * PICO_PER_MICRO).saturating_mul(under) / over
    }
}

impl PriceTable {
    /// The table that ships with the program (`config/prices.json`).
    ///
    /// # Errors
    /// As [`PriceTable::parse`].
    pub fn builtin() -> Result<Self, PriceError> {
        Self::parse(include_str!("../../config/prices.json"))
    }

    /// Reads a table in the format of `config/prices.json`: dollars per million tokens as JSON numbers.
    ///
    /// # Errors
    /// [`PriceError`] for anything that would need a guess: a missing, zero or over-precise price, an unknown key.
    pub fn parse(json: &str) -> Result<Self, PriceError> {
        if json.len() > MAX_TABLE_BYTES {
            return Err(PriceError::TooLong { bytes: json.len() });
        }
        let models = parse::models(json)?;
        let aliases = aliases(&models);
        Ok(Self { endpoints: BTreeMap::new(), models, aliases, clock: Clock::system() })
    }

    /// The table with every model of `other` added, or replaced where both name it.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        self.models.extend(other.models);
        self.aliases = aliases(&self.models);
        self.endpoints.extend(other.endpoints);
        self
    }

    /// The table going by `clock`: the stores' one, so that all processes agree on which prices hold.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The table with a rule for the models of one endpoint.
    #[must_use]
    pub fn with_endpoint(mut self, name: &str, prices: EndpointPrices) -> Self {
        self.endpoints.insert(name.to_owned(), prices);
        self
    }

    /// The table as one endpoint sees it, which knows nothing of its own name: what is said of `name/model` holds for `model`.
    #[must_use]
    pub fn seen_from(&self, name: &str) -> Self {
        let mut table = self.clone();
        let own = self.models.iter().filter_map(|(full, price)| {
            let (endpoint, model) = full.split_once('/')?;
            (endpoint == name).then(|| (model.to_owned(), price.clone()))
        });
        table.models.extend(own);
        table.aliases = aliases(&table.models);
        table
    }

    /// The price of `model`, if it is known: named in full or without its date suffix, plain or as `endpoint/model`.
    #[must_use]
    pub fn get(&self, model: &str) -> Option<&ModelPrice> {
        self.listed(model).or_else(|| {
            let (endpoint, plain) = model.split_once('/')?;
            match self.endpoints.get(endpoint)? {
                EndpointPrices::List => self.listed(plain),
                EndpointPrices::Own => None,
                EndpointPrices::Free => Some(&FREE),
            }
        })
    }

    fn listed(&self, model: &str) -> Option<&ModelPrice> {
        self.models.get(model).or_else(|| self.models.get(self.aliases.get(model)?.as_deref()?))
    }

    /// The prices of `model` for short prompts at present: the dearest that a call that begins now can have.
    #[must_use]
    pub fn present(&self, model: &ModelPrice) -> Rates {
        model.base(Some(Window::of_bound(self.clock.now())))
    }

    /// Names of all endpoints and how their models are priced.
    pub fn endpoints(&self) -> impl Iterator<Item = (&str, EndpointPrices)> {
        self.endpoints.iter().map(|(name, prices)| (name.as_str(), *prices))
    }

    /// Names of all known models, ascending.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.models.keys().map(String::as_str)
    }

    /// The day of the oldest price in the table, as `2026-10-08`; empty for an empty table.
    #[must_use]
    pub fn as_of(&self) -> &str {
        self.models.values().map(|model| model.as_of.as_str()).min().unwrap_or_default()
    }

    /// The most that a call can cost: every byte a token, every token at the dearest price it can have.
    ///
    /// # Errors
    /// [`PriceError::UnknownModel`].
    pub fn worst_case(&self, input: &WorstCaseInput) -> Result<MicroUsd, PriceError> {
        Ok(self.bound(input)?.amount(input.max_tokens))
    }

    /// Largest `max_tokens` (at most the input's own) whose worst case fits into `available`; 0 when none does.
    ///
    /// # Errors
    /// [`PriceError::UnknownModel`].
    pub fn largest_output(&self, input: &WorstCaseInput, available: MicroUsd) -> Result<u32, PriceError> {
        let bound = self.bound(input)?;
        let Some(left) = bound.within(available).checked_sub(bound.input_cost) else {
            return Ok(0);
        };
        // A free model costs nothing however much it says.
        let affordable = left.checked_div(bound.output_price).unwrap_or(u128::MAX);
        if affordable >= u128::from(input.max_tokens.min(bound.max_output)) {
            return Ok(input.max_tokens);
        }
        Ok(u32::try_from(affordable).unwrap_or(input.max_tokens))
    }

    /// The most that a call can take: money, or tokens when the model is free and money bounds nothing.
    ///
    /// # Errors
    /// [`PriceError::UnknownModel`].
    pub fn worst(&self, input: &WorstCaseInput) -> Result<WorstCase, PriceError> {
        let amount = self.worst_case(input)?;
        let model = self.known(&input.model)?;
        let tokens = if model.is_free() {
            let output = input.max_tokens.min(model.max_output.unwrap_or(u32::MAX));
            model.most_input(input).saturating_add(u64::from(output))
        } else {
            0
        };
        Ok(WorstCase { amount, tokens })
    }

    /// The most input tokens that a call can have, by which its tier is chosen and its input is priced.
    ///
    /// # Errors
    /// [`PriceError::UnknownModel`].
    pub fn most_input(&self, input: &WorstCaseInput) -> Result<u64, PriceError> {
        Ok(self.known(&input.model)?.most_input(input))
    }

    /// Largest `max_tokens` (at most the input's own) of a free model with which a call fits into `available` tokens; 0 when
    /// none does.
    ///
    /// # Errors
    /// [`PriceError::UnknownModel`].
    pub fn largest_output_within(&self, input: &WorstCaseInput, available: u64) -> Result<u32, PriceError> {
        let left = available.saturating_sub(self.known(&input.model)?.most_input(input));
        Ok(u32::try_from(left).unwrap_or(u32::MAX).min(input.max_tokens))
    }

    /// What a call with this usage costs at the plain price, by the tier its whole prompt falls into.
    ///
    /// # Errors
    /// [`PriceError::UnknownModel`].
    pub fn charge(&self, model: &str, usage: &Usage) -> Result<MicroUsd, PriceError> {
        let Cost { input, output } = self.known(model)?.cost(usage, Window::of_charge(self.clock.now()));
        Ok(round_up(input + output))
    }

    fn known(&self, model: &str) -> Result<&ModelPrice, PriceError> {
        self.get(model).ok_or_else(|| PriceError::UnknownModel { model: model.chars().take(100).collect() })
    }

    fn bound(&self, input: &WorstCaseInput) -> Result<Bound, PriceError> {
        Ok(self.known(&input.model)?.most(input, Window::of_bound(self.clock.now())))
    }
}

/// A model that somebody declared free.
static FREE: ModelPrice = ModelPrice {
    seasons: Vec::new(),
    long_prompt: Vec::new(),
    implicit_cache_write: false,
    surcharges: Surcharges::NONE,
    context: u64::MAX,
    max_output: None,
    min_cache_tokens: None,
    thinking: None,
    forced_tool_choice: None,
    effort: None,
    structured_output: None,
    geo: None,
    sampling: None,
    prefill: None,
    as_of: String::new(),
};

/// Names without their date suffix; `None` where several dated models share one.
fn aliases(models: &BTreeMap<String, ModelPrice>) -> BTreeMap<String, Option<String>> {
    let mut aliases = BTreeMap::new();
    for name in models.keys() {
        if let Some(alias) = parse::without_date(name) {
            aliases
                .entry(alias.to_owned())
                .and_modify(|shared: &mut Option<String>| *shared = None)
                .or_insert_with(|| Some(name.clone()));
        }
    }
    aliases
}

/// What a counted prompt is taken for: a tenth more, because the count is an estimate, and what the provider may add.
const fn with_margin(counted: u64) -> u64 {
    counted.saturating_add(counted.div_ceil(10)).saturating_add(INJECTED_TOKENS)
}

/// Whole micro-dollars that cover `pico` pico-dollars.
fn round_up(pico: u128) -> MicroUsd {
    MicroUsd(u64::try_from(pico.div_ceil(PICO_PER_MICRO)).unwrap_or(u64::MAX))
}
