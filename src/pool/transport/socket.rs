//! The socket to the server. It knows the deadline of its connection and nothing of the bytes it carries.
//!
//! The pool's own requests block in it: one system call sends, one receives. Before a read blocks it spins for a short
//! time, because blocking and waking can take longer than a nearby server takes to reply. The driver polls it from a
//! runtime, which makes a system call for readiness and one for the bytes.
//!
//! There is no lock. The counters shared by all sockets are atomics, and only steer the spinning.

use crate::pool::transport::connection_state::ConnectionState;
use crate::pool::transport::dns::{Address, Endpoint};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// How long one blocking read lasts before the deadline is checked. The last wait before a deadline ends exactly at it.
const DEADLINE_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A closed connection is to be an error, not a signal. Where the system has no such flag, Rust's runtime ignores the signal.
#[cfg(not(target_vendor = "apple"))]
const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
#[cfg(target_vendor = "apple")]
const SEND: SendFlags = SendFlags::DONTWAIT;

/// A connected socket.
///
/// It is registered with the driver's runtime, for what borrowers do with the driver.
pub(crate) struct ServerSocket {
    socket: Arc<Socket>,
    conn: Arc<ConnectionState>,
    /// The peer runs on this machine.
    pub(super) is_local: bool,
    /// Reads go into this buffer and are copied to the driver's. The driver offers all of its free capacity, megabytes after one large row, and safe
    /// code would have to clear all of it before each read.
    read_buffer: Box<[u8]>,
    spin: AdaptiveSpin,
}

/// How long a thread spins for a reply before it blocks. It yields between two attempts.
const SPIN_BUDGET: Duration = Duration::from_micros(50);

/// The most threads of this process that may wait for replies while one of them spins: half of the processors. If the server
/// is on the same machine, the session of each thread needs a processor too.
static MAX_SPINNING: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(0, |processors| processors.get() / 2));

/// Threads that wait for a reply, blocked or spinning.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Replies to block for before spinning again after oversubscription, counted over all sockets. More threads than
/// [`MAX_SPINNING`] at one moment make the next such moment likely.
static BLOCK_AFTER_OVERSUBSCRIPTION: AtomicU32 = AtomicU32::new(0);

/// One thread's wait for a reply, counted in [`WAITING`].
struct ReplyWait;

impl ReplyWait {
    /// Begins a wait. Returns whether the thread may spin.
    fn begin() -> (ReplyWait, bool) {
        let others = WAITING.fetch_add(1, Ordering::Relaxed);
        let left = if others < *MAX_SPINNING {
            BLOCK_AFTER_OVERSUBSCRIPTION.load(Ordering::Relaxed)
        } else {
            MAX_BLOCKED_REPLIES
        };
        if left > 0 {
            BLOCK_AFTER_OVERSUBSCRIPTION.store(left - 1, Ordering::Relaxed);
        }
        (ReplyWait, left == 0)
    }
}

impl Drop for ReplyWait {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The most replies in a row to block for without spinning.
const MAX_BLOCKED_REPLIES: u32 = 64;

/// Decides for one socket whether to spin for the next reply, by whether spinning succeeded lately.
///
/// Each failure doubles the number of replies to block for. With a distant server or slow statements, spinning therefore
/// costs less than a microsecond per reply.
#[derive(Debug, Default)]
struct AdaptiveSpin {
    /// Replies to block for before spinning again.
    blocks_left: u32,
    /// The value of `blocks_left` after the last attempt to spin.
    last_blocks: u32,
}

impl AdaptiveSpin {
    fn is_worth_it(&mut self) -> bool {
        let is_worth_it = self.blocks_left == 0;
        self.blocks_left = self.blocks_left.saturating_sub(1);
        is_worth_it
    }

    fn note(&mut self, has_succeeded: bool) {
        self.last_blocks =
            if has_succeeded { 0 } else { (2 * self.last_blocks).clamp(1, MAX_BLOCKED_REPLIES) };
        self.blocks_left = self.last_blocks;
    }
}

/// The size of the buffers that the system writes received bytes to.
const READ_SIZE: usize = 16 * 1024;

/// With less room than this a buffer is enlarged before a read.
const MIN_READ_SIZE: usize = 4 * 1024;

pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Socket {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(stream) => stream.poll_read_ready(cx),
            Socket::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(stream) => stream.poll_write_ready(cx),
            Socket::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    /// Runs `f` if the runtime considers the socket ready. `WouldBlock` from `f` clears the readiness.
    fn try_io<R>(&self, interest: Interest, f: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        match self {
            Socket::Tcp(stream) => stream.try_io(interest, f),
            Socket::Unix(stream) => stream.try_io(interest, f),
        }
    }
}

impl ServerSocket {
    /// The socket itself, for a caller that has its own way of waiting until it is readable.
    pub(super) fn socket(&self) -> Arc<Socket> {
        self.socket.clone()
    }

    pub(super) async fn connect(endpoint: &Endpoint, conn: Arc<ConnectionState>) -> io::Result<ServerSocket> {
        let socket = match &endpoint.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                // Keepalives detect a vanished server while the connection is idle.
                let keepalive = TcpKeepalive::new()
                    .with_time(Duration::from_secs(30))
                    .with_interval(Duration::from_secs(10))
                    .with_retries(3);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                Socket::Tcp(stream)
            }
            Address::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
        };
        // From here on the flags of each call decide whether it blocks.
        ioctl_fionbio(&socket, false)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(DEADLINE_CHECK_INTERVAL))?;
        let is_local = match &endpoint.address {
            Address::Tcp(address) => address.ip().is_loopback(),
            Address::Unix(_) => true,
        };
        Ok(ServerSocket {
            socket: Arc::new(socket),
            conn,
            is_local,
            read_buffer: vec![0; READ_SIZE].into(),
            spin: AdaptiveSpin::default(),
        })
    }

    /// Sends what the system takes without waiting; `None` if it takes nothing.
    pub(super) fn try_send(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        loop {
            match send(&self.socket, bytes, SEND) {
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                sent => return Ok(Some(sent?)),
            }
        }
    }

    /// Appends to `input` what the system has received; `None` if that is nothing, 0 at the end of the stream.
    pub(super) fn try_receive(&self, input: &mut Vec<u8>) -> io::Result<Option<usize>> {
        match self.receive_once(input, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            received => Ok(Some(received?)),
        }
    }

    /// Makes one system call to append received bytes to `input`.
    fn receive_once(&self, input: &mut Vec<u8>, flags: RecvFlags) -> rustix::io::Result<usize> {
        if input.capacity() - input.len() < MIN_READ_SIZE {
            input.reserve(READ_SIZE);
        }
        let (count, _) = recv(&self.socket, spare_capacity(input), flags)?;
        Ok(count)
    }

    /// Waits until the socket is ready for one of `events`, or the deadline has passed.
    pub(super) fn wait(&self, events: PollFlags) -> io::Result<PollFlags> {
        loop {
            let left = self.time_left()?.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
            let mut sockets = [PollFd::new(&self.socket, events)];
            match poll(&mut sockets, left.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(sockets[0].revents()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until there are bytes to receive or the connection has failed, at most until `due`.
    pub(super) fn is_readable(&self, due: Instant) -> bool {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            let Ok(left) = Timespec::try_from(left) else { return true };
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&left)) {
                Err(Errno::INTR) => {}
                // An error shows again when the bytes are received.
                ready => return ready != Ok(0),
            }
        }
    }

    /// The time until the deadline; an error if it has passed.
    fn time_left(&self) -> io::Result<Option<Duration>> {
        let Some(deadline) = self.conn.deadline() else { return Ok(None) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.conn.fail(true);
            return Err(self.conn.timed_out());
        }
        Ok(Some(left))
    }

    /// Waits for bytes until the deadline, and appends them to `input`. Returns how many came; 0 at the end of the stream.
    ///
    /// Spins if that is likely to succeed, then blocks.
    pub(super) fn receive(&mut self, input: &mut Vec<u8>) -> io::Result<usize> {
        let (_wait, may_spin) = ReplyWait::begin();
        if may_spin && self.spin.is_worth_it() {
            // A reply that never pauses does not get further than this.
            self.time_left()?;
            let received = self.spin_for_reply(input)?;
            self.spin.note(received.is_some());
            if let Some(count) = received {
                return Ok(count);
            }
        }
        self.block_for_reply(input)
    }

    /// Spins for bytes; `None` if none came within the spin budget.
    fn spin_for_reply(&self, input: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let started = Instant::now();
        loop {
            let received = self.try_receive(input)?;
            if received.is_some() || started.elapsed() >= SPIN_BUDGET {
                return Ok(received);
            }
            thread::yield_now();
        }
    }

    fn block_for_reply(&self, input: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            let is_last_wait = self.time_left()?.is_some_and(|left| left < DEADLINE_CHECK_INTERVAL);
            let flags = if is_last_wait {
                self.wait(PollFlags::IN)?;
                RecvFlags::DONTWAIT
            } else {
                RecvFlags::empty()
            };
            match self.receive_once(input, flags) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                received => return Ok(received?),
            }
        }
    }
}

fn is_would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl AsyncRead for ServerSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let size = this.read_buffer.len().min(buf.remaining());
        loop {
            ready!(this.socket.poll_read_ready(cx))?;
            let read = this.socket.try_io(Interest::READABLE, || {
                let (_, count) = recv(&this.socket, &mut this.read_buffer[..size], RecvFlags::DONTWAIT)?;
                Ok(count)
            });
            match read {
                Err(error) if is_would_block(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => {
                    buf.put_slice(&this.read_buffer[..count]);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for ServerSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match send(&self.socket, buf, SEND) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            sent => return Poll::Ready(Ok(sent?)),
        }
        loop {
            ready!(self.socket.poll_write_ready(cx))?;
            match self.socket.try_io(Interest::WRITABLE, || Ok(send(&self.socket, buf, SEND)?)) {
                Err(error) if is_would_block(&error) => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // `poll_write` passes every byte to the system.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match shutdown(&self.socket, Shutdown::Write) {
            // The server has closed the connection.
            Ok(()) | Err(Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}
