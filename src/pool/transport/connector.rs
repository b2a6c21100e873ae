//! The driver's TLS connector, which makes the real connection to the server. It handles one attempt to one endpoint; the
//! choice of endpoints and the login itself are not its business.
//!
//! **Lock rule**: the mutex is held to put the stream in or take it out.

use crate::pool::transport::connection_state::ConnectionState;
use crate::pool::transport::dns::{Address, Endpoint};
use crate::pool::transport::placeholder::{self, PlaceholderListener};
use crate::pool::transport::server_stream::{Inner, SharedStream};
use crate::pool::transport::socket::ServerSocket;
use crate::pool::transport::stream::BoundedStream;
use crate::pool::transport::tls::{self, TlsPlan};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout_at;
use tokio_postgres::Socket;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

/// The driver's TLS connector for one connect attempt to one endpoint.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) conn: Arc<ConnectionState>,
    pub(super) tls: TlsPlan,
    pub(super) endpoint: Endpoint,
    /// The stream, from when it is connected until the session takes it.
    stream: Arc<Mutex<Option<SharedStream>>>,
    placeholder: PlaceholderListener,
}

impl Connector {
    /// `deadline` covers the whole attempt, the login included.
    pub(crate) fn new(endpoint: Endpoint, tls: TlsPlan, deadline: Instant) -> io::Result<Connector> {
        let conn = Arc::new(ConnectionState::new());
        conn.set_deadline(Instant::now(), Some(deadline));
        let (stream, placeholder) = (Arc::default(), PlaceholderListener::open()?);
        Ok(Connector { conn, tls, endpoint, stream, placeholder })
    }

    /// Takes the stream that this connector has connected, for the pool's own requests; `None` if it has none.
    pub(crate) fn take_stream(&self) -> Option<SharedStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Configures the driver to connect to the placeholder listener, and so through this connector.
    pub(crate) fn configure(&self, config: &mut postgres::Config) {
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        let left = self.conn.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let limit = left.map_or(placeholder::CONNECT_LIMIT, |left| left.min(placeholder::CONNECT_LIMIT));
        config.connect_timeout(limit).keepalives(false);
        // The driver only passes the host's name on to the connector, which has the real endpoint and ignores the name.
        let placeholder = self.placeholder.address();
        config.host("placeholder").hostaddr(placeholder.ip()).port(placeholder.port());
    }

    /// Whether the driver has called this connector. An error before that concerns the placeholder listener, not the server.
    pub(crate) fn is_reached(&self) -> bool {
        self.placeholder.is_closed()
    }
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = BoundedStream;
    type TlsConnect = Connector;
    type Error = io::Error;

    fn make_tls_connect(&mut self, _host: &str) -> io::Result<Connector> {
        // The driver asks for a connector after it has connected.
        self.placeholder.close();
        Ok(self.clone())
    }
}

impl TlsConnect<Socket> for Connector {
    type Stream = BoundedStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<BoundedStream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            drop(socket);
            let Connector { conn, tls, endpoint, stream, .. } = self;
            let negotiated = negotiate(&tls, &endpoint, conn.clone());
            let inner = match conn.deadline() {
                None => negotiated.await,
                Some(deadline) => {
                    timeout_at(deadline.into(), negotiated).await.unwrap_or_else(|_| Err(conn.timed_out()))
                }
            };
            let inner =
                inner.map_err(|error| io::Error::new(error.kind(), format!("{endpoint}: {error}")))?;
            let shared = SharedStream::new(inner);
            *stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(shared.clone());
            Ok(BoundedStream::new(shared, conn))
        })
    }
}

/// Connects to the server and negotiates TLS (PostgreSQL, "Message Flow", SSL Session Encryption).
pub(super) async fn negotiate(
    tls: &TlsPlan,
    endpoint: &Endpoint,
    conn: Arc<ConnectionState>,
) -> io::Result<Inner> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    let mut socket = ServerSocket::connect(endpoint, conn).await?;
    // As libpq, which never encrypts Unix sockets.
    if tls.is_off() || matches!(endpoint.address, Address::Unix(_)) {
        return Ok(Inner::Plain(socket));
    }
    socket.write_all(&SSL_REQUEST).await?;
    let mut answer = [0];
    socket.read_exact(&mut answer).await?;
    match &answer {
        b"S" => Ok(Inner::Tls(Box::new(tls::handshake(tls, &endpoint.host, socket).await?))),
        b"N" if tls.is_optional() => Ok(Inner::Plain(socket)),
        b"N" => Err(io::Error::other("the server does not offer TLS, and the settings require it")),
        _ => Err(io::Error::other("the server's answer to the request for TLS is not PostgreSQL's")),
    }
}
