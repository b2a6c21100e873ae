//! Where the driver is told to connect: a listener of our own that nobody serves.
//!
//! The driver hands a connection to our TLS connector only if it is TCP and has a host name, and never tells
//! which descriptor it is. So it is let connect here, and the connector lets that connection go and makes the
//! real one itself: over TCP or a Unix socket, with its own hand on every byte (see [`ServerSocket`](super::line::ServerSocket)).
//!
//! Each attempt to connect has a listener of its own on the loopback interface, on a port that the system picks. It
//! is open from just before the driver connects until the driver has connected, and never has anything to say. Every
//! program on this machine may connect there as well, and a listener whose queue of connections is full lets
//! nobody through any more. So it must not be there for long: to fill the queue of this one, a program would have to
//! find its port and connect more than a hundred times while the driver does so once. If one succeeds, the next
//! listener is somewhere else.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long the driver tries one listener: on the loopback interface a connect takes microseconds, or finds the queue full.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// The listener of one attempt to connect.
#[derive(Debug, Clone)]
pub(super) struct PlaceholderListener {
    listener: Arc<Mutex<Option<TcpListener>>>,
    address: SocketAddr,
}

impl PlaceholderListener {
    pub(super) fn open() -> io::Result<PlaceholderListener> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        Ok(PlaceholderListener { listener: Arc::new(Mutex::new(Some(listener))), address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The driver has connected: closes the listener, and resets whatever has connected to it.
    pub(super) fn close(&self) {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether the driver has connected.
    pub(super) fn is_closed(&self) -> bool {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}
