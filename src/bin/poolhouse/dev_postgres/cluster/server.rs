//! A running server.

use super::processes::{is_frozen, kill_all};
use super::{POLL, Watchdog};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// How long an immediate end may take: the server has nothing to write then.
const INSISTENCE: Duration = Duration::from_secs(2);

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
    /// `kill -9` of every process of it.
    Crash,
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

    /// Ends the server and waits for it: the `first` way for `patience`, then ever less gently, for two seconds more
    /// at most. A frozen one would not hear anything, and is killed with all its processes.
    pub(crate) fn stop(mut self, first: Shutdown, patience: Duration) -> io::Result<ExitStatus> {
        let status = self.end(first, patience)?;
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.dismiss();
        }
        Ok(status)
    }

    fn end(&mut self, first: Shutdown, patience: Duration) -> io::Result<ExitStatus> {
        let steps = [Shutdown::Fast, Shutdown::Immediate, Shutdown::Crash];
        for step in steps.into_iter().skip_while(|step| *step != first) {
            if let Some(status) = self.exit_status() {
                return Ok(status);
            }
            match step {
                Shutdown::Crash => kill_all(self.pid()),
                _ if is_frozen(self.pid()) => {}
                Shutdown::Fast => self.ask(Signal::SIGINT, patience),
                Shutdown::Immediate => {
                    self.ask(Signal::SIGQUIT, if step == first { patience } else { INSISTENCE });
                }
            }
        }
        self.child.wait()
    }

    /// Sends a signal, and gives the server `patience` to end by it.
    fn ask(&mut self, signal: Signal, patience: Duration) {
        let _ = kill(self.pid(), signal);
        let deadline = Instant::now() + patience;
        while self.exit_status().is_none() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
    }

    /// Whether it accepts connections.
    pub(super) fn is_ready(&self) -> bool {
        LockFile::read(&self.data).is_some_and(|file| file.is_ready && file.pid == self.pid())
    }
}
