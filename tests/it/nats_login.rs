//! Every way to log in to NATS, and TLS, against servers that insist on it.
//!
//! Certificates and keys are made for each test and thrown away. A refusal must be told from an outage, and must never show a
//! password, token or seed.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use codeswarm::backend::nats::NatsLogin;
use codeswarm::backend::{BackendError, Outgoing, Queue};
use codeswarm::config::Secret;
use codeswarm::error::Coded;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::nats_faults::Servers;
use crate::support::servers::certificates::TestCertificates;
use crate::support::servers::nats::NatsServer;
use crate::support::stores::{SOON, instance};

/// Uses every part of the stores once.
async fn assert_works(servers: &Servers) {
    let backend = servers.open().await;
    let queue = Queue::Command { shard: 0 };
    let message = Outgoing { queue: queue.clone(), dedupe: "a".into(), body: Bytes::from_static(b"a") };
    backend.broker.publish(vec![message]).await.unwrap();
    let got = backend.broker.pull(&instance("w"), &[queue], 1, SOON).await.unwrap();
    assert_eq!(got[0].body, "a");
    let artifact = backend.artifacts.put(Bytes::from_static(b"b")).await.unwrap();
    assert_eq!(backend.artifacts.get(&artifact).await.unwrap(), "b");
    assert!(backend.events.jobs().await.unwrap().is_empty());
}

async fn assert_refused(servers: &Servers, secret: &str) {
    let error = servers.try_open().await.err().unwrap();
    let text = format!("{error} {error:?} {}", error.remedy());
    assert!(matches!(error, BackendError::Refused { .. }), "{text}");
    assert!(text.contains(&format!("127.0.0.1:{}", servers.nats.port())) && !text.contains(secret), "{text}");
    assert!(text.contains("login") && text.contains("nats.user"), "{text}");
}

fn with_login(configuration: &str, login: NatsLogin) -> Servers {
    let mut servers = Servers::with(NatsServer::with(configuration));
    servers.options.nats.login = login;
    servers
}

fn password(password: &str) -> NatsLogin {
    NatsLogin::Password { user: "fleet".into(), password: Secret::new(password) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_logs_in_with_a_password_from_the_settings_or_the_url() {
    let users = "authorization { users: [{ user: fleet, password: \"s3cr@t\" }] }";
    let mut servers = with_login(users, password("s3cr@t"));
    assert_works(&servers).await;
    servers.options.nats.login = password("wr0ng");
    assert_refused(&servers, "wr0ng").await;
    servers.options.nats.login = NatsLogin::None;
    assert_refused(&servers, "s3cr@t").await;
    let port = servers.nats.port();
    servers.options.nats.servers = Secret::new(format!("nats://fleet:s3cr%40t@127.0.0.1:{port}"));
    assert_works(&servers).await;
    servers.options.nats.servers = Secret::new(format!("nats://fleet:wr0ng@127.0.0.1:{port}"));
    assert_refused(&servers, "wr0ng").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_in() {
    let mut servers = with_login("authorization { token: t0ken }", NatsLogin::Token(Secret::new("t0ken")));
    assert_works(&servers).await;
    servers.options.nats.login = NatsLogin::Token(Secret::new("0ther"));
    assert_refused(&servers, "0ther").await;
    servers.options.nats.login = NatsLogin::None;
    servers.options.nats.servers = Secret::new(format!("nats://t0ken@127.0.0.1:{}", servers.nats.port()));
    assert_works(&servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nkey_lets_in() {
    let (key, other) = (KeyPair::new_user(), KeyPair::new_user());
    let users = format!("authorization {{ users: [{{ nkey: {} }}] }}", key.public_key());
    let mut servers = with_login(&users, NatsLogin::NKey(Secret::new(key.seed().unwrap())));
    assert_works(&servers).await;
    let seed = other.seed().unwrap();
    servers.options.nats.login = NatsLogin::NKey(Secret::new(&seed));
    assert_refused(&servers, &seed).await;
    servers.options.nats.login = NatsLogin::NKey(Secret::new("no-seed"));
    assert_refused(&servers, "no-seed").await;
}

/// A claim signed by `issuer`, as the server reads it.
fn jwt(issuer: &KeyPair, subject: &KeyPair, claims: &Value) -> String {
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let body = json!({
        "jti": "test", "iat": 1_700_000_000, "iss": issuer.public_key(), "name": "test",
        "sub": subject.public_key(), "nats": claims,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&body));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

fn account(storage: i64) -> Value {
    json!({
        "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
            "leaf": -1, "mem_storage": storage, "disk_storage": storage, "streams": storage, "consumer": storage,
        },
        "default_permissions": {"pub": {}, "sub": {}}, "type": "account", "version": 2,
    })
}

fn credentials(user: &KeyPair, jwt: &str) -> NatsLogin {
    let seed = user.seed().unwrap();
    // As `nsc` writes it, after the settings have cut off the white space around it.
    NatsLogin::Credentials(Secret::new(format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n\
         ------END USER NKEY SEED------"
    )))
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_an_operators_account_let_in() {
    let (operator, system, fleet) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let (user, stranger) = (KeyPair::new_user(), KeyPair::new_account());
    let configuration = format!(
        "operator: {}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload: {{ {system}: {}, {fleet}: {} }}",
        jwt(&operator, &operator, &json!({"type": "operator", "version": 2, "system_account": system.public_key()})),
        jwt(&operator, &system, &account(0)),
        jwt(&operator, &fleet, &account(-1)),
        system = system.public_key(),
        fleet = fleet.public_key(),
    );
    let claims = json!({"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2});
    let token = jwt(&fleet, &user, &claims);
    let mut servers = with_login(&configuration, credentials(&user, &token));
    assert_works(&servers).await;
    let forged = jwt(&stranger, &user, &claims);
    servers.options.nats.login = credentials(&user, &forged);
    assert_refused(&servers, &user.seed().unwrap()).await;
    servers.options.nats.login = NatsLogin::Credentials(Secret::new("no credentials"));
    let error = servers.try_open().await.err().unwrap();
    assert!(error.to_string().contains("nats.credentials_file"), "{error}");
}

fn tls(certificates: &TestCertificates, verify: bool) -> String {
    let file = |name: &str| certificates.file(name).display().to_string();
    format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: {verify} }}",
        file("server.crt"),
        file("server.key"),
        file("ca.crt")
    )
}

async fn assert_insecure(servers: &Servers, file: &Path) {
    let error = servers.try_open().await.err().unwrap();
    let text = format!("{error}; {}", error.remedy());
    assert!(matches!(error, BackendError::Refused { .. }), "{}: {text}", file.display());
    assert!(text.contains("nats.ca_file") && text.contains("certificate"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_encrypted_to_a_server_that_an_authority_vouches_for() {
    let (certificates, others) = (TestCertificates::make(), TestCertificates::make());
    let mut servers = Servers::with(NatsServer::with(&tls(&certificates, false)));
    let authority = certificates.file("ca.crt");
    servers.options.nats.certificates.ca_file = Some(authority.clone());
    // The server asks for TLS, whatever the scheme says.
    assert_works(&servers).await;
    servers.options.nats.servers = Secret::new(format!("tls://127.0.0.1:{}", servers.nats.port()));
    assert_works(&servers).await;
    let facts = codeswarm::backend::nats::facts(&servers.options.nats, "test", &instance("doctor")).await.unwrap();
    assert!(facts.tls);
    servers.options.nats.certificates.ca_file = Some(others.file("ca.crt"));
    assert_insecure(&servers, &others.file("ca.crt")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_a_certificate_gets_one() {
    let (certificates, others) = (TestCertificates::make(), TestCertificates::make());
    let mut servers = Servers::with(NatsServer::with(&tls(&certificates, true)));
    let identity = |of: &TestCertificates| Some((of.file("client.crt"), of.file("client.key")));
    servers.options.nats.certificates.ca_file = Some(certificates.file("ca.crt"));
    servers.options.nats.certificates.identity_files = identity(&certificates);
    assert_works(&servers).await;
    servers.options.nats.certificates.identity_files = identity(&others);
    assert_insecure(&servers, &others.file("client.crt")).await;
    servers.options.nats.certificates.identity_files = None;
    assert_insecure(&servers, Path::new("none")).await;
}
