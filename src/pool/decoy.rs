//! Where the driver is told to connect: a listener of our own that nobody serves.
//!
//! The driver hands a connection to our TLS connector only if it is TCP and has a host name, and never tells
//! which descriptor it is. So it is let connect here, and the connector lets that connection go and makes the
//! real one itself: over TCP or a Unix socket, with its own hand on every byte (see [`Line`](super::line::Line)).
//!
//! The listener is on the loopback interface, one for the whole process. Nothing is ever read from or written to
//! what it accepts.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::OnceLock;

static LISTENER: OnceLock<TcpListener> = OnceLock::new();

/// Where it listens.
pub(super) fn address() -> io::Result<SocketAddr> {
    if let Some(listener) = LISTENER.get() {
        return listener.local_addr();
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    // Another thread may have been faster.
    LISTENER.get_or_init(|| listener).local_addr()
}

/// Lets everything go that has connected so far, whoever it was: where too many wait, nobody gets through any more.
/// In good order: another thread's driver may be about to look at what its connecting has come to.
pub(super) fn clear() {
    while let Some(Ok(_)) = LISTENER.get().map(TcpListener::accept) {}
}
