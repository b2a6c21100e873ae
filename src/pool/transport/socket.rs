//! The socket to the server. It knows the deadline of its connection and nothing of the bytes it carries.
//!
//! The driver is blocking code on an async driver, which makes two system calls for every wait: one for readiness and one for
//! the bytes. When the driver can only wait for a reply, this socket waits in a blocking read instead, which saves one
//! system call and one wake-up. Before it blocks it spins for a short time, because blocking and waking can take longer
//! than a nearby server takes to reply.
//!
//! There is no lock. The counters shared by all sockets are atomics, and only steer the spinning.

use crate::pool::transport::connection_state::ConnectionState;
use crate::pool::transport::dns::{Address, Endpoint};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
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
/// It is registered with the driver's runtime too, for the waits in which the driver can do something else.
pub(crate) struct ServerSocket {
    socket: Socket,
    conn: Arc<ConnectionState>,
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

/// The most bytes that one read takes.
const READ_SIZE: usize = 16 * 1024;

enum Socket {
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
        Ok(ServerSocket {
            socket,
            conn,
            read_buffer: vec![0; READ_SIZE].into(),
            spin: AdaptiveSpin::default(),
        })
    }

    /// Spins for the first bytes of a reply. Returns whether they came within the spin budget.
    fn spin_for_reply(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<bool> {
        let started = Instant::now();
        loop {
            match receive(&self.socket, &mut self.read_buffer, buf, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN | Errno::INTR) if started.elapsed() < SPIN_BUDGET => thread::yield_now(),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
                received => return Ok(received.map(|()| true)?),
            }
        }
    }

    /// Waits for the first bytes of a reply until the connection's deadline: spins if that is likely to succeed, then blocks.
    fn wait_for_reply(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let (_wait, may_spin) = ReplyWait::begin();
        if may_spin && self.spin.is_worth_it() {
            let has_come = self.spin_for_reply(buf)?;
            self.spin.note(has_come);
            if has_come {
                return Ok(());
            }
        }
        self.block_for_reply(buf)
    }

    fn block_for_reply(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        loop {
            let left = self.conn.deadline().map(|at| at.saturating_duration_since(Instant::now()));
            let flags = match left {
                Some(Duration::ZERO) => {
                    self.conn.fail(true);
                    return Err(self.conn.timed_out());
                }
                Some(left) if left < DEADLINE_CHECK_INTERVAL => {
                    let pause = Timespec::try_from(left).map_err(io::Error::other)?;
                    match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&pause)) {
                        Ok(_) | Err(Errno::INTR) => RecvFlags::DONTWAIT,
                        Err(error) => return Err(error.into()),
                    }
                }
                _ => RecvFlags::empty(),
            };
            match receive(&self.socket, &mut self.read_buffer, buf, flags) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                received => return Ok(received?),
            }
        }
    }
}

/// Makes one system call to read into `buf`, by way of `read_buffer`.
fn receive(
    socket: &Socket,
    read_buffer: &mut [u8],
    buf: &mut ReadBuf<'_>,
    flags: RecvFlags,
) -> rustix::io::Result<()> {
    let size = read_buffer.len().min(buf.remaining());
    let (_, count) = recv(socket, &mut read_buffer[..size], flags)?;
    buf.put_slice(&read_buffer[..count]);
    Ok(())
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
        if this.conn.take_awaits_reply() {
            return Poll::Ready(this.wait_for_reply(buf));
        }
        loop {
            ready!(this.socket.poll_read_ready(cx))?;
            let read = this.socket.try_io(Interest::READABLE, || {
                Ok(receive(&this.socket, &mut this.read_buffer, buf, RecvFlags::DONTWAIT)?)
            });
            match read {
                Err(error) if is_would_block(&error) => {}
                read => return Poll::Ready(read),
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
