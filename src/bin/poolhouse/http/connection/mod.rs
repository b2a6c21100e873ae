//! A client's connection under the HTTP server: it hands over one whole request after the other, and bounds how long
//! a client is waited for.
//!
//! The server reads ahead: while it makes one answer it takes up the next request, and then ends the first answer as
//! the second request wants it (no body after `HEAD`, `Connection: close`, HTTP/1.0). Its timer for slow heads runs once
//! per connection. And the end of a body that nobody wants is waited for without limit. So it gets
//!
//! - a head only when that is complete;
//! - of a body what belongs to it, and nothing of the next request before the answer is written;
//! - the end of the stream where a client keeps an ended request open, or takes nothing of its answer, or has to make
//!   room for others.
//!
//! What the server writes on its own account, about requests it cannot read, has no body: it gets one here. And it says
//! `100 Continue` to whatever asks for it: here that waits until a handler wants the body, so that a refusal comes first.

pub(in crate::http) mod crowd;
pub(in crate::http) mod exchange;
mod request_end;

use crate::http::connection::crowd::{Ceiling, Place};
use crate::http::connection::exchange::{Exchange, Phase};
use crate::http::connection::request_end::{HeadEnd, is_no_request};
use actix_web::rt::net::TcpStream;
use actix_web::rt::time::{Instant, Sleep, sleep_until};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A head of so many bytes is handed over in any case, and the server refuses it.
const LONGEST_HEAD: usize = 128 * 1024;

/// So much is read ahead of what may be handed over. A client that sends more is left alone with it.
const AHEAD: usize = 16 * 1024;

/// An answer has so many times the patience to be taken by its client, who may be slow but not stand still.
const ANSWER: u32 = 12;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What the server says to a first request; to later ones it would say nothing.
const TOO_LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n";

/// The stream that the HTTP server reads and writes.
#[derive(Debug)]
pub(in crate::http) struct Connection {
    socket: TcpStream,
    place: Place,
    /// How long a client is waited for.
    patience: Duration,
    /// Read, and not handed over yet.
    held: Vec<u8>,
    /// So many of these may be handed over.
    granted: usize,
    head: HeadEnd,
    /// Ours, to be written before anything of the server's.
    ours: Vec<u8>,
    /// `100 Continue`, which the server has said already, is still to be said.
    owes_continue: bool,
    /// Runs while a client is waited for that has begun a head, does not take its answer, or does not end its body.
    timer: Option<Pin<Box<Sleep>>>,
    /// When that answer must have been taken.
    answer_until: Option<Instant>,
}

impl Connection {
    pub(in crate::http) fn new(socket: TcpStream, patience: Duration, ceiling: Ceiling) -> Connection {
        Connection {
            socket,
            place: Place::take(ceiling),
            patience,
            held: Vec::new(),
            granted: 0,
            head: HeadEnd::default(),
            ours: Vec::new(),
            owes_continue: false,
            timer: None,
            answer_until: None,
        }
    }

    pub(in crate::http) fn peer(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()
    }

    /// What the app knows of this connection.
    pub(in crate::http) fn exchange(&self) -> &Rc<Exchange> {
        &self.place.exchange
    }

    /// Reads into `buffer`; ready with nothing at the client's end.
    fn poll_socket(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.socket).poll_read(context, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Reads more to hold; ready with 0 at the client's end.
    fn poll_hold(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut some = [0; 4096];
        let count = ready!(self.poll_socket(context, &mut some))?;
        self.held.extend_from_slice(&some[..count]);
        Poll::Ready(Ok(count))
    }

    /// Hands over what is granted, as far as there is room.
    fn hand_over(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.granted.min(buffer.remaining());
        buffer.put_slice(&self.held[..count]);
        self.held.drain(..count);
        self.granted -= count;
    }

    /// A head, once it is whole; or what will never be one.
    fn poll_head(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            // As a rule one read gets one head, and nothing is copied.
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
            let read = &buffer.filled()[before..];
            if read.is_empty() || self.head.find(read) == Some(read.len()) {
                self.exchange().enter(Phase::HandedOver);
                return Poll::Ready(Ok(()));
            }
            self.held.extend_from_slice(read);
            self.head = HeadEnd::default();
            buffer.set_filled(before);
        }
        loop {
            let end = self.head.find(&self.held);
            let is_hopeless = self.held.len() >= LONGEST_HEAD || is_no_request(&self.held);
            let mut is_over = false;
            if end.is_none() && !is_hopeless {
                match self.poll_hold(context)? {
                    Poll::Ready(count) => is_over = count == 0,
                    Poll::Pending => {
                        ready!(self.poll_timer(context, Instant::now() + self.patience));
                        self.ours = with_body(TOO_LATE);
                        let _ = self.poll_ours(context)?;
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            if end.is_some() || is_hopeless || is_over {
                self.timer = None;
                self.granted = end.unwrap_or(self.held.len());
                self.exchange().enter(Phase::HandedOver);
                self.hand_over(buffer);
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// What belongs to the request's body.
    fn poll_body(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
            let read = &buffer.filled()[before..];
            let taken = self.place.exchange.body.borrow_mut().take(read);
            self.held.extend_from_slice(&read[taken..]);
            let is_end = read.is_empty();
            buffer.set_filled(before + taken);
            if taken > 0 || is_end {
                return Poll::Ready(Ok(()));
            }
        } else {
            self.granted = self.place.exchange.body.borrow_mut().take(&self.held);
            if self.granted > 0 {
                self.hand_over(buffer);
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_ahead(context)
    }

    /// Nothing: the next request has to wait. But a client that hangs up is told of.
    fn poll_ahead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.held.len() < AHEAD {
            if ready!(self.poll_hold(context))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    /// Throws the rest of a body away; ready at its end, or at the end of the patience with it.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let exchange = self.exchange().clone();
        exchange.body.borrow_mut().take(&std::mem::take(&mut self.held));
        let mut some = [0; 16 * 1024];
        // A client that sends faster than this must not keep the others of its worker waiting.
        for _ in 0..16 {
            if exchange.body.borrow().is_reached() {
                return Poll::Ready(Ok(()));
            }
            let Poll::Ready(read) = self.poll_socket(context, &mut some) else {
                return self.poll_timer(context, Instant::now() + self.patience).map(|()| Ok(()));
            };
            let count = read?;
            if count == 0 {
                return Poll::Ready(Ok(()));
            }
            exchange.body.borrow_mut().take(&some[..count]);
        }
        context.waker().wake_by_ref();
        self.poll_timer(context, Instant::now() + self.patience).map(|()| Ok(()))
    }

    /// Ready at the end of the time that runs, or that begins to run now until `deadline`.
    fn poll_timer(&mut self, context: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline))).as_mut().poll(context)
    }

    /// Writes `bytes`; an error where the client takes nothing for too long.
    fn poll_socket_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        if written.is_ready() {
            self.timer = None;
            self.exchange().is_stuck.set(false);
            return written;
        }
        let now = Instant::now();
        let until = *self.answer_until.get_or_insert(now + self.patience * ANSWER);
        if !self.exchange().is_stuck.replace(true) {
            let phase = self.exchange().phase();
            self.exchange().enter(phase);
        }
        self.exchange().wait(context);
        let is_late = self.poll_timer(context, until.min(now + self.patience)).is_ready();
        if is_late || self.exchange().must_go() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no answer")));
        }
        Poll::Pending
    }

    /// Writes all that is ours.
    fn poll_ours(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.ours.is_empty() {
            let ours = std::mem::take(&mut self.ours);
            let written = self.poll_socket_write(context, &ours);
            self.ours = ours;
            let count = ready!(written)?;
            self.ours.drain(..count);
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
        if self.granted > 0 {
            self.hand_over(buffer);
            return Poll::Ready(Ok(()));
        }
        if self.exchange().must_go() {
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
        ready!(self.poll_ours(context))?;
        match self.exchange().phase() {
            Phase::Waiting | Phase::HandedOver => {
                self.ours = with_body(bytes);
                let _ = self.poll_ours(context)?;
                Poll::Ready(Ok(bytes.len()))
            }
            _ if bytes.starts_with(CONTINUE) && self.exchange().expects_continue.take() => {
                self.owes_continue = true;
                Poll::Ready(Ok(CONTINUE.len()))
            }
            _ => self.poll_socket_write(context, bytes),
        }
    }

    /// Called when the server has written all it has.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_ours(context))?;
        let exchange = self.exchange().clone();
        if exchange.phase() == Phase::Handling {
            if self.owes_continue && exchange.is_body_wanted.get() {
                self.owes_continue = false;
                self.ours = CONTINUE.to_vec();
                ready!(self.poll_ours(context))?;
            }
            // A body that has come along with its head: the server must ask again for it.
            if exchange.has_begun.take() && !self.held.is_empty() {
                context.waker().wake_by_ref();
            }
        }
        if exchange.phase() == Phase::Writing {
            exchange.end();
            self.head = HeadEnd::default();
            self.owes_continue = false;
            (self.timer, self.answer_until) = (None, None);
            if exchange.phase() == Phase::Draining || !self.held.is_empty() {
                context.waker().wake_by_ref();
            } else {
                // The server has looked for more already. A large head's memory is not kept for the small ones after it.
                exchange.wait(context);
                self.held = Vec::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_ours(context))?;
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// An answer of the server's own, which has no body, with the one that every error has; it ends the connection.
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
