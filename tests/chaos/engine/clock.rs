//! What took longer than it was allowed to, and how late the machine itself was meanwhile.

use crate::support::Mark;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);

/// What has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Bound {
    /// To get a connection, checks included.
    Acquire,
    /// A statement, and each of BEGIN and COMMIT.
    Query,
    /// To give a connection back.
    Release,
    /// To ask for the pool's numbers.
    Status,
}

impl Bound {
    pub(crate) const ALL: [Bound; 4] = [Bound::Acquire, Bound::Query, Bound::Release, Bound::Status];

    /// By how much the deadline may be missed. A statement's is the server's `statement_timeout`: the pool waits
    /// 0.2 s longer for the server's own words.
    pub(crate) fn tolerance(self) -> Duration {
        match self {
            Bound::Acquire | Bound::Status => 20 * MS,
            Bound::Query => 250 * MS,
            // Where maintenance lags behind, the borrower resets the session.
            Bound::Release => 520 * MS,
        }
    }
}

/// One deadline missed by more than is tolerated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overshoot {
    pub(crate) bound: Bound,
    pub(crate) by: Duration,
    /// The longest that the machine kept a thread of ours from running meanwhile: this one, or another that may
    /// have held what this one waited for.
    pub(crate) machine_was_late_by: Duration,
    /// What was measured.
    pub(crate) what: String,
}

/// The worst of many measurements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Worst {
    pub(crate) by: Duration,
    /// Without the time in which the machine kept the thread from running.
    pub(crate) net: Duration,
    pub(crate) count: u64,
}

/// Measures from all threads.
#[derive(Debug)]
pub(crate) struct Clock {
    worst: [AtomicU64; Bound::ALL.len()],
    worst_net: [AtomicU64; Bound::ALL.len()],
    count: [AtomicU64; Bound::ALL.len()],
    missed: Mutex<Vec<(Instant, Instant, Overshoot)>>,
    /// From when to when a thread could have run and did not, and for how long of that.
    lateness: Mutex<Vec<(Instant, Instant, Duration)>>,
    /// The worst of it where a thread only asked to be woken, and how often that was notable.
    woken_late: Mutex<(Duration, u64)>,
    is_over: AtomicBool,
}

/// Being late by less than this is not worth a note.
const NOTABLE: Duration = Duration::from_millis(2);

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock {
            worst: Default::default(),
            worst_net: Default::default(),
            count: Default::default(),
            missed: Mutex::default(),
            lateness: Mutex::default(),
            woken_late: Mutex::default(),
            is_over: AtomicBool::new(false),
        }
    }

    /// Runs `f`, which may take as long as `allowed`.
    pub(crate) fn time<R>(&self, bound: Bound, allowed: Duration, what: &str, f: impl FnOnce() -> R) -> R {
        let started = Mark::now();
        let result = f();
        self.note(bound, allowed, what, started, Mark::now());
        result
    }

    /// Takes note of something that was allowed to take as long as `allowed`; both marks are this thread's.
    pub(crate) fn note(&self, bound: Bound, allowed: Duration, what: &str, started: Mark, ended: Mark) {
        let by = ended.at.saturating_duration_since(started.at).saturating_sub(allowed);
        let machine_was_late_by = ended.delayed.saturating_sub(started.delayed);
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.worst[bound as usize].fetch_max(nanos(by), Ordering::Relaxed);
        let net = by.saturating_sub(machine_was_late_by);
        self.worst_net[bound as usize].fetch_max(nanos(net), Ordering::Relaxed);
        self.count[bound as usize].fetch_add(1, Ordering::Relaxed);
        if machine_was_late_by >= NOTABLE && machine_was_late_by > (ended.at - started.at) / 2 {
            self.lateness.lock().unwrap().push((started.at, ended.at, machine_was_late_by));
        }
        if by > bound.tolerance() {
            let what = format!("{what}, allowed {} ms", allowed.as_millis());
            let overshoot = Overshoot { bound, by, machine_was_late_by, what };
            self.missed.lock().unwrap().push((started.at, ended.at, overshoot));
        }
    }

    /// Measures how late the machine wakes a thread, until [`stop`](Clock::stop).
    pub(crate) fn watch_the_machine(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            let asked = Instant::now();
            thread::park_timeout(MS);
            let woken = Instant::now();
            let late = (woken - asked).saturating_sub(MS);
            if late >= NOTABLE {
                self.lateness.lock().unwrap().push((woken - late, woken, late));
                let mut woken_late = self.woken_late.lock().unwrap();
                *woken_late = (woken_late.0.max(late), woken_late.1 + 1);
            }
        }
    }

    /// Ends [`watch_the_machine`](Clock::watch_the_machine).
    pub(crate) fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// The worst overshoots of a kind.
    pub(crate) fn worst(&self, bound: Bound) -> Worst {
        let read = |numbers: &[AtomicU64; Bound::ALL.len()]| numbers[bound as usize].load(Ordering::Relaxed);
        Worst {
            by: Duration::from_nanos(read(&self.worst)),
            net: Duration::from_nanos(read(&self.worst_net)),
            count: read(&self.count),
        }
    }

    /// By how much a thread that asked to be woken was woken too late, at worst, and how often by over 2 ms.
    pub(crate) fn woken_late(&self) -> (Duration, u64) {
        *self.woken_late.lock().unwrap()
    }

    /// The most that the machine kept a thread of ours from running between two moments.
    pub(crate) fn lateness_between(&self, started: Instant, ended: Instant) -> Duration {
        let lateness = self.lateness.lock().unwrap();
        let meanwhile = |(from, to, _): &&(Instant, Instant, Duration)| *from <= ended && *to >= started;
        lateness.iter().filter(meanwhile).map(|(.., late)| *late).max().unwrap_or_default()
    }

    /// Every deadline missed by more than is tolerated, with what the machine's share in it may have been.
    pub(crate) fn missed(&self) -> Vec<Overshoot> {
        let missed = self.missed.lock().unwrap();
        let judged = missed.iter().map(|(started, ended, overshoot)| {
            let watched = self.lateness_between(*started, *ended);
            let machine_was_late_by = overshoot.machine_was_late_by.max(watched);
            Overshoot { machine_was_late_by, ..overshoot.clone() }
        });
        judged.collect()
    }
}
