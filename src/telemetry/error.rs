//! What keeps telemetry from starting, and what a health check finds.
//!
//! Both are read by people and by container runtimes: one line says what is wrong. A fault here must never stop work that
//! has already begun.

use std::net::SocketAddr;

use crate::error::Coded;

/// Telemetry cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The address cannot be listened on.
    #[error("cannot listen on http.listen = {address}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The thread or its runtime cannot be started.
    #[error("cannot start the thread that answers health checks")]
    Start(#[source] std::io::Error),
    /// The log filter is none.
    #[error("log.filter {filter:?} is not a filter: {why}")]
    Filter {
        /// The text.
        filter: String,
        /// What is wrong with it.
        why: String,
    },
    /// A health check names no address that could be asked.
    #[error("{url:?} is no address to ask: {why}")]
    Url {
        /// The text.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The process asked does not answer, or says that it is not well.
    #[error("{url}: {why}")]
    Unhealthy {
        /// What was asked.
        url: String,
        /// What came back.
        why: String,
    },
}

impl Coded for TelemetryError {
    fn code(&self) -> &'static str {
        match self {
            Self::Listen { .. } => "CS-TELEMETRY-001",
            Self::Start(_) => "CS-TELEMETRY-002",
            Self::Filter { .. } => "CS-CLI-010",
            Self::Url { .. } => "CS-TELEMETRY-003",
            Self::Unhealthy { .. } => "CS-TELEMETRY-004",
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::Listen { .. } => {
                "name a free port of this machine, or leave http.listen empty; every process needs an address of its own".into()
            }
            Self::Start(_) => "check the limits on threads and open files".into(),
            Self::Filter { .. } => "use a level (error, warn, info, debug) or target=level pairs".into(),
            Self::Url { .. } => {
                "set http.listen as the process has it, or name the address with --url, for example http://127.0.0.1:8080".into()
            }
            Self::Unhealthy { .. } => "look at the process's log; a supervisor restarts it".into(),
        }
    }
}
