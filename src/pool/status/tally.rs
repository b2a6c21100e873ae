//! The tally: counts what happens without the gate's lock.
//!
//! It is in several parts, and a thread adds to one of them, so that threads seldom write the same cache line.

use crate::error::Error;
use crate::pool::status::PoolStatus;
use crate::pool::status::counts::{ErrorKind, Event};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Few, because a status adds them up; more than the processors of most machines.
const PARTS: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Tally {
    parts: [Part; PARTS],
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Part {
    events: [AtomicU64; Event::COUNT],
    errors: [AtomicU64; ErrorKind::COUNT],
}

/// The part of the current thread, in every pool.
fn part() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static PART: usize = NEXT.fetch_add(1, Ordering::Relaxed) % PARTS;
    }
    PART.with(|part| *part)
}

impl Tally {
    pub(crate) fn add(&self, event: Event) {
        self.add_many(event, 1);
    }

    pub(crate) fn add_many(&self, event: Event, count: u64) {
        self.parts[part()].events[event as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// Counts an error that a call returns.
    pub(crate) fn note_error(&self, error: &Error) {
        if let Some(kind) = ErrorKind::of(error) {
            self.parts[part()].errors[kind as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds everything to `status`.
    pub(crate) fn add_to(&self, status: &mut PoolStatus) {
        for part in &self.parts {
            status.events.add_all(|event| part.events[event as usize].load(Ordering::Relaxed));
            status.errors.add_all(|kind| part.errors[kind as usize].load(Ordering::Relaxed));
        }
    }
}
