//! Asking another process whether it lives: the `healthcheck` command of containers without a shell.
//!
//! One request over plain HTTP to this machine or a named one, bounded in time and bytes. It must never read a
//! configuration beyond the address, and never print what came back beyond one line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::http::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::TelemetryError;

/// How long the whole check may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Most bytes of an answer that are looked at.
const MAX_BYTES: usize = 4 * 1024;

/// One check.
#[derive(Debug)]
pub struct Healthcheck {
    uri: Uri,
    url: String,
}

/// What to ask of a process that listens on `listen`: itself, over the loopback where it listens everywhere.
#[must_use]
pub fn default_url(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}/healthz", SocketAddr::new(ip, listen.port()))
}

impl Healthcheck {
    /// A check of `url`; without a path, its `/healthz` is meant.
    ///
    /// # Errors
    /// [`TelemetryError::Url`] when it is no `http://` URL with a host.
    pub fn of(url: &str) -> Result<Self, TelemetryError> {
        let fault = |why| TelemetryError::Url { url: url.to_owned(), why };
        let uri: Uri = url.parse().map_err(|_| fault("it is no URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(fault("it does not begin with http://"));
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(fault("it names no host"));
        }
        Ok(Self { uri, url: url.to_owned() })
    }

    /// Asks, and answers in one line.
    ///
    /// # Errors
    /// [`TelemetryError::Unhealthy`] when no answer comes within three seconds, or another one than 200.
    pub async fn ask(&self) -> Result<String, TelemetryError> {
        let fault = |why: String| TelemetryError::Unhealthy { url: self.url.clone(), why };
        let asked = tokio::time::timeout(PATIENCE, self.request()).await;
        let (status, body) =
            asked.map_err(|_| fault(format!("no answer within {} s", PATIENCE.as_secs())))?.map_err(fault)?;
        let line: String =
            body.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(400).collect();
        if status == 200 { Ok(line) } else { Err(fault(format!("answer {status}: {line}"))) }
    }

    async fn request(&self) -> Result<(u16, String), String> {
        let host = self.uri.host().unwrap_or_default();
        let port = self.uri.port_u16().unwrap_or(80);
        let address = (host.trim_start_matches('[').trim_end_matches(']'), port);
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let path = match self.uri.path() {
            "" | "/" => "/healthz",
            path => path,
        };
        let request = Request::get(path)
            .header(header::HOST, format!("{host}:{port}"))
            .body(String::new())
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(axum::body::Body::new(response.into_body()), MAX_BYTES).await;
        Ok((status, body.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_urls_with_a_host_are_asked() {
        for wrong in
            ["", "localhost", "/healthz", "https://localhost:1", "ftp://x", "http://", "http:///x", "http://a b"]
        {
            assert!(matches!(Healthcheck::of(wrong), Err(TelemetryError::Url { .. })), "{wrong}");
        }
        for right in ["http://127.0.0.1:80", "http://[::1]:8080/readyz", "http://worker/healthz"] {
            assert!(Healthcheck::of(right).is_ok(), "{right}");
        }
    }

    #[test]
    fn a_process_that_listens_everywhere_is_asked_over_the_loopback() {
        let url = |text: &str| default_url(text.parse().unwrap());
        assert_eq!(url("0.0.0.0:8080"), "http://127.0.0.1:8080/healthz");
        assert_eq!(url("[::]:81"), "http://[::1]:81/healthz");
        assert_eq!(url("10.1.2.3:9"), "http://10.1.2.3:9/healthz");
    }
}
