//! `codeswarm models`: what is known about models, and what they cost now, later, and at other hours.
//!
//! It shows the table that calls are charged by, and must never show a price that this table does not have.

use serde_json::{Value, json};

use super::args::{Common, ModelsArgs};
use super::screen::Screen;
use super::table::{Fit, Table, facts, hang};
use super::{Exit, Failure, opened};
use crate::budget::price::{Rates, ThinkingGate};
use crate::budget::{EndpointPrices, ModelPrice, PriceTable};
use crate::fleet;
use crate::protocol::MicroUsd;

/// Narrowest terminal for the wide table.
const WIDE: usize = 120;

/// `codeswarm models`
pub(super) fn run(screen: &Screen, common: &Common, args: &ModelsArgs) -> Result<Exit, Failure> {
    let loaded = opened::settings(common, Vec::new())?;
    let prices = fleet::prices(&loaded.settings, &opened::config_base(common))?;
    if let Some(name) = &args.model {
        let Some(model) = prices.get(name) else {
            let what = format!("there is no price for the model {name:?}");
            return Err(Failure::usage("CS-CLI-015", what, "`codeswarm models` lists those that have one"));
        };
        let text = if args.output.json {
            model_json(&prices, name, model).to_string()
        } else {
            facts(&details(&prices, name, model), screen.width)
        };
        screen.result(&text);
        return Ok(Exit::Done);
    }
    let models: Vec<_> = prices.models().filter_map(|name| Some((name, prices.get(name)?))).collect();
    if args.output.json {
        let listed: Vec<Value> = models.iter().map(|(name, model)| model_json(&prices, name, model)).collect();
        let all = json!({"as_of": prices.as_of(), "models": listed, "endpoints": endpoints(&prices)});
        screen.result(&all.to_string());
        return Ok(Exit::Done);
    }
    let is_wide = screen.width.is_none_or(|width| width >= WIDE);
    let table = if is_wide { wide(&prices, &models) } else { narrow(&prices, &models) };
    screen.result(&table.render(screen.width));
    let note = format!(
        "dollars per million tokens as of {}, at the prices of this hour; `codeswarm models MODEL` shows all of one. Endpoints can have \
         prices of their own ([providers] in the configuration){}",
        prices.as_of(),
        free(&prices)
    );
    screen.note(&hang(&note, 0, screen.width));
    Ok(Exit::Done)
}

/// Pico-dollars per token are micro-dollars per million tokens.
fn dollars(rate: u64) -> String {
    MicroUsd(rate).to_string()
}

/// Prices of a model by what they depend on: those of this hour first, those of longer prompts, those of other times.
fn variants(prices: &PriceTable, model: &ModelPrice) -> Vec<(String, Rates)> {
    let mut variants = vec![(String::new(), prices.present(model))];
    variants.extend(model.tiers().map(|over| (format!("prompts over {over}"), model.rates(over + 1))));
    if model.seasons().count() > 1 {
        variants.extend(model.seasons());
    }
    variants
}

fn wide(prices: &PriceTable, models: &[(&str, &ModelPrice)]) -> Table {
    let mut table = Table::new(&[
        ("model", Fit::Left),
        ("input", Fit::Right),
        ("output", Fit::Right),
        ("write 5m", Fit::Right),
        ("write 1h", Fit::Right),
        ("read", Fit::Right),
        ("context", Fit::Right),
        ("most output", Fit::Right),
        ("thinking", Fit::Left),
        ("accepts", Fit::Shrink),
    ]);
    for (name, model) in models {
        for (what, rates) in variants(prices, model) {
            let only_first = |text: String| if what.is_empty() { text } else { String::new() };
            table.row([
                if what.is_empty() { (*name).to_owned() } else { format!("  {what}") },
                dollars(rates.input),
                dollars(rates.output),
                dollars(rates.cache_write_5m),
                dollars(rates.cache_write_1h),
                dollars(rates.cache_read),
                only_first(model.context.to_string()),
                only_first(model.max_output.map_or_else(String::new, |most| most.to_string())),
                only_first(model.thinking.map_or("", ThinkingGate::in_words).to_owned()),
                only_first(accepted(model).join(", ")),
            ]);
        }
    }
    table
}

/// What fits into eighty columns: prices alone.
fn narrow(prices: &PriceTable, models: &[(&str, &ModelPrice)]) -> Table {
    let mut table = Table::new(&[
        ("model", Fit::Shrink),
        ("in", Fit::Right),
        ("out", Fit::Right),
        ("write", Fit::Right),
        ("read", Fit::Right),
        ("context", Fit::Right),
    ]);
    for (name, model) in models {
        for (what, rates) in variants(prices, model) {
            let context = if what.is_empty() { format!("{}k", model.context / 1_000) } else { String::new() };
            table.row([
                if what.is_empty() { (*name).to_owned() } else { format!("  {what}") },
                dollars(rates.input),
                dollars(rates.output),
                dollars(rates.cache_write_5m),
                dollars(rates.cache_read),
                context,
            ]);
        }
    }
    table
}

/// Everything about one model.
fn details(prices: &PriceTable, name: &str, model: &ModelPrice) -> Vec<(&'static str, String)> {
    let mut pairs = vec![("model", name.to_owned())];
    if model.is_free() {
        pairs
            .push(("price", "none: its endpoint is declared free; tokens may have a ceiling (job.free_tokens)".into()));
    } else {
        for (what, rates) in variants(prices, model) {
            let what = if what.is_empty() { "now".into() } else { what };
            let Rates { input, output, cache_write_5m, cache_write_1h, cache_read } = rates;
            let [input, output, short, long, read] =
                [input, output, cache_write_5m, cache_write_1h, cache_read].map(dollars);
            let price = format!(
                "{what}: input {input}, output {output}, cache write {short} (5 min) or {long} (1 h), read {read}"
            );
            pairs.push(("price", price));
        }
        pairs.push(("per", format!("million tokens, as of {}", model.as_of)));
        pairs.push(("context", format!("{} tokens", model.context)));
    }
    let tokens =
        |count: Option<u32>| count.map_or_else(|| "not said by the provider".into(), |count| format!("{count} tokens"));
    pairs.push(("most output", tokens(model.max_output)));
    pairs.push(("cached from", tokens(model.min_cache_tokens)));
    pairs.push(("thinking", model.thinking.map_or("none", ThinkingGate::in_words).to_owned()));
    let accepted = accepted(model);
    pairs.push(("accepts", if accepted.is_empty() { "nothing special".into() } else { accepted.join(", ") }));
    pairs
}

/// The endpoints whose models cost nothing, as a clause.
fn free(prices: &PriceTable) -> String {
    let free: Vec<&str> =
        prices.endpoints().filter(|(_, rule)| *rule == EndpointPrices::Free).map(|(name, _)| name).collect();
    if free.is_empty() { String::new() } else { format!("; models of {} are declared free", free.join(", ")) }
}

fn endpoints(prices: &PriceTable) -> Value {
    let rule = |rule| match rule {
        EndpointPrices::List => "list",
        EndpointPrices::Own => "own",
        EndpointPrices::Free => "free",
    };
    let listed = prices.endpoints().map(|(name, prices)| json!({"endpoint": name, "prices": rule(prices)}));
    Value::Array(listed.collect())
}

/// What the table says the model accepts.
fn accepted(model: &ModelPrice) -> Vec<&'static str> {
    let gates = [
        ("effort", model.effort),
        ("schema", model.structured_output),
        ("forced tools", model.forced_tool_choice),
        ("sampling", model.sampling),
        ("prefill", model.prefill),
    ];
    gates.into_iter().filter(|(_, gate)| *gate == Some(true)).map(|(name, _)| name).collect()
}

fn priced(rates: Rates) -> Value {
    json!({
        "input_micro_usd_per_million": rates.input,
        "output_micro_usd_per_million": rates.output,
        "cache_write_5m_micro_usd_per_million": rates.cache_write_5m,
        "cache_write_1h_micro_usd_per_million": rates.cache_write_1h,
        "cache_read_micro_usd_per_million": rates.cache_read,
    })
}

fn model_json(prices: &PriceTable, name: &str, model: &ModelPrice) -> Value {
    let with = |mut rates: Value, key: &str, value: Value| {
        rates[key] = value;
        rates
    };
    // The dearest of all times, as the keys have always said.
    let mut whole = priced(model.rates(0));
    let long: Vec<Value> =
        model.tiers().map(|over| with(priced(model.rates(over + 1)), "prompt_tokens_over", over.into())).collect();
    let seasons: Vec<Value> = model.seasons().map(|(when, rates)| with(priced(rates), "when", when.into())).collect();
    let rest = json!({
        "model": name,
        "free": model.is_free(),
        "now": priced(prices.present(model)),
        "seasons": seasons,
        "long_prompt": long,
        "context_tokens": (!model.is_free()).then_some(model.context),
        "max_output_tokens": model.max_output,
        "min_cache_tokens": model.min_cache_tokens,
        "gates": {
            "thinking": model.thinking,
            "effort": model.effort,
            "structured_output": model.structured_output,
            "forced_tool_choice": model.forced_tool_choice,
            "sampling": model.sampling,
            "prefill": model.prefill,
            "inference_geo": model.geo,
        },
        "as_of": model.as_of,
    });
    if let (Value::Object(whole), Value::Object(rest)) = (&mut whole, rest) {
        whole.extend(rest);
    }
    whole
}
