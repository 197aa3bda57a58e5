//! Checks of models, endpoints and roles: names that nobody knows and values that no endpoint obeys.
//!
//! A wrong word here would otherwise show after the first call, when it costs money. Whether a model has a price and a key is
//! there is not known here; that is checked when the parts are put together.

use super::settings::{EndpointPrice, Settings};
use super::validate::{Fault, check};
use crate::protocol::AgentType;

/// Wire formats and habits that endpoints can have; each is also the name of an endpoint at its usual address.
pub const KINDS: [&str; 6] = ["anthropic", "openai", "openrouter", "vllm", "llama-cpp", "ollama"];

/// All faults of `[llm]`, `[roles]` and `[providers]`.
pub(super) fn faults(settings: &Settings, faults: &mut Vec<Fault>) {
    llm(settings, faults);
    roles(settings, faults);
    providers(settings, faults);
}

fn url(faults: &mut Vec<Fault>, key: &str, url: &str) {
    check(faults, url.starts_with("https://") || url.starts_with("http://"), key, || {
        format!("{url:?} does not start with http:// or https://")
    });
    let credentials = url.split("://").nth(1).unwrap_or("").split('/').next().unwrap_or("").contains('@');
    check(faults, !credentials, key, || "it holds a user name or password; keys come from variables".into());
}

/// Largest limit per window; no provider grants more.
const MOST_PER_WINDOW: u64 = 1_000_000_000_000;

fn providers(settings: &Settings, faults: &mut Vec<Fault>) {
    for (name, provider) in &settings.providers {
        let key = |member: &str| format!("providers.{name}.{member}");
        let is_name = !name.is_empty() && name.len() <= 40 && !name.contains(['/', ' ', '.']);
        check(faults, is_name, &format!("providers.{name}"), || "use a short name without slashes and dots".into());
        check(faults, KINDS.contains(&provider.kind(name)), &key("kind"), || {
            format!("{:?} is not one of {}", provider.kind(name), KINDS.join(", "))
        });
        if let Some(base_url) = &provider.base_url {
            url(faults, &key("base_url"), base_url);
        }
        let own = [("", provider.per_window())];
        let of_models = provider.models.iter().map(|model| (model.name.as_str(), model.per_window()));
        for (model, limits) in own.into_iter().chain(of_models) {
            let member = if model.is_empty() { String::new() } else { format!("models.{model}.") };
            let whole = limits.into_iter().flatten().all(|limit| limit <= MOST_PER_WINDOW);
            check(faults, whole, &key(&format!("{member}…_per_window")), || format!("over {MOST_PER_WINDOW}"));
        }
        let is_named = provider.models.iter().all(|model| !model.name.is_empty());
        check(faults, is_named, &key("models"), || "each entry needs the name of a model".into());
        let mut one_of = |member: &str, value: &Option<String>, known: &[&str]| {
            let holds = value.as_deref().is_none_or(|value| known.contains(&value));
            check(faults, holds, &key(member), || format!("use {}", known.join(", ")));
        };
        one_of("max_tokens_field", &provider.max_tokens_field, &["max_tokens", "max_completion_tokens"]);
        one_of("schema_style", &provider.schema_style, &["json_schema", "json_schema_flat", "json_object", "none"]);
        let holds = match &provider.price {
            None | Some(EndpointPrice::Number(0)) => true,
            Some(EndpointPrice::Number(_)) => false,
            Some(EndpointPrice::Text(text)) => ["list", "own", "0"].contains(&text.as_str()),
        };
        check(faults, holds, &key("price"), || {
            "use \"list\", \"own\" or 0; other prices stand in llm.prices_file".into()
        });
    }
}

fn llm(settings: &Settings, faults: &mut Vec<Fault>) {
    let llm = &settings.llm;
    let names = KINDS.iter().copied().chain(settings.providers.keys().map(String::as_str)).collect::<Vec<_>>();
    check(faults, names.contains(&llm.provider.as_str()), "llm.provider", || {
        format!("{:?} is not known; use one of {}", llm.provider, names.join(", "))
    });
    url(faults, "llm.base_url", &llm.base_url);
    url(faults, "llm.openai_base_url", &llm.openai_base_url);
    check(faults, is_thinking(&llm.thinking), "llm.thinking", || {
        format!("{:?} is not default, off or on", llm.thinking)
    });
    check(faults, is_effort(&llm.effort), "llm.effort", || format!("{:?} is not low, medium or high", llm.effort));
    check(faults, (256..=128_000).contains(&llm.max_output_tokens), "llm.max_output_tokens", || {
        format!("{} is not between 256 and 128000", llm.max_output_tokens)
    });
    check(faults, (1..=10).contains(&llm.attempts), "llm.attempts", || {
        format!("{} is not between 1 and 10", llm.attempts)
    });
    check(faults, llm.retry_first_delay_ms <= llm.retry_longest_delay_ms, "llm.retry_first_delay_ms", || {
        format!("{} is over llm.retry_longest_delay_ms = {}", llm.retry_first_delay_ms, llm.retry_longest_delay_ms)
    });
    // Between two attempts the task is held and its lease renewed: a longer wait belongs to the queue.
    check(faults, llm.retry_longest_delay_ms <= 600_000, "llm.retry_longest_delay_ms", || {
        format!("{} is over 600000", llm.retry_longest_delay_ms)
    });
    check(faults, llm.longest_wait_seconds <= 600, "llm.longest_wait_seconds", || {
        format!("{} is over 600", llm.longest_wait_seconds)
    });
    check(faults, (1..=3600).contains(&llm.total_timeout_seconds), "llm.total_timeout_seconds", || {
        format!("{} is not between 1 and 3600", llm.total_timeout_seconds)
    });
    // A gap longer than the whole call would never be noticed as a gap.
    check(
        faults,
        (1..=llm.total_timeout_seconds).contains(&llm.idle_timeout_seconds),
        "llm.idle_timeout_seconds",
        || {
            format!(
                "{} is not between 1 and llm.total_timeout_seconds = {}",
                llm.idle_timeout_seconds, llm.total_timeout_seconds
            )
        },
    );
    check(faults, (1..=60).contains(&llm.connect_timeout_seconds), "llm.connect_timeout_seconds", || {
        format!("{} is not between 1 and 60", llm.connect_timeout_seconds)
    });
    check(faults, (1024..=32 << 20).contains(&llm.max_reply_bytes), "llm.max_reply_bytes", || {
        format!("{} is not between 1024 and 33554432", llm.max_reply_bytes)
    });
    check(faults, (4096..=16 << 20).contains(&llm.max_context_bytes), "llm.max_context_bytes", || {
        format!("{} is not between 4096 and 16777216", llm.max_context_bytes)
    });
}

fn roles(settings: &Settings, faults: &mut Vec<Fault>) {
    for (name, role) in &settings.roles {
        let key = format!("roles.{name}");
        match AgentType::new(name) {
            Err(error) => faults.push(Fault { key: key.clone(), why: error.to_string() }),
            Ok(agent) => {
                let known = AgentType::builtin().contains(&agent);
                check(faults, known || role.prompt_file.is_some(), &key, || {
                    "an agent type of your own needs a prompt_file".into()
                });
            }
        }
        check(faults, role.effort.as_deref().is_none_or(is_effort), &format!("{key}.effort"), || {
            "use low, medium or high".into()
        });
        check(faults, role.thinking.as_deref().is_none_or(is_thinking), &format!("{key}.thinking"), || {
            "use default, off or on".into()
        });
        check(
            faults,
            role.max_output_tokens.is_none_or(|n| (256..=128_000).contains(&n)),
            &format!("{key}.max_output_tokens"),
            || "use 256 to 128000".into(),
        );
    }
}

fn is_effort(text: &str) -> bool {
    matches!(text, "low" | "medium" | "high")
}

fn is_thinking(text: &str) -> bool {
    matches!(text, "default" | "off" | "on")
}
