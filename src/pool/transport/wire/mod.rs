//! The direct path: the pool's own requests, sent and answered on the connection's stream between two calls of the
//! driver. One system call sends a request, one receives a reply.
//!
//! It knows the framing of requests and replies, and nothing of what statements mean.

mod look;

pub(crate) use crate::pool::transport::wire::look::Look;

use crate::error::ServerError;
use crate::pool::transport::connection_state::ConnectionState;
use crate::pool::transport::protocol::reply::{Malformed, Reply, ReplyReader, Unasked, ends_with_error};
use crate::pool::transport::server_stream::SharedStream;
use crate::pool::transport::socket::Socket;
use crate::rows::spare_buffer;
use bytes::BytesMut;
use postgres_protocol::message::frontend;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The pool's side of a connection's stream.
pub(crate) struct Wire {
    stream: SharedStream,
    conn: Arc<ConnectionState>,
    /// The requests to send next.
    requests: BytesMut,
    /// Bytes received after the last complete reply.
    input: Vec<u8>,
    /// The most bytes of one reply.
    max_reply: usize,
    /// The driver has not used the stream since the pool took it over.
    is_ours: bool,
}

/// Why a request has no complete reply. The connection cannot be used any more.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) cause: io::Error,
    /// The error that the server sent before the stream ended.
    pub(crate) last: Option<Box<ServerError>>,
    /// The reply is larger than the settings allow.
    pub(crate) is_too_large: bool,
}

impl Broken {
    pub(crate) fn new(cause: io::Error) -> Broken {
        Broken { cause, last: None, is_too_large: false }
    }
}

impl From<io::Error> for Broken {
    fn from(cause: io::Error) -> Broken {
        Broken::new(cause)
    }
}

/// A buffer of requests with more bytes than this is not kept.
const MAX_KEPT: usize = 64 * 1024;

/// A request that is being written. Parameters write themselves, by the caller's code: where they fail or panic, nothing of it is
/// sent.
struct Unfinished<'a> {
    requests: &'a mut BytesMut,
    /// How many bytes are kept.
    keep: usize,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.requests.truncate(self.keep);
    }
}

impl Wire {
    pub(crate) fn new(stream: SharedStream, conn: Arc<ConnectionState>, max_reply: usize) -> Wire {
        Wire { stream, conn, requests: BytesMut::new(), input: Vec::new(), max_reply, is_ours: false }
    }

    /// Gives the stream to the driver, with the bytes received after the last reply.
    pub(crate) fn hand_over(&mut self) {
        if self.is_ours {
            self.is_ours = false;
            let mut stream = self.stream.lock();
            stream.handed_over = self.input.len();
            stream.for_driver.append(&mut self.input);
        }
    }

    /// Takes the stream from the driver. Returns false where the driver has to read on first: a reply is outstanding, or
    /// the driver has read a part of a message.
    pub(crate) fn take_over(&mut self) -> bool {
        if self.is_ours {
            return true;
        }
        if !self.conn.is_synchronized() {
            return false;
        }
        let mut stream = self.stream.lock();
        let handed_over = std::mem::take(&mut stream.handed_over);
        if let Some(unread) = stream.for_driver.len().checked_sub(handed_over) {
            // The driver has not read them.
            self.input = stream.for_driver.split_off(unread);
        }
        drop(stream);
        self.is_ours = !self.conn.is_reply_count_unknown() || self.resynchronize().is_ok();
        self.is_ours
    }

    /// Reads on until the reply to a request that can be recognised, where it is unknown how many replies are outstanding.
    fn resynchronize(&mut self) -> Result<(), Broken> {
        // A syntax error names what it found, in a failed transaction too; and only a failed COPY leads here.
        let mark = format!("poolhouse_{:x}", fastrand::u64(..));
        self.write_simple_query(&mark)?;
        self.send()?;
        loop {
            let mut reply = self.receive()?;
            if reply.take_error().is_some_and(|error| error.message().contains(&mark)) {
                let status = self.conn.status();
                self.conn.forget_outstanding();
                // That of a reply counts only where no other is believed to be outstanding.
                return match status {
                    Some(_) => Ok(()),
                    None => self.ask_for_status(),
                };
            }
        }
    }

    /// Learns the transaction status from an empty request.
    fn ask_for_status(&mut self) -> Result<(), Broken> {
        self.write_simple_query("")?;
        self.send()?;
        self.receive().map(Reply::recycle)
    }

    /// Writes a request, which has one reply: the messages of `write`, and Sync. Where `write` fails, nothing is written.
    pub(crate) fn write_request<E>(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<(), E> {
        self.write_messages(|requests| {
            write(requests)?;
            frontend::sync(requests);
            Ok(())
        })
    }

    fn write_messages<E>(&mut self, write: impl FnOnce(&mut BytesMut) -> Result<(), E>) -> Result<(), E> {
        let keep = self.requests.len();
        let mut unfinished = Unfinished { requests: &mut self.requests, keep };
        write(unfinished.requests)?;
        unfinished.keep = unfinished.requests.len();
        drop(unfinished);
        self.conn.add_request();
        Ok(())
    }

    /// Writes a request of statements without parameters, which has one reply.
    ///
    /// # Errors
    ///
    /// The text contains a zero byte; nothing is written.
    pub(crate) fn write_simple_query(&mut self, sql: &str) -> io::Result<()> {
        self.write_messages(|requests| frontend::query(sql, requests))
    }

    /// Sends the requests. Blocks until the connection's deadline.
    pub(crate) fn send(&mut self) -> Result<(), Broken> {
        let is_idle = self.conn.answered_at().elapsed() >= MIN_IDLE;
        self.send_after_check(is_idle)
    }

    /// Sends the requests. With `is_checked` it first looks whether the server has closed the connection, which takes one
    /// system call: what is sent to a closed connection may have arrived, as far as one can know.
    pub(crate) fn send_after_check(&mut self, is_checked: bool) -> Result<(), Broken> {
        let sent = self.send_requests(is_checked);
        self.requests.clear();
        if self.requests.capacity() > MAX_KEPT {
            self.requests = BytesMut::new();
        }
        sent.map_err(|cause| {
            self.conn.fail(false);
            Broken::new(cause)
        })
    }

    fn send_requests(&mut self, is_checked: bool) -> io::Result<()> {
        if self.conn.has_timed_out() {
            return Err(self.conn.timed_out());
        }
        let mut stream = self.stream.lock();
        if is_checked {
            match stream.receive_if_there(&mut self.input)? {
                None => {}
                Some(0) => return Err(closed()),
                Some(_) if ends_with_error(&self.input) => return Ok(()),
                Some(_) => {}
            }
        }
        match stream.send(&self.requests, &mut self.input, &self.conn) {
            // What the server said before it closed the connection is still to be read.
            Err(error) if is_closed(&error) => {
                let is_there =
                    !self.input.is_empty() || stream.receive(&mut self.input).is_ok_and(|count| count > 0);
                if is_there { Ok(()) } else { Err(error) }
            }
            sent => sent,
        }
    }

    /// Receives the reply to the oldest request without one. Blocks until the connection's deadline.
    pub(crate) fn receive(&mut self) -> Result<Reply, Broken> {
        let mut reader = ReplyReader::default();
        let end = self.read_reply(&mut reader).map_err(|broken| {
            self.conn.fail(false);
            Broken { last: reader.take_error(), ..broken }
        })?;
        Ok(reader.finish(self.split_input(end)))
    }

    /// Receives the reply to a COPY, the oldest request without a reply, and passes the data that it contains to `take`. The
    /// connection fails where `take` panics. Blocks until the connection's deadline, and for as long as `take` does.
    pub(crate) fn receive_copy(&mut self, mut take: impl FnMut(&[u8])) -> Result<Reply, Broken> {
        struct FailIfDropped<'a>(Option<&'a ConnectionState>);
        impl Drop for FailIfDropped<'_> {
            fn drop(&mut self) {
                if let Some(conn) = self.0 {
                    conn.fail(false);
                }
            }
        }
        let conn = self.conn.clone();
        // The rest of the reply is never read where `take` panics, or the reply is not complete.
        let mut guard = FailIfDropped(Some(&conn));
        let mut reader = ReplyReader::of_copy();
        loop {
            let complete = reader.read(&self.input, &conn, |message| match message {
                Unasked::Notification(message) => self.stream.lock().for_driver.extend_from_slice(message),
                Unasked::CopyData(data) => take(data),
                Unasked::CopyIn => {}
            });
            match complete.map_err(malformed)? {
                Some(end) => {
                    guard.0 = None;
                    return Ok(reader.finish(self.split_input(end)));
                }
                None => reader.discard_read(&mut self.input),
            }
            if let Err(broken) = self.receive_more() {
                return Err(Broken { last: reader.take_error(), ..broken });
            }
        }
    }

    /// Receives more bytes of a reply.
    fn receive_more(&mut self) -> Result<(), Broken> {
        check_size(&self.input, self.max_reply)?;
        match self.stream.lock().receive(&mut self.input)? {
            0 => Err(closed().into()),
            _ => Ok(()),
        }
    }

    /// Takes the first `end` bytes of the input.
    fn split_input(&mut self, end: usize) -> Vec<u8> {
        if end == self.input.len() {
            return std::mem::take(&mut self.input);
        }
        let rest = self.input.split_off(end);
        std::mem::replace(&mut self.input, rest)
    }

    fn read_reply(&mut self, reader: &mut ReplyReader) -> Result<usize, Broken> {
        if self.input.capacity() == 0 {
            self.input = spare_buffer();
        }
        let mut stream = self.stream.lock();
        loop {
            let mut refuses_copy = false;
            let complete = reader.read(&self.input, &self.conn, |message| match message {
                Unasked::Notification(message) => stream.for_driver.extend_from_slice(message),
                Unasked::CopyIn => refuses_copy = true,
                Unasked::CopyData(_) => {}
            });
            if let Some(end) = complete.map_err(malformed)? {
                return Ok(end);
            }
            if refuses_copy {
                // The server ignores the Sync that it has read already.
                let mut refusal = BytesMut::new();
                frontend::copy_fail("the helpers send no data", &mut refusal)?;
                frontend::sync(&mut refusal);
                stream.send(&refusal, &mut self.input, &self.conn)?;
                // The first Sync has a reply of its own if the server read it after it raised an error.
                self.conn.lose_sync();
                self.is_ours = false;
                continue;
            }
            check_size(&self.input, self.max_reply)?;
            if stream.receive(&mut self.input)? == 0 {
                return Err(closed().into());
            }
        }
    }

    /// Whether the server, or what is in front of it, runs on this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.stream.lock().is_local()
    }

    pub(crate) fn socket(&self) -> Arc<Socket> {
        self.stream.lock().socket()
    }

    /// Drops the notifications that arrived for the borrower.
    pub(crate) fn drop_notifications(&mut self) {
        self.stream.lock().for_driver.clear();
    }

    /// Whether the driver that `poll` polls is the one on this stream.
    pub(crate) fn is_driven_by(&self, poll: impl FnOnce()) -> bool {
        self.stream.lock().is_polled = false;
        poll();
        self.stream.lock().is_polled
    }
}

/// A connection that has not been used for this time is checked before a read is sent on it.
const MIN_IDLE: Duration = Duration::from_millis(1);

/// The error of a connection that the server has closed.
pub(crate) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed")
}

/// Fails where more was received of a reply than the settings allow.
fn check_size(input: &[u8], max: usize) -> Result<(), Broken> {
    if input.len() > max {
        let text = format!("the reply is larger than DB_MAX_REPLY_BYTES ({max})");
        return Err(Broken { is_too_large: true, ..Broken::new(io::Error::other(text)) });
    }
    Ok(())
}

fn malformed(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | ConnectionAborted | UnexpectedEof)
}
