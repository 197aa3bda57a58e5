//! The one envelope around every message (REQUIREMENTS B1), and the commands people send to a job.
//!
//! Addressing, expiry, causation and trace context live here so that payloads stay plain. Expiry is checked by
//! the receiver against its own clock. The envelope must never carry a secret: brokers store it.

use serde::{Deserialize, Serialize};

use super::{AgentType, InstanceId, JobId, MicroUsd, TaskId};
use crate::clock::{self, Timestamp};

/// Version of the envelope and of all payloads in this room; golden files pin the bytes of each.
pub const SCHEMA_VERSION: u16 = 1;

/// What kind of message an envelope holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MessageKind {
    /// Asks for something to be done.
    Command,
    /// Asks for information.
    Query,
    /// Answers a command or a query.
    Response,
    /// States a fact.
    Event,
    /// Says that an instance lives; presence only.
    Heartbeat,
    /// Reports a failure.
    Error,
    /// Carries bulk data or a reference to it.
    Data,
    /// Tells people something.
    Notification,
}

/// Urgency; the order of variants is the order of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// Served before everything else.
    Critical,
    /// Served before normal work.
    High,
    /// The default.
    #[default]
    Normal,
    /// Served last, yet never starved.
    Low,
}

impl Priority {
    /// All priorities, most urgent first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Normal, Self::Low];

    /// The name used in subjects and queues.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// Who a message is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "to", content = "name")]
pub enum Recipient {
    /// One running instance.
    Agent(InstanceId),
    /// Any one instance of a type.
    Type(AgentType),
    /// Everyone.
    Broadcast,
}

/// W3C trace context, passed on unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    /// The `traceparent` header.
    pub traceparent: String,
}

/// A message with everything needed to route, order, expire and trace it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<P> {
    /// Unique id of this message.
    pub id: String,
    /// What kind of message this is.
    pub kind: MessageKind,
    /// Schema version of envelope and payload, see [`SCHEMA_VERSION`].
    pub schema: u16,
    /// The instance that sent it.
    pub sender: InstanceId,
    /// Who it is for.
    pub recipient: Recipient,
    /// Groups the messages of one conversation: the job, or a request id.
    pub correlation_id: String,
    /// The message that caused this one, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<String>,
    /// Urgency.
    pub priority: Priority,
    /// When the sender made it.
    pub created_at: Timestamp,
    /// After this instant the receiver must refuse it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Trace context of the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
    /// What is said.
    pub payload: P,
}

impl<P> Envelope<P> {
    /// An envelope of the current version for durable work: it does not expire.
    pub fn new(
        kind: MessageKind,
        sender: InstanceId,
        recipient: Recipient,
        correlation_id: impl Into<String>,
        created_at: Timestamp,
        payload: P,
    ) -> Self {
        Self {
            id: clock::unique_id(),
            kind,
            schema: SCHEMA_VERSION,
            sender,
            recipient,
            correlation_id: correlation_id.into(),
            causation_id: None,
            priority: Priority::Normal,
            created_at,
            expires_at: None,
            trace: None,
            payload,
        }
    }
}

/// What a person asks of a job. Commands are idempotent by [`CommandMessage::request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum Command {
    /// Look at a job whose submission has just been recorded.
    Start,
    /// Accept the plan and let the paid work begin.
    Approve,
    /// Stop for good; what is finished stays.
    Cancel {
        /// Why, for the record.
        reason: String,
    },
    /// Start no new task until resumed.
    Pause,
    /// Go on after a pause, an exhausted budget, a failure or a crash.
    Resume,
    /// Give a dead task new attempts.
    RetryTask {
        /// Which task.
        task: TaskId,
    },
    /// The job's limit was raised to `limit` in the ledger.
    BudgetChanged {
        /// The new limit.
        limit: MicroUsd,
    },
}

/// A command on its way to the coordinator that leads the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandMessage {
    /// Id of the request; repeating it changes nothing.
    pub request: String,
    /// Which job.
    pub job: JobId,
    /// What to do.
    pub command: Command,
}
