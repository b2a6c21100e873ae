//! The system's table of processes: for servers that are no children of ours, or that do not answer any more.

use super::ClusterError;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::process::Command;

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) parent: Pid,
    /// One letter, as `ps` shows it.
    pub(crate) state: char,
    /// The program and its arguments.
    pub(crate) command: String,
}

impl Process {
    /// Whether it is but an entry that its parent has not taken note of.
    pub(crate) fn has_ended(&self) -> bool {
        self.state == 'Z'
    }
}

/// Whether a process has not ended yet. One that nobody buries, as its parent should, keeps its number.
pub(crate) fn is_running(pid: Pid) -> bool {
    let has_ended = |row: &Process| row.pid == pid && row.has_ended();
    kill(pid, None) != Err(Errno::ESRCH) && !table().is_ok_and(|table| table.iter().any(has_ended))
}

/// Whether a process has been stopped where it stands, as by SIGSTOP or a debugger: it will not react to anything.
pub(super) fn is_frozen(pid: Pid) -> bool {
    let is_frozen = |row: &Process| row.pid == pid && row.state.eq_ignore_ascii_case(&'T');
    table().is_ok_and(|table| table.iter().any(is_frozen))
}

/// Ends a server and every process of it at once, also where they are frozen.
pub(crate) fn kill_all(postmaster: Pid) {
    // Stopped, it makes no more of them; and as long as it lives, their numbers are nobody else's.
    let _ = kill(postmaster, Signal::SIGSTOP);
    for child in table().unwrap_or_default().iter().filter(|row| row.parent == postmaster) {
        let _ = kill(child.pid, Signal::SIGKILL);
    }
    let _ = kill(postmaster, Signal::SIGKILL);
}

/// Every process. Small systems have no `ps`, others no `/proc`.
///
/// # Errors
///
/// They have neither.
pub(crate) fn table() -> Result<Vec<Process>, ClusterError> {
    // Whatever may be hidden from us: where we are missing, it is no table.
    let is_whole = |table: &Vec<Process>| table.iter().any(|row| row.pid == Pid::this());
    let table = Some(table_of_proc()).filter(is_whole).or_else(|| Some(table_of_ps()).filter(is_whole));
    table.ok_or_else(|| ClusterError::new("neither /proc nor ps shows which processes run"))
}

fn table_of_proc() -> Vec<Process> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let row = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let text = fs::read_to_string(entry.path().join("stat")).ok()?;
        // Behind the program's name, which may contain anything.
        let (_, fields) = text.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        Some(Process { pid: Pid::from_raw(pid), parent: Pid::from_raw(parent), state, command })
    };
    numbers.filter_map(row).collect()
}

fn table_of_ps() -> Vec<Process> {
    let Ok(output) = Command::new("ps").args(["-A", "-ww", "-o", "pid=,ppid=,stat=,command="]).output()
    else {
        return Vec::new();
    };
    let row = |line: &str| {
        let mut rest = line;
        let mut field = || {
            let (field, after) = rest.trim_start().split_once(' ')?;
            rest = after;
            Some(field)
        };
        let (pid, parent) = (field()?.parse().ok()?, field()?.parse().ok()?);
        let state = field()?.chars().next()?;
        let command = rest.trim_start().to_owned();
        Some(Process { pid: Pid::from_raw(pid), parent: Pid::from_raw(parent), state, command })
    };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(row).collect()
}
