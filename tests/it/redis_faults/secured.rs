//! Logins and certificates, tried on servers that really check them.
//!
//! The right ones work, the wrong ones fail with the setting to look at, and no password appears anywhere.

use codeswarm::backend::redis::survey;
use codeswarm::config::Secret;

use super::*;
use crate::support::servers::certificates::TestCertificates;

async fn fails(options: &DistributedOptions) -> String {
    let outcome = redis::open(options, &instance("stranger"), None).await;
    outcome.map(|_| ()).expect_err("refused").to_string()
}

async fn works(options: &DistributedOptions) {
    let (stores, instance) = open(options).await;
    limit(&*stores.ledger, 100).await;
    assert_eq!(reserve(&*stores.ledger, instance.as_str(), 1).await.unwrap(), ReserveOutcome::Granted);
    put(&*stores.state, "k", Expected::Any, "v").await.unwrap();
    let found = stores.state.changes("k", 0, 9, Duration::from_millis(1)).await.unwrap();
    assert!(!found.is_empty());
    fence(stores.locks.acquire(lock(instance.as_str())).await.unwrap());
    stores.locks.release("r", instance.as_str()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_needed_where_the_server_wants_one_and_the_wrong_one_is_not_repeated_to_anybody() {
    let server = RedisServer::with_login(&["--requirepass", "correct-horse"], ":correct-horse");
    let mut options = distributed_options(&format!("redis://127.0.0.1:{}/0", server.port()));
    let refused = fails(&options).await;
    assert!(refused.contains("redis.password_file") && refused.contains("NOAUTH"), "{refused}");
    options.redis.password = Some(Secret::new("battery-staple"));
    let refused = fails(&options).await;
    assert!(refused.contains("redis.password_file") && !refused.contains("battery"), "{refused}");
    options.redis.password = Some(Secret::new("correct-horse"));
    works(&options).await;
    works(&distributed_options(&server.url())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acl_user_who_may_touch_its_namespace_only_is_enough() {
    let directory = tempfile::tempdir().unwrap();
    let rules = directory.path().join("users.acl");
    let users = "user default on nopass ~* &* +@all\n\
                 user fleet on >secret ~test:* &test:* +@all -@dangerous\n\
                 user reader on >secret ~test:* &test:* +@read +@connection\n";
    std::fs::write(&rules, users).unwrap();
    let server = RedisServer::with(&["--aclfile", rules.to_str().unwrap()]);
    let mut options = distributed_options(&server.url());
    (options.redis.user, options.redis.password) = (Some("fleet".into()), Some(Secret::new("secret")));
    works(&options).await;
    let facts = survey(&options).await.unwrap();
    assert_eq!(facts.unknown(), ["the version", "appendonly", "appendfsync", "maxmemory-policy"]);
    options.namespace = "elsewhere".into();
    let refused = fails(&options).await;
    assert!(refused.contains("redis.user") && refused.contains("permission"), "{refused}");
    options.namespace = "test".into();
    options.redis.user = Some("reader".into());
    let refused = fails(&options).await;
    assert!(refused.contains("redis.user") && refused.contains("permission"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_checks_the_server_and_shows_the_clients_certificate() {
    let certificates = TestCertificates::make();
    let file = |name: &str| certificates.file(name).display().to_string();
    let (ca, certificate, key) = (file("ca.crt"), file("server.crt"), file("server.key"));
    let server = RedisServer::with_tls(&[
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "yes",
    ]);
    let mut options = distributed_options(&server.url());
    let unknown = fails(&options).await;
    assert!(unknown.contains("certificate"), "its authority is nobody the system knows: {unknown}");
    options.redis.certificates.ca_file = Some(certificates.file("ca.crt"));
    let unproven = fails(&options).await;
    assert!(unproven.contains(&server.port().to_string()), "{unproven}");
    options.redis.certificates.identity_files =
        Some((certificates.file("client.crt"), certificates.file("client.key")));
    works(&options).await;
    options.redis.certificates.ca_file = Some("/nowhere/ca.crt".into());
    let missing = fails(&options).await;
    assert!(missing.contains("redis.ca_file") && missing.contains("/nowhere/ca.crt"), "{missing}");
    let plain = RedisServer::start();
    options.redis.url = Secret::new(plain.url());
    let pointless = fails(&options).await;
    assert!(pointless.contains("rediss://"), "{pointless}");
}
