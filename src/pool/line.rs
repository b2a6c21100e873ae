//! The pool's own socket to the server.
//!
//! A blocking driver on an async one pays for every wait twice: it asks the system to be told when the reply is
//! there, and then for the reply. Where nothing else is to be done than to wait for a reply, a line waits in the
//! reading itself, which is one system call and one wake-up less.

use super::address::{Address, Endpoint};
use super::wire::Wire;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
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
pub(crate) struct Line {
    socket: Socket,
    wire: Arc<Wire>,
    /// Where reads go. The driver offers all the room it has, which after one large row is megabytes, and without
    /// unsafe code room has to be cleared before it is read into.
    read: Box<[u8]>,
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

impl Line {
    /// Connects.
    pub(super) async fn connect(endpoint: &Endpoint, wire: Arc<Wire>) -> io::Result<Line> {
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
        Ok(Line { socket, wire, read: vec![0; READ_SIZE].into() })
    }

    /// Waits for the first bytes of a reply until the wire's deadline.
    fn read_patiently(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        loop {
            let left = self.wire.deadline().map(|at| at.saturating_duration_since(Instant::now()));
            let flags = match left {
                Some(Duration::ZERO) => {
                    self.wire.fail(true);
                    return Err(timed_out());
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

pub(super) fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer within the deadline")
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.wire.take_asked() {
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

impl AsyncWrite for Line {
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
