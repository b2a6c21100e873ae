//! The word: the counts of idle and lent connections while no thread has the gate's lock. One atomic operation on it lends an
//! idle connection, and another takes it back.
//!
//! A thread that takes the gate's lock *shuts* the word: it moves the counts into the state, and no other thread changes the word until
//! the thread *opens* it with the counts as they are then. So the code under the lock needs to know nothing of the word, and
//! the counts exist once. The word opens marked as *guarded* where a lend or a return has more to do than to count; callers
//! wait, for example. Then every thread takes the lock.

use crate::pool::gate::growth::average_hold;
use crate::pool::gate::sync::{AtomicU64, SPINS, spin};
use std::sync::atomic::{self, Ordering};
use std::time::Duration;

/// The width of one count. A pool has far fewer than a million connections.
const BITS: u32 = 20;
const MASK: u64 = (1 << BITS) - 1;
const ONE_IDLE: u64 = 1;
const ONE_IN_USE: u64 = 1 << BITS;
const SHUT: u64 = 1 << 62;
const GUARDED: u64 = 1 << 63;
/// [`Word::hold`] before the first use.
const UNKNOWN: u64 = u64::MAX;

/// The counts in the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) idle: u32,
    pub(super) in_use: u32,
    /// The highest `in_use` so far.
    pub(super) peak: u32,
}

/// Every thread writes the word, and most read their neighbours on the way, so that it has cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Word {
    word: AtomicU64,
    /// The moving average of hold times, in nanoseconds. It is here because it changes whenever the word does. Two threads that
    /// write at once may lose one of their times, which an average can bear.
    hold: atomic::AtomicU64,
}

impl Counts {
    fn of(word: u64) -> Counts {
        let count = |place: u32| ((word >> (place * BITS)) & MASK) as u32;
        Counts { idle: count(0), in_use: count(1), peak: count(2) }
    }

    fn word(self) -> u64 {
        u64::from(self.idle) | u64::from(self.in_use) << BITS | u64::from(self.peak) << (2 * BITS)
    }
}

impl Word {
    pub(super) fn new() -> Word {
        Word { word: AtomicU64::new(0), hold: atomic::AtomicU64::new(UNKNOWN) }
    }

    /// Shuts the word and returns its counts. The caller has the gate's lock.
    pub(super) fn shut(&self) -> Counts {
        Counts::of(self.word.fetch_or(SHUT, Ordering::AcqRel))
    }

    /// Opens the word. The caller shut it, and still has the gate's lock. `is_guarded` makes every thread take the lock.
    pub(super) fn open(&self, counts: Counts, is_guarded: bool) {
        // No other thread changes a shut word, so this overwrites nothing.
        self.word.store(counts.word() | if is_guarded { GUARDED } else { 0 }, Ordering::Release);
    }

    /// Lends an idle connection, where one is idle and the word is not guarded.
    pub(super) fn try_lend(&self) -> bool {
        self.change(|word| {
            let Counts { idle, in_use, peak } = Counts::of(word);
            let idle = idle.checked_sub(1)?;
            Some(Counts { idle, in_use: in_use + 1, peak: peak.max(in_use + 1) }.word())
        })
    }

    /// Whether every thread has to take the lock, as it does while callers wait. It changes at any time.
    pub(super) fn is_guarded(&self) -> bool {
        self.word.load(Ordering::Relaxed) & GUARDED != 0
    }

    /// Takes a lent connection back, where the word is not guarded.
    pub(super) fn try_take_back(&self) -> bool {
        self.change(|word| Some(word - ONE_IN_USE + ONE_IDLE))
    }

    /// Waits a moment where the word is shut: a lock is held for a few dozen instructions, and sleeping until it is free takes
    /// far longer.
    fn change(&self, next: impl Fn(u64) -> Option<u64>) -> bool {
        let mut spins = 0;
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & GUARDED != 0 || spins > SPINS {
                return false;
            }
            if word & SHUT != 0 {
                spins += 1;
                spin();
                word = self.word.load(Ordering::Relaxed);
                continue;
            }
            let Some(next) = next(word) else { return false };
            match self.word.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }

    /// Adds a hold time to the average.
    pub(super) fn note_hold(&self, held: Duration) {
        let nanos = average_hold(self.hold(), held).as_nanos();
        self.hold.store(u64::try_from(nanos).unwrap_or(UNKNOWN - 1), Ordering::Relaxed);
    }

    /// The moving average of hold times; `None` before the first use.
    pub(super) fn hold(&self) -> Option<Duration> {
        let nanos = self.hold.load(Ordering::Relaxed);
        (nanos != UNKNOWN).then(|| Duration::from_nanos(nanos))
    }
}

#[cfg(all(test, not(poolhouse_shuttle)))]
mod tests {
    use super::*;

    const COUNTS: Counts = Counts { idle: 1, in_use: 2, peak: 3 };

    #[test]
    fn lending_and_taking_back_move_one_connection_and_keep_the_peak() {
        let word = Word::new();
        assert!(!word.try_lend(), "nothing is idle");
        word.shut();
        word.open(COUNTS, false);
        assert!(word.try_lend());
        assert!(!word.try_lend());
        assert!(word.try_take_back() && word.try_take_back());
        assert!(word.try_lend());
        assert_eq!(word.shut(), Counts { idle: 1, in_use: 2, peak: 3 });
        word.open(Counts { idle: 1, in_use: 3, ..COUNTS }, false);
        assert!(word.try_lend());
        assert_eq!(word.shut(), Counts { idle: 0, in_use: 4, peak: 4 });
    }

    #[test]
    fn a_guarded_or_shut_word_does_not_change() {
        let word = Word::new();
        word.shut();
        word.open(COUNTS, true);
        assert!(!word.try_lend() && !word.try_take_back());
        assert_eq!(word.shut(), COUNTS);
        assert!(!word.try_lend() && !word.try_take_back());
        word.open(COUNTS, false);
        word.shut();
        assert!(!word.try_lend() && !word.try_take_back());
        assert_eq!(word.shut(), COUNTS);
    }

    #[test]
    fn the_average_of_hold_times_follows_them() {
        let word = Word::new();
        assert_eq!(word.hold(), None);
        word.note_hold(Duration::from_micros(16));
        word.note_hold(Duration::from_micros(32));
        assert_eq!(word.hold(), Some(Duration::from_micros(17)));
        word.note_hold(Duration::MAX);
        assert!(word.hold() > Some(Duration::from_secs(1)));
    }
}
