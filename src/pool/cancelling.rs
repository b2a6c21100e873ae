//! Cancelling a statement that runs on the server.
//!
//! The driver hangs up as soon as the request is written. PgBouncer takes that for a change of mind, because it has to
//! connect to the server first; and of PostgreSQL nobody would know when it has passed the request on, which must not
//! meet the session's next statement. So the request's stream stays open until the other side has hung up, as libpq's
//! does.

use super::transport::{Bounded, Connector, ConnectorTo};
use super::wire::Wire;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

/// What asks the server to cancel the statement that runs in a session.
pub(crate) struct Cancel {
    token: postgres::CancelToken,
    connector: Connector,
    is_astray: AtomicBool,
}

impl Cancel {
    pub(crate) fn new(token: postgres::CancelToken, connector: Connector) -> Cancel {
        Cancel { token, connector, is_astray: AtomicBool::new(false) }
    }

    /// Asks, within `limit`.
    pub(crate) fn send(&self, limit: Duration) -> Result<(), postgres::Error> {
        let wire = Arc::new(Wire::new());
        let connector = Connector { wire: wire.clone(), limit, ..self.connector.clone() };
        let is_one_astray = self.is_astray.swap(true, Ordering::Relaxed);
        let sent = self.token.cancel_query(Canceller { connector });
        if sent.is_ok() || wire.written() == 0 {
            self.is_astray.store(is_one_astray, Ordering::Relaxed);
        }
        sent
    }

    /// A request went out and nobody knows where it is: it may still meet whatever the session runs next.
    pub(crate) fn is_astray(&self) -> bool {
        self.is_astray.load(Ordering::Relaxed)
    }
}

/// A [`Connector`] for a cancel request.
#[derive(Clone)]
struct Canceller {
    connector: Connector,
}

impl MakeTlsConnect<Socket> for Canceller {
    type Stream = Request;
    type TlsConnect = CancellerTo;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<CancellerTo> {
        Ok(CancellerTo { to: self.connector.make_tls_connect(host)? })
    }
}

/// A [`Canceller`] that knows where to.
struct CancellerTo {
    to: ConnectorTo,
}

impl TlsConnect<Socket> for CancellerTo {
    type Stream = Request;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Request>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        let CancellerTo { to } = self;
        Box::pin(async move { Ok(Request { stream: to.connect(socket).await?, has_hung_up: false }) })
    }
}

/// The stream the driver writes the request to.
struct Request {
    stream: Bounded,
    /// The other side has.
    has_hung_up: bool,
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
        while !self.has_hung_up {
            // Nothing is ever said, so this is the end.
            let mut byte = [0];
            let mut buf = ReadBuf::new(&mut byte);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            self.has_hung_up = buf.filled().is_empty();
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl TlsStream for Request {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}
