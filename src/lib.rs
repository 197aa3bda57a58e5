//! CodeSwarm: a written proposal in, a working code base out, never a cent over budget.

pub mod agent;
pub mod backend;
pub mod budget;
pub mod clock;
pub mod error;
pub mod graph;
pub mod job;
pub mod llm;
pub mod protocol;
pub mod workspace;
