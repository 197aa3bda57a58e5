//! The wire contract: everything that crosses a process boundary, and nothing that does not.
//!
//! Types here are plain data with bounds. [`validate`] is called at every edge, so the rest of the program
//! works on values that are already within limits. Golden files under `tests/it/golden/` pin the bytes of every
//! version; a change that alters them needs a new schema version. This room must never do input or output.

pub mod envelope;
pub mod event;
pub mod ids;
pub mod money;
pub mod path;
pub mod plan;
pub mod task;
pub mod validate;

pub use envelope::{Command, CommandMessage, Envelope, MessageKind, Priority, Recipient, SCHEMA_VERSION, TraceContext};
pub use event::{Event, JobOutcome, JobSettings, Origin, RecordedEvent};
pub use ids::{AgentType, FeatureId, InstanceId, JobId, TaskId};
pub use money::MicroUsd;
pub use plan::{Contract, FeaturePlan, FeatureSpec, FilePlan, Identifier, Metadata, StrategicPlan, TaskSpec};
pub use task::{
    ArtifactRef, ContextFile, FailureKind, Overrun, Receipt, TaskFailure, TaskKind, TaskMessage, TaskOutcome,
    TaskResult, Usage,
};
pub use validate::ProtocolError;
