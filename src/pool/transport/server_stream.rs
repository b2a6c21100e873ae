//! The byte stream to the server, encrypted or not. The driver reads and writes it without blocking; the pool's own
//! requests block, until the connection's deadline.
//!
//! It knows nothing of the bytes it carries, except that it counts those sent in the [`ConnectionState`].
//!
//! **Lock rule**: driver and pool share the stream under a mutex. One thread at a time uses a connection, so the lock is
//! never contended; it is held for one poll of the driver, or for one exchange of the pool, which waits for the server.

use crate::pool::transport::connection_state::ConnectionState;
use crate::pool::transport::socket::{ServerSocket, Socket};
use crate::pool::transport::tls;
use rustix::event::PollFlags;
use std::io::{self, BufRead, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream, and what the pool received on it for the driver.
pub(crate) struct ServerStream {
    pub(super) inner: Inner,
    /// Encrypted bytes just received, to be decrypted.
    encrypted: Vec<u8>,
    /// Messages that the driver has to read before anything else: notifications that arrived during an exchange of the
    /// pool.
    pub(super) for_driver: Vec<u8>,
    /// How many of these bytes, the last ones, follow the last reply that the pool has read.
    pub(super) handed_over: usize,
    /// The driver has polled the stream since this was last cleared.
    pub(super) is_polled: bool,
}

/// The stream as the driver and the pool share it.
#[derive(Clone)]
pub(crate) struct SharedStream(Arc<Mutex<ServerStream>>);

impl SharedStream {
    pub(super) fn new(inner: Inner) -> SharedStream {
        let stream = ServerStream {
            inner,
            encrypted: Vec::new(),
            for_driver: Vec::new(),
            handed_over: 0,
            is_polled: false,
        };
        SharedStream(Arc::new(Mutex::new(stream)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, ServerStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream to the server, encrypted or not.
pub(super) enum Inner {
    Plain(ServerSocket),
    Tls(Box<tls::Stream>),
}

impl ServerStream {
    /// Sends all of `bytes`, and receives into `input` where the server takes no more before it has sent.
    ///
    /// Blocks until the connection's deadline.
    pub(super) fn send(
        &mut self,
        mut bytes: &[u8],
        input: &mut Vec<u8>,
        conn: &ConnectionState,
    ) -> io::Result<()> {
        loop {
            let (is_sent, socket) = match &mut self.inner {
                Inner::Plain(socket) => {
                    if let Some(count) = socket.try_send(bytes)? {
                        conn.add_written(count);
                        bytes = &bytes[count..];
                        if bytes.is_empty() {
                            return Ok(());
                        }
                        continue;
                    }
                    (false, &*socket)
                }
                Inner::Tls(stream) => {
                    let (socket, session) = stream.get_mut();
                    // The session buffers a limited number of bytes.
                    let taken = session.writer().write(bytes)?;
                    bytes = &bytes[taken..];
                    let is_sent = send_pending(session, socket, conn)? && bytes.is_empty();
                    (is_sent, &*socket)
                }
            };
            if is_sent {
                return Ok(());
            }
            if socket.wait(PollFlags::IN | PollFlags::OUT)?.contains(PollFlags::IN)
                && self.receive_if_there(input)? == Some(0)
            {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Receives at least one byte and appends it to `input`. Returns how many bytes came; 0 at the end of the stream.
    ///
    /// Blocks until the connection's deadline.
    pub(super) fn receive(&mut self, input: &mut Vec<u8>) -> io::Result<usize> {
        match &mut self.inner {
            Inner::Plain(socket) => socket.receive(input),
            Inner::Tls(stream) => {
                let receive = |socket: &mut ServerSocket, into: &mut Vec<u8>| socket.receive(into).map(Some);
                Ok(receive_decrypted(stream, &mut self.encrypted, input, receive)?.unwrap_or_default())
            }
        }
    }

    fn plain(&self) -> &ServerSocket {
        match &self.inner {
            Inner::Plain(socket) => socket,
            Inner::Tls(stream) => stream.get_ref().0,
        }
    }

    pub(super) fn is_local(&self) -> bool {
        self.plain().is_local
    }

    pub(super) fn socket(&self) -> Arc<Socket> {
        self.plain().socket()
    }

    /// Waits until there are bytes to receive or the connection has failed, at most until `due`.
    pub(super) fn is_readable(&mut self, due: Instant) -> bool {
        // Decrypted bytes that are not taken yet would be in the caller's buffer.
        self.plain().is_readable(due)
    }

    /// Reads for the driver: first what was received for it.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.is_polled = true;
        if self.for_driver.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let count = self.for_driver.len().min(buf.remaining());
        buf.put_slice(&self.for_driver[..count]);
        self.for_driver.drain(..count);
        self.handed_over = self.handed_over.min(self.for_driver.len());
        Poll::Ready(Ok(()))
    }

    /// Receives what is there; `None` if nothing is.
    pub(super) fn receive_if_there(&mut self, input: &mut Vec<u8>) -> io::Result<Option<usize>> {
        match &mut self.inner {
            Inner::Plain(socket) => socket.try_receive(input),
            Inner::Tls(stream) => {
                receive_decrypted(stream, &mut self.encrypted, input, |socket, into| socket.try_receive(into))
            }
        }
    }
}

type Tls = tokio_rustls::rustls::ClientConnection;

/// Sends the encrypted bytes that the session has ready. Returns false where the system takes no more.
fn send_pending(session: &mut Tls, socket: &ServerSocket, conn: &ConnectionState) -> io::Result<bool> {
    while session.wants_write() {
        match session.write_tls(&mut SocketWriter(socket)) {
            Ok(count) => conn.add_written(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Receives by `receive` until there are decrypted bytes, and appends these to `input`; `None` where `receive` has none.
fn receive_decrypted(
    stream: &mut tls::Stream,
    encrypted: &mut Vec<u8>,
    input: &mut Vec<u8>,
    mut receive: impl FnMut(&mut ServerSocket, &mut Vec<u8>) -> io::Result<Option<usize>>,
) -> io::Result<Option<usize>> {
    let (socket, session) = stream.get_mut();
    let start = input.len();
    loop {
        let has_ended = take_decrypted(session, input)?;
        if has_ended || input.len() > start {
            return Ok(Some(input.len() - start));
        }
        encrypted.clear();
        match receive(socket, encrypted)? {
            None => return Ok(None),
            // The session learns of the end.
            Some(0) => drop(session.read_tls(&mut io::empty())?),
            Some(_) => {
                let mut rest = &encrypted[..];
                while !rest.is_empty() {
                    if session.read_tls(&mut rest)? == 0 {
                        // The peer has ended the TLS session, and sends on.
                        break;
                    }
                    session.process_new_packets().map_err(io::Error::other)?;
                    // The session takes no more while it has many decrypted bytes.
                    take_decrypted(session, input)?;
                }
            }
        }
    }
}

/// Appends the decrypted bytes that the session has. Returns whether the stream has ended.
fn take_decrypted(session: &mut Tls, input: &mut Vec<u8>) -> io::Result<bool> {
    let mut reader = session.reader();
    loop {
        let taken = match reader.fill_buf() {
            Ok([]) => return Ok(true),
            Ok(chunk) => {
                input.extend_from_slice(chunk);
                chunk.len()
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            // PostgreSQL closes a connection without TLS's close_notify.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(true),
            Err(error) => return Err(error),
        };
        reader.consume(taken);
    }
}

struct SocketWriter<'a>(&'a ServerSocket);

impl Write for SocketWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_send(bytes)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Inner {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Inner::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Inner::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Inner {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Inner::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Inner::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Inner::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Inner::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
