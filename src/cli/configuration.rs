//! `codeswarm config`: what holds and where it comes from.
//!
//! It shows settings exactly as they were merged, and must never show a secret: those are no settings.

use serde_json::{Value, json};

use super::args::{Common, ConfigCommand, ConfigShowArgs};
use super::screen::Screen;
use super::table::{Fit, Table};
use super::{Exit, Failure, opened};
use crate::config::{ConfigError, Environment};
use crate::fleet;

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
    let (loaded, faults) = opened::layers(common, Vec::new()).examine()?;
    let of_fleet = fleet::faults(&loaded.settings, &opened::config_base(common), &Environment::of_process());
    let is_read = faults.is_empty();
    let of_settings = (!is_read).then(|| Failure::from(ConfigError::Invalid { faults }));
    let mut failures: Vec<Failure> = of_settings.into_iter().chain(of_fleet.into_iter().map(Failure::from)).collect();
    if is_read {
        failures.extend(opened::start_logs(&loaded).err());
    }
    if let Some(mut last) = failures.pop() {
        failures.iter().for_each(|failure| screen.error(&failure.report()));
        // All of it is for the person to correct, whichever room has found it.
        last.exit = Exit::Usage;
        return Err(last);
    }
    let changed = loaded.origins.values().filter(|(_, origin)| *origin != crate::config::Origin::Default).count();
    let roles = fleet::check_roles(&loaded.settings, &opened::config_base(common))?;
    screen.result(&format!(
        "the configuration is valid: {} settings, {changed} of them changed from the defaults, {} roles, all with a price",
        loaded.origins.len(),
        roles.len()
    ));
    Ok(Exit::Done)
}
