//! The gate's lock, which shuts the word while it is held.

use crate::pool::gate::sync::{Condvar, MutexGuard};
use crate::pool::gate::word::Counts;
use crate::pool::gate::{Gate, State};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// The gate's lock. While it exists, the word is shut, and its counts are in the state.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    gate: &'a Gate,
    /// `None` only while it is dropped.
    state: Option<MutexGuard<'a, State>>,
}

impl Gate {
    // A poisoned lock means a panic while counting. That is a bug, but it must not make every later call fail.
    pub(super) fn lock(&self) -> Locked<'_> {
        Locked::new(self, self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

impl<'a> Locked<'a> {
    fn new(gate: &'a Gate, mut state: MutexGuard<'a, State>) -> Locked<'a> {
        let Counts { idle, in_use, peak } = gate.word.shut();
        (state.idle, state.in_use, state.peak) = (idle, in_use, peak);
        state.growth.hold = gate.word.hold();
        Locked { gate, state: Some(state) }
    }

    /// Opens the word. The lock is still held.
    fn open(&mut self) -> Option<MutexGuard<'a, State>> {
        let state = self.state.take()?;
        let counts = Counts { idle: state.idle, in_use: state.in_use, peak: state.peak };
        self.gate.word.open(counts, state.needs_lock());
        Some(state)
    }

    /// Opens the word for as long as `wait` has the lock.
    fn through(mut self, wait: impl FnOnce(MutexGuard<'a, State>) -> MutexGuard<'a, State>) -> Locked<'a> {
        let gate = self.gate;
        match self.open() {
            Some(state) => Locked::new(gate, wait(state)),
            None => unreachable!("bug: the lock is waited with after it was dropped"),
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.open();
    }
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        match &self.state {
            Some(state) => state,
            None => unreachable!("bug: the lock is used after it was dropped"),
        }
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        match &mut self.state {
            Some(state) => state,
            None => unreachable!("bug: the lock is used after it was dropped"),
        }
    }
}

/// Waits on a condition variable, at most for `pause` where one is given. May return early.
pub(super) fn wait<'a>(condvar: &Condvar, state: Locked<'a>, pause: Option<Duration>) -> Locked<'a> {
    state.through(|state| match pause {
        None => condvar.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner()),
        Some(pause) => match condvar.wait_timeout(state, pause) {
            Ok((state, _)) => state,
            Err(poisoned) => poisoned.into_inner().0,
        },
    })
}
