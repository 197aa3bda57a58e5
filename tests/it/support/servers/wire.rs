//! A wire to a server that can be cut in the one moment that matters: after the server has done something, before its
//! answer has arrived; or that holds back what is said to the server, until something else has happened.
//!
//! Whoever stands behind it sees a connection that breaks or is slow, as in real life; nothing is changed otherwise.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes connections on to a server.
pub(crate) struct Wire {
    port: u16,
    is_armed: Arc<AtomicBool>,
    cuts: Arc<AtomicUsize>,
    is_held: watch::Sender<bool>,
}

impl Wire {
    /// A wire to `port` of this machine.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own = listener.local_addr().expect("an address").port();
        let (is_armed, cuts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (armed, counted) = (is_armed.clone(), cuts.clone());
        let (is_held, held) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(questions(from_client, to_server, held.clone()));
                tokio::spawn(answers(from_server, to_client, armed.clone(), counted.clone()));
            }
        });
        Self { port: own, is_armed, cuts, is_held }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Lets the next answer get lost, and its connection with it.
    pub(crate) fn cut_next_answer(&self) {
        self.is_armed.store(true, Ordering::SeqCst);
    }

    /// Holds back what is said to the server, or lets it go.
    pub(crate) fn hold(&self, is_held: bool) {
        self.is_held.send_replace(is_held);
    }

    /// How many answers were lost.
    pub(crate) fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

async fn questions(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut is_held: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if is_held.wait_for(|is_held| !is_held).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_armed: Arc<AtomicBool>, cuts: Arc<AtomicUsize>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if is_armed.swap(false, Ordering::SeqCst) {
            cuts.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
