//! CodeSwarm: a written proposal in, a working code base out, never a cent over budget.

pub mod error;
pub mod clock;
pub mod protocol;
pub mod config;
pub mod graph;
pub mod job;
pub mod schedule;
pub mod backend;
pub mod budget;
pub mod resilience;
pub mod llm;
pub mod agent;
pub mod workspace;
pub mod worker;
pub mod coordinator;
pub mod fleet;
pub mod cli;
