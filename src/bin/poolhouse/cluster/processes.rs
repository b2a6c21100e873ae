//! The system's table of processes, for servers that do not answer any more.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::process::Command;

/// A process.
struct Row {
    pid: Pid,
    parent: Pid,
    /// One letter, as `ps` shows it.
    state: char,
}

/// Whether a process has been stopped where it stands, as by SIGSTOP or a debugger: it will not react to anything.
pub(super) fn is_frozen(pid: Pid) -> bool {
    table().iter().any(|row| row.pid == pid && row.state.eq_ignore_ascii_case(&'T'))
}

/// Ends a server and every process of it at once, also where they are frozen.
pub(crate) fn kill_all(postmaster: Pid) {
    // Stopped, it makes no more of them; and as long as it lives, their numbers are nobody else's.
    let _ = kill(postmaster, Signal::SIGSTOP);
    for child in table().into_iter().filter(|row| row.parent == postmaster) {
        let _ = kill(child.pid, Signal::SIGKILL);
    }
    let _ = kill(postmaster, Signal::SIGKILL);
}

/// Every process. Small systems have no `ps`, others no `/proc`.
fn table() -> Vec<Row> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let rows: Vec<_> = numbers
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("stat")).ok()?;
            // Behind the program's name, which may contain anything.
            let (_, fields) = text.rsplit_once(')')?;
            let mut fields = fields.split_whitespace();
            let state = fields.next()?.chars().next()?;
            Some(Row { pid: Pid::from_raw(pid), parent: Pid::from_raw(fields.next()?.parse().ok()?), state })
        })
        .collect();
    if rows.is_empty() { table_of_ps() } else { rows }
}

fn table_of_ps() -> Vec<Row> {
    let Ok(output) = Command::new("ps").args(["-A", "-o", "pid=,ppid=,stat="]).output() else {
        return Vec::new();
    };
    let row = |line: &str| {
        let mut fields = line.split_whitespace();
        let mut number = || fields.next()?.parse().ok().map(Pid::from_raw);
        let (pid, parent) = (number()?, number()?);
        Some(Row { pid, parent, state: fields.next()?.chars().next()? })
    };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(row).collect()
}
