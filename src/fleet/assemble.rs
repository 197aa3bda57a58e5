//! From settings to parts: prices, roles, the provider, recorded replies.
//!
//! The one place where settings become objects, so that every program builds the same fleet from the same file. A role
//! without a price or a readable prompt stops the start here, before any money can be spent.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::FleetError;
use super::guards::GuardPlan;
use super::providers::{self, canonical};
use crate::agent::{ContextLimits, Role, RoleBook, RoleOverride};
use crate::backend::Backend;
use crate::budget::price::ThinkingGate;
use crate::budget::{ModelPrice, PriceTable, Treasurer};
use crate::clock::Clock;
use crate::config::{ApiKey, Environment, RoleSettings, Settings};
use crate::coordinator::Estimator;
use crate::llm::record::Recorder;
use crate::llm::replay::{FakeOptions, FakeServer, Latency, ReplayError, Script};
use crate::llm::warm::WarmGate;
use crate::llm::{Effort, Metered, Provider, Thinking};
use crate::protocol::{AgentType, InstanceId};
use crate::resilience::RetryPolicy;
use crate::worker::Executor;

/// Largest prompt file, in bytes.
const MAX_PROMPT_BYTES: u64 = 64 * 1024;

/// Recorded replies instead of a live model.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    /// The reply script.
    pub script: PathBuf,
    /// Where the fake server writes its own bill, if anywhere.
    pub bill: Option<PathBuf>,
    /// Latency added to every reply.
    pub latency: Duration,
}

/// Everything a process needs besides the stores.
pub struct Parts {
    prices: Arc<PriceTable>,
    roles: RoleBook,
    provider: Arc<dyn Provider>,
    limits: ContextLimits,
    counts_input: bool,
    retry: RetryPolicy,
    total_timeout: Duration,
    /// Serves the recorded replies; lives as long as the calls.
    replay: Option<FakeServer>,
    guards: GuardPlan,
    /// Set once an executor was made: drained before the process ends.
    treasurer: std::sync::OnceLock<Treasurer>,
}

impl Parts {
    /// Builds the parts. Prompt files are looked up relative to `base`, the directory of the configuration file.
    ///
    /// # Errors
    /// [`FleetError`] naming the setting, file or model that cannot be used; no money has been touched.
    pub async fn assemble(
        settings: &Settings,
        environment: &Environment,
        replay: Option<&Replay>,
        base: &Path,
    ) -> Result<Self, FleetError> {
        let prices = Arc::new(providers::prices(settings, base)?);
        let roles = priced_roles(settings, base, &prices)?;
        let record = providers::record_file(settings);
        if let (Some(path), Some(replay)) = (&record, replay)
            && is_same_file(path, &replay.script)
        {
            return Err(ReplayError::RecordsItself { path: path.clone() }.into());
        }
        let server = match replay {
            Some(replay) => {
                let options = FakeOptions {
                    bill_path: replay.bill.clone(),
                    latency: Latency::Fixed(replay.latency),
                    prices: Some(Arc::clone(&prices)),
                    own_prices: providers::own_prices(settings, base)?,
                    ..FakeOptions::default()
                };
                Some(FakeServer::start(Script::load(&replay.script)?, options).await?)
            }
            None => None,
        };
        let llm = &settings.llm;
        let cheaper = cheaper_model(settings);
        let models = roles.roles().flat_map(|role| std::iter::once(&role.model).chain(&role.fallback)).chain(&cheaper);
        let url = server.as_ref().map(FakeServer::base_url);
        let router = providers::router(settings, environment, models.map(String::as_str), &prices, url.as_deref())?;
        let provider: Arc<dyn Provider> = match record {
            Some(path) => Arc::new(Recorder::open(Arc::new(router), &path, &Clock::system())?),
            None => Arc::new(router),
        };
        let limits = ContextLimits {
            max_bytes: usize::try_from(llm.max_context_bytes).unwrap_or(usize::MAX),
            max_file_bytes: usize::try_from(settings.job.max_file_bytes).unwrap_or(usize::MAX),
        };
        let retry = RetryPolicy {
            attempts: llm.attempts,
            first_delay: Duration::from_millis(llm.retry_first_delay_ms),
            max_delay: Duration::from_millis(llm.retry_longest_delay_ms),
            longest_honoured_wait: Duration::from_secs(llm.longest_wait_seconds),
            ..RetryPolicy::default()
        };
        Ok(Self {
            prices,
            roles,
            provider,
            limits,
            counts_input: llm.count_tokens,
            retry,
            total_timeout: Duration::from_secs(llm.total_timeout_seconds),
            guards: GuardPlan::of(settings, server.is_some()),
            replay: server,
            treasurer: std::sync::OnceLock::new(),
        })
    }

    /// Every agent type this process has a role for.
    #[must_use]
    pub fn agents(&self) -> Vec<AgentType> {
        self.roles.roles().map(|role| role.agent.clone()).collect()
    }

    /// An executor over the stores of `backend`, for the process `instance`.
    #[must_use]
    pub fn executor(&self, backend: &Backend, instance: &InstanceId) -> Executor {
        let treasurer = self
            .treasurer
            .get_or_init(|| {
                Treasurer::new(Arc::clone(&backend.ledger), Arc::clone(&self.prices)).going_by(backend.clock.clone())
            })
            .clone();
        let metered = Metered::new(Arc::clone(&self.provider), treasurer, self.retry, self.total_timeout)
            .behind(self.guards.guards(backend))
            .counting_input(self.counts_input)
            .warmed_by(self.warm_gate(backend, instance));
        Executor::new(backend, metered, self.roles.clone(), self.limits)
    }

    /// Recorded replies come from a server of this process alone, of whose cache the others have nothing.
    fn warm_gate(&self, backend: &Backend, instance: &InstanceId) -> WarmGate {
        match self.replay {
            Some(_) => WarmGate::default(),
            None => WarmGate::shared(Arc::clone(&backend.state), instance.clone(), backend.clock.clone()),
        }
    }

    /// Expected costs in these roles at these prices.
    #[must_use]
    pub fn estimator(&self) -> Arc<Estimator> {
        Arc::new(Estimator::new(Arc::clone(&self.prices), self.roles.clone()))
    }

    /// Waits until every reservation has ended, then stops the fake server, if one runs.
    pub async fn stop(self) {
        if let Some(treasurer) = self.treasurer.get() {
            treasurer.drain().await;
        }
        if let Some(server) = self.replay {
            server.stop().await;
        }
    }
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    // A file that does not exist is no other one's.
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Every role with its model, once all of them can be used: prompt files are readable, models have a price.
///
/// # Errors
/// [`FleetError`] naming the first role that cannot be used.
pub fn check_roles(settings: &Settings, base: &Path) -> Result<Vec<(AgentType, String)>, FleetError> {
    let roles = priced_roles(settings, base, &providers::prices(settings, base)?)?;
    Ok(roles.roles().map(|role| (role.agent.clone(), role.model.clone())).collect())
}

/// Everything that is wrong with the prices, the roles and the keys that are set; a key that is missing is none of it, for
/// replies may be recorded.
pub fn faults(settings: &Settings, base: &Path, environment: &Environment) -> Vec<FleetError> {
    let mut faults = Vec::new();
    let roles = gather_roles(settings, base, &mut faults);
    match providers::prices(settings, base) {
        Ok(prices) => check_prices(settings, &roles, &prices, &mut faults),
        Err(fault) => faults.push(fault),
    }
    for variable in providers::key_variables(settings, &roles) {
        faults.extend(ApiKey::named(environment, &variable).err().map(FleetError::from));
    }
    // A setting that all roles share is wrong once.
    let mut told = BTreeSet::new();
    faults.retain(|fault| told.insert(fault.to_string()));
    faults
}

fn first(faults: Vec<FleetError>) -> Result<(), FleetError> {
    faults.into_iter().next().map_or(Ok(()), Err)
}

fn priced_roles(settings: &Settings, base: &Path, prices: &PriceTable) -> Result<RoleBook, FleetError> {
    let roles = role_book(settings, base)?;
    let mut faults = Vec::new();
    check_prices(settings, &roles, prices, &mut faults);
    first(faults).map(|()| roles)
}

/// Checks that every model has a price, naming one role for each that has none, and can do what is asked of it.
fn check_prices(settings: &Settings, roles: &RoleBook, prices: &PriceTable, faults: &mut Vec<FleetError>) {
    let mut unpriced = BTreeSet::new();
    for role in roles.roles() {
        for model in std::iter::once(&role.model).chain(&role.fallback) {
            match prices.get(model) {
                Some(price) => faults.extend(must_be_able_to(role, model, price).err()),
                None if unpriced.insert(model.clone()) => {
                    faults.push(FleetError::UnpricedModel { role: role.agent.to_string(), model: model.clone() });
                }
                None => {}
            }
        }
    }
    if let Some(model) = cheaper_model(settings) {
        match prices.get(&model) {
            Some(price) => faults.extend(roles.roles().filter_map(|role| must_be_able_to(role, &model, price).err())),
            None => faults.push(FleetError::UnpricedCheaperModel { model }),
        }
    }
}

/// Refuses a model that cannot do what `role` asks of it.
fn must_be_able_to(role: &Role, model: &str, price: &ModelPrice) -> Result<(), FleetError> {
    if role.thinking == Thinking::Off && price.thinking == Some(ThinkingGate::AlwaysOn) {
        return Err(FleetError::AlwaysThinks { role: role.agent.to_string(), model: model.to_owned() });
    }
    Ok(())
}

/// The one name of the model for when money runs low, if there is to be one.
pub(super) fn cheaper_model(settings: &Settings) -> Option<String> {
    let budget = &settings.budget;
    let is_wanted = budget.cheaper_model_percent > 0 && !budget.cheaper_model.is_empty();
    is_wanted.then(|| canonical(settings, &budget.cheaper_model))
}

/// Expected costs without a provider, for a process that calls none.
pub(super) fn estimator(settings: &Settings, base: &Path) -> Result<Arc<Estimator>, FleetError> {
    Ok(Arc::new(Estimator::new(Arc::new(providers::prices(settings, base)?), role_book(settings, base)?)))
}

pub(super) fn role_book(settings: &Settings, base: &Path) -> Result<RoleBook, FleetError> {
    let mut faults = Vec::new();
    let book = gather_roles(settings, base, &mut faults);
    first(faults).map(|()| book)
}

/// All roles, without the changes that cannot be made.
fn gather_roles(settings: &Settings, base: &Path, faults: &mut Vec<FleetError>) -> RoleBook {
    let mut apply = |book: RoleBook, change: RoleOverride| match book.clone().with(change) {
        Ok(changed) => changed,
        Err(error) => {
            faults.push(error.into());
            book
        }
    };
    let fallback: Vec<String> = settings.llm.fallback.iter().map(|model| canonical(settings, model)).collect();
    let mut book = RoleBook::builtin(&canonical(settings, &settings.llm.model));
    for agent in AgentType::builtin() {
        let change = RoleOverride {
            fallback: Some(fallback.clone()),
            effort: Some(effort(&settings.llm.effort)),
            thinking: Some(thinking(&settings.llm.thinking)),
            max_output_tokens: Some(settings.llm.max_output_tokens),
            ..RoleOverride::of(agent)
        };
        book = apply(book, change);
    }
    let mut unreadable = Vec::new();
    for (name, role) in &settings.roles {
        // Validated with the configuration; an id that is not one cannot get here.
        let Ok(agent) = AgentType::new(name) else { continue };
        let prompt = role.prompt_file.as_ref().map(|file| read_prompt(name, &base.join(file)));
        let prompt = prompt.transpose().unwrap_or_else(|fault| {
            unreadable.push(fault);
            None
        });
        book = apply(book, role_override(settings, agent, role, prompt));
    }
    faults.append(&mut unreadable);
    book
}

fn role_override(settings: &Settings, agent: AgentType, role: &RoleSettings, prompt: Option<Arc<str>>) -> RoleOverride {
    let one_name = |model: &String| canonical(settings, model);
    RoleOverride {
        prompt,
        model: role.model.as_ref().map(one_name),
        fallback: Some(role.fallback.as_ref().unwrap_or(&settings.llm.fallback).iter().map(one_name).collect()),
        effort: role.effort.as_deref().map(effort),
        thinking: role.thinking.as_deref().map(thinking),
        max_output_tokens: role.max_output_tokens,
        ..RoleOverride::of(agent)
    }
}

fn read_prompt(role: &str, path: &Path) -> Result<Arc<str>, FleetError> {
    let fault = |why: String| FleetError::PromptFile { role: role.to_owned(), path: path.to_owned(), why };
    let size = std::fs::metadata(path).map_err(|error| fault(error.to_string()))?.len();
    if size > MAX_PROMPT_BYTES {
        return Err(fault(format!("it has {size} bytes")));
    }
    std::fs::read_to_string(path).map(Arc::from).map_err(|error| fault(error.to_string()))
}

fn effort(text: &str) -> Effort {
    match text {
        "low" => Effort::Low,
        "high" => Effort::High,
        _ => Effort::Medium,
    }
}

fn thinking(text: &str) -> Thinking {
    match text {
        "off" => Thinking::Off,
        "on" => Thinking::On,
        _ => Thinking::Default,
    }
}
