//! Which endpoint a model is asked at: `endpoint/model`, or plain for the one that needs no name.
//!
//! Endpoints know nothing of one another nor of their own names. The router takes the name off before an endpoint sees the
//! model and puts it back on what comes out, so that prices are always looked up by the full name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{LlmError, LlmReply, LlmRequest, Prepared, Provider};
use crate::budget::Reservation;

/// All endpoints behind one [`Provider`].
#[derive(Default)]
pub struct Router {
    plain: Option<Arc<dyn Provider>>,
    named: BTreeMap<String, Arc<dyn Provider>>,
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("named", &self.named.keys()).finish_non_exhaustive()
    }
}

impl Router {
    /// Asks models without an endpoint's name there.
    #[must_use]
    pub fn plain(self, provider: Arc<dyn Provider>) -> Self {
        Self { plain: Some(provider), ..self }
    }

    /// Asks models that begin with `name/` there.
    #[must_use]
    pub fn named(mut self, name: &str, provider: Arc<dyn Provider>) -> Self {
        self.named.insert(name.to_owned(), provider);
        self
    }

    /// The endpoint, its name with a slash (or nothing), and the model as the endpoint knows it.
    fn find<'a>(&self, model: &'a str) -> Result<(&Arc<dyn Provider>, &'a str, &'a str), LlmError> {
        if let Some((name, rest)) = model.split_once('/')
            && let Some(provider) = self.named.get(name)
        {
            return Ok((provider, &model[..=name.len()], rest));
        }
        let unknown = || LlmError::Unsupported(format!("no endpoint is set up for the model {model:?}"));
        Ok((self.plain.as_ref().ok_or_else(unknown)?, "", model))
    }
}

#[async_trait]
impl Provider for Router {
    fn prepare(&self, request: &LlmRequest) -> Result<Prepared, LlmError> {
        let (provider, prefix, model) = self.find(&request.model)?;
        if prefix.is_empty() {
            return provider.prepare(request);
        }
        let mut prepared = provider.prepare(&LlmRequest { model: model.to_owned(), ..request.clone() })?;
        prepared.worst_case.model.clone_from(&request.model);
        Ok(prepared)
    }

    async fn count_input(&self, prepared: &Prepared) -> Result<Option<u64>, LlmError> {
        let (provider, prefix, model) = self.find(&prepared.worst_case.model)?;
        if prefix.is_empty() {
            return provider.count_input(prepared).await;
        }
        provider.count_input(&renamed(prepared, model)).await
    }

    async fn send(
        &self,
        prepared: &Prepared,
        reservation: &Reservation,
        cancel: &CancellationToken,
    ) -> Result<LlmReply, LlmError> {
        let (provider, prefix, model) = self.find(&prepared.worst_case.model)?;
        if prefix.is_empty() {
            return provider.send(prepared, reservation, cancel).await;
        }
        let mut plain = renamed(prepared, model);
        plain.told = prepared.told.prefixed(prefix);
        let reply = provider.send(&plain, reservation, cancel).await?;
        Ok(LlmReply { model: format!("{prefix}{}", reply.model), ..reply })
    }
}

/// The same call under the name by which the endpoint knows the model.
fn renamed(prepared: &Prepared, model: &str) -> Prepared {
    let mut plain = prepared.clone();
    plain.worst_case.model = model.to_owned();
    plain
}
