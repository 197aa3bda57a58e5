//! From settings to a connected client: addresses, login, certificates, patience, and what a refusal means.
//!
//! Credentials are taken out of the addresses before anything else sees them, because the client library logs addresses.
//! A refused login or certificate is said at once; only a server that cannot be reached yet is tried again, for a moment.

use std::time::{Duration, Instant};

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use tokio::sync::watch;

use super::link::STORE;
use super::{NatsLogin, NatsOptions};
use crate::backend::BackendError;
use crate::clock::random_token;
use crate::metric;
use crate::protocol::InstanceId;

/// How often the server is asked whether it is still there; after three silences the connection is made anew.
const PING: Duration = Duration::from_secs(10);

/// How long a server that cannot be reached is tried at the start: one that starts beside us needs a moment.
const PATIENCE: Duration = Duration::from_secs(2);

/// First and longest pause between attempts to connect again, before jitter.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(1_000));

/// Messages a subscription holds until the client drops some.
const SUBSCRIPTION_BUFFER: usize = 65_536;

/// Where the servers are and who we are to them.
pub(super) struct Address {
    servers: Vec<ServerAddr>,
    login: Option<(String, Option<String>)>,
    /// Hosts and ports, for people.
    pub(super) at: String,
}

impl Address {
    /// Reads a list of URLs separated by commas.
    pub(super) fn parse(urls: &str) -> Result<Self, BackendError> {
        let invalid = |why: String| BackendError::Invalid { field: "nats.url", why };
        let (mut servers, mut login, mut at) = (Vec::new(), None, Vec::new());
        for url in urls.split(',').map(str::trim).filter(|url| !url.is_empty()) {
            // The text of the parser's error could hold the URL, and with it a password.
            let address: ServerAddr = url.parse().map_err(|_| invalid("a server's URL cannot be read".into()))?;
            let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
            if let Some(user) = address.username() {
                login = Some((plain(user), address.password().map(plain)));
            }
            let host =
                if address.host().contains(':') { format!("[{}]", address.host()) } else { address.host().into() };
            let place = format!("{host}:{}", address.port());
            let bare = format!("{}://{place}", address.scheme());
            servers.push(bare.parse().map_err(|_| invalid(format!("{bare} cannot be read")))?);
            at.push(place);
        }
        if servers.is_empty() {
            return Err(invalid("it names no server".into()));
        }
        Ok(Self { servers, login, at: at.join(",") })
    }
}

/// Connects as `instance`. The receiver's number grows with every connection made.
pub(super) async fn connect(
    options: &NatsOptions,
    address: &Address,
    instance: &InstanceId,
) -> Result<(Client, watch::Receiver<u64>), BackendError> {
    let (epochs, epoch) = watch::channel(0);
    let settings = settings(options, address, instance, epochs)?;
    let started = Instant::now();
    for attempt in 1.. {
        let connecting = settings.clone().connect(&address.servers[..]);
        let error = match tokio::time::timeout(options.request_timeout, connecting).await {
            Ok(Ok(client)) => return Ok((client, epoch)),
            Ok(Err(error)) => refused(&address.at, &error).map_or_else(
                || unreachable(&address.at, &said(&error)),
                |(why, remedy)| BackendError::Refused { server: server(&address.at), why, remedy },
            ),
            Err(_) => unreachable(&address.at, "no answer to the attempt to connect"),
        };
        if matches!(error, BackendError::Refused { .. }) || started.elapsed() > PATIENCE {
            return Err(error);
        }
        tokio::time::sleep(pause(attempt)).await;
    }
    Err(unreachable(&address.at, "no attempt was made"))
}

/// How a server is called in errors.
pub(super) fn server(at: &str) -> String {
    format!("the NATS server at {at}")
}

fn unreachable(at: &str, why: &str) -> BackendError {
    BackendError::Unavailable { store: STORE, reason: format!("cannot connect to {at}: {why}") }
}

fn settings(
    options: &NatsOptions,
    address: &Address,
    instance: &InstanceId,
    epochs: watch::Sender<u64>,
) -> Result<ConnectOptions, BackendError> {
    // Only the first of several installers succeeds; any provider will do.
    drop(rustls::crypto::ring::default_provider().install_default());
    let at = address.at.clone();
    let mut settings = ConnectOptions::new()
        .name(instance)
        .ping_interval(PING)
        .connection_timeout(options.request_timeout)
        .request_timeout(Some(options.request_timeout))
        .subscription_capacity(SUBSCRIPTION_BUFFER)
        .reconnect_delay_callback(pause)
        .event_callback(move |event| {
            tell(&at, &event);
            if event == Event::Connected {
                epochs.send_modify(|epoch| *epoch += 1);
            }
            std::future::ready(())
        });
    settings = match (&options.login, &address.login) {
        (NatsLogin::None, None) => settings,
        (NatsLogin::None, Some((user, Some(password)))) => settings.user_and_password(user.clone(), password.clone()),
        (NatsLogin::None, Some((token, None))) => settings.token(token.clone()),
        (NatsLogin::Password { user, password }, _) => {
            settings.user_and_password(user.clone(), password.expose().to_owned())
        }
        (NatsLogin::Token(token), _) => settings.token(token.expose().to_owned()),
        (NatsLogin::NKey(seed), _) => settings.nkey(seed.expose().to_owned()),
        // The library wants a line break after the last line, which reading the file has cut off.
        (NatsLogin::Credentials(text), _) => {
            settings.credentials(&format!("{}\n", text.expose())).map_err(|error| {
                let why = format!("it does not hold a user's JWT and NKey seed: {error}");
                BackendError::Invalid { field: "nats.credentials_file", why }
            })?
        }
    };
    if let Some(file) = &options.certificates.ca_file {
        settings = settings.add_root_certificates(file.clone());
    }
    if let Some((certificate, key)) = &options.certificates.identity_files {
        settings = settings.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(settings)
}

/// Pause before attempt number `attempt`: doubling, with up to half of it left to chance, so that a fleet does not come
/// back in one instant.
fn pause(attempt: usize) -> Duration {
    if attempt <= 1 {
        return Duration::ZERO;
    }
    let (first, longest) = PAUSES;
    let doublings = u32::try_from(attempt - 2).unwrap_or(u32::MAX).min(8);
    let full = (first * 2_u32.pow(doublings)).min(longest);
    let chance = u32::from_str_radix(&random_token(4), 16).unwrap_or_default();
    full / 2 + full / 2 * chance / 65_535
}

/// What happened to the connection, for people and for the metrics.
fn tell(at: &str, event: &Event) {
    let kind = match event {
        Event::Connected => "connected",
        Event::Disconnected => "disconnected",
        Event::LameDuckMode => "lame-duck",
        Event::SlowConsumer(_) => "slow-consumer",
        Event::ServerError(_) => "server-error",
        Event::ClientError(_) => "client-error",
        Event::Draining | Event::Closed => "closed",
    };
    metric::nats_connection(kind);
    match event {
        Event::Connected | Event::Draining | Event::Closed => tracing::info!(server = at, %event, "NATS connection"),
        _ => tracing::warn!(server = at, %event, "NATS connection"),
    }
}

/// Why trying again is of no use, and what to do instead; `None` when it may be.
fn refused(at: &str, error: &ConnectError) -> Option<(String, String)> {
    let text = said(error);
    let logs_in = matches!(error.kind(), ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication)
        || text.to_lowercase().contains("authentication");
    if logs_in {
        let remedy = "check nats.user and nats.password_file (or token_file, nkey_file, credentials_file, or the \
                      credentials in NATS_URL) against the server's configuration";
        return Some((format!("it refuses the login: {text}"), remedy.into()));
    }
    let about_tls = error.kind() == ConnectErrorKind::Tls
        || ["certificate", "alert", "tls", "Tls", "TLS"].iter().any(|word| text.contains(word));
    about_tls.then(|| {
        let remedy = format!(
            "check nats.ca_file, nats.certificate_file and nats.key_file, and that the server's certificate is made out \
             to the host in {at}"
        );
        (format!("no secure connection: {text}"), remedy)
    })
}

/// An error with its causes.
fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_never_stay_in_an_address() {
        let address = Address::parse("nats://me:p%40ss@one:4223, tls://two,nats://[::1]:7").unwrap();
        assert_eq!(address.at, "one:4223,two:4222,[::1]:7");
        assert_eq!(address.login, Some(("me".into(), Some("p@ss".into()))));
        assert!(address.servers.iter().all(|server| !server.has_user_pass()));
        assert!(address.servers[1].tls_required());
        assert_eq!(Address::parse("nats://token@one").unwrap().login, Some(("token".into(), None)));
        for broken in ["", " , ", "http://user:secret@host"] {
            let error = Address::parse(broken).err().unwrap().to_string();
            assert!(error.contains("nats.url") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn pauses_grow_to_a_second_and_vary() {
        assert_eq!(pause(1), Duration::ZERO);
        for attempt in 2..40 {
            assert!(pause(attempt) <= PAUSES.1 && pause(attempt) >= PAUSES.0 / 2, "{attempt}");
        }
        assert!((0..20).map(|_| pause(30)).collect::<std::collections::HashSet<_>>().len() > 1);
    }
}
