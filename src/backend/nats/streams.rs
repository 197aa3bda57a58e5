//! The streams of a namespace: created when they are missing, adjusted when that is harmless, refused when they are other
//! people's.
//!
//! A stream is never deleted or made anew, whatever it looks like: it may hold paid work. What differs and cannot be changed
//! without losing something is an error that names stream, field, what was found and what is wanted.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind, RequestErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use futures_util::future::try_join_all;
use serde::Deserialize;

use super::connect::server;
use super::link::Link;
use super::names::StreamKind;
use crate::backend::BackendError;

/// How long the server remembers message ids.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Most bytes of queued commands; a person types those.
const MAX_COMMAND_BYTES: u64 = 64 << 20;

/// The oldest server that has everything used here.
const OLDEST: (u32, u32) = (2, 9);

/// Smallest `max_payload` of a server that can be worked with.
const LEAST_PAYLOAD: usize = 256 * 1024;

/// What an account may use. The library's own form has members that old servers do not send.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Account {
    /// Bytes on disk.
    pub(super) storage: u64,
    /// Streams there are.
    pub(super) streams: usize,
    pub(super) limits: Limits,
}

/// Limits of an account; -1 for none.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Limits {
    pub(super) max_storage: i64,
    pub(super) max_streams: i64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Refused { error: async_nats::jetstream::Error },
    Account(Account),
}

/// What a cluster says that is only forming.
const PASSING: [ErrorCode; 3] =
    [ErrorCode::CLUSTER_NOT_AVAILABLE, ErrorCode::CLUSTER_NO_PEERS, ErrorCode::INSUFFICIENT_RESOURCES];

const ALL: [StreamKind; 7] = [
    StreamKind::Tasks,
    StreamKind::Results,
    StreamKind::Commands,
    StreamKind::Events,
    StreamKind::Letters,
    StreamKind::Artifacts,
    StreamKind::Journal,
];

/// Refuses a server that is too old or has no JetStream; answers what its account may use.
pub(super) async fn check_server(link: &Link) -> Result<Account, BackendError> {
    let found = link.client.server_info();
    let mut numbers = found.version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        let (why, remedy) = (format!("its version is {}", found.version), "use nats-server 2.9 or newer");
        return Err(refused(link, why, remedy));
    }
    if found.max_payload < LEAST_PAYLOAD {
        let why = format!("it takes messages of at most {} bytes", found.max_payload);
        return Err(refused(link, why, format!("set max_payload to {LEAST_PAYLOAD} or more; 1MB is the default")));
    }
    let remedy = "start nats-server with -js, or enable JetStream for this account";
    let answer: Answer = match link.context.request("INFO", &()).await {
        Ok(answer) => answer,
        Err(error) => {
            return Err(match error.kind() {
                RequestErrorKind::NoResponders => refused(link, "JetStream is not enabled".into(), remedy),
                RequestErrorKind::TimedOut => link.late("asking for the account"),
                _ => link.unavailable(error),
            });
        }
    };
    match answer {
        Answer::Account(account) => Ok(account),
        Answer::Refused { error } => {
            let disabled = [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT];
            Err(if disabled.contains(&error.error_code()) {
                refused(link, format!("JetStream is not enabled: {error}"), remedy)
            } else {
                link.unavailable(format!("JetStream is not ready: {error}"))
            })
        }
    }
}

fn refused(link: &Link, why: String, remedy: impl Into<String>) -> BackendError {
    BackendError::Refused { server: server(&link.at), why, remedy: remedy.into() }
}

/// Whether any copy may answer a read, late as it may be: only of bytes that never change.
pub(super) fn may_read_any_copy(kind: StreamKind) -> bool {
    kind == StreamKind::Artifacts
}

/// Creates or adjusts all streams; answers how many copies there are of them.
pub(super) async fn reconcile(link: &Link, max_queue_bytes: u64) -> Result<usize, BackendError> {
    let all = ALL.map(|kind| reconcile_one(link, kind, wanted(link, kind, max_queue_bytes)));
    let copies = try_join_all(all).await?;
    Ok(copies.into_iter().max().unwrap_or(1))
}

fn wanted(link: &Link, kind: StreamKind, max_queue_bytes: u64) -> Config {
    let (retention, max_bytes, about) = match kind {
        StreamKind::Tasks => (RetentionPolicy::WorkQueue, Some(max_queue_bytes), "Tasks for agents"),
        StreamKind::Results => (RetentionPolicy::WorkQueue, Some(max_queue_bytes / 4), "Results for the coordinator"),
        StreamKind::Commands => {
            (RetentionPolicy::WorkQueue, Some(max_queue_bytes.min(MAX_COMMAND_BYTES)), "Commands for the coordinator")
        }
        StreamKind::Events => (RetentionPolicy::Limits, None, "Histories of jobs; removing a message destroys its job"),
        StreamKind::Letters => (RetentionPolicy::Limits, None, "Messages that nobody could process"),
        StreamKind::Journal => {
            (RetentionPolicy::Limits, None, "Every step of the money; the books are rebuilt from it")
        }
        StreamKind::Artifacts => (RetentionPolicy::Limits, None, "Plans, files and large bodies, by SHA-256"),
    };
    Config {
        name: link.names.stream(kind),
        description: Some(format!("CodeSwarm: {about}")),
        subjects: link.names.subjects(kind),
        retention,
        storage: StorageType::File,
        num_replicas: link.replicas,
        max_bytes: max_bytes.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(-1),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        discard: DiscardPolicy::New,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: may_read_any_copy(kind),
        allow_rollup: kind == StreamKind::Artifacts,
        ..Config::default()
    }
}

async fn reconcile_one(link: &Link, kind: StreamKind, wanted: Config) -> Result<usize, BackendError> {
    // A second look finds what another process has created between the first look and our attempt.
    for _ in 0..2 {
        let found = match link.context.get_stream(&wanted.name).await {
            Ok(stream) => Some(stream.cached_info().config.clone()),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::STREAM_NOT_FOUND => None,
                _ => return Err(link.unavailable(format!("cannot look at stream {}: {error}", wanted.name))),
            },
        };
        if let Some(found) = found {
            return adjust(link, kind, found, wanted).await;
        }
        match link.context.create_stream(wanted.clone()).await {
            Ok(_) => return Ok(wanted.num_replicas),
            Err(error) if code(&error) == Some(ErrorCode::STREAM_NAME_EXIST) => {}
            Err(error) => return Err(not_created(link, &wanted, &error).await),
        }
    }
    Err(link.unavailable(format!("stream {} can neither be found nor created", wanted.name)))
}

/// Compares what cannot be changed, and changes what can.
async fn adjust(link: &Link, kind: StreamKind, found: Config, wanted: Config) -> Result<usize, BackendError> {
    if let Some((field, is, should)) = differing(kind, &found, &wanted) {
        let why = format!("its stream {} has {field} {is}, wanted is {should}", wanted.name);
        let remedy = format!(
            "set storage.namespace to a name of your own, or remove that stream if it is nobody's: nats stream rm {}",
            wanted.name
        );
        return Err(refused(link, why, remedy));
    }
    let mut updated = found.clone();
    updated.description = wanted.description;
    updated.duplicate_window = wanted.duplicate_window;
    updated.allow_rollup = wanted.allow_rollup;
    // Copies are only added: a process that was not told about the cluster must not take them away.
    updated.num_replicas = found.num_replicas.max(wanted.num_replicas);
    updated.allow_direct = may_read_any_copy(kind);
    if kind != StreamKind::Letters {
        updated.max_bytes = wanted.max_bytes;
    }
    let copies = updated.num_replicas;
    if updated == found {
        return Ok(copies);
    }
    tracing::info!(stream = updated.name, "adjusting a stream");
    let updating = link.context.update_stream(&updated).await;
    updating.map(|_| copies).map_err(|error| {
        let why = format!("its stream {} cannot be adjusted: {error}", updated.name);
        refused(link, why, "set nats.replicas and nats.max_queue_bytes to what the server can hold")
    })
}

/// The first field that cannot be changed and is not what it has to be: its name, what it is, what it should be.
fn differing(kind: StreamKind, found: &Config, wanted: &Config) -> Option<(&'static str, String, String)> {
    let fields = [
        ("retention", format!("{:?}", found.retention), format!("{:?}", wanted.retention)),
        ("storage", format!("{:?}", found.storage), format!("{:?}", wanted.storage)),
        ("subjects", found.subjects.join(" "), wanted.subjects.join(" ")),
        ("no_ack", found.no_ack.to_string(), wanted.no_ack.to_string()),
        ("sealed", found.sealed.to_string(), wanted.sealed.to_string()),
    ];
    // How long dead letters are kept is their owner's business; nothing else may ever vanish by itself.
    let limits = [
        ("discard", format!("{:?}", found.discard), format!("{:?}", wanted.discard)),
        ("max_age", found.max_age.as_secs().to_string(), "0".into()),
        ("max_msgs", found.max_messages.to_string(), "-1".into()),
        ("max_msgs_per_subject", found.max_messages_per_subject.to_string(), "-1".into()),
    ];
    let limits = limits.into_iter().filter(|_| kind != StreamKind::Letters);
    // Zero messages means no limit, too.
    fields.into_iter().chain(limits).find(|(_, is, should)| is != should && !(is == "0" && should == "-1"))
}

fn code(error: &CreateStreamError) -> Option<ErrorCode> {
    match error.kind() {
        CreateStreamErrorKind::JetStream(inner) => Some(inner.error_code()),
        _ => None,
    }
}

/// Why a stream was not created.
async fn not_created(link: &Link, wanted: &Config, error: &CreateStreamError) -> BackendError {
    let name = &wanted.name;
    match error.kind() {
        CreateStreamErrorKind::TimedOut => link.late("creating a stream"),
        CreateStreamErrorKind::JetStreamUnavailable => link.unavailable("JetStream does not answer yet"),
        CreateStreamErrorKind::JetStream(inner) if PASSING.contains(&inner.error_code()) => {
            link.unavailable(format!("stream {name} cannot be created yet: {inner}"))
        }
        CreateStreamErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::STREAM_SUBJECT_OVERLAP => {
            let mut others = Vec::new();
            for subject in &wanted.subjects {
                match link.context.stream_by_subject(subject).await {
                    Ok(other) if !others.contains(&other) => others.push(other),
                    _ => {}
                }
            }
            let why = format!(
                "stream {name} needs the subjects {}, which stream {} has already",
                wanted.subjects.join(" "),
                others.join(" ")
            );
            refused(link, why, "set storage.namespace to a name of your own, or change that stream's subjects")
        }
        _ => {
            let why = format!("stream {name} cannot be created: {error}");
            let remedy = format!(
                "give JetStream the room it needs ({} bytes and {} copies of this stream), or lower nats.max_queue_bytes \
                 and nats.replicas",
                wanted.max_bytes, wanted.num_replicas
            );
            refused(link, why, remedy)
        }
    }
}
