//! The stream that the driver reads and writes: a deadline on every operation, and replies handed over as a whole.

use crate::pool::transport::connection_state::ConnectionState;
use crate::pool::transport::protocol::{self, BackendMessages, FrontendMessages};
use crate::pool::transport::socket::ServerSocket;
use crate::pool::transport::tls;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep_until};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

/// A reply that never pauses never meets the timer, so every so many reads the clock is looked at.
const READS_PER_LOOK: u8 = 32;

/// The stream to the server, encrypted or not.
pub(super) enum Inner {
    Plain(ServerSocket),
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
pub(crate) struct BoundedStream {
    inner: Inner,
    conn: Arc<ConnectionState>,
    timer: Option<Pin<Box<Sleep>>>,
    armed_for: Option<Instant>,
    frames: BackendMessages,
    requests: FrontendMessages,
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

impl BoundedStream {
    pub(super) fn new(inner: Inner, conn: Arc<ConnectionState>) -> BoundedStream {
        BoundedStream {
            inner,
            conn,
            timer: None,
            armed_for: None,
            frames: BackendMessages::default(),
            requests: FrontendMessages::default(),
            delivered: false,
            held_back: None,
            held: Vec::new(),
            ready: 0,
            reads: 0,
            is_watched: false,
        }
    }

    /// Fails a pending operation once the deadline has passed. The timer is re-armed only when it fires or the
    /// deadline moved to before it: usually each query's deadline is later than the last one's, and an early
    /// wake-up in half a minute is cheaper than a new timer for every query.
    fn poll_deadline<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.is_watched = true;
        let Some(deadline) = self.conn.deadline() else { return Poll::Pending };
        if self.armed_for.is_none_or(|armed| armed > deadline) {
            self.arm(deadline);
        }
        loop {
            let Some(timer) = &mut self.timer else { return Poll::Pending };
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.armed_for.is_none_or(|armed| armed >= deadline) {
                self.conn.fail(true);
                return Poll::Ready(Err(self.conn.timed_out()));
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
            if self.conn.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                self.conn.fail(true);
                return Poll::Ready(Err(self.conn.timed_out()));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_expired(&self) -> bool {
        self.conn.has_timed_out()
    }
}

impl AsyncRead for BoundedStream {
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
            return Poll::Ready(Err(this.conn.timed_out()));
        }
        loop {
            let before = buf.filled().len();
            let read = Pin::new(&mut this.inner).poll_read(cx, buf);
            match read {
                Poll::Pending => {
                    this.delivered = false;
                    this.reads = 0;
                    if this.conn.status().is_some() {
                        // Nothing is asked, so nothing is late. If this poll goes on to ask, its flush sets the timer.
                        return Poll::Pending;
                    }
                    return this.poll_deadline(cx);
                }
                Poll::Ready(Ok(())) if buf.filled().len() > before => {
                    let error_bytes = this.frames.observe(&buf.filled()[before..], &this.conn);
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
                    this.conn.fail(false);
                    if let Some(words) = protocol::last_words_of(&this.held) {
                        this.conn.end_with(words);
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

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.is_expired() {
            return Poll::Ready(Err(this.conn.timed_out()));
        }
        let written = Pin::new(&mut this.inner).poll_write(cx, buf);
        match written {
            Poll::Pending => this.poll_deadline(cx),
            Poll::Ready(Ok(count)) => {
                if this.frames.is_started() {
                    this.requests.observe(&buf[..count], &this.conn);
                }
                this.conn.add_written(count);
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => {
                this.conn.fail(false);
                Poll::Ready(Err(error))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        if flushed.is_ready() && this.requests.take_question() {
            // Everything is sent: have the driver read at once, where the line waits for the reply.
            this.conn.ask();
            cx.waker().wake_by_ref();
            return flushed;
        }
        let is_watched = std::mem::take(&mut this.is_watched) || this.conn.status().is_some();
        if flushed.is_ready() && is_watched {
            return flushed;
        }
        // While somebody leaves a reply unread the driver does not read either, but it flushes in every poll.
        if this.is_expired() {
            return Poll::Ready(Err(this.conn.timed_out()));
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

impl TlsStream for BoundedStream {
    // No channel binding: it needs the certificate's own hash algorithm, hence an X.509 parser.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}
