//! Stops a server after the process that started it has died.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// A shell that stops a server if this process ends without having done so: by `kill -9`, by an abort.
///
/// It reads from a pipe; the operating system closes the other end, however this process ends.
#[derive(Debug)]
pub(crate) struct Watchdog {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    /// Runs `script` with `arguments` as `$1`…, if this process ends before [`dismiss`](Watchdog::dismiss).
    pub(crate) fn new<A: AsRef<OsStr>>(
        script: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> io::Result<Watchdog> {
        // A line dismisses the shell; the end of the pipe means that this process has died.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("read -r leave && exit 0\n{script}"), "poolhouse-watchdog"]);
        command.args(arguments).current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shell = command.spawn()?;
        let pipe = shell.stdin.take();
        Ok(Watchdog { shell, pipe })
    }

    /// Stops the server `server` on the data directory `data`: a fast shutdown, after ten seconds an immediate one,
    /// and after two more, if it is frozen, `kill -9` of all its processes.
    pub(super) fn over(server: u32, data: &Path) -> io::Result<Watchdog> {
        // The lock file shows whether the process id still belongs to that server.
        const SCRIPT: &str = r#"
            ours() { [ "$(head -n 1 "$2/postmaster.pid" 2>/dev/null)" = "$1" ] && kill -0 "$1" 2>/dev/null; }
            within() { tenths=$1; shift; while ours "$@" && [ $tenths -gt 0 ]; do sleep 0.1; tenths=$((tenths - 1)); done; }
            children() { ps -A -o pid=,ppid= | while read -r pid of; do [ "$of" = "$1" ] && echo "$pid"; done; }
            ours "$@" && kill -INT "$1"
            within 100 "$@"
            ours "$@" && kill -QUIT "$1"
            within 20 "$@"
            ours "$@" && kill -STOP "$1" && kill -KILL $(children "$1") "$1""#;
        Watchdog::new(SCRIPT, [OsStr::new(&server.to_string()), data.as_os_str()])
    }

    /// Kills every process of the group `group`.
    pub(super) fn over_group(group: u32) -> io::Result<Watchdog> {
        // The builtin `kill` of some shells (dash) accepts a group only with `-s`.
        Watchdog::new(r#"kill -s KILL -- "-$1""#, [group.to_string()])
    }

    /// Ends the shell: the server has ended, or needs no watchdog any more.
    pub(crate) fn dismiss(mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(b"leave\n");
        }
        let _ = self.shell.wait();
    }
}
