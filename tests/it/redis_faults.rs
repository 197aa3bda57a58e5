//! Redis when things go wrong: servers that die, hang, forget, refuse or are the wrong one, and processes that die.
//!
//! Every test has a server of its own and does to it what happens in operation: signals, restarts, commands of an
//! administrator. What is promised in all of them: nothing acknowledged is lost, nothing is spent twice, and whoever has to
//! do something is told what.

mod books;
mod cases;
mod presence;
mod refusals;
mod secured;
mod storms;

use std::time::Duration;

use codeswarm::backend::distributed::DistributedOptions;
use codeswarm::backend::redis::{self, RedisStores};
use codeswarm::backend::{
    Acquired, Adjustment, BackendError, Balance, Expected, Ledger, LockMode, LockRequest, ReserveOutcome, Scope,
    StateStore, Write,
};
use codeswarm::clock::Clock;
use codeswarm::protocol::{InstanceId, Priority};

use crate::conformance::reservation;
use crate::support::servers::redis::RedisServer;
use crate::support::stores::{SOON, distributed_options, instance, job, s, usd};

fn scope() -> Scope {
    Scope::Job(job("j"))
}

/// Opens the stores on the server of `options` by its own clock, and says as whom.
async fn open(options: &DistributedOptions) -> (RedisStores, InstanceId) {
    let instance = instance("process");
    (redis::open(options, &instance, None).await.expect("opens"), instance)
}

async fn start() -> (RedisServer, RedisStores) {
    let server = RedisServer::start();
    let (stores, _) = open(&distributed_options(&server.url())).await;
    (server, stores)
}

async fn limit(ledger: &dyn Ledger, amount: u64) {
    ledger.adjust("limit", &scope(), Adjustment::SetLimit(Some(usd(amount)))).await.unwrap();
}

async fn reserve(ledger: &dyn Ledger, id: &str, amount: u64) -> Result<ReserveOutcome, BackendError> {
    ledger.reserve(reservation(id, &[scope()], amount)).await
}

async fn balance(ledger: &dyn Ledger) -> Balance {
    ledger.balance(&scope()).await.unwrap()
}

async fn put(state: &dyn StateStore, key: &str, expected: Expected, value: &'static str) -> Result<u64, BackendError> {
    let write = Write { key: key.into(), expected, value: Some(value.into()) };
    state.commit(&instance("writer"), vec![write]).await.map(|versions| versions[0])
}

fn lock(owner: &str) -> LockRequest {
    LockRequest {
        resource: "r".into(),
        owner: owner.into(),
        mode: LockMode::Exclusive,
        priority: Priority::Normal,
        lease: s(3_600),
        queue: false,
    }
}

fn fence(outcome: Acquired) -> u64 {
    match outcome {
        Acquired::Granted { fence, .. } => fence,
        other => panic!("not granted: {other:?}"),
    }
}

#[track_caller]
fn is_unavailable<T>(outcome: Result<T, BackendError>) {
    match outcome {
        Err(BackendError::Unavailable { store: "Redis", .. }) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was available"),
    }
}

/// Repeats a step for as long as the server is not available, at most [`SOON`].
async fn eventually<T, F: Future<Output = Result<T, BackendError>>>(step: impl Fn() -> F) -> T {
    let repeat = async {
        loop {
            match step().await {
                Ok(value) => return value,
                Err(BackendError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    tokio::time::timeout(SOON, repeat).await.expect("it is available again in time")
}
