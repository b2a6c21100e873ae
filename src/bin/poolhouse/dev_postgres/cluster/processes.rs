//! The system's process table: for servers that are no children of this process, or that do not react any more.

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
    /// Whether it has ended and is a zombie that its parent has not reaped.
    pub(crate) fn has_ended(&self) -> bool {
        self.state == 'Z'
    }
}

/// Whether a process runs. A zombie keeps its id, and does not run.
pub(crate) fn is_running(pid: Pid) -> bool {
    let has_ended = |row: &Process| row.pid == pid && row.has_ended();
    kill(pid, None) != Err(Errno::ESRCH) && !table().is_ok_and(|table| table.iter().any(has_ended))
}

/// Whether a process is stopped, as by SIGSTOP or a debugger: it does not react to signals.
pub(super) fn is_frozen(pid: Pid) -> bool {
    let is_frozen = |row: &Process| row.pid == pid && row.state.eq_ignore_ascii_case(&'T');
    table().is_ok_and(|table| table.iter().any(is_frozen))
}

/// Kills a server with all its processes, also if they are stopped.
pub(crate) fn kill_all(postmaster: Pid) {
    // A stopped postmaster starts no processes; while it exists, their ids are not reused.
    let _ = kill(postmaster, Signal::SIGSTOP);
    for child in table().unwrap_or_default().iter().filter(|row| row.parent == postmaster) {
        let _ = kill(child.pid, Signal::SIGKILL);
    }
    let _ = kill(postmaster, Signal::SIGKILL);
}

/// Lists all processes. Some systems have no `ps`, others no `/proc`.
///
/// # Errors
///
/// The system has neither.
pub(crate) fn table() -> Result<Vec<Process>, ClusterError> {
    // A list that lacks this process is not complete.
    let is_whole = |table: &Vec<Process>| table.iter().any(|row| row.pid == Pid::this());
    let table = Some(table_of_proc()).filter(is_whole).or_else(|| Some(table_of_ps()).filter(is_whole));
    table.ok_or_else(|| ClusterError::new("neither /proc nor ps shows which processes run"))
}

fn table_of_proc() -> Vec<Process> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let row = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let text = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The fields follow the program's name, which may contain any character.
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
