//! Servers that may not be used, and what is said about them before anything is written.
//!
//! A refusal names the server, the setting and the command or key that changes it, and never a password.

use codeswarm::backend::redis::survey;

use super::*;

async fn refusal(options: &DistributedOptions) -> String {
    use codeswarm::error::Coded;
    match redis::open(options, &instance("refused"), None).await {
        Ok(_) => panic!("was opened"),
        Err(error) => format!("{error} | {}", error.remedy()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_24_a_server_that_may_lose_what_it_acknowledged_is_refused_with_the_command_that_changes_it() {
    let cases = [
        (["--appendonly", "no"], "CONFIG SET appendonly yes"),
        (["--appendfsync", "everysec"], "CONFIG SET appendfsync always"),
        (["--maxmemory-policy", "allkeys-lru"], "CONFIG SET maxmemory-policy noeviction"),
    ];
    for (arguments, command) in cases {
        let server = RedisServer::with(&arguments);
        let mut options = distributed_options(&server.url());
        let refused = refusal(&options).await;
        assert!(refused.contains(command) && refused.contains(&server.port().to_string()), "{refused}");
        options.require_durable = false;
        open(&options).await;
        options.require_durable = true;
        server.command(command);
        open(&options).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_refused_and_a_primary_that_becomes_one_is_unavailable_until_it_is_primary_again() {
    let primary = RedisServer::start();
    let (server, _) = start().await;
    let mut options = distributed_options(&server.url());
    options.redis.request_timeout = Duration::from_millis(300);
    let (stores, _) = open(&options).await;
    put(&*stores.state, "k", Expected::Absent, "v").await.unwrap();
    server.command(&format!("REPLICAOF 127.0.0.1 {}", primary.port()));
    let refused = refusal(&distributed_options(&server.url())).await;
    assert!(refused.contains("read-only replica") && refused.contains("primary"), "{refused}");
    is_unavailable(put(&*stores.state, "k", Expected::Any, "w").await);
    server.command("REPLICAOF NO ONE");
    eventually(|| put(&*stores.state, "k", Expected::Any, "w")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let server = RedisServer::start();
    let options = distributed_options(&format!("redis://someone:hidden@127.0.0.1:{}/0", server.port()));
    let port = server.port().to_string();
    drop(server);
    let refused = refusal(&options).await;
    assert!(refused.contains(&format!("127.0.0.1:{port}")) && refused.contains("check that Redis runs"), "{refused}");
    assert!(!refused.contains("hidden") && !format!("{options:?}").contains("hidden"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_on_one_server_do_not_see_one_another() {
    let server = RedisServer::start();
    let mut options = distributed_options(&server.url());
    let (one, _) = open(&options).await;
    options.namespace = "other".into();
    let (other, _) = open(&options).await;
    limit(&*one.ledger, 100).await;
    put(&*one.state, "k", Expected::Absent, "v").await.unwrap();
    one.locks.acquire(lock("a")).await.unwrap();
    assert_eq!(balance(&*other.ledger).await, Balance::default());
    assert_eq!(put(&*other.state, "k", Expected::Absent, "w").await.unwrap(), 1);
    fence(other.locks.acquire(lock("b")).await.unwrap());
    let instances = other.state.snapshot("fleet/instance/").await.unwrap().entries;
    assert_eq!(instances.len(), 1, "the dead and the living of another deployment are nobody's business");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survey_tells_what_the_server_is_without_writing_to_it() {
    let server = RedisServer::start();
    let options = distributed_options(&server.url());
    let facts = survey(&options).await.unwrap();
    assert_eq!(facts.address, format!("127.0.0.1:{}", server.port()));
    assert!(facts.version.as_deref().is_some_and(|version| version.contains('.')), "{facts:?}");
    assert_eq!((facts.append_only, facts.append_fsync.as_deref()), (Some(true), Some("always")));
    assert_eq!((facts.eviction_policy.as_deref(), facts.role.as_deref()), (Some("noeviction"), Some("master")));
    assert!(facts.used_memory.is_some_and(|bytes| bytes > 0) && facts.latency > Duration::ZERO);
    assert_eq!((facts.epoch, server.command("DBSIZE")), (None, ::redis::Value::Int(0)));
    open(&options).await;
    assert!(survey(&options).await.unwrap().epoch.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_go_by_the_clock_of_the_server() {
    let (server, stores) = start().await;
    let ::redis::Value::Array(time) = server.command("TIME") else { panic!("no time") };
    let seconds: i64 = ::redis::from_redis_value(time[0].clone()).unwrap();
    let ahead = stores.clock.now().0 - seconds * 1_000;
    assert!((-100..10_000).contains(&ahead), "{ahead} ms");
    let Acquired::Granted { until, .. } = stores.locks.acquire(lock("a")).await.unwrap() else { panic!("not granted") };
    assert!(until > stores.clock.now().after(s(3_500)) && until < stores.clock.now().after(s(3_700)));
}
