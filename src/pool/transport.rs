//! The byte stream under the driver: TLS where the settings ask for it, and a deadline on every read and write.
//!
//! The sync driver has no I/O timeout. It does hand its raw socket to the TLS connector, and with
//! `sslmode=require` and direct negotiation as the very first thing, before a byte is sent; so a connector of
//! ours sees every TCP connection, does what encryption the settings ask for, and returns a stream that fails
//! once the [`Wire`]'s deadline has passed. A driver call then returns within its deadline in every fault, and
//! so does dropping the client.
//!
//! Unix-socket connections carry no host name and cannot go this way: their [`Wire`] stays unobserved.

use super::tls::{self, TlsPlan};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep_until, timeout_at};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

/// What the pool's side and the driver's side of a connection share. Both run on the caller's thread (the
/// driver's runtime is single-threaded), so relaxed atomics are enough; the type is shared, not contended.
#[derive(Debug)]
pub(crate) struct Wire {
    /// Nanoseconds since [`EPOCH`]; `u64::MAX` is no deadline.
    deadline: AtomicU64,
    /// Bytes written since the connection was made: what was not written, the server cannot have seen.
    written: AtomicU64,
    /// The transaction status byte of the last ReadyForQuery, 0 while a reply is outstanding or unobserved.
    status: AtomicU8,
    /// The stream has ended or failed; nothing more will come of it.
    ended: AtomicBool,
    /// The deadline is what ended it.
    timed_out: AtomicBool,
    /// A stream of ours carries the connection.
    observed: AtomicBool,
}

/// The zero of the deadlines' clock.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Wire {
    pub(crate) fn new() -> Wire {
        Wire {
            deadline: AtomicU64::new(u64::MAX),
            written: AtomicU64::new(0),
            status: AtomicU8::new(0),
            ended: AtomicBool::new(false),
            timed_out: AtomicBool::new(false),
            observed: AtomicBool::new(false),
        }
    }

    /// Everything from now on must be done by `deadline`.
    pub(crate) fn set_deadline(&self, deadline: Option<Instant>) {
        let nanos = deadline.map_or(u64::MAX, |at| {
            u64::try_from(at.saturating_duration_since(*EPOCH).as_nanos()).unwrap_or(u64::MAX - 1)
        });
        self.deadline.store(nanos, Ordering::Relaxed);
    }

    fn deadline(&self) -> Option<Instant> {
        match self.deadline.load(Ordering::Relaxed) {
            u64::MAX => None,
            nanos => EPOCH.checked_add(Duration::from_nanos(nanos)),
        }
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(crate) fn has_timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Relaxed)
    }

    /// What the server last said of the session: `I`dle, in a `T`ransaction, in a failed transaction (`E`);
    /// `None` while a reply is outstanding, and for connections that are not observed.
    pub(crate) fn status(&self) -> Option<u8> {
        Some(self.status.load(Ordering::Relaxed)).filter(|status| *status != 0)
    }

    pub(crate) fn is_observed(&self) -> bool {
        self.observed.load(Ordering::Relaxed)
    }

    /// Begins anew for another attempt to connect: what the last host did says nothing about this one.
    fn restart(&self, limit: Duration) {
        self.set_deadline(Some(Instant::now() + limit));
        self.written.store(0, Ordering::Relaxed);
        self.status.store(0, Ordering::Relaxed);
        self.ended.store(false, Ordering::Relaxed);
        self.timed_out.store(false, Ordering::Relaxed);
    }

    fn fail(&self, timed_out: bool) {
        self.ended.store(true, Ordering::Relaxed);
        self.timed_out.fetch_or(timed_out, Ordering::Relaxed);
    }
}

/// The driver's TLS connector for one connection.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) wire: Arc<Wire>,
    pub(crate) tls: TlsPlan,
    /// How long each host may take from the TCP connection to the end of the login.
    pub(crate) limit: Duration,
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Bounded;
    type TlsConnect = ConnectorTo;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<ConnectorTo> {
        Ok(ConnectorTo { connector: self.clone(), host: host.to_owned() })
    }
}

/// A [`Connector`] that knows the host's name.
pub(crate) struct ConnectorTo {
    connector: Connector,
    host: String,
}

impl TlsConnect<Socket> for ConnectorTo {
    type Stream = Bounded;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Bounded>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let wire = self.connector.wire.clone();
            wire.restart(self.connector.limit);
            let negotiated = negotiate(self.connector.tls, &self.host, socket);
            let inner = match wire.deadline() {
                None => negotiated.await?,
                Some(deadline) => {
                    timeout_at(deadline.into(), negotiated).await.map_err(|_| timed_out())??
                }
            };
            wire.observed.store(true, Ordering::Relaxed);
            Ok(Bounded {
                inner,
                wire,
                timer: None,
                armed_for: None,
                frames: Frames::default(),
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
async fn negotiate(tls: TlsPlan, host: &str, mut socket: Socket) -> io::Result<Inner> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    if tls.is_off() {
        return Ok(Inner::Plain(socket));
    }
    socket.write_all(&SSL_REQUEST).await?;
    let mut answer = [0];
    socket.read_exact(&mut answer).await?;
    match &answer {
        b"S" => Ok(Inner::Tls(Box::new(tls::handshake(&tls, host, socket).await?))),
        b"N" if tls.is_optional() => Ok(Inner::Plain(socket)),
        b"N" => Err(io::Error::other("the server does not offer TLS, and the settings require it")),
        _ => Err(io::Error::other("the server's answer to the request for TLS is not PostgreSQL's")),
    }
}

/// A reply that never pauses never meets the timer, so every so many reads the clock is looked at.
const READS_PER_LOOK: u8 = 32;

enum Inner {
    Plain(Socket),
    Tls(Box<tls::Stream>),
}

/// The stream the driver reads and writes.
pub(crate) struct Bounded {
    inner: Inner,
    wire: Arc<Wire>,
    timer: Option<Pin<Box<Sleep>>>,
    armed_for: Option<Instant>,
    frames: Frames,
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
                return Poll::Ready(Err(timed_out()));
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
                return Poll::Ready(Err(timed_out()));
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
            return Poll::Ready(Err(timed_out()));
        }
        loop {
            let before = buf.filled().len();
            let read = match &mut this.inner {
                Inner::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
                Inner::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            };
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
            return Poll::Ready(Err(timed_out()));
        }
        let written = match &mut this.inner {
            Inner::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Inner::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        match written {
            Poll::Pending => this.poll_deadline(cx),
            Poll::Ready(Ok(count)) => {
                this.wire.written.fetch_add(count as u64, Ordering::Relaxed);
                this.wire.status.store(0, Ordering::Relaxed);
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
        let flushed = match &mut this.inner {
            // A plain socket has no buffer of its own.
            Inner::Plain(_) => Poll::Ready(Ok(())),
            Inner::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        let is_watched = std::mem::take(&mut this.is_watched) || this.wire.status().is_some();
        if flushed.is_ready() && is_watched {
            return flushed;
        }
        // While somebody leaves a reply unread the driver does not read either, but it flushes in every poll.
        if this.is_expired() {
            return Poll::Ready(Err(timed_out()));
        }
        let late = this.poll_deadline::<()>(cx);
        this.is_watched = false;
        if late.is_ready() { late } else { flushed }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let shut = match &mut this.inner {
            Inner::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        };
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

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer within the deadline")
}

/// Follows the server's messages (one type byte, four length bytes that count themselves) for the one kind
/// that matters here: ReadyForQuery (`Z`), which ends a reply and tells the transaction status.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; 5],
    have: usize,
    /// Bytes of the current message's body still to come.
    body: usize,
    /// Bytes since an ErrorResponse began whose reply is not complete; 0 where there is none.
    since_error: usize,
}

impl Frames {
    /// Looks at what was read. Returns how many of the last bytes are an error whose reply is not complete.
    ///
    /// The server sends an error at once and the end of that reply a moment later. A driver that is shown the
    /// error alone returns with a reply outstanding, and nobody knows whether the transaction has failed; so
    /// the error is held until its reply is complete. An error that follows a complete reply is the server
    /// ending the session, and must not reach the driver before it has taken that reply.
    fn observe(&mut self, mut bytes: &[u8], wire: &Wire) -> usize {
        while !bytes.is_empty() {
            if self.have < 5 {
                let take = bytes.len().min(5 - self.have);
                self.header[self.have..self.have + take].copy_from_slice(&bytes[..take]);
                self.have += take;
                bytes = &bytes[take..];
                self.since_error += if self.since_error > 0 { take } else { 0 };
                if self.have < 5 {
                    break;
                }
                let [_, a, b, c, d] = self.header;
                if self.header[0] == b'E' && self.since_error == 0 {
                    self.since_error = 5;
                }
                self.body = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
            }
            if self.header[0] == b'Z' && !bytes.is_empty() && self.body > 0 {
                wire.status.store(bytes[0], Ordering::Relaxed);
                self.since_error = 0;
            }
            let skip = bytes.len().min(self.body);
            self.since_error += if self.since_error > 0 { skip } else { 0 };
            self.body -= skip;
            bytes = &bytes[skip..];
            if self.body == 0 {
                self.have = 0;
            }
        }
        self.since_error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![kind];
        message.extend((body.len() as u32 + 4).to_be_bytes());
        message.extend(body);
        message
    }

    #[test]
    fn the_status_is_read_however_the_bytes_are_cut() {
        let mut reply = message(b'2', b"");
        reply.extend(message(b'D', b"Z\0\0\0\x05I and other bytes that look like a message"));
        reply.extend(message(b'C', b"SELECT 1\0"));
        reply.extend(message(b'Z', b"T"));
        for chunk in 1..=reply.len() {
            let wire = Wire::new();
            let mut frames = Frames::default();
            for bytes in reply.chunks(chunk) {
                frames.observe(bytes, &wire);
            }
            assert_eq!(wire.status(), Some(b'T'), "chunks of {chunk}");
        }
    }

    #[test]
    fn an_error_is_held_until_its_reply_is_complete_and_what_came_before_is_not() {
        let (wire, mut frames) = (Wire::new(), Frames::default());
        let reply = [message(b'C', b"INSERT 0 1\0"), message(b'Z', b"I")].concat();
        let error = message(b'E', b"SFATAL\0C57P01\0\0");
        assert_eq!(frames.observe(&[reply.clone(), error.clone()].concat(), &wire), error.len());
        assert_eq!(frames.observe(&message(b'Z', b"I"), &wire), 0);
        for cut in 1..error.len() {
            // The first bytes of a header do not tell yet, and may be handed out.
            let first = frames.observe(&error[..cut], &wire);
            assert!(first == cut || (cut < 5 && first == 0), "{first} of {cut}");
            assert_eq!(frames.observe(&error[cut..], &wire), error.len());
            assert_eq!(frames.observe(&reply, &wire), 0);
        }
    }

    #[test]
    fn deadlines_survive_the_trip_through_the_clock() {
        let wire = Wire::new();
        assert_eq!(wire.deadline(), None);
        let soon = Instant::now() + Duration::from_millis(5);
        wire.set_deadline(Some(soon));
        assert_eq!(wire.deadline(), Some(soon));
        wire.set_deadline(None);
        assert_eq!(wire.deadline(), None);
    }
}
