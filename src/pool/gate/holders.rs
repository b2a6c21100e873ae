//! The holders: which thread has which connection and since when, and the counts of what lends and returns without the gate's
//! lock.
//!
//! There is no lock. Whoever has a permit owns its entry and is the only one that writes to it. Everybody may read it.

use crate::pool::gate::Permit;
use crate::pool::gate::sync::{AtomicU64, now, spin, thread_local};
use crate::pool::status::{Histogram, SharedHistogram};
use std::cell::Cell;
use std::sync::atomic::{self, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The values of [`Entry::thread`] that are no thread's number: no permit has the entry,
const FREE: u64 = 0;
/// or the borrower has finished, and the pool cleans the connection.
const DETACHED: u64 = u64::MAX;
/// or no thread waits for what is done with the connection.
pub(super) const NOBODY: u64 = u64::MAX - 1;

/// The value of [`Entry::waited`] for a permit that was lent without the lock.
const IMMEDIATE: u64 = u64::MAX;

/// One entry for each permit that is out.
#[derive(Debug)]
pub(super) struct Holders {
    entries: Box<[Entry]>,
    /// Entries from here on have never been used.
    used: AtomicUsize,
    /// The times in the entries count from here.
    origin: Instant,
}

/// Threads write their entries at the same time, so that each has cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Entry {
    /// The borrowing thread's number, or [`FREE`], or [`DETACHED`].
    thread: AtomicU64,
    /// When the permit was lent, in nanoseconds from [`Holders::origin`].
    since: atomic::AtomicU64,
    /// How many nanoseconds its borrower waited, as the state counted it, or [`IMMEDIATE`].
    waited: atomic::AtomicU64,
    /// Requests served without the lock. None of them waited.
    immediate: atomic::AtomicU64,
    use_times: SharedHistogram,
}

thread_local! {
    /// The entry that the current thread used last, in whatever pool. It is most probably free, and in this core's cache.
    static LAST: Cell<usize> = const { Cell::new(0) };
}

impl Entry {
    fn new() -> Entry {
        Entry {
            thread: AtomicU64::new(FREE),
            since: atomic::AtomicU64::new(0),
            waited: atomic::AtomicU64::new(IMMEDIATE),
            immediate: atomic::AtomicU64::new(0),
            use_times: SharedHistogram::default(),
        }
    }
}

impl Holders {
    /// Has room for `most` permits.
    pub(super) fn new(most: u32) -> Holders {
        Holders {
            entries: (0..most).map(|_| Entry::new()).collect(),
            used: AtomicUsize::new(0),
            origin: now(),
        }
    }

    fn nanos_at(&self, then: Instant) -> u64 {
        nanos(then.saturating_duration_since(self.origin))
    }

    fn used(&self) -> &[Entry] {
        &self.entries[..self.used.load(Ordering::Acquire)]
    }

    /// Registers the holder of a permit that is out already. `waited` is what the state counted as its wait; with `None` the
    /// entry counts the request, as one that did not wait.
    pub(super) fn register(&self, thread: u64, since: Instant, waited: Option<Duration>) -> Permit {
        let number = self.claim(thread);
        let entry = &self.entries[number];
        entry.since.store(self.nanos_at(since), Ordering::Relaxed);
        entry.waited.store(waited.map_or(IMMEDIATE, nanos), Ordering::Relaxed);
        if waited.is_none() {
            entry.immediate.store(entry.immediate.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        Permit(number)
    }

    /// Finds a free entry. There is one, because an entry is freed before its permit is; another thread may take it first.
    fn claim(&self, thread: u64) -> usize {
        let last = LAST.with(Cell::get);
        let last = if last < self.entries.len() { last } else { 0 };
        loop {
            for number in (last..self.entries.len()).chain(0..last) {
                let owner = &self.entries[number].thread;
                if owner.load(Ordering::Relaxed) == FREE
                    && owner.compare_exchange(FREE, thread, Ordering::AcqRel, Ordering::Relaxed).is_ok()
                {
                    if number >= self.used.load(Ordering::Relaxed) {
                        self.used.fetch_max(number + 1, Ordering::AcqRel);
                    }
                    return number;
                }
            }
            spin();
        }
    }

    /// Frees the entry. Its permit may then be given back.
    pub(super) fn free(&self, permit: &Permit) {
        LAST.with(|last| last.set(permit.0));
        self.entries[permit.0].thread.store(FREE, Ordering::Release);
    }

    /// When the permit was lent.
    pub(super) fn since(&self, permit: &Permit) -> Instant {
        self.origin + Duration::from_nanos(self.entries[permit.0].since.load(Ordering::Relaxed))
    }

    /// Counts for how long a connection was used that comes back, and returns that.
    pub(super) fn note_use(&self, permit: &Permit, now: Instant) -> Duration {
        let entry = &self.entries[permit.0];
        let nanos = self.nanos_at(now).saturating_sub(entry.since.load(Ordering::Relaxed));
        let held = Duration::from_nanos(nanos);
        entry.use_times.add(held);
        held
    }

    /// The connection was not used. Returns the wait that the state counted for it; `None` where the entry counted the request,
    /// which it then no longer does.
    pub(super) fn revert(&self, permit: &Permit) -> Option<Duration> {
        let entry = &self.entries[permit.0];
        let waited = entry.waited.load(Ordering::Relaxed);
        if waited != IMMEDIATE {
            return Some(Duration::from_nanos(waited));
        }
        entry.immediate.store(entry.immediate.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        None
    }

    /// The holder's thread no longer counts as holder.
    pub(super) fn detach(&self, permit: &Permit) {
        self.entries[permit.0].thread.store(DETACHED, Ordering::Release);
    }

    /// `thread` holds the connection from `now` on, in place of another one.
    pub(super) fn pass_on(&self, permit: &Permit, thread: u64, now: Instant) {
        let entry = &self.entries[permit.0];
        entry.since.store(self.nanos_at(now), Ordering::Relaxed);
        entry.thread.store(thread, Ordering::Release);
    }

    pub(super) fn is_detached(&self, permit: &Permit) -> bool {
        self.entries[permit.0].thread.load(Ordering::Relaxed) == DETACHED
    }

    /// Whether `thread` holds a connection, and no connection is being cleaned.
    ///
    /// A permit without an entry counts as held: its caller is about to register, or has not finished returning it.
    pub(super) fn is_self_deadlock(&self, thread: u64) -> bool {
        let mut is_holder = false;
        for entry in self.used() {
            match entry.thread.load(Ordering::Acquire) {
                DETACHED => return false,
                holder => is_holder |= holder == thread,
            }
        }
        is_holder
    }

    /// Adds up the requests served without the lock, and the hold times.
    pub(super) fn totals(&self) -> (u64, Histogram) {
        let (mut immediate, mut use_times) = (0, Histogram::default());
        for entry in self.used() {
            immediate += entry.immediate.load(Ordering::Relaxed);
            entry.use_times.add_to(&mut use_times);
        }
        (immediate, use_times)
    }

    /// The number of entries in use.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.used().iter().filter(|entry| entry.thread.load(Ordering::Acquire) != FREE).count()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(IMMEDIATE - 1)
}
