//! `codeswarm config` and `codeswarm models`: what holds, where it comes from, and what it would cost.
//!
//! It shows settings exactly as they were merged, and must never show a secret: those are no settings.

use serde_json::{Value, json};

use super::args::{Common, ConfigCommand, ConfigShowArgs, JsonArg};
use super::screen::Screen;
use super::table::{Fit, Table};
use super::{Exit, Failure, opened};
use crate::budget::ModelPrice;
use crate::budget::price::{Rates, ThinkingGate};
use crate::fleet;
use crate::protocol::MicroUsd;

pub(super) fn run(screen: &Screen, common: &Common, command: ConfigCommand) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Show(args) => show(screen, common, &args),
        ConfigCommand::Check => check(screen, common),
    }
}

fn show(screen: &Screen, common: &Common, args: &ConfigShowArgs) -> Result<Exit, Failure> {
    let loaded = opened::settings(common, Vec::new())?;
    if args.output.json {
        screen.result(&as_json(&loaded.settings, &loaded.origins, args.origin)?.to_string());
        return Ok(Exit::Done);
    }
    if args.origin {
        let mut table = Table::new(&[("setting", Fit::Left), ("value", Fit::Shrink), ("from", Fit::Shrink)]);
        for (key, (value, origin)) in &loaded.origins {
            table.row([key.clone(), value.clone(), origin.to_string()]);
        }
        screen.result(&table.render(screen.width));
    } else {
        let lines = loaded.origins.iter().map(|(key, (value, _))| format!("{key} = {value}"));
        screen.result(&lines.collect::<Vec<_>>().join("\n"));
    }
    Ok(Exit::Done)
}

fn as_json(
    settings: &crate::config::Settings,
    origins: &std::collections::BTreeMap<String, (String, crate::config::Origin)>,
    with_origin: bool,
) -> Result<Value, Failure> {
    let whole = serde_json::to_value(settings.shown())
        .map_err(|error| Failure::error("CS-CLI-022", error.to_string(), "report this as a bug"))?;
    if !with_origin {
        return Ok(whole);
    }
    let leaf = |key: &str| whole.pointer(&format!("/{}", key.replace('.', "/"))).cloned().unwrap_or_default();
    let with = origins
        .iter()
        .map(|(key, (_, origin))| (key.clone(), json!({"value": leaf(key), "origin": origin.to_string()})));
    Ok(Value::Object(with.collect()))
}

fn check(screen: &Screen, common: &Common) -> Result<Exit, Failure> {
    let loaded = opened::settings(common, Vec::new())?;
    opened::start_logs(&loaded)?;
    let changed = loaded.origins.values().filter(|(_, origin)| *origin != crate::config::Origin::Default).count();
    let roles = fleet::check_roles(&loaded.settings, &opened::config_base(common))?;
    screen.result(&format!(
        "the configuration is valid: {} settings, {changed} of them changed from the defaults, {} roles, all with a price",
        loaded.origins.len(),
        roles.len()
    ));
    Ok(Exit::Done)
}

/// `codeswarm models`
pub(super) fn models(screen: &Screen, common: &Common, args: &JsonArg) -> Result<Exit, Failure> {
    let loaded = opened::settings(common, Vec::new())?;
    let prices = fleet::prices(&loaded.settings, &opened::config_base(common))?;
    let models: Vec<_> = prices.models().filter_map(|name| Some((name, prices.get(name)?))).collect();
    if args.json {
        let listed: Vec<Value> = models.iter().map(|(name, model)| model_json(name, model)).collect();
        screen.result(&json!({"as_of": prices.as_of(), "models": listed}).to_string());
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&[
        ("model", Fit::Left),
        ("input", Fit::Right),
        ("output", Fit::Right),
        ("cache write", Fit::Right),
        ("cache read", Fit::Right),
        ("context", Fit::Right),
        ("thinking", Fit::Left),
        ("accepts", Fit::Shrink),
    ]);
    for (name, model) in models {
        let tiers: Vec<u64> = model.tiers().collect();
        for (over, rates) in std::iter::once((None, model.rates(0)))
            .chain(tiers.into_iter().map(|over| (Some(over), model.rates(over + 1))))
        {
            // Pico-dollars per token are micro-dollars per million tokens.
            let dollars = |rate: u64| MicroUsd(rate).to_string();
            let is_first = over.is_none();
            let only_first = |text: String| if is_first { text } else { String::new() };
            table.row([
                over.map_or_else(|| name.to_owned(), |over| format!("  prompts over {over}")),
                dollars(rates.input),
                dollars(rates.output),
                dollars(rates.cache_write_5m),
                dollars(rates.cache_read),
                only_first(model.context.to_string()),
                only_first(model.thinking.map_or("", ThinkingGate::in_words).to_owned()),
                only_first(accepted(model).join(", ")),
            ]);
        }
    }
    screen.result(&table.render(screen.width));
    screen.note(&format!(
        "dollars per million tokens, prices as of {}; what changes with the date or the hour counts at its dearest while \
         a call may last. Endpoints can have prices of their own: [providers] in the configuration",
        prices.as_of()
    ));
    Ok(Exit::Done)
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

fn model_json(name: &str, model: &ModelPrice) -> Value {
    let priced = |rates: Rates| {
        json!({
            "input_micro_usd_per_million": rates.input,
            "output_micro_usd_per_million": rates.output,
            "cache_write_5m_micro_usd_per_million": rates.cache_write_5m,
            "cache_write_1h_micro_usd_per_million": rates.cache_write_1h,
            "cache_read_micro_usd_per_million": rates.cache_read,
        })
    };
    let mut whole = priced(model.rates(0));
    let long: Vec<Value> = model
        .tiers()
        .map(|over| {
            let mut tier = priced(model.rates(over + 1));
            tier["prompt_tokens_over"] = over.into();
            tier
        })
        .collect();
    let rest = json!({
        "model": name,
        "long_prompt": long,
        "context_tokens": model.context,
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
