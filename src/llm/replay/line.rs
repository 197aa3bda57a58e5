//! The connections of the server, so that one can be broken as networks break them.
//!
//! A web server only ever closes a connection in good order. A reply that is cut has to look otherwise to its reader: half of a
//! chunk that was announced whole, then a reset. So every connection has a switch that its calls can throw; what is
//! written after that is cut short, and the socket is closed without waiting for anybody (`SO_LINGER` of zero).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Breaks the connection it belongs to.
#[derive(Debug, Clone, Default)]
pub(super) struct Breaker(Arc<AtomicBool>);

impl Breaker {
    /// From now on half of what is written next leaves, and then the connection is reset.
    pub(super) fn cut(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_cut(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Connected<IncomingStream<'_, Lines>> for Breaker {
    fn connect_info(stream: IncomingStream<'_, Lines>) -> Self {
        stream.io().breaker.clone()
    }
}

/// Accepts connections that can be broken.
#[derive(Debug)]
pub(super) struct Lines(pub(super) TcpListener);

impl Listener for Lines {
    type Io = Line;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Line, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        // A refused option costs only speed, so the failure is not worth a connection.
        drop(stream.set_nodelay(true));
        (Line { stream, breaker: Breaker::default() }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Listener::local_addr(&self.0)
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Line {
    stream: TcpStream,
    breaker: Breaker,
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.breaker.is_cut() {
            // Should the socket take nothing now, the reader sees the cut a little earlier.
            drop(self.stream.try_write(&bytes[..bytes.len() / 2]));
            self.stream.set_zero_linger()?;
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.breaker.is_cut() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::{FakeOptions, FakeServer, Fault, Reply, Script};

    #[tokio::test]
    async fn a_cut_reply_is_reset_in_the_middle_of_a_chunk() {
        for stream in [true, false] {
            let reply = Reply::new("x".repeat(3_000)).fault(Fault::CutMidStream);
            let script = Script::new().reply("plan", reply);
            let server = FakeServer::start(script, FakeOptions::default()).await.expect("starts");
            let request = serde_json::json!({
                "model": "claude-sonnet-5-5", "max_tokens": 1_000, "stream": stream,
                "messages": [{"role": "user", "content": "Request: plan"}],
            });
            let request = request.to_string();
            let address = server.base_url().replace("http://", "");
            let mut socket = tokio::net::TcpStream::connect(&address).await.expect("connects");
            let head = format!(
                "POST /v1/messages HTTP/1.1\r\nhost: {address}\r\nx-api-key: any\r\nanthropic-version: 2023-06-01\r\n\
                 content-length: {}\r\n\r\n",
                request.len()
            );
            socket.write_all((head + &request).as_bytes()).await.expect("sends");
            let (mut received, mut piece) = (Vec::new(), [0; 65_536]);
            let end = loop {
                match socket.read(&mut piece).await {
                    Ok(0) => break None,
                    Ok(length) => received.extend_from_slice(&piece[..length]),
                    Err(error) => break Some(error.kind()),
                }
            };
            assert_eq!(end, Some(std::io::ErrorKind::ConnectionReset), "streamed: {stream}");
            let text = String::from_utf8(received).expect("UTF-8");
            let (_, mut rest) = text.split_once("\r\n\r\n").expect("headers");
            // Chunk by chunk: the last one announces more than came.
            let missing = loop {
                let (size, after) = rest.split_once("\r\n").expect("a chunk begins");
                let size = usize::from_str_radix(size, 16).expect("its size");
                if after.len() < size {
                    break size - after.len();
                }
                rest = &after[size + 2..];
            };
            assert!(missing > 0 && missing < 30, "{missing} bytes are missing");
        }
    }
}
