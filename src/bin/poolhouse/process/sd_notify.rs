//! Reports the service's state to systemd (sd_notify(3)): a datagram to the socket that `NOTIFY_SOCKET` names. Without that
//! variable it does nothing.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long a send may wait for a supervisor that has stopped reading.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Reports that the service accepts requests.
pub(crate) fn ready(what: &str) {
    notify(&format!("READY=1\nSTATUS={what}\n"));
}

/// Sets the text that `systemctl status` shows.
pub(crate) fn status(what: &str) {
    notify(&format!("STATUS={what}\n"));
}

/// Reports that the service shuts down.
pub(crate) fn stopping() {
    notify("STOPPING=1\nSTATUS=Shutting down\n");
}

fn notify(state: &str) {
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

/// A path, or after `@` a name in Linux's abstract namespace.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        #[cfg(target_os = "linux")]
        Some(name) => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    }
}
