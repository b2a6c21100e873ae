//! A running server, and how it is stopped.

use super::processes::{is_frozen, kill_all};
use super::{POLL, Watchdog};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// How long an immediate shutdown may take: the server writes nothing then.
const IMMEDIATE_TIMEOUT: Duration = Duration::from_secs(2);

/// A running server, a child of this process. Dropping it, or the end of this process, stops the server in the
/// background; [`stop`](Server::stop) waits.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    port: u16,
    data: PathBuf,
    watchdog: Option<Watchdog>,
}

/// The contents of `postmaster.pid`: process, directory, start time, port, socket, address, shared memory and state,
/// one line each.
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

/// How to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// Ends every session and writes everything to disk.
    Fast,
    /// Ends at once; the next start recovers.
    Immediate,
    /// `kill -9` of all its processes.
    Crash,
}

impl Server {
    pub(super) fn new(child: Child, port: u16, data: &Path) -> Server {
        // From here on the watchdog ends the server if this process ends. Without a shell for it the server still
        // runs.
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

    /// The exit status; `None` while the server runs.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Stops the server and waits for its end: `first` gets `timeout`, then stronger ways follow, for two seconds
    /// more at most. A frozen server does not react to signals and is killed with all its processes.
    pub(crate) fn stop(mut self, first: Shutdown, timeout: Duration) -> io::Result<ExitStatus> {
        let status = self.end(first, timeout)?;
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.dismiss();
        }
        Ok(status)
    }

    fn end(&mut self, first: Shutdown, timeout: Duration) -> io::Result<ExitStatus> {
        let steps = [Shutdown::Fast, Shutdown::Immediate, Shutdown::Crash];
        for step in steps.into_iter().skip_while(|step| *step != first) {
            if let Some(status) = self.exit_status() {
                return Ok(status);
            }
            match step {
                Shutdown::Crash => kill_all(self.pid()),
                _ if is_frozen(self.pid()) => {}
                Shutdown::Fast => self.signal(Signal::SIGINT, timeout),
                Shutdown::Immediate => {
                    self.signal(Signal::SIGQUIT, if step == first { timeout } else { IMMEDIATE_TIMEOUT });
                }
            }
        }
        self.child.wait()
    }

    /// Sends a signal, and waits up to `timeout` for the end.
    fn signal(&mut self, signal: Signal, timeout: Duration) {
        let _ = kill(self.pid(), signal);
        let deadline = Instant::now() + timeout;
        while self.exit_status().is_none() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
    }

    /// Whether it accepts connections.
    pub(super) fn is_ready(&self) -> bool {
        LockFile::read(&self.data).is_some_and(|file| file.is_ready && file.pid == self.pid())
    }
}
