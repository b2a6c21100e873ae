//! What the first process of a container owes the others: it inherits every process whose parent has ended, and has
//! to take note of its end, or that stays in the table of processes for ever. A command run in the container, as
//! a health check is, may leave some.

use nix::unistd::Pid;

/// Takes note of every inherited process that has ended. `own` is a child of ours that somebody else waits for.
/// Does nothing where this is not the first process.
pub(crate) fn reap(own: Option<Pid>) {
    if std::process::id() == 1 {
        reap_all_but(own);
    }
}

#[cfg(target_os = "linux")]
fn reap_all_but(own: Option<Pid>) {
    use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};

    // Looks first: to take the end of a child of our own would leave nothing for who waits for it.
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(ended) = waitid(Id::All, look)
        && let Some(pid) = ended.pid()
        && Some(pid) != own
        && waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_ok()
    {}
}

/// Elsewhere there are no containers.
#[cfg(not(target_os = "linux"))]
fn reap_all_but(_own: Option<Pid>) {}
