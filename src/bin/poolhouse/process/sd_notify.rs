//! Tells a supervisor that speaks systemd's protocol (sd_notify(3)) how far the service is: a datagram to the socket
//! that `NOTIFY_SOCKET` names. Without that variable nothing is done.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// A supervisor that has stopped reading is not waited for.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Requests are taken from now on.
pub(crate) fn ready(what: &str) {
    tell(&format!("READY=1\nSTATUS={what}\n"));
}

/// What the service is at, in words for `systemctl status`.
pub(crate) fn status(what: &str) {
    tell(&format!("STATUS={what}\n"));
}

/// The service is on its way out.
pub(crate) fn stopping() {
    tell("STOPPING=1\nSTATUS=Shutting down\n");
}

fn tell(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    if let Err(error) = send(&name, state) {
        log::warn!("Cannot tell {} how far the service is: {error}", name.display());
    }
}

fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    socket.send_to_addr(state.as_bytes(), &address(name)?)?;
    Ok(())
}

/// A path, or behind `@` a name in Linux's abstract namespace.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        #[cfg(target_os = "linux")]
        Some(name) => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    }
}
