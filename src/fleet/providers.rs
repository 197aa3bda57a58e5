//! From settings to endpoints: which models are asked where, with which key, at which prices.
//!
//! Every kind of endpoint is also the name of one at its usual address, and a table `[providers.<name>]` changes it or adds
//! another. Only endpoints that a role can reach are set up, so that nobody needs a key for what is never asked. A model is
//! known by one name everywhere: plain for the Anthropic API, `endpoint/model` for all others.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::FleetError;
use crate::agent::RoleBook;
use crate::budget::{EndpointPrices, PriceTable};
use crate::config::{ApiKey, EndpointPrice, Environment, ProviderSettings, Secret, Settings};
use crate::llm::anthropic::{Anthropic, AnthropicConfig};
use crate::llm::http::Limits;
use crate::llm::openai::{MaxTokensField, OpenAi, OpenAiConfig, Preset, SchemaStyle, Style};
use crate::llm::{Provider, Router};

/// The endpoint whose models have no prefix.
pub(super) const PLAIN: &str = "anthropic";

/// The price table with the user's own prices and the rules of the endpoints.
///
/// # Errors
/// [`FleetError::PricesFile`] when `llm.prices_file` cannot be used.
pub fn prices(settings: &Settings, base: &Path) -> Result<PriceTable, FleetError> {
    let mut prices = PriceTable::builtin()?;
    if let Some(text) = own_prices(settings, base)? {
        let path = base.join(&settings.llm.prices_file);
        let own =
            PriceTable::parse(&text).map_err(|error| FleetError::PricesFile { path, why: with_causes(&error) })?;
        prices = prices.merged(own);
    }
    for name in names(settings) {
        let endpoint = endpoint(settings, name);
        let rule = match &endpoint.price {
            Some(EndpointPrice::Number(_)) => EndpointPrices::Free,
            Some(EndpointPrice::Text(text)) if text == "0" => EndpointPrices::Free,
            Some(EndpointPrice::Text(text)) if text == "list" => EndpointPrices::List,
            Some(EndpointPrice::Text(_)) => EndpointPrices::Own,
            None if matches!(name, "anthropic" | "openai") => EndpointPrices::List,
            None => EndpointPrices::Own,
        };
        prices = prices.with_endpoint(name, rule);
    }
    Ok(prices)
}

/// The text of the user's own price file, if there is one.
///
/// # Errors
/// [`FleetError::PricesFile`] when it cannot be read.
pub(super) fn own_prices(settings: &Settings, base: &Path) -> Result<Option<String>, FleetError> {
    if settings.llm.prices_file.is_empty() {
        return Ok(None);
    }
    let path = base.join(&settings.llm.prices_file);
    let fault = |why: String| FleetError::PricesFile { path: path.clone(), why };
    let size = std::fs::metadata(&path).map_err(|error| fault(error.to_string()))?.len();
    if size > crate::budget::price::MAX_TABLE_BYTES as u64 {
        return Err(fault(format!("it has {size} bytes")));
    }
    std::fs::read_to_string(&path).map(Some).map_err(|error| fault(error.to_string()))
}

/// An error and what caused it in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The one name of a model that the configuration names.
#[must_use]
pub fn canonical(settings: &Settings, model: &str) -> String {
    let named = model.split_once('/').filter(|(name, _)| names(settings).contains(name));
    match (named, settings.llm.provider.as_str()) {
        (Some((PLAIN, plain)), _) => plain.to_owned(),
        (Some(_), _) | (None, PLAIN) => model.to_owned(),
        (None, provider) => format!("{provider}/{model}"),
    }
}

/// All endpoints that `models` (by their one name) are asked at. With `replay`, the address of a local server, all of
/// them are that server, and no key is needed.
///
/// # Errors
/// [`FleetError::NoKey`], or what keeps a client from being set up.
pub(super) fn router<'a>(
    settings: &Settings,
    environment: &Environment,
    models: impl Iterator<Item = &'a str>,
    prices: &Arc<PriceTable>,
    replay: Option<&str>,
) -> Result<Router, FleetError> {
    let mut router = Router::default();
    for name in used(settings, models) {
        let provider = provider(settings, environment, name, prices, replay)?;
        router = if name == PLAIN { router.plain(provider) } else { router.named(name, provider) };
    }
    Ok(router)
}

/// The endpoints that these models are asked at.
fn used<'a>(settings: &Settings, models: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let known = names(settings);
    let named = |model: &'a str| model.split_once('/').map(|(name, _)| name).filter(|name| known.contains(name));
    models.map(|model| named(model).unwrap_or(PLAIN)).collect()
}

/// Names of all endpoints.
fn names(settings: &Settings) -> BTreeSet<&str> {
    crate::config::KINDS.into_iter().chain(settings.providers.keys().map(String::as_str)).collect()
}

fn endpoint(settings: &Settings, name: &str) -> ProviderSettings {
    settings.providers.get(name).cloned().unwrap_or_default()
}

/// Where an endpoint is and what it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub base_url: String,
    /// The variable its key stands in; `None` when it wants none.
    pub key_variable: Option<String>,
}

/// The endpoints that some role can reach, the model for when money runs low included.
///
/// # Errors
/// As for [`super::check_roles`].
pub fn endpoints(settings: &Settings, base: &Path) -> Result<Vec<Endpoint>, FleetError> {
    Ok(of_roles(settings, &super::assemble::role_book(settings, base)?))
}

/// The variables in which the keys of these roles' endpoints stand.
pub(super) fn key_variables(settings: &Settings, roles: &RoleBook) -> BTreeSet<String> {
    of_roles(settings, roles).into_iter().filter_map(|endpoint| endpoint.key_variable).collect()
}

fn of_roles(settings: &Settings, roles: &RoleBook) -> Vec<Endpoint> {
    let cheaper = super::assemble::cheaper_model(settings);
    let named = roles.roles().flat_map(|role| std::iter::once(&role.model).chain(&role.fallback));
    let models: Vec<&str> = named.chain(&cheaper).map(String::as_str).collect();
    used(settings, models.into_iter()).into_iter().map(|name| address(settings, name)).collect()
}

fn address(settings: &Settings, name: &str) -> Endpoint {
    let own = endpoint(settings, name);
    let preset = Preset::named(own.kind(name));
    let usual = match preset {
        None => settings.llm.base_url.as_str(),
        Some(Preset::OpenAi) => settings.llm.openai_base_url.as_str(),
        Some(preset) => preset.base_url(),
    };
    let key_variable = match (own.key_variable, preset) {
        (Some(variable), _) => Some(variable).filter(|variable| !variable.is_empty()),
        (None, None) => Some("ANTHROPIC_API_KEY".to_owned()),
        (None, Some(Preset::OpenRouter)) => Some("OPENROUTER_API_KEY".to_owned()),
        (None, Some(preset)) if preset.needs_key() => Some("OPENAI_API_KEY".to_owned()),
        // A local server wants no key, and must not be sent one that was meant for somebody else.
        (None, Some(_)) => None,
    };
    Endpoint { name: name.to_owned(), base_url: own.base_url.unwrap_or_else(|| usual.to_owned()), key_variable }
}

fn provider(
    settings: &Settings,
    environment: &Environment,
    name: &str,
    prices: &Arc<PriceTable>,
    replay: Option<&str>,
) -> Result<Arc<dyn Provider>, FleetError> {
    let own = endpoint(settings, name);
    let models = if name == PLAIN { Arc::clone(prices) } else { Arc::new(prices.seen_from(name)) };
    let (limits, models) = (limits(settings), Some(models));
    let Endpoint { base_url, key_variable, .. } = address(settings, name);
    let preset = Preset::named(own.kind(name));
    let base_url = match (replay, preset) {
        (None, _) => base_url,
        (Some(url), None) if name == PLAIN => url.to_owned(),
        (Some(url), None) => format!("{url}/as/{name}"),
        (Some(url), Some(_)) => format!("{url}/as/{name}/v1"),
    };
    let api_key = match (replay, key_variable) {
        (Some(_), _) => Some(Secret::new("replay")),
        (None, None) => None,
        (None, Some(variable)) => match ApiKey::named(environment, &variable)? {
            Some(key) => Some(key),
            None => return Err(FleetError::NoKey { endpoint: name.to_owned(), variable }),
        },
    };
    let Some(preset) = preset else {
        let api_key = api_key.unwrap_or_else(|| Secret::new("none"));
        let config = AnthropicConfig { base_url, models, ..AnthropicConfig::within(limits, api_key) };
        return Ok(Arc::new(Anthropic::new(&config)?));
    };
    let style = style(preset.style(), &own);
    Ok(Arc::new(OpenAi::new(&OpenAiConfig { base_url, api_key, limits, style, models })?))
}

/// The preset's habits, changed by what the table of the endpoint says. Words were checked with the configuration.
fn style(mut style: Style, own: &ProviderSettings) -> Style {
    match own.max_tokens_field.as_deref() {
        Some("max_tokens") => style.max_tokens_field = MaxTokensField::MaxTokens,
        Some(_) => style.max_tokens_field = MaxTokensField::MaxCompletionTokens,
        None => {}
    }
    match own.schema_style.as_deref() {
        Some("json_schema") => style.schema_style = SchemaStyle::JsonSchema,
        Some("json_schema_flat") => style.schema_style = SchemaStyle::JsonSchemaFlat,
        Some("json_object") => style.schema_style = SchemaStyle::JsonObject,
        Some(_) => style.schema_style = SchemaStyle::None,
        None => {}
    }
    style.usage_in_stream = own.usage_in_stream.unwrap_or(style.usage_in_stream);
    style
}

fn limits(settings: &Settings) -> Limits {
    let llm = &settings.llm;
    Limits {
        idle_timeout: Duration::from_secs(llm.idle_timeout_seconds),
        total_timeout: Duration::from_secs(llm.total_timeout_seconds),
        connect_timeout: Duration::from_secs(llm.connect_timeout_seconds),
        max_reply_bytes: usize::try_from(llm.max_reply_bytes).unwrap_or(usize::MAX),
    }
}

/// Where replies are recorded, if anywhere.
pub(super) fn record_file(settings: &Settings) -> Option<PathBuf> {
    Some(&settings.llm.record).filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;
    use crate::llm::LlmRequest;

    #[test]
    fn what_the_own_price_of_an_endpoint_says_of_its_model_holds_when_it_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let (file, own) = (directory.path().join("codeswarm.toml"), directory.path().join("own.json"));
        let settings = "[llm]\nprices_file = \"own.json\"\n[providers.gateway]\nkind = \"vllm\"\nprice = \"own\"\n";
        std::fs::write(&file, settings).unwrap();
        let price =
            r#""input": 1, "output": 1, "context": 99999, "effort": true, "source": "t", "as_of": "2026-11-21""#;
        std::fs::write(&own, format!(r#"{{"gateway/m": {{{price}}}}}"#)).unwrap();
        let environment = Environment::from_map(std::collections::BTreeMap::new());
        let layers = Layers { file: Some(file), environment: environment.clone(), flags: Vec::new() };
        let settings = layers.load().unwrap().settings;
        let prices = Arc::new(prices(&settings, directory.path()).unwrap());
        let asked = ["gateway/m"].into_iter();
        let router = router(&settings, &environment, asked, &prices, Some("http://127.0.0.1:1")).unwrap();
        let prepared = router.prepare(&LlmRequest::of("gateway/m", "hello")).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&prepared.body).unwrap();
        assert_eq!((&body["model"], &body["reasoning_effort"]), (&"m".into(), &"medium".into()), "{body}");
    }
}
