//! Reaps inherited processes. The first process of a container inherits every process whose parent has ended, and must
//! wait for it, or the ended process stays in the process table for ever. A command that runs in the container, such as a health
//! check, may leave some.

use nix::unistd::Pid;

/// Reaps every inherited process that has ended. `own` is a child of this program that other code waits for. Does nothing if
/// this is not the first process.
pub(crate) fn reap(own: Option<Pid>) {
    if std::process::id() == 1 {
        reap_all_but(own);
    }
}

#[cfg(target_os = "linux")]
fn reap_all_but(own: Option<Pid>) {
    use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};

    // Peeks first: reaping `own` would take its exit status from the code that waits for it.
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(ended) = waitid(Id::All, look)
        && let Some(pid) = ended.pid()
        && Some(pid) != own
        && waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_ok()
    {}
}

/// Only Linux has such containers.
#[cfg(not(target_os = "linux"))]
fn reap_all_but(_own: Option<Pid>) {}
