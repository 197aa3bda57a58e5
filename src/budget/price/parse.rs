//! Reading the price table.
//!
//! Prices are taken from the digits of the JSON text, never through a floating-point number, so `0.1` is exactly a tenth
//! of a dollar. Unknown keys are refused: a surcharge that this program does not understand must not be ignored. What
//! depends on the date (`then`) or the hour (`off_peak`) counts at its dearest at all times unless the table says until which
//! day (`effective_until`) or in which hours (`peak_utc`) the dearer one holds.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::season::{Peak, Season, end_of_day};
use super::terms::{Factor, Surcharges};
use super::{ModelPrice, PriceError, Rates, Tier};
use crate::protocol::MicroUsd;

/// Largest context window accepted, in tokens; a thousand times today's.
const MAX_CONTEXT: u64 = 1_000_000_000;
/// Largest factor accepted, in millionths: ten times the plain price.
const MAX_FACTOR: u64 = 10_000_000;

/// How a model's thinking is switched; the names are the table's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThinkingGate {
    /// Cannot be switched off.
    AlwaysOn,
    /// On; only thinking between tool calls can be asked for instead.
    DefaultOnBetweenTools,
    /// On unless disabled.
    DefaultOn,
    /// Off unless `adaptive` is asked for.
    OptInAdaptive,
    /// Off unless a token budget is given.
    ManualBudget,
}

impl ThinkingGate {
    /// The same for people.
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::AlwaysOn => "always",
            Self::DefaultOnBetweenTools => "on; off but between tools",
            Self::DefaultOn => "on; can be off",
            Self::OptInAdaptive => "off; adaptive",
            Self::ManualBudget => "off; by budget",
        }
    }
}

/// Dollars per million tokens as written, held as pico-dollars per token (the same number times a million).
#[derive(Clone, Copy)]
struct Price(u64);

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = Box::<RawValue>::deserialize(deserializer)?;
        digits.get().parse::<MicroUsd>().map(|amount| Self(amount.0)).map_err(D::Error::custom)
    }
}

/// Rates as written; what is null or absent costs as much as plain input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRates {
    /// Only in `long_prompt`: the tier starts above so many prompt tokens.
    over: Option<u64>,
    input: Price,
    output: Price,
    cache_write_5m: Option<Price>,
    cache_write_1h: Option<Price>,
    cache_read: Option<Price>,
}

/// One model as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    input: Price,
    output: Price,
    cache_write_5m: Option<Price>,
    cache_write_1h: Option<Price>,
    cache_read: Option<Price>,
    context: u64,
    max_output: Option<u32>,
    #[serde(default)]
    long_prompt: Vec<RawRates>,
    then: Option<RawRates>,
    off_peak: Option<RawRates>,
    /// The last day of these prices, as `2026-12-31`; `then` holds from the next one on.
    effective_until: Option<String>,
    /// Hours in which `off_peak` does not hold, as `[[1, 4], [6, 10]]`.
    peak_utc: Option<Vec<(u8, u8)>>,
    /// Saturdays and Sundays have no such hours.
    #[serde(default)]
    peak_weekdays_only: bool,
    #[serde(default)]
    implicit_cache_write: bool,
    min_cache_tokens: Option<u32>,
    thinking: Option<ThinkingGate>,
    forced_tool_choice: Option<bool>,
    effort: Option<bool>,
    structured_output: Option<bool>,
    geo: Option<bool>,
    sampling: Option<bool>,
    prefill: Option<bool>,
    /// What each region multiplies the price by.
    #[serde(default)]
    geo_factors: Once<Price>,
    /// What each service tier multiplies the price by.
    #[serde(default)]
    tier_factors: Once<Price>,
    /// Dollars for one use of each tool of the provider.
    #[serde(default)]
    per_use: Once<Price>,
    /// Prices of the fast mode; what touches the cache rises as plain input does.
    fast: Option<RawFast>,
    /// Known and unused keys: the bound covers tool prompts.
    #[serde(rename = "tool_tokens_auto")]
    _tool_tokens_auto: Option<u32>,
    #[serde(rename = "tool_tokens_forced")]
    _tool_tokens_forced: Option<u32>,
    #[serde(rename = "tokenizer")]
    _tokenizer: Option<String>,
    #[serde(rename = "source")]
    _source: String,
    as_of: String,
    #[serde(rename = "confidence")]
    _confidence: Option<String>,
}

/// Prices of the fast mode, which this program never asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFast {
    input: Price,
    output: Price,
}

/// A JSON object in which no name comes twice: of two prices nobody can tell which one is meant.
struct Once<T>(BTreeMap<String, T>);

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Once<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Once<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Once<T>, A::Error> {
                let mut members = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if members.contains_key(&name) {
                        return Err(A::Error::custom(format!("{name:?} is listed twice")));
                    }
                    members.insert(name, map.next_value()?);
                }
                Ok(Once(members))
            }
        }
        deserializer.deserialize_map(Members(PhantomData))
    }
}

impl RawRates {
    /// Refuses a zero price: it is a mistake more often than a gift, and nothing would bound the calls.
    fn check(&self) -> Result<Rates, String> {
        let or_input = |price: Option<Price>| price.map_or(self.input.0, |price| price.0);
        let rates = Rates {
            input: self.input.0,
            output: self.output.0,
            cache_write_5m: or_input(self.cache_write_5m),
            cache_write_1h: or_input(self.cache_write_1h),
            cache_read: or_input(self.cache_read),
        };
        let named = [
            ("input", rates.input),
            ("output", rates.output),
            ("cache_write_5m", rates.cache_write_5m),
            ("cache_write_1h", rates.cache_write_1h),
            ("cache_read", rates.cache_read),
        ];
        match named.iter().find(|(_, price)| *price == 0) {
            Some((name, _)) => Err(format!("{name} is zero")),
            None => Ok(rates),
        }
    }
}

impl RawModel {
    fn check(self) -> Result<ModelPrice, String> {
        if self.context == 0 || self.context > MAX_CONTEXT {
            return Err(format!("context is {}, it must be 1 to {MAX_CONTEXT}", self.context));
        }
        if self.max_output == Some(0) {
            return Err("max_output is zero".into());
        }
        let base = RawRates {
            over: None,
            input: self.input,
            output: self.output,
            cache_write_5m: self.cache_write_5m,
            cache_write_1h: self.cache_write_1h,
            cache_read: self.cache_read,
        };
        if end_of_day(&self.as_of).is_none() {
            return Err(format!("as_of is no day: {:?}", self.as_of));
        }
        let seasons = self.seasons(base.check()?)?;
        let surcharges = self.surcharges()?;
        let mut long_prompt = Vec::with_capacity(self.long_prompt.len());
        for tier in &self.long_prompt {
            let over = tier.over.ok_or("a long_prompt tier has no over")?;
            if long_prompt.last().is_some_and(|previous: &Tier| previous.over >= over) {
                return Err("long_prompt tiers must ascend".into());
            }
            long_prompt.push(Tier { over, rates: tier.check()? });
        }
        Ok(ModelPrice {
            seasons,
            long_prompt,
            implicit_cache_write: self.implicit_cache_write,
            surcharges,
            context: self.context,
            max_output: self.max_output,
            min_cache_tokens: self.min_cache_tokens,
            thinking: self.thinking,
            forced_tool_choice: self.forced_tool_choice,
            effort: self.effort,
            structured_output: self.structured_output,
            geo: self.geo,
            sampling: self.sampling,
            prefill: self.prefill,
            as_of: self.as_of.clone(),
        })
    }
}

impl RawModel {
    /// What of the price depends on more than tokens. A factor of zero would make calls free.
    fn surcharges(&self) -> Result<Surcharges, String> {
        let factors = |name: &str, raw: &Once<Price>| {
            let wrong = raw.0.iter().find(|(_, factor)| factor.0 == 0 || factor.0 > MAX_FACTOR);
            match wrong {
                Some((key, _)) => Err(format!("{name} of {key:?} must be above 0 and at most 10")),
                None => Ok(raw.0.iter().map(|(key, factor)| (key.clone(), Factor(factor.0))).collect()),
            }
        };
        let fast = match &self.fast {
            Some(fast) if fast.input.0 == 0 || fast.output.0 == 0 => return Err("a price of fast is zero".into()),
            Some(fast) => Some([(fast.input.0, self.input.0), (fast.output.0, self.output.0)]),
            None => None,
        };
        Ok(Surcharges {
            geo: factors("geo_factors", &self.geo_factors)?,
            tier: factors("tier_factors", &self.tier_factors)?,
            fast,
            per_use: self.per_use.0.iter().map(|(name, price)| (name.clone(), MicroUsd(price.0))).collect(),
        })
    }

    /// All prices with the time in which each holds.
    fn seasons(&self, base: Rates) -> Result<Vec<(Season, Rates)>, String> {
        for other in self.then.iter().chain(&self.off_peak) {
            if !self.long_prompt.is_empty() {
                return Err("long_prompt together with then or off_peak is ambiguous".into());
            }
            if other.over.is_some() {
                return Err("over belongs into long_prompt".into());
            }
        }
        let until = match self.effective_until.as_deref() {
            Some(day) => Some(end_of_day(day).ok_or_else(|| format!("effective_until is no day: {day:?}"))?),
            None => None,
        };
        match (&self.then, &self.off_peak, &self.peak_utc) {
            (Some(_), Some(_), _) => Err("then together with off_peak is ambiguous".into()),
            (None, None, Some(_)) => Err("peak_utc needs off_peak".into()),
            (Some(_), _, Some(_)) => Err("peak_utc together with then is ambiguous".into()),
            (None, None, None) => Ok(vec![(Season::Always, base)]),
            (Some(then), None, None) => match until {
                Some(end) => Ok(vec![(Season::Until(end), base), (Season::From(end), then.check()?)]),
                None => Ok(vec![(Season::Always, base.dearest(then.check()?))]),
            },
            // Nobody knows when the other one holds, so the dearer one always does.
            (None, Some(low), None) => Ok(vec![(Season::Always, base.dearest(low.check()?))]),
            (None, Some(low), Some(hours)) => {
                if hours.iter().any(|(from, to)| from >= to || *to > 24) {
                    return Err("peak_utc holds pairs of hours, the first smaller, at most 24".into());
                }
                let peak = Peak { hours: hours.clone(), weekdays_only: self.peak_weekdays_only };
                Ok(vec![(Season::During(peak.clone()), base), (Season::Outside(peak), low.check()?)])
            }
        }
    }
}

/// All models of a table.
pub(super) fn models(json: &str) -> Result<BTreeMap<String, ModelPrice>, PriceError> {
    let raw: Once<RawModel> = serde_json::from_str(json).map_err(PriceError::Malformed)?;
    raw.0
        .into_iter()
        .map(|(name, model)| match model.check() {
            Ok(model) => Ok((name, model)),
            Err(why) => Err(PriceError::Entry { model: name, why }),
        })
        .collect()
}

/// `claude-opus-4-5` for `claude-opus-4-5-20251101`; nothing for a name without a date.
pub(super) fn without_date(name: &str) -> Option<&str> {
    let (alias, date) = name.rsplit_once('-')?;
    (date.len() == 8 && date.bytes().all(|b| b.is_ascii_digit()) && !alias.is_empty()).then_some(alias)
}
