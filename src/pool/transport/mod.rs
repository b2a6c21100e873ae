//! The byte stream under the driver: TLS where the settings ask for it, and a deadline on every read and write.
//!
//! The sync driver has no I/O timeout. It does hand its socket to the TLS connector, and with `sslmode=require`
//! and direct negotiation as the very first thing, before a byte is sent. A connector of ours lets that socket go
//! (see [`decoy`]), connects to the server itself, does what encryption the settings ask for, and returns a stream
//! that fails once the [`Wire`]'s deadline has passed. A driver call then returns within its deadline in every
//! fault, and so does dropping the client.
//!
//! All of this rests on the order in which the driver calls, which is why its version is pinned: it connects, asks
//! [`MakeTlsConnect`] for the connector, and hands it the socket before anything else is done with that.

pub(in crate::pool) mod cancel;
pub(in crate::pool) mod connection_state;
pub(in crate::pool) mod dns;
mod placeholder;
mod protocol;
mod socket;
pub(in crate::pool) mod tls;

use crate::pool::transport::connection_state::Wire;
use crate::pool::transport::dns::{Address, Endpoint};
use crate::pool::transport::placeholder::Decoy;
use crate::pool::transport::protocol::{Frames, Requests};
use crate::pool::transport::socket::Line;
use crate::pool::transport::tls::TlsPlan;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep_until, timeout_at};
use tokio_postgres::Socket;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

/// The driver's TLS connector for one attempt to connect to one endpoint.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) wire: Arc<Wire>,
    pub(super) tls: TlsPlan,
    pub(super) endpoint: Endpoint,
    decoy: Decoy,
}

impl Connector {
    /// For an attempt that has to be logged in by `deadline`.
    pub(crate) fn new(endpoint: Endpoint, tls: TlsPlan, deadline: Instant) -> io::Result<Connector> {
        let wire = Arc::new(Wire::new());
        wire.set_deadline(Instant::now(), Some(deadline));
        Ok(Connector { wire, tls, endpoint, decoy: Decoy::open()? })
    }

    /// Has the driver connect through this connector.
    pub(crate) fn direct(&self, config: &mut postgres::Config) {
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        let left = self.wire.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let patience = left.map_or(placeholder::PATIENCE, |left| left.min(placeholder::PATIENCE));
        config.connect_timeout(patience).keepalives(false);
        // The driver passes the host's name on to the connector, which knows where to, and needs it for nothing else.
        let decoy = self.decoy.address();
        config.host("decoy").hostaddr(decoy.ip()).port(decoy.port());
    }

    /// Whether the driver has come as far as to this connector: what fails before has to do with the decoy alone.
    pub(crate) fn is_reached(&self) -> bool {
        self.decoy.is_closed()
    }
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Bounded;
    type TlsConnect = Connector;
    type Error = io::Error;

    fn make_tls_connect(&mut self, _host: &str) -> io::Result<Connector> {
        // The driver has connected.
        self.decoy.close();
        Ok(self.clone())
    }
}

impl TlsConnect<Socket> for Connector {
    type Stream = Bounded;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Bounded>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            drop(socket);
            let Connector { wire, tls, endpoint, .. } = self;
            let negotiated = negotiate(&tls, &endpoint, wire.clone());
            let inner = match wire.deadline() {
                None => negotiated.await,
                Some(deadline) => {
                    timeout_at(deadline.into(), negotiated).await.unwrap_or_else(|_| Err(wire.timed_out()))
                }
            };
            let inner =
                inner.map_err(|error| io::Error::new(error.kind(), format!("{endpoint}: {error}")))?;
            Ok(Bounded {
                inner,
                wire,
                timer: None,
                armed_for: None,
                frames: Frames::default(),
                requests: Requests::default(),
                delivered: false,
                held_back: None,
                held: Vec::new(),
                ready: 0,
                reads: 0,
                is_watched: false,
            })
        })
    }
}

/// Asks the server for TLS as PostgreSQL's protocol has it (chapter "Message Flow", SSL Session Encryption).
pub(super) async fn negotiate(tls: &TlsPlan, endpoint: &Endpoint, wire: Arc<Wire>) -> io::Result<Inner> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    let mut line = Line::connect(endpoint, wire).await?;
    // A socket of this machine has nothing to encrypt for, as in libpq.
    if tls.is_off() || matches!(endpoint.address, Address::Unix(_)) {
        return Ok(Inner::Plain(line));
    }
    line.write_all(&SSL_REQUEST).await?;
    let mut answer = [0];
    line.read_exact(&mut answer).await?;
    match &answer {
        b"S" => Ok(Inner::Tls(Box::new(tls::handshake(tls, &endpoint.host, line).await?))),
        b"N" if tls.is_optional() => Ok(Inner::Plain(line)),
        b"N" => Err(io::Error::other("the server does not offer TLS, and the settings require it")),
        _ => Err(io::Error::other("the server's answer to the request for TLS is not PostgreSQL's")),
    }
}

/// A reply that never pauses never meets the timer, so every so many reads the clock is looked at.
const READS_PER_LOOK: u8 = 32;

/// The stream to the server, encrypted or not.
pub(super) enum Inner {
    Plain(Line),
    Tls(Box<tls::Stream>),
}

impl AsyncRead for Inner {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Inner::Plain(line) => Pin::new(line).poll_read(cx, buf),
            Inner::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Inner {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Inner::Plain(line) => Pin::new(line).poll_write(cx, buf),
            Inner::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Inner::Plain(line) => Pin::new(line).poll_flush(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Inner::Plain(line) => Pin::new(line).poll_shutdown(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The stream the driver reads and writes.
pub(crate) struct Bounded {
    inner: Inner,
    wire: Arc<Wire>,
    timer: Option<Pin<Box<Sleep>>>,
    armed_for: Option<Instant>,
    frames: Frames,
    requests: Requests,
    /// Something was handed to the driver that it may not have looked at yet.
    delivered: bool,
    held_back: Option<io::Result<()>>,
    /// Read from the server and not yet handed to the driver: an error whose reply is not complete.
    held: Vec<u8>,
    /// How much of `held` may be handed out.
    ready: usize,
    /// Reads since the clock was last looked at.
    reads: u8,
    /// The timer has been asked since the last flush.
    is_watched: bool,
}

impl Bounded {
    /// Fails a pending operation once the deadline has passed. The timer is re-armed only when it fires or the
    /// deadline moved to before it: usually each query's deadline is later than the last one's, and an early
    /// wake-up in half a minute is cheaper than a new timer for every query.
    fn poll_deadline<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.is_watched = true;
        let Some(deadline) = self.wire.deadline() else { return Poll::Pending };
        if self.armed_for.is_none_or(|armed| armed > deadline) {
            self.arm(deadline);
        }
        loop {
            let Some(timer) = &mut self.timer else { return Poll::Pending };
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.armed_for.is_none_or(|armed| armed >= deadline) {
                self.wire.fail(true);
                return Poll::Ready(Err(self.wire.timed_out()));
            }
            self.arm(deadline);
        }
    }

    fn arm(&mut self, deadline: Instant) {
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(deadline.into()),
            None => self.timer = Some(Box::pin(sleep_until(deadline.into()))),
        }
        self.armed_for = Some(deadline);
    }

    /// Hands the driver what is ready of what was held, as far as its buffer goes.
    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.ready.min(buf.remaining());
        buf.put_slice(&self.held[..count]);
        self.held.drain(..count);
        self.ready -= count;
        self.delivered = true;
    }

    fn look_at_clock(&mut self) -> Poll<io::Result<()>> {
        self.reads += 1;
        if self.reads == READS_PER_LOOK {
            self.reads = 0;
            if self.wire.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                self.wire.fail(true);
                return Poll::Ready(Err(self.wire.timed_out()));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_expired(&self) -> bool {
        self.wire.has_timed_out()
    }
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.held_back.is_some() && std::mem::take(&mut this.delivered) {
            // The driver reports the end of the stream, or an error that belongs to no request, before it looks
            // at the reply it has just read, and so turns answered commits into lost ones. Let it take the
            // reply first.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.ready > 0 {
            this.hand_out(buf);
            return Poll::Ready(Ok(()));
        }
        if let Some(end) = this.held_back.take() {
            return Poll::Ready(end);
        }
        // Once late, always late: a client that is being dropped must not wait for a reply that never comes.
        if this.is_expired() {
            return Poll::Ready(Err(this.wire.timed_out()));
        }
        loop {
            let before = buf.filled().len();
            let read = Pin::new(&mut this.inner).poll_read(cx, buf);
            match read {
                Poll::Pending => {
                    this.delivered = false;
                    this.reads = 0;
                    if this.wire.status().is_some() {
                        // Nothing is asked, so nothing is late. If this poll goes on to ask, its flush sets the timer.
                        return Poll::Pending;
                    }
                    return this.poll_deadline(cx);
                }
                Poll::Ready(Ok(())) if buf.filled().len() > before => {
                    let error_bytes = this.frames.observe(&buf.filled()[before..], &this.wire);
                    if error_bytes == 0 && this.held.is_empty() {
                        this.delivered = true;
                        return this.look_at_clock();
                    }
                    this.held.extend_from_slice(&buf.filled()[before..]);
                    buf.set_filled(before);
                    this.ready = this.held.len().saturating_sub(error_bytes);
                    if this.ready > 0 {
                        this.hand_out(buf);
                        return this.look_at_clock();
                    }
                }
                Poll::Ready(end) => {
                    this.wire.fail(false);
                    if let Some(words) = protocol::last_words_of(&this.held) {
                        this.wire.end_with(words);
                    }
                    // An error that ends the session has no more to its reply.
                    this.ready = this.held.len();
                    this.held_back = Some(end);
                    if std::mem::take(&mut this.delivered) {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    if this.ready > 0 {
                        this.hand_out(buf);
                        return Poll::Ready(Ok(()));
                    }
                    return this.held_back.take().map_or(Poll::Pending, Poll::Ready);
                }
            }
        }
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.is_expired() {
            return Poll::Ready(Err(this.wire.timed_out()));
        }
        let written = Pin::new(&mut this.inner).poll_write(cx, buf);
        match written {
            Poll::Pending => this.poll_deadline(cx),
            Poll::Ready(Ok(count)) => {
                if this.frames.is_started() {
                    this.requests.observe(&buf[..count], &this.wire);
                }
                this.wire.add_written(count);
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => {
                this.wire.fail(false);
                Poll::Ready(Err(error))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        if flushed.is_ready() && this.requests.take_question() {
            // Everything is sent: have the driver read at once, where the line waits for the reply.
            this.wire.ask();
            cx.waker().wake_by_ref();
            return flushed;
        }
        let is_watched = std::mem::take(&mut this.is_watched) || this.wire.status().is_some();
        if flushed.is_ready() && is_watched {
            return flushed;
        }
        // While somebody leaves a reply unread the driver does not read either, but it flushes in every poll.
        if this.is_expired() {
            return Poll::Ready(Err(this.wire.timed_out()));
        }
        let late = this.poll_deadline::<()>(cx);
        this.is_watched = false;
        if late.is_ready() { late } else { flushed }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let shut = Pin::new(&mut this.inner).poll_shutdown(cx);
        match shut {
            Poll::Pending => this.poll_deadline(cx),
            done => done,
        }
    }
}

impl TlsStream for Bounded {
    // No channel binding: it needs the certificate's own hash algorithm, hence an X.509 parser.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}
