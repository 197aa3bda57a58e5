//! Names on the server: streams, subjects, consumers, headers (DESIGN §4).
//!
//! Named in one place, because people look for them with `nats stream ls`, scalers and exporters are configured with them,
//! and two versions of the program have to agree on them. Nothing else may spell one out.

use sha2::{Digest, Sha256};

use crate::backend::Queue;
use crate::backend::digest::to_hex;
use crate::protocol::JobId;

/// The id by which JetStream drops duplicates.
pub(super) const MESSAGE_ID: &str = "Nats-Msg-Id";
/// A publish is refused unless the newest message of its subject has this sequence; 0 for none.
pub(super) const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
/// Dedupe id of a message whose [`MESSAGE_ID`] is another one.
pub(super) const DEDUPE: &str = "Codeswarm-Dedupe";
/// How often a message was delivered before it was published again.
pub(super) const DELIVERIES: &str = "Codeswarm-Deliveries";
/// `<sha256>:<bytes>` of the artifact that holds the body.
pub(super) const BODY: &str = "Codeswarm-Body";
/// The queue a dead letter comes from.
pub(super) const QUEUE: &str = "Codeswarm-Queue";
/// Why a dead letter was given up, as a JSON string.
pub(super) const REASON: &str = "Codeswarm-Reason";
/// When, in epoch milliseconds of the stores' clock.
pub(super) const AT: &str = "Codeswarm-At";
/// Sequence of the first event of a message.
pub(super) const FIRST: &str = "Codeswarm-First";
/// Events in a message.
pub(super) const COUNT: &str = "Codeswarm-Count";
/// `<stream sequence>:<epoch milliseconds>` of the first message of a job's log.
pub(super) const ORIGIN: &str = "Codeswarm-Origin";

/// The names of one namespace.
#[derive(Debug, Clone)]
pub(super) struct Names {
    namespace: String,
    upper: String,
}

/// The streams of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum StreamKind {
    /// Tasks on their way to workers.
    Tasks,
    /// Results on their way to the coordinator.
    Results,
    /// Commands on their way to the coordinator.
    Commands,
    /// Job logs.
    Events,
    /// Dead letters.
    Letters,
    /// Chunks and descriptions of artifacts.
    Artifacts,
    /// Every step of the money.
    Journal,
}

impl StreamKind {
    /// The stream that holds `queue`.
    pub(super) const fn of(queue: &Queue) -> Self {
        match queue {
            Queue::Task { .. } => Self::Tasks,
            Queue::Result { .. } => Self::Results,
            Queue::Command { .. } => Self::Commands,
        }
    }
}

impl Names {
    /// Names that begin with `namespace`.
    pub(super) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), upper: namespace.to_ascii_uppercase() }
    }

    /// Name of a stream.
    pub(super) fn stream(&self, kind: StreamKind) -> String {
        let upper = &self.upper;
        match kind {
            StreamKind::Tasks => format!("{upper}_TASKS"),
            StreamKind::Results => format!("{upper}_RESULTS"),
            StreamKind::Commands => format!("{upper}_COMMANDS"),
            StreamKind::Events => format!("{upper}_EVENTS"),
            StreamKind::Letters => format!("{upper}_DLQ"),
            StreamKind::Artifacts => format!("OBJ_{}", self.bucket()),
            StreamKind::Journal => format!("{upper}_JOURNAL"),
        }
    }

    /// Subjects of a stream.
    pub(super) fn subjects(&self, kind: StreamKind) -> Vec<String> {
        let namespace = &self.namespace;
        match kind {
            StreamKind::Tasks => vec![format!("{namespace}.task.*.*")],
            StreamKind::Results => vec![format!("{namespace}.result.*")],
            StreamKind::Commands => vec![format!("{namespace}.command.*")],
            StreamKind::Events => vec![format!("{namespace}.event.>")],
            StreamKind::Letters => vec![format!("{namespace}.dlq.>")],
            StreamKind::Journal => vec![format!("{namespace}.journal.*")],
            StreamKind::Artifacts => vec![format!("$O.{}.C.>", self.bucket()), format!("$O.{}.M.>", self.bucket())],
        }
    }

    /// Subject of a queue.
    pub(super) fn queue(&self, queue: &Queue) -> String {
        format!("{}.{queue}", self.namespace)
    }

    /// Subject of the queue that prints as `queue`.
    pub(super) fn queue_named(&self, queue: &str) -> String {
        format!("{}.{queue}", self.namespace)
    }

    /// Subject of a job's log.
    pub(super) fn event(&self, job: &JobId) -> String {
        format!("{}.event.{job}", self.namespace)
    }

    /// The job whose log has this subject.
    pub(super) fn job_of(&self, subject: &str) -> Option<JobId> {
        let token = subject.strip_prefix(&self.namespace)?.strip_prefix(".event.")?;
        JobId::new(token).ok()
    }

    /// Subject of a dead letter: the queue, what its dedupe id hashes to, and `place`, which tells letters of the same id
    /// apart. `*` names all of them.
    pub(super) fn letter(&self, queue: &str, dedupe: &str, place: &str) -> String {
        let digest = to_hex(&Sha256::digest(dedupe)[..12]);
        format!("{}.dlq.{queue}.{digest}.{place}", self.namespace)
    }

    /// Subject of the ledger's `records`, or of its `epoch`.
    pub(super) fn journal(&self, what: &str) -> String {
        format!("{}.journal.{what}", self.namespace)
    }

    /// Subject of hints.
    pub(super) fn signal(&self) -> String {
        format!("{}.signal", self.namespace)
    }

    /// The object store of artifacts.
    pub(super) fn bucket(&self) -> String {
        format!("{}_ARTIFACTS", self.upper)
    }
}

/// Name of a queue's durable consumer.
pub(super) fn consumer(queue: &Queue) -> String {
    match queue {
        Queue::Task { agent, priority } => format!("{agent}-{}", priority.as_str()),
        Queue::Result { shard } => format!("result-{shard}"),
        Queue::Command { shard } => format!("command-{shard}"),
    }
}

/// What the consumer is for, for people who list consumers.
pub(super) fn description(queue: &Queue) -> String {
    match queue {
        Queue::Task { agent, priority } => format!("Tasks of priority {} for {agent} workers", priority.as_str()),
        Queue::Result { shard } => format!("Results for the coordinator of shard {shard}"),
        Queue::Command { shard } => format!("Commands for the coordinator of shard {shard}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{AgentType, Priority};

    #[test]
    fn names_are_those_of_the_design() {
        let names = Names::new("my-fleet");
        let queue = Queue::Task { agent: AgentType::new("backend").unwrap(), priority: Priority::High };
        assert_eq!(names.stream(StreamKind::of(&queue)), "MY-FLEET_TASKS");
        assert_eq!(names.queue(&queue), "my-fleet.task.backend.high");
        assert_eq!(consumer(&queue), "backend-high");
        assert_eq!(consumer(&Queue::Result { shard: 3 }), "result-3");
        assert_eq!(names.stream(StreamKind::Artifacts), "OBJ_MY-FLEET_ARTIFACTS");
        let job = JobId::new("j-1").unwrap();
        assert_eq!(names.job_of(&names.event(&job)), Some(job));
        assert_eq!(names.job_of("my-fleet.event.a.b"), None);
        assert_eq!(names.job_of("other.event.a"), None);
        assert_eq!(names.letter("result.0", "", "7"), "my-fleet.dlq.result.0.e3b0c44298fc1c149afbf4c8.7");
    }
}
