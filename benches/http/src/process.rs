//! What processes use, from `/proc`.

use nix::unistd::{Pid, SysconfVar, sysconf};
use std::fs;
use std::sync::LazyLock;

/// Processor time in seconds and switches so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// User and system time of the process.
    pub(crate) cpu: f64,
    /// How often one of its threads went to sleep.
    pub(crate) switches: u64,
    /// User and system time of all sessions of the database.
    pub(crate) database_cpu: f64,
}

/// In bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) now: u64,
    pub(crate) peak: u64,
}

pub(crate) fn usage(pid: Pid, postmaster: Pid) -> Usage {
    Usage {
        cpu: cpu(pid),
        switches: switches(pid),
        database_cpu: children(postmaster).into_iter().map(cpu).sum(),
    }
}

pub(crate) fn memory(pid: Pid) -> Memory {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process's status");
    let of = |name| number(&status, name) * 1024;
    Memory { now: of("VmRSS:"), peak: of("VmHWM:") }
}

/// 0 for a process that has ended meanwhile.
fn cpu(pid: Pid) -> f64 {
    static TICKS: LazyLock<f64> = LazyLock::new(|| {
        let ticks = sysconf(SysconfVar::CLK_TCK).expect("the clock's ticks");
        ticks.expect("a number of ticks") as f64
    });
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which may hold anything: proc(5), utime and stime are the fields 14 and 15.
    let Some((_, fields)) = stat.rsplit_once(") ") else { return 0.0 };
    let ticks: f64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / *TICKS
}

fn switches(pid: Pid) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process's threads");
    let statuses = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok());
    statuses.map(|status| number(&status, "voluntary_ctxt_switches:")).sum()
}

fn children(pid: Pid) -> Vec<Pid> {
    let text =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("the process's children");
    text.split_whitespace().filter_map(|pid| pid.parse().ok().map(Pid::from_raw)).collect()
}

fn number(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .expect("a number in the process's status")
}
