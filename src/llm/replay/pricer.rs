//! The server's own arithmetic for its bill.
//!
//! A bill by the client's price table would agree with it in every mistake. So this reads the published prices by itself, as
//! plain JSON, and does what a provider does: each token at the price of its kind, by the tier of the whole prompt, times what
//! region, tier and speed multiply, exact in pico-dollars until the one rounding at the end of the call. It must never use
//! anything of the client's price table, and it is no bound: it bills what holds now, not the dearest that could.

use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::protocol::{MicroUsd, Usage};

/// Pico-dollars in a micro-dollar, and millionths in one.
const MILLION: u128 = 1_000_000;

/// What is billed besides tokens.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extras {
    pub(super) region: Option<&'static str>,
    pub(super) tier: Option<&'static str>,
    pub(super) is_fast: bool,
    pub(super) searches: u64,
}

/// Prices by model, as published.
#[derive(Debug)]
pub(super) struct Pricer {
    models: Map<String, Value>,
}

impl Pricer {
    /// The published prices, with those of `own` instead where it has the model, too.
    pub(super) fn new(own: Option<&str>) -> serde_json::Result<Self> {
        let mut models: Map<String, Value> = serde_json::from_str(include_str!("../../../config/prices.json"))?;
        if let Some(own) = own {
            models.extend(serde_json::from_str::<Map<String, Value>>(own)?);
        }
        Ok(Self { models })
    }

    /// What a call costs, rounded up; `None` for a model without a price. `name` may have an endpoint before it.
    pub(super) fn bill(&self, name: &str, usage: &Usage, extras: Extras, now: Timestamp) -> Option<MicroUsd> {
        let pico = self.pico(name, usage, extras, now)?;
        u64::try_from(pico.div_ceil(MILLION)).ok().map(MicroUsd)
    }

    /// The same before it is rounded.
    pub(super) fn pico(&self, name: &str, usage: &Usage, extras: Extras, now: Timestamp) -> Option<u128> {
        let model = self.model(name).or_else(|| self.model(name.split_once('/')?.1))?;
        let prompt = usage.input + usage.cache_write_5m + usage.cache_write_1h + usage.cache_read;
        let rates = rates(model, prompt, now);
        let at = |kind: &str| millionths(&rates[kind]).or_else(|| millionths(&rates["input"]));
        let input = u128::from(usage.input) * at("input")?
            + u128::from(usage.cache_write_5m) * at("cache_write_5m")?
            + u128::from(usage.cache_write_1h) * at("cache_write_1h")?
            + u128::from(usage.cache_read) * at("cache_read")?;
        let output = u128::from(usage.output) * at("output")?;
        let fast = |sum: u128, kind: &str| match millionths(&model["fast"][kind]) {
            Some(price) if extras.is_fast => sum * price / at(kind).unwrap_or(price),
            _ => sum,
        };
        let factor = |table: &str, said: Option<&str>| said.and_then(|said| millionths(&model[table][said]));
        let mut pico = fast(input, "input") + fast(output, "output");
        for factor in [factor("geo_factors", extras.region), factor("tier_factors", extras.tier)].into_iter().flatten()
        {
            pico = pico * factor / MILLION;
        }
        let search = millionths(&model["per_use"]["web_search_requests"]).unwrap_or(0);
        Some(pico + u128::from(extras.searches) * search * MILLION)
    }

    /// The entry of that name, or of the only dated one that the name is short for.
    fn model(&self, name: &str) -> Option<&Value> {
        let is_date =
            |rest: &str| rest.len() == 9 && rest.starts_with('-') && rest[1..].bytes().all(|b| b.is_ascii_digit());
        let mut dated = self.models.iter().filter(|(full, _)| full.strip_prefix(name).is_some_and(is_date));
        self.models.get(name).or_else(|| dated.next().filter(|_| dated.next().is_none()).map(|(_, model)| model))
    }
}

/// The prices of a prompt of this size at this time.
fn rates(model: &Value, prompt: u64, now: Timestamp) -> &Value {
    let mut longer = model["long_prompt"].as_array().into_iter().flatten();
    if let Some(tier) = longer.rfind(|tier| tier["over"].as_u64().is_some_and(|over| prompt > over)) {
        return tier;
    }
    let written = now.to_string();
    let is_over =
        model["effective_until"].as_str().is_some_and(|last| written.as_str() > last && !written.starts_with(last));
    if is_over && model["then"].is_object() {
        return &model["then"];
    }
    if model["off_peak"].is_object() && model["peak_utc"].is_array() && !is_peak(model, &written, now) {
        return &model["off_peak"];
    }
    model
}

fn is_peak(model: &Value, written: &str, now: Timestamp) -> bool {
    let hour = written.get(11..13).and_then(|hour| hour.parse::<u64>().ok()).unwrap_or(0);
    let spans = model["peak_utc"].as_array().into_iter().flatten();
    let mut hours = spans.filter_map(|span| Some((span[0].as_u64()?, span[1].as_u64()?)));
    // The first of January 1970 was a Thursday.
    let weekday =
        ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][usize::try_from(now.0 / 86_400_000 % 7).unwrap_or(0)];
    let is_free_day = model["peak_weekdays_only"] == true && weekday.starts_with('S');
    hours.any(|(from, to)| from <= hour && hour < to) && !is_free_day
}

/// A decimal number as millionths, which is dollars per million tokens as pico-dollars per token.
fn millionths(number: &Value) -> Option<u128> {
    let text = number.as_number()?.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    format!("{whole}{fraction:0<6}").parse().ok().filter(|_| fraction.len() <= 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: &str) -> Timestamp {
        day.parse().expect("a time")
    }

    fn bill(name: &str, usage: Usage, extras: Extras, day: &str) -> u64 {
        Pricer::new(None).expect("JSON").bill(name, &usage, extras, at(day)).expect("has a price").0
    }

    fn tokens(input: u64, output: u64) -> Usage {
        Usage { input, output, ..Usage::default() }
    }

    #[test]
    fn every_kind_of_token_has_its_price_and_only_the_sum_is_rounded() {
        let usage = Usage { input: 31, cache_write_5m: 2_048, cache_write_1h: 7, cache_read: 100, output: 547 };
        let day = "2026-11-21";
        assert_eq!(bill("claude-sonnet-5-5", usage, Extras::default(), day), 62 + 5_120 + 28 + 10 + 5_470);
        assert_eq!(bill("openrouter/claude-sonnet-5-5", usage, Extras::default(), day), 10_690);
        assert_eq!(bill("claude-haiku-4-5", tokens(10, 1), Extras::default(), day), 15);
        // 0.1 and 0.5 micro-dollars a token.
        assert_eq!(bill("claude-haiku-5-5", tokens(1, 1), Extras::default(), day), 1);
        assert_eq!(bill("claude-haiku-5-5", tokens(11, 0), Extras::default(), day), 2);
        // What is null costs as much as plain input.
        let written = Usage { cache_write_5m: 2, cache_write_1h: 2, ..Usage::default() };
        assert_eq!(bill("gpt-6.1-sol", written, Extras::default(), day), 5 + 4);
    }

    #[test]
    fn the_whole_request_has_the_price_of_its_size_and_its_time() {
        let plain = Extras::default();
        for (name, usage, day, expected) in [
            ("claude-haiku-5-5", tokens(100_000, 10), "2026-11-21", 10_005),
            ("claude-haiku-5-5", tokens(100_001, 10), "2026-11-21", 50_026),
            ("qwen3-coder-plus", tokens(300_000, 1), "2026-11-21", 1_800_060),
            ("gemini-3.8-flash", tokens(1_000, 0), "2026-12-31T23:59:59Z", 750),
            ("gemini-3.8-flash", tokens(1_000, 0), "2027-01-01", 1_500),
            // A Friday, and the Saturday after it.
            ("deepseek-flash", tokens(1_000, 0), "2026-11-20T03:59:00Z", 300),
            ("deepseek-flash", tokens(1_000, 0), "2026-11-20T04:00:00Z", 150),
            ("deepseek-flash", tokens(1_000, 0), "2026-11-21T03:00:00Z", 150),
        ] {
            assert_eq!(bill(name, usage, plain, day), expected, "{name} {day}");
        }
    }

    #[test]
    fn region_tier_speed_and_searches_are_on_the_bill() {
        let day = "2026-11-21";
        let usage = tokens(1_000, 100);
        let us = Extras { region: Some("us"), ..Extras::default() };
        assert_eq!(bill("claude-sonnet-5-5", usage, us, day), 3_300);
        assert_eq!(bill("claude-opus-5-5", usage, Extras { is_fast: true, ..us }, day), 13_200);
        let tier = Extras { tier: Some("priority"), ..Extras::default() };
        assert_eq!(bill("gpt-6.1-sol", usage, tier, day), 6_000);
        assert_eq!(bill("claude-sonnet-5-5", usage, Extras { searches: 3, ..us }, day), 33_300);
        assert!(Pricer::new(None).expect("JSON").bill("claude", &usage, us, at(day)).is_none());
        let own = r#"{"claude-sonnet-5-5": {"input": 1, "output": 1}, "mine": {"input": 4, "output": 5}}"#;
        let own = Pricer::new(Some(own)).expect("JSON");
        let bill = |name| own.bill(name, &usage, Extras::default(), at(day)).expect("has a price").0;
        assert_eq!((bill("claude-sonnet-5-5"), bill("mine"), bill("claude-opus-5")), (1_100, 4_500, 7_500));
    }
}
