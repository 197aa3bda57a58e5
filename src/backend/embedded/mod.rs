//! The seven stores on one SQLite file: no servers, same promises.
//!
//! One thread per process writes. It takes whatever is queued, runs it in one transaction (group
//! commit), and another flushes for the steps that must not be undone; waiting pulls are kept by the same thread and are served in the
//! transaction that makes messages available. Two more threads read. Several processes may
//! share a directory: SQLite serialises their transactions, each notices the others' within 25 ms while somebody
//! waits, and a process that dies is noticed by its file lock.
//!
//! Nothing in here may be relied on beyond the traits: code above must run unchanged on the distributed backend.

mod alive;
mod artifacts;
mod broker;
mod column;
mod connection;
mod events;
mod fault;
mod flush;
mod inbox;
mod inspect;
mod ledger;
mod locks;
mod maintenance;
mod rates;
mod reader;
mod sql;
mod state;
mod step;
mod waiting;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

pub use self::inspect::{Inspection, exists, inspect};

use self::alive::Lives;
use self::fault::closed;
use self::flush::Flusher;
use self::inbox::Inbox;
use self::reader::Reader;
use self::waiting::WaitingRoom;
use self::writer::Writer;
use super::{Backend, BackendError, Signal};
use crate::clock::{Clock, random_token};
use crate::protocol::InstanceId;

/// How hard a commit is pressed onto the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Money set aside, limits, job logs and commands survive loss of power before anybody is told so; every other step
    /// survives the death of any process at once and loss of power from the next of those on.
    #[default]
    Full,
    /// Every step survives the death of any process; loss of power may undo the newest ones, money included.
    Process,
}

/// Longest wait for messages, events or changes; a longer one is cut to it.
const MAX_WAIT: Duration = Duration::from_secs(3_600);

/// Signals a slow receiver may lag behind before it misses some.
const SIGNAL_BUFFER: usize = 1_024;

/// Handles on the threads of one open directory; the threads end with it.
struct Store {
    inbox: Arc<Inbox>,
    reader: Reader,
    signals: broadcast::Sender<Signal>,
    clock: Clock,
}

/// Opens (and creates, if need be) the stores in `directory` for the process `instance`.
///
/// The state key `fleet/instance/<instance>` becomes `{"state":"alive"}`. When the last handle is dropped, or the
/// process ends in any way, other processes on the directory notice within about a second (or when they open it):
/// its deliveries become available, its open reservations count as spent, its leases end, and the key becomes
/// `{"state":"dead"}`.
///
/// # Errors
/// [`BackendError::Storage`] when the directory cannot be written, [`BackendError::Corrupt`] when the file is no
/// database or not one of this program, [`BackendError::NewerVersion`] when a newer program wrote it, and
/// [`BackendError::InUse`] when a living process has the same instance id.
pub async fn open(
    directory: &Path,
    instance: &InstanceId,
    durability: Durability,
    clock: Clock,
) -> Result<Backend, BackendError> {
    let (directory, instance) = (directory.to_owned(), instance.clone());
    let opening = tokio::task::spawn_blocking(move || start(&directory, &instance, durability, clock));
    let store = Arc::new(opening.await.map_err(|_| closed())??);
    Ok(Backend {
        broker: store.clone(),
        events: store.clone(),
        artifacts: store.clone(),
        state: store.clone(),
        ledger: store.clone(),
        locks: store.clone(),
        rates: store.clone(),
        clock: store.clock.clone(),
        delivery_lease: super::broker::LEASE,
    })
}

/// Prepares the directory under its guard, takes over from the dead, and starts the threads.
fn start(directory: &Path, instance: &InstanceId, durability: Durability, clock: Clock) -> Result<Store, BackendError> {
    let guard = alive::guard(directory)?;
    let file = directory.join(connection::FILE);
    let db = connection::writer(&file)?;
    let lives = Lives::enter(directory, instance, &guard)?;
    let name = file.display().to_string();
    let last_signal = broker::newest_signal(&db).map_err(|error| fault::classify(&error, &name))?;
    let reader = Reader::start(&file)?;
    let flusher = match durability {
        Durability::Full => Some(Flusher::start(&file).map_err(|error| fault::io(&file, &error))?),
        Durability::Process => None,
    };
    let (inbox, queue) = Inbox::new();
    let (signals, _) = broadcast::channel(SIGNAL_BUFFER);
    let mut writer = Writer {
        db,
        file: name,
        clock: clock.clone(),
        process: instance.clone(),
        queue,
        signals: signals.clone(),
        lives,
        room: WaitingRoom::default(),
        next_lease: i64::from_str_radix(&random_token(15), 16).unwrap_or(1),
        last_signal,
        flusher,
    };
    writer.begin(guard)?;
    std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(move || writer.run())
        .map_err(|error| fault::io(&file, &error))?;
    Ok(Store { inbox, reader, signals, clock })
}
