//! Checks of where jobs live: backend, servers, credentials, timing.
//!
//! Apart from the rest because it is about pairs: a heartbeat that is too slow for its lease, two ways to log in at once.
//! Such a pair works on a quiet day and loses work on a busy one, so it is refused before anything starts.

use std::net::SocketAddr;

use super::settings::Settings;
use super::validate::{Fault, check};

/// Faults of the stores' settings.
pub(super) fn faults(settings: &Settings, faults: &mut Vec<Fault>) {
    storage(settings, faults);
    nats(settings, faults);
    redis(settings, faults);
    timing(settings, faults);
    let listen = settings.http.listen.as_str();
    check(faults, listen.is_empty() || listen.parse::<SocketAddr>().is_ok(), "http.listen", || {
        format!("{listen:?} is not an address with a port, for example 127.0.0.1:8080")
    });
}

fn storage(settings: &Settings, faults: &mut Vec<Fault>) {
    let storage = &settings.storage;
    let backend = storage.backend.as_str();
    check(faults, matches!(backend, "embedded" | "nats"), "storage.backend", || {
        format!("{backend:?} is neither \"embedded\" nor \"nats\"")
    });
    let namespace = storage.namespace.as_str();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    // Stream names are built from it, and NATS advises at most 32 characters for those.
    check(
        faults,
        !namespace.is_empty() && namespace.len() <= 20 && namespace.chars().all(is_plain),
        "storage.namespace",
        || format!("{namespace:?} is not 1 to 20 letters, digits, - or _"),
    );
    let durability = storage.durability.as_str();
    check(faults, matches!(durability, "full" | "process"), "storage.durability", || {
        format!("{durability:?} is neither \"full\" nor \"process\"")
    });
}

fn nats(settings: &Settings, faults: &mut Vec<Fault>) {
    let nats = &settings.nats;
    for url in nats.url.split(',').map(str::trim) {
        check(faults, ["nats://", "tls://"].iter().any(|scheme| url.starts_with(scheme)), "nats.url", || {
            format!("{:?} does not start with nats:// or tls://", without_credentials(url))
        });
    }
    let ways = [&nats.user, &nats.token_file, &nats.nkey_file, &nats.credentials_file];
    let chosen = ways.iter().filter(|way| !way.is_empty()).count() + usize::from(nats.url.contains('@'));
    check(faults, chosen <= 1, "nats", || {
        "credentials in the URL, user, token_file, nkey_file and credentials_file exclude one another; keep one".into()
    });
    check(faults, nats.user.is_empty() == nats.password_file.is_empty(), "nats.password_file", || {
        "nats.user and nats.password_file belong together".into()
    });
    check(faults, nats.certificate_file.is_empty() == nats.key_file.is_empty(), "nats.key_file", || {
        "nats.certificate_file and nats.key_file belong together".into()
    });
    check(faults, (1..=5).contains(&nats.replicas), "nats.replicas", || {
        format!("{} is not between 1 and 5", nats.replicas)
    });
    check(faults, nats.max_queue_bytes >= 1 << 20, "nats.max_queue_bytes", || {
        format!("{} is under 1048576", nats.max_queue_bytes)
    });
}

fn redis(settings: &Settings, faults: &mut Vec<Fault>) {
    let redis = &settings.redis;
    let url = redis.url.as_str();
    check(faults, ["redis://", "rediss://"].iter().any(|scheme| url.starts_with(scheme)), "redis.url", || {
        format!("{:?} does not start with redis:// or rediss://", without_credentials(url))
    });
    check(faults, !url.contains('@') || redis.password_file.is_empty(), "redis.password_file", || {
        "redis.url holds credentials as well; keep one of them".into()
    });
    check(faults, redis.certificate_file.is_empty() == redis.key_file.is_empty(), "redis.key_file", || {
        "redis.certificate_file and redis.key_file belong together".into()
    });
    check(faults, (1..=64).contains(&redis.connections), "redis.connections", || {
        format!("{} is not between 1 and 64", redis.connections)
    });
}

fn timing(settings: &Settings, faults: &mut Vec<Fault>) {
    let (beat, dead) = (settings.presence.beat_ms, settings.presence.dead_after_ms);
    check(faults, (100..=10_000).contains(&beat), "presence.beat_ms", || {
        format!("{beat} is not between 100 and 10000")
    });
    // Three beats may be lost before anybody is taken for dead.
    check(faults, dead >= beat.saturating_mul(4) && dead <= 120_000, "presence.dead_after_ms", || {
        format!("{dead} is not between four times presence.beat_ms ({}) and 120000", beat.saturating_mul(4))
    });
    let wait = settings.nats.ack_wait_ms;
    check(faults, (1_000..=120_000).contains(&wait), "nats.ack_wait_ms", || {
        format!("{wait} is not between 1000 and 120000; it is the time until a dead worker's task is delivered again")
    });
    for (key, timeout) in [
        ("nats.request_timeout_ms", settings.nats.request_timeout_ms),
        ("redis.request_timeout_ms", settings.redis.request_timeout_ms),
    ] {
        check(faults, (100..=60_000).contains(&timeout), key, || format!("{timeout} is not between 100 and 60000"));
    }
}

/// The URL without the credentials before an `@`, for people to see.
pub(super) fn without_credentials(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((before, after)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            format!("{scheme}://***@{after}")
        }
        None => url.to_owned(),
    }
}
