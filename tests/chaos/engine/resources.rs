//! What this process holds of the machine's, as Linux counts it.

use std::fs;
use std::time::{Duration, Instant};

/// Threads, open descriptors, and resident memory in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) threads: usize,
    pub(crate) descriptors: usize,
    pub(crate) memory: u64,
}

/// By how much memory may grow, apart from what is remembered of the writes: allocators keep some of what they were
/// given back. A leak of 100 bytes for each of a few hundred thousand operations is more.
const MEMORY_TOLERANCE: u64 = 16 * 1024;

/// How long nothing may change for it to be at rest, and how long that is waited for.
const REST: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(10);

impl Resources {
    /// `None` where there is no `/proc`.
    pub(crate) fn now() -> Option<Resources> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(Resources {
            threads: fs::read_dir("/proc/self/task").ok()?.count(),
            descriptors: fs::read_dir("/proc/self/fd").ok()?.count(),
            memory: memory.trim().trim_end_matches("kB").trim().parse().ok()?,
        })
    }

    /// What is held once that has not changed for a while: threads end, and sockets close, a moment after they are
    /// asked to.
    pub(crate) fn at_rest() -> Option<Resources> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = Resources::now()?;
        let mut since = Instant::now();
        while since.elapsed() < REST && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            let now = Resources::now()?;
            if (now.threads, now.descriptors) != (last.threads, last.descriptors) {
                since = Instant::now();
            }
            last = now;
        }
        Some(last)
    }

    /// What has not come back, in words; `remembered` is memory that is in use.
    pub(crate) fn findings(&self, before: Resources, remembered: u64) -> Vec<String> {
        let mut findings = Vec::new();
        if self.threads != before.threads {
            findings.push(format!("{} threads, {} at the start", self.threads, before.threads));
        }
        if self.descriptors != before.descriptors {
            findings.push(format!("{} descriptors, {} at the start", self.descriptors, before.descriptors));
        }
        // Twice: the threads had it too, and what they have freed need not be the system's again.
        if self.memory > before.memory + 2 * remembered + MEMORY_TOLERANCE {
            findings.push(format!("{} KiB of memory, {} at the start", self.memory, before.memory));
        }
        findings
    }
}
