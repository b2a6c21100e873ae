//! The transport of one client connection, below the HTTP server: it passes one whole request at a time to the server
//! and bounds every wait for the client. It knows no routes and no handlers.
//!
//! The HTTP server reads ahead: while it writes one response it parses the next request, and then ends the first
//! response as the second request requires (no body after `HEAD`, `Connection: close`, HTTP/1.0). Its timer for slow
//! heads runs only once per connection. It waits without limit for the end of a body that no handler reads. Therefore
//! this stream passes on
//!
//! - a head only once it is complete;
//! - the bytes of a body, and nothing of the next request before the response is written;
//! - the end of the stream if a client does not complete its request, does not read its response, or is evicted to
//!   make room for others.
//!
//! The responses that the server itself makes for unreadable requests have no body; they get one here. The server
//! sends `100 Continue` on request; here it is delayed until a handler reads the body, so that a refusal comes first.

pub(in crate::http) mod exchange;
mod request_end;
pub(in crate::http) mod slots;

use crate::http::connection::exchange::{Exchange, Phase};
use crate::http::connection::request_end::{HeadEnd, is_no_request};
use crate::http::connection::slots::{ConnectionLimit, Slot};
use actix_web::rt::net::TcpStream;
use actix_web::rt::time::{Instant, Sleep, sleep_until};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest head. A longer one is passed on incomplete, and the server refuses it.
const LONGEST_HEAD: usize = 128 * 1024;

/// How many bytes are read ahead of what may be passed on. Then the connection stops reading.
const AHEAD: usize = 16 * 1024;

/// A response may take this many times the client timeout in all: a client may be slow, but must not stop reading.
const ANSWER: u32 = 12;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The server sends this by itself on the first request of a connection only.
const TOO_LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n";

/// The stream that the HTTP server reads and writes.
#[derive(Debug)]
pub(in crate::http) struct Connection {
    socket: TcpStream,
    slot: Slot,
    /// How long the connection waits for its client.
    client_timeout: Duration,
    /// Bytes that were read and not yet passed to the server.
    buffered: Vec<u8>,
    /// How many of these may be passed on.
    releasable: usize,
    head: HeadEnd,
    /// A response or `100 Continue` of our own, to be written before any bytes of the server.
    own_response: Vec<u8>,
    /// The server has sent `100 Continue`; it is delayed until a handler reads the body.
    owes_continue: bool,
    /// Runs while the client must complete a head, read its response, or complete a body.
    timer: Option<Pin<Box<Sleep>>>,
    /// The deadline for reading all of the response.
    response_deadline: Option<Instant>,
}

impl Connection {
    pub(in crate::http) fn new(
        socket: TcpStream,
        client_timeout: Duration,
        limit: ConnectionLimit,
    ) -> Connection {
        Connection {
            socket,
            slot: Slot::take(limit),
            client_timeout,
            buffered: Vec::new(),
            releasable: 0,
            head: HeadEnd::default(),
            own_response: Vec::new(),
            owes_continue: false,
            timer: None,
            response_deadline: None,
        }
    }

    pub(in crate::http) fn peer(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()
    }

    /// The state shared with the handlers.
    pub(in crate::http) fn exchange(&self) -> &Rc<Exchange> {
        &self.slot.exchange
    }

    /// Reads into `buffer`; ready with 0 at the end of the stream.
    fn poll_socket(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.socket).poll_read(context, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Reads more into `buffered`; ready with 0 at the end of the stream.
    fn poll_buffer(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut some = [0; 4096];
        let count = ready!(self.poll_socket(context, &mut some))?;
        self.buffered.extend_from_slice(&some[..count]);
        Poll::Ready(Ok(count))
    }

    /// Passes on the releasable bytes, as far as `buffer` has room.
    fn release(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.releasable.min(buffer.remaining());
        buffer.put_slice(&self.buffered[..count]);
        self.buffered.drain(..count);
        self.releasable -= count;
    }

    /// Passes on a head once it is complete, or bytes that cannot become one.
    fn poll_head(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.buffered.is_empty() {
            // Fast path: usually one read is exactly one head, and nothing is copied.
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
            let read = &buffer.filled()[before..];
            if read.is_empty() || self.head.find(read) == Some(read.len()) {
                self.exchange().enter(Phase::HandedOver);
                return Poll::Ready(Ok(()));
            }
            self.buffered.extend_from_slice(read);
            self.head = HeadEnd::default();
            buffer.set_filled(before);
        }
        loop {
            let end = self.head.find(&self.buffered);
            let is_hopeless = self.buffered.len() >= LONGEST_HEAD || is_no_request(&self.buffered);
            let mut is_over = false;
            if end.is_none() && !is_hopeless {
                match self.poll_buffer(context)? {
                    Poll::Ready(count) => is_over = count == 0,
                    Poll::Pending => {
                        ready!(self.poll_timer(context, Instant::now() + self.client_timeout));
                        self.own_response = with_body(TOO_LATE);
                        let _ = self.poll_own_response(context)?;
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            if end.is_some() || is_hopeless || is_over {
                self.timer = None;
                self.releasable = end.unwrap_or(self.buffered.len());
                self.exchange().enter(Phase::HandedOver);
                self.release(buffer);
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Passes on the bytes of the request's body.
    fn poll_body(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.buffered.is_empty() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
            let read = &buffer.filled()[before..];
            let taken = self.slot.exchange.body.borrow_mut().take(read);
            self.buffered.extend_from_slice(&read[taken..]);
            let is_end = read.is_empty();
            buffer.set_filled(before + taken);
            if taken > 0 || is_end {
                return Poll::Ready(Ok(()));
            }
        } else {
            self.releasable = self.slot.exchange.body.borrow_mut().take(&self.buffered);
            if self.releasable > 0 {
                self.release(buffer);
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_ahead(context)
    }

    /// Passes on nothing, because the next request has to wait; reports the end of the stream.
    fn poll_ahead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.buffered.len() < AHEAD {
            if ready!(self.poll_buffer(context))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    /// Reads and discards the rest of a body; ready at its end or at the timeout.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let exchange = self.exchange().clone();
        exchange.body.borrow_mut().take(&std::mem::take(&mut self.buffered));
        let mut some = [0; 16 * 1024];
        // Bounded, so that a fast client does not starve the other connections of this worker.
        for _ in 0..16 {
            if exchange.body.borrow().is_reached() {
                return Poll::Ready(Ok(()));
            }
            let Poll::Ready(read) = self.poll_socket(context, &mut some) else {
                return self.poll_timer(context, Instant::now() + self.client_timeout).map(|()| Ok(()));
            };
            let count = read?;
            if count == 0 {
                return Poll::Ready(Ok(()));
            }
            exchange.body.borrow_mut().take(&some[..count]);
        }
        context.waker().wake_by_ref();
        self.poll_timer(context, Instant::now() + self.client_timeout).map(|()| Ok(()))
    }

    /// Starts the timer if it does not run; ready when it has expired.
    fn poll_timer(&mut self, context: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline))).as_mut().poll(context)
    }

    /// Writes `bytes`; fails if the client reads nothing for too long.
    fn poll_socket_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        if written.is_ready() {
            self.timer = None;
            self.exchange().is_write_blocked.set(false);
            return written;
        }
        let now = Instant::now();
        let until = *self.response_deadline.get_or_insert(now + self.client_timeout * ANSWER);
        if !self.exchange().is_write_blocked.replace(true) {
            let phase = self.exchange().phase();
            self.exchange().enter(phase);
        }
        self.exchange().wait(context);
        let is_late = self.poll_timer(context, until.min(now + self.client_timeout)).is_ready();
        if is_late || self.exchange().must_close() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client does not read the response",
            )));
        }
        Poll::Pending
    }

    /// Writes all of `own_response`.
    fn poll_own_response(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.own_response.is_empty() {
            let own_response = std::mem::take(&mut self.own_response);
            let written = self.poll_socket_write(context, &own_response);
            self.own_response = own_response;
            let count = ready!(written)?;
            self.own_response.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.releasable > 0 {
            self.release(buffer);
            return Poll::Ready(Ok(()));
        }
        if self.exchange().must_close() {
            return Poll::Ready(Ok(()));
        }
        let has_more = !self.exchange().body.borrow().is_reached();
        match self.exchange().phase() {
            Phase::Waiting => {
                let head = self.poll_head(context, buffer);
                if head.is_pending() {
                    self.exchange().wait(context);
                }
                head
            }
            Phase::Handling | Phase::Writing if has_more => self.poll_body(context, buffer),
            Phase::HandedOver | Phase::Handling | Phase::Writing => self.poll_ahead(context),
            Phase::Draining => {
                self.exchange().wait(context);
                self.poll_drain(context)
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_own_response(context))?;
        match self.exchange().phase() {
            Phase::Waiting | Phase::HandedOver => {
                self.own_response = with_body(bytes);
                let _ = self.poll_own_response(context)?;
                Poll::Ready(Ok(bytes.len()))
            }
            _ if bytes.starts_with(CONTINUE) && self.exchange().expects_continue.take() => {
                self.owes_continue = true;
                Poll::Ready(Ok(CONTINUE.len()))
            }
            _ => self.poll_socket_write(context, bytes),
        }
    }

    /// The server calls this when it has no more to write.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own_response(context))?;
        let exchange = self.exchange().clone();
        if exchange.phase() == Phase::Handling {
            if self.owes_continue && exchange.is_body_wanted.get() {
                self.owes_continue = false;
                self.own_response = CONTINUE.to_vec();
                ready!(self.poll_own_response(context))?;
            }
            // The body arrived together with its head: wake the server to read it.
            if exchange.has_begun.take() && !self.buffered.is_empty() {
                context.waker().wake_by_ref();
            }
        }
        if exchange.phase() == Phase::Writing {
            exchange.end();
            self.head = HeadEnd::default();
            self.owes_continue = false;
            (self.timer, self.response_deadline) = (None, None);
            if exchange.phase() == Phase::Draining || !self.buffered.is_empty() {
                context.waker().wake_by_ref();
            } else {
                // The server has already polled for more. Frees the memory of a large head.
                exchange.wait(context);
                self.buffered = Vec::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own_response(context))?;
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// Gives a response that the server itself made the body that every error has. The connection ends after it.
fn with_body(answer: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(answer);
    let mut lines = text.lines();
    let status = lines.next().unwrap_or_default();
    let (code, message) = match status.get(9..12) {
        Some("408") => ("head_timeout", "the request's head was not complete in time"),
        Some("431") => ("head_too_large", "the request's head is larger than 128 KiB"),
        _ => (
            "bad_request",
            "this is no HTTP/1.1 request that can be read: look at its first line and its headers",
        ),
    };
    let body = serde_json::json!({"error": {"code": code, "message": message}}).to_string();
    let date =
        lines.find(|line| line.starts_with("date: ")).map_or(String::new(), |date| format!("{date}\r\n"));
    let length = body.len();
    format!(
        "{status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n{date}\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_the_servers_own_gets_a_body_and_ends_the_connection() {
        let answer = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let with = String::from_utf8(with_body(answer)).unwrap();
        let (head, body) = with.split_once("\r\n\r\n").unwrap();
        let length = body.len();
        assert_eq!(
            head,
            format!(
                "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
                 connection: close\r\ndate: x"
            )
        );
        assert!(body.starts_with(r#"{"error":{"code":"head_timeout","#), "{body}");
    }
}
