//! A running server.

use super::{POLL, Watchdog};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// A running server, a child of ours. It ends when this is dropped, or when we die; [`stop`](Server::stop)
/// waits for that.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    port: u16,
    data: PathBuf,
    watchdog: Option<Watchdog>,
}

/// What a server says about itself in `postmaster.pid`: process, directory, start, port, socket, address, shared
/// memory and state, a line each.
pub(super) struct LockFile {
    pub(super) pid: Pid,
    pub(super) port: Option<u16>,
    pub(super) is_ready: bool,
}

impl LockFile {
    pub(super) fn read(data: &Path) -> Option<LockFile> {
        let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let pid = Pid::from_raw(lines.first()?.parse().ok()?);
        let port = lines.get(3).and_then(|port| port.parse().ok());
        Some(LockFile { pid, port, is_ready: lines.get(7) == Some(&"ready") })
    }
}

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// Ends every session, writes everything out.
    Fast,
    /// Ends at once; the next start repairs.
    Immediate,
    /// `kill -9`: not even its own processes are told.
    Crash,
}

impl Shutdown {
    fn signal(self) -> Signal {
        match self {
            Shutdown::Fast => Signal::SIGINT,
            Shutdown::Immediate => Signal::SIGQUIT,
            Shutdown::Crash => Signal::SIGKILL,
        }
    }
}

impl Server {
    pub(super) fn new(child: Child, port: u16, data: &Path) -> Server {
        // From here on our death must be its end. Without a shell to see to that, it is only a worse guest.
        let watchdog = Watchdog::over(child.id(), data).ok();
        Server { child, port, data: data.to_owned(), watchdog }
    }

    /// The port of 127.0.0.1 it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its first process, the postmaster.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// How the server ended; `None` while it runs.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Ends the server and waits for it, ever less gently: each step gets `patience`.
    pub(crate) fn stop(mut self, first: Shutdown, patience: Duration) -> io::Result<ExitStatus> {
        let status = self.end(first, patience)?;
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.dismiss();
        }
        Ok(status)
    }

    fn end(&mut self, first: Shutdown, patience: Duration) -> io::Result<ExitStatus> {
        let gentler = |step: &Shutdown| *step as u8 >= first as u8;
        for step in [Shutdown::Fast, Shutdown::Immediate, Shutdown::Crash].into_iter().filter(gentler) {
            if let Some(status) = self.exit_status() {
                return Ok(status);
            }
            let _ = kill(self.pid(), step.signal());
            let deadline = Instant::now() + patience;
            while Instant::now() < deadline {
                if let Some(status) = self.exit_status() {
                    return Ok(status);
                }
                std::thread::sleep(POLL);
            }
        }
        self.child.wait()
    }

    /// Whether it accepts connections.
    pub(super) fn is_ready(&self) -> bool {
        LockFile::read(&self.data).is_some_and(|file| file.is_ready && file.pid == self.pid())
    }
}
