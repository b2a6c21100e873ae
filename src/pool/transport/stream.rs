//! The stream that the driver reads and writes. It fails operations after the deadline, and reports the end of the stream
//! when the driver has processed what came before it.
//!
//! It passes all bytes through [`protocol`](super::protocol) and updates the [`ConnectionState`]. It knows nothing of what statements mean.

use crate::pool::transport::connection_state::ConnectionState;
use crate::pool::transport::protocol::{BackendMessages, FrontendMessages};
use crate::pool::transport::server_stream::SharedStream;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep_until};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

/// Reads between two checks of the deadline in a reply that never pauses: the timer is only polled while a read is pending.
const READS_PER_DEADLINE_CHECK: u8 = 32;

/// The stream that the driver reads and writes.
pub(crate) struct BoundedStream {
    stream: SharedStream,
    conn: Arc<ConnectionState>,
    timer: Option<Pin<Box<Sleep>>>,
    /// When the timer fires.
    armed_for: Option<Instant>,
    /// The timer was polled since the last flush.
    is_timer_polled: bool,
    /// Reads since the deadline was last checked.
    reads: u8,
    backend: BackendMessages,
    frontend: FrontendMessages,
    /// Bytes were delivered to the driver that it may not have processed yet.
    has_unprocessed: bool,
    /// The result with which the stream ended, not reported to the driver yet.
    held_end: Option<io::Result<()>>,
}

impl BoundedStream {
    pub(super) fn new(stream: SharedStream, conn: Arc<ConnectionState>) -> BoundedStream {
        BoundedStream {
            stream,
            conn,
            timer: None,
            armed_for: None,
            is_timer_polled: false,
            reads: 0,
            backend: BackendMessages::default(),
            frontend: FrontendMessages::default(),
            has_unprocessed: false,
            held_end: None,
        }
    }

    /// Fails a pending operation if the deadline has passed.
    ///
    /// The timer is re-armed only when it fires, or when the deadline is now earlier. Usually the deadline of a query is later
    /// than the last one's, and one early wake-up costs less than a new timer for each query.
    fn poll_deadline<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.is_timer_polled = true;
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

    /// The result of a successful read: an error if the deadline has passed, which is checked every
    /// [`READS_PER_DEADLINE_CHECK`] reads.
    fn finish_read(&mut self) -> Poll<io::Result<()>> {
        self.reads += 1;
        if self.reads == READS_PER_DEADLINE_CHECK {
            self.reads = 0;
            if self.conn.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                self.conn.fail(true);
                return Poll::Ready(Err(self.conn.timed_out()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether an earlier operation timed out. Every later one fails too: dropping the client must not wait for a reply that
    /// never comes.
    fn is_expired(&self) -> bool {
        self.conn.has_timed_out()
    }

    /// Reports the end of the stream once the driver has processed what was delivered before it; `None` if the stream has
    /// not ended.
    fn poll_held_end(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<()>>> {
        if self.held_end.is_some() && std::mem::take(&mut self.has_unprocessed) {
            // The driver reports the end of the stream, or an error that belongs to no request, before it processes the
            // reply it has just read. An answered COMMIT would become a lost one. Pending makes it process the reply first.
            cx.waker().wake_by_ref();
            return Some(Poll::Pending);
        }
        self.held_end.take().map(Poll::Ready)
    }

    /// There is nothing to read yet.
    fn poll_no_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.has_unprocessed = false;
        self.reads = 0;
        if self.conn.status().is_some() {
            // No reply is outstanding, so no deadline applies. If this poll of the driver sends a request, its flush polls
            // the timer.
            return Poll::Pending;
        }
        self.poll_deadline(cx)
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(end) = this.poll_held_end(cx) {
            return end;
        }
        if this.is_expired() {
            return Poll::Ready(Err(this.conn.timed_out()));
        }
        let start = buf.filled().len();
        let read = this.stream.lock().poll_read(cx, buf);
        match read {
            Poll::Pending => this.poll_no_input(cx),
            Poll::Ready(Ok(())) if buf.filled().len() > start => {
                this.backend.observe(&buf.filled()[start..], &this.conn);
                this.has_unprocessed = true;
                this.finish_read()
            }
            Poll::Ready(end) => {
                this.conn.fail(false);
                this.held_end = Some(end);
                this.poll_held_end(cx).unwrap_or(Poll::Pending)
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
        let written = Pin::new(&mut this.stream.lock().inner).poll_write(cx, buf);
        match written {
            Poll::Pending => this.poll_deadline(cx),
            Poll::Ready(Ok(count)) => {
                if this.backend.is_started() {
                    this.frontend.observe(&buf[..count], &this.conn);
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
        let flushed = Pin::new(&mut this.stream.lock().inner).poll_flush(cx);
        let is_covered = std::mem::take(&mut this.is_timer_polled) || this.conn.status().is_some();
        if flushed.is_ready() && is_covered {
            return flushed;
        }
        // While the caller leaves a reply unread, the driver does not read either, but it flushes in every poll.
        if this.is_expired() {
            return Poll::Ready(Err(this.conn.timed_out()));
        }
        let late = this.poll_deadline::<()>(cx);
        this.is_timer_polled = false;
        if late.is_ready() { late } else { flushed }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let shut = Pin::new(&mut this.stream.lock().inner).poll_shutdown(cx);
        match shut {
            Poll::Pending => this.poll_deadline(cx),
            done => done,
        }
    }
}

impl TlsStream for BoundedStream {
    // Channel binding needs the hash algorithm of the server's certificate, and so an X.509 parser.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}
