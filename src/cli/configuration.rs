//! `codeswarm config` and `codeswarm models`: what holds, where it comes from, and what it would cost.
//!
//! It shows settings exactly as they were merged, and must never show a secret: those are no settings.

use serde_json::{Value, json};

use super::args::{Common, ConfigCommand, ConfigShowArgs, JsonArg};
use super::screen::Screen;
use super::table::{Fit, Table};
use super::{Exit, Failure, opened};
use crate::budget::PriceTable;
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
pub(super) fn models(screen: &Screen, args: &JsonArg) -> Result<Exit, Failure> {
    let prices = PriceTable::builtin().map_err(|error| Failure::of(&error))?;
    let mut table = Table::new(&[
        ("model", Fit::Left),
        ("input", Fit::Right),
        ("output", Fit::Right),
        ("cache write", Fit::Right),
        ("cache read", Fit::Right),
        ("context", Fit::Right),
    ]);
    let mut listed = Vec::new();
    for (name, model) in prices.models().filter_map(|name| Some((name, prices.get(name)?))) {
        let rates = model.rates(0);
        // Pico-dollars per token are micro-dollars per million tokens.
        let dollars = |rate: u64| MicroUsd(rate).to_string();
        table.row([
            name.to_owned(),
            dollars(rates.input),
            dollars(rates.output),
            dollars(rates.cache_write_5m),
            dollars(rates.cache_read),
            model.context.to_string(),
        ]);
        listed.push(json!({
            "model": name,
            "input_micro_usd_per_million": rates.input,
            "output_micro_usd_per_million": rates.output,
            "cache_write_5m_micro_usd_per_million": rates.cache_write_5m,
            "cache_write_1h_micro_usd_per_million": rates.cache_write_1h,
            "cache_read_micro_usd_per_million": rates.cache_read,
            "context_tokens": model.context,
            "max_output_tokens": model.max_output,
            "as_of": model.as_of,
        }));
    }
    if args.json {
        screen.result(&json!({"as_of": prices.as_of(), "models": listed}).to_string());
    } else {
        screen.result(&table.render(screen.width));
        screen
            .note(&format!("dollars per million tokens, prices as of {}; long prompts may cost more", prices.as_of()));
    }
    Ok(Exit::Done)
}
