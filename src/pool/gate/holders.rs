//! The holders: who has which connection and since when, with the counts that need no decision of the gate.
//!
//! **Lock rule**: each entry has a mutex of its own, held for a few instructions. It may be taken under the gate's lock; the
//! gate's lock is never taken under it.

use crate::pool::gate::Permit;
use crate::pool::gate::sync::{AtomicU64, Mutex, MutexGuard, spin, thread_local};
use crate::pool::status::Histogram;
use std::cell::Cell;
use std::panic::Location;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The values of [`Entry::thread`] that are no thread's number.
const FREE: u64 = 0;
/// The borrower has finished, and the pool cleans the connection.
const DETACHED: u64 = u64::MAX;

/// The borrower of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holder {
    pub(crate) since: Instant,
    pub(crate) at: &'static Location<'static>,
    /// The wait that was counted for this loan; `None` for a loan on the fast path, which its entry counts.
    pub(super) waited: Option<Duration>,
    /// Whether the hold was reported as too long.
    pub(crate) reported: bool,
}

impl Holder {
    pub(super) fn new(since: Instant, at: &'static Location<'static>, waited: Option<Duration>) -> Holder {
        Holder { since, at, waited, reported: false }
    }
}

/// One entry for each permit that is out.
#[derive(Debug)]
pub(super) struct Holders {
    entries: Box<[Entry]>,
    /// Entries from here on have never been used.
    used: AtomicUsize,
}

/// Threads write their entries at the same time, so that each has cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Entry {
    /// The borrowing thread's number, or [`FREE`], or [`DETACHED`].
    thread: AtomicU64,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    holder: Option<Holder>,
    /// Requests served on the fast path. None of them waited.
    immediate: u64,
    /// `None` until the first use.
    use_times: Option<Histogram>,
}

thread_local! {
    /// The entry that the current thread used last, in whatever pool. It is most probably free, and in this core's cache.
    static LAST: Cell<usize> = const { Cell::new(0) };
}

impl Holders {
    /// Has room for `most` permits.
    pub(super) fn new(most: u32) -> Holders {
        let entry = |_| Entry { thread: AtomicU64::new(FREE), record: Mutex::new(Record::default()) };
        Holders { entries: (0..most).map(entry).collect(), used: AtomicUsize::new(0) }
    }

    fn used(&self) -> &[Entry] {
        &self.entries[..self.used.load(Ordering::Acquire)]
    }

    /// Registers a holder for a permit that is out already.
    pub(super) fn register(&self, thread: u64, holder: Holder) -> Permit {
        let number = self.claim(thread);
        let mut record = self.entries[number].record();
        record.immediate += u64::from(holder.waited.is_none());
        record.holder = Some(holder);
        Permit(number)
    }

    /// Finds a free entry. There is one, because an entry is freed before its permit is, but another thread may take it.
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

    fn take_back(&self, permit: &Permit, count: impl FnOnce(&mut Record, &Holder)) -> Option<Holder> {
        let entry = &self.entries[permit.0];
        let mut record = entry.record();
        let holder = record.holder.take();
        if let Some(holder) = &holder {
            count(&mut record, holder);
        }
        drop(record);
        LAST.with(|last| last.set(permit.0));
        entry.thread.store(FREE, Ordering::Release);
        holder
    }

    /// Removes the holder of a used connection. Counts for how long it was used, and returns that.
    pub(super) fn take_back_used(&self, permit: &Permit, now: Instant) -> Option<(Holder, Duration)> {
        let mut held = Duration::ZERO;
        let holder = self.take_back(permit, |record, holder| {
            held = now.saturating_duration_since(holder.since);
            record.use_times.get_or_insert_default().add(held);
        });
        holder.map(|holder| (holder, held))
    }

    /// Removes the holder of a connection that was not used. Its request is no longer counted here.
    pub(super) fn take_back_unused(&self, permit: &Permit) -> Option<Holder> {
        self.take_back(permit, |record, holder| record.immediate -= u64::from(holder.waited.is_none()))
    }

    /// The holder's thread no longer counts as holder.
    pub(super) fn detach(&self, permit: &Permit) {
        self.entries[permit.0].thread.store(DETACHED, Ordering::Release);
    }

    /// Whether `thread` is among the holders of `in_use` connections and will have to return one before any comes back.
    ///
    /// False where a connection is being cleaned, or where an entry is missing: its permit is being returned, or its holder is
    /// not registered yet.
    pub(super) fn is_self_deadlock(&self, thread: u64, in_use: u32) -> bool {
        let (mut is_holder, mut held) = (false, 0);
        for entry in self.used() {
            match entry.thread.load(Ordering::Acquire) {
                FREE => {}
                DETACHED => return false,
                holder => {
                    held += 1;
                    is_holder |= holder == thread;
                }
            }
        }
        is_holder && held == in_use
    }

    /// Calls `f` under the entry's lock for every holder.
    pub(super) fn for_each(&self, mut f: impl FnMut(&mut Holder)) {
        for entry in self.used() {
            if let Some(holder) = &mut entry.record().holder {
                f(holder);
            }
        }
    }

    /// Adds up the requests served on the fast path, and the hold times.
    pub(super) fn totals(&self) -> (u64, Histogram) {
        let (mut immediate, mut use_times) = (0, Histogram::default());
        for entry in self.used() {
            let record = entry.record();
            immediate += record.immediate;
            if let Some(own) = &record.use_times {
                use_times.merge(own);
            }
        }
        (immediate, use_times)
    }

    /// The number of entries in use.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.used().iter().filter(|entry| entry.thread.load(Ordering::Acquire) != FREE).count()
    }
}

impl Entry {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
