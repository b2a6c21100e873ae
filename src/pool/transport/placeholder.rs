//! The placeholder listener: a local socket that the driver connects to before the connector makes the real connection.
//! It knows nothing of the server.
//!
//! The driver passes a connection to the TLS connector only if it is a TCP connection to a named host, and it does not
//! reveal the descriptor. The driver is therefore configured with the address of this listener. The connector drops the
//! driver's connection and makes the real one itself, over TCP or a Unix socket, so that it controls every byte
//! (see [`ServerSocket`](super::socket::ServerSocket)).
//!
//! Each connect attempt opens a listener of its own on the loopback interface, on a port that the system picks. It is
//! open from just before the driver connects until the driver has connected. It never accepts or sends anything. Any
//! program on the machine can connect to it, and once its accept queue is full, further connects hang. The short lifetime
//! makes that hard: a program would have to find the port and connect more than a hundred times while the driver
//! connects once. If that happens, the next attempt uses another port.
//!
//! **Lock rule**: the mutex governs the listener alone, and is held to open or close it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long the driver tries to connect to one listener. On the loopback interface a connect takes microseconds unless the
/// accept queue is full.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_millis(200);

/// The listener of one connect attempt.
#[derive(Debug, Clone)]
pub(super) struct PlaceholderListener {
    /// `None` after `close`.
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

    /// Closes the listener, which resets every connection in its accept queue. Called when the driver has connected.
    pub(super) fn close(&self) {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}
