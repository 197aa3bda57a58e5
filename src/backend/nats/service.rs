//! The process as a NATS micro service: `nats micro ls` shows the fleet.
//!
//! It answers pings and questions about itself and has no endpoints, for processes of the fleet never call each other. It is
//! there for people: nothing may depend on whether it could be registered.

use std::collections::HashMap;

use async_nats::Client;
use async_nats::service::{Service, ServiceExt};
use futures_util::FutureExt;

use crate::protocol::InstanceId;

/// Registered until dropped.
#[derive(Debug)]
pub(super) struct Registration(Option<Service>);

/// The role in an instance id: all before the random part.
pub(super) fn role(instance: &InstanceId) -> &str {
    instance.as_str().rsplit_once('-').map_or(instance.as_str(), |(role, _)| role)
}

impl Registration {
    /// Registers the process `instance` of a namespace.
    pub(super) async fn new(client: &Client, instance: &InstanceId, namespace: &str) -> Self {
        let role = role(instance);
        let metadata = HashMap::from([
            ("instance".to_owned(), instance.to_string()),
            ("namespace".to_owned(), namespace.to_owned()),
        ]);
        let builder = client.service_builder().description(format!("CodeSwarm process: {role}")).metadata(metadata);
        match builder.start(format!("codeswarm-{role}"), env!("CARGO_PKG_VERSION").to_owned()).await {
            Ok(service) => Self(Some(service)),
            Err(error) => {
                tracing::warn!(%error, "this process is not registered as a NATS micro service");
                Self(None)
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // Stopping only aborts a task, so it is done at the first poll.
        drop(self.0.take().and_then(|service| service.stop().now_or_never()));
    }
}
