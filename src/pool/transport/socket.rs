//! The pool's own socket to the server.
//!
//! A blocking driver on an async one pays for every wait twice: it asks the system to be told when the reply is
//! there, and then for the reply. Where nothing else is to be done than to wait for a reply, a line waits in the
//! reading itself, which is one system call and one wake-up less. And a reply that comes soon it does not sleep for:
//! falling asleep and being woken can take longer than a nearby server takes to answer.

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

/// How long one read may wait before it looks at the clock. A deadline nearer than this is waited for exactly.
const LOOK: Duration = Duration::from_millis(100);

/// A peer that has vanished is an error, not a signal; where the system has no such flag, Rust ignores the signal.
#[cfg(not(target_vendor = "apple"))]
const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
#[cfg(target_vendor = "apple")]
const SEND: SendFlags = SendFlags::DONTWAIT;

/// A connected socket, registered with the driver's runtime for the waits that are not for a reply alone.
pub(crate) struct ServerSocket {
    socket: Socket,
    conn: Arc<ConnectionState>,
    /// Where reads go. The driver offers all the room it has, which after one large row is megabytes, and without
    /// unsafe code room has to be cleared before it is read into.
    read: Box<[u8]>,
    spin: AdaptiveSpin,
}

/// How long a reply is spun for before the thread goes to sleep. In between others may run.
const SPIN_BUDGET: Duration = Duration::from_micros(50);

/// So many threads of this process may look out at once: half the processors, because each has a session on the server
/// that needs one as well, if that is on this machine. With more, looking would keep somebody from working.
static MOST_SPINNING: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(0, |processors| processors.get() / 2));

/// Threads that wait for a reply, asleep or not.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// So many replies more are slept for because of a moment with too many threads: where there was one there are others.
static CROWD: AtomicU32 = AtomicU32::new(0);

struct Waiting;

impl Waiting {
    /// And whether this thread may look out.
    fn begin() -> (Waiting, bool) {
        let others = WAITING.fetch_add(1, Ordering::Relaxed);
        let left = if others < *MOST_SPINNING { CROWD.load(Ordering::Relaxed) } else { LONGEST_REST };
        if left > 0 {
            CROWD.store(left - 1, Ordering::Relaxed);
        }
        (Waiting, left == 0)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The most replies in a row that are not spun for.
const LONGEST_REST: u32 = 64;

/// Whether looking out for the next reply is worth it: as long as it was with the last ones. For a server that is far
/// away, or statements that take their time, it comes to less than a microsecond each.
#[derive(Debug, Default)]
struct AdaptiveSpin {
    /// So many replies are not spun for,
    rest: u32,
    /// after so many the last time.
    last_rest: u32,
}

impl AdaptiveSpin {
    fn is_worth_it(&mut self) -> bool {
        let is_worth_it = self.rest == 0;
        self.rest = self.rest.saturating_sub(1);
        is_worth_it
    }

    fn note(&mut self, was_in_vain: bool) {
        self.last_rest = if was_in_vain { (2 * self.last_rest).clamp(1, LONGEST_REST) } else { 0 };
        self.rest = self.last_rest;
    }
}

/// As much as one read takes, in bytes.
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

    /// Runs `f` if the runtime holds the socket for ready, and corrects it where it was not.
    fn try_io<R>(&self, interest: Interest, f: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        match self {
            Socket::Tcp(stream) => stream.try_io(interest, f),
            Socket::Unix(stream) => stream.try_io(interest, f),
        }
    }
}

impl ServerSocket {
    /// Connects.
    pub(super) async fn connect(endpoint: &Endpoint, conn: Arc<ConnectionState>) -> io::Result<ServerSocket> {
        let socket = match &endpoint.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                // Keepalives find a vanished server while nobody waits for it.
                let keepalive = TcpKeepalive::new()
                    .with_time(Duration::from_secs(30))
                    .with_interval(Duration::from_secs(10))
                    .with_retries(3);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                Socket::Tcp(stream)
            }
            Address::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
        };
        // From here on each call says for itself whether it waits.
        ioctl_fionbio(&socket, false)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(LOOK))?;
        Ok(ServerSocket { socket, conn, read: vec![0; READ_SIZE].into(), spin: AdaptiveSpin::default() })
    }

    /// Looks out for the first bytes of a reply; returns whether they came.
    fn read_eagerly(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<bool> {
        let started = Instant::now();
        loop {
            match receive(&self.socket, &mut self.read, buf, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN | Errno::INTR) if started.elapsed() < SPIN_BUDGET => thread::yield_now(),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
                received => return Ok(received.map(|()| true)?),
            }
        }
    }

    /// Waits for the first bytes of a reply until the connection's deadline.
    fn read_patiently(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let (_waiting, may_look) = Waiting::begin();
        if may_look && self.spin.is_worth_it() {
            let has_come = self.read_eagerly(buf)?;
            self.spin.note(!has_come);
            if has_come {
                return Ok(());
            }
        }
        loop {
            let left = self.conn.deadline().map(|at| at.saturating_duration_since(Instant::now()));
            let flags = match left {
                Some(Duration::ZERO) => {
                    self.conn.fail(true);
                    return Err(self.conn.timed_out());
                }
                Some(left) if left < LOOK => {
                    let pause = Timespec::try_from(left).map_err(io::Error::other)?;
                    match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&pause)) {
                        Ok(_) | Err(Errno::INTR) => RecvFlags::DONTWAIT,
                        Err(error) => return Err(error.into()),
                    }
                }
                _ => RecvFlags::empty(),
            };
            match receive(&self.socket, &mut self.read, buf, flags) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                received => return Ok(received?),
            }
        }
    }
}

/// Reads what one call gives into `buf`, by way of `read`.
fn receive(
    socket: &Socket,
    read: &mut [u8],
    buf: &mut ReadBuf<'_>,
    flags: RecvFlags,
) -> rustix::io::Result<()> {
    let room = read.len().min(buf.remaining());
    let (_, count) = recv(socket, &mut read[..room], flags)?;
    buf.put_slice(&read[..count]);
    Ok(())
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl AsyncRead for ServerSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.conn.take_asked() {
            return Poll::Ready(this.read_patiently(buf));
        }
        loop {
            ready!(this.socket.poll_read_ready(cx))?;
            let read = this.socket.try_io(Interest::READABLE, || {
                Ok(receive(&this.socket, &mut this.read, buf, RecvFlags::DONTWAIT)?)
            });
            match read {
                Err(error) if is_not_now(&error) => {}
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
                Err(error) if is_not_now(&error) => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket has no buffer of its own.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match shutdown(&self.socket, Shutdown::Write) {
            // Gone already.
            Ok(()) | Err(Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}
