//! Cancelling a statement that runs on the server.
//!
//! The driver hangs up as soon as the request is written. That is enough for PostgreSQL. PgBouncer takes it for a
//! change of mind, because it has to connect to the server first; so the request's stream stays open until the other
//! side has hung up, as libpq's does.

use super::transport::{Bounded, Connector, ConnectorTo};
use super::wire::Wire;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

/// What asks the server to cancel the statement that runs in a session.
pub(crate) struct Cancel {
    pub(crate) token: postgres::CancelToken,
    pub(crate) connector: Connector,
    /// Whether to wait until the other side hangs up.
    pub(crate) waits: bool,
}

impl Cancel {
    /// Asks, within `limit`.
    pub(crate) fn send(self, limit: Duration) -> Result<(), postgres::Error> {
        let Cancel { token, connector, waits } = self;
        let connector = Connector { wire: Arc::new(Wire::new()), limit, ..connector };
        token.cancel_query(Canceller { connector, waits })
    }
}

/// A [`Connector`] for a cancel request.
#[derive(Clone)]
struct Canceller {
    connector: Connector,
    waits: bool,
}

impl MakeTlsConnect<Socket> for Canceller {
    type Stream = Request;
    type TlsConnect = CancellerTo;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<CancellerTo> {
        Ok(CancellerTo { to: self.connector.make_tls_connect(host)?, waits: self.waits })
    }
}

/// A [`Canceller`] that knows where to.
struct CancellerTo {
    to: ConnectorTo,
    waits: bool,
}

impl TlsConnect<Socket> for CancellerTo {
    type Stream = Request;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Request>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        let CancellerTo { to, waits } = self;
        Box::pin(async move { Ok(Request { stream: to.connect(socket).await?, waits }) })
    }
}

/// The stream the driver writes the request to.
struct Request {
    stream: Bounded,
    waits: bool,
}

impl AsyncRead for Request {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Request {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.waits {
            // Nothing is ever said: this is the end, or an error which is an end as well.
            let mut byte = [0];
            let mut buf = ReadBuf::new(&mut byte);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf));
            self.waits = read.is_ok() && !buf.filled().is_empty();
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl TlsStream for Request {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}
