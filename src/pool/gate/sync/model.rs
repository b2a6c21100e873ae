//! A clock and a condition variable for shuttle, whose own never times out.
//!
//! Time stands still until a wait times out, and then it is exactly what that wait was for. A time-out is a
//! thread of its own that wakes the waiter: so when it strikes is explored like every other question of who
//! runs next. A wait longer than [`FOR_EVER`] never times out: where nothing else would wake its thread,
//! shuttle reports a deadlock, and so a lost wake-up cannot hide behind a deadline.

use crate::pool::gate::sync::MutexGuard;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, LockResult, PoisonError};
use std::time::{Duration, Instant};

/// What counts as no time limit.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(3600);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

// Shuttle runs all threads of one execution on one thread of the system, so that this is theirs together.
std::thread_local!(static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) });

/// The time.
pub(crate) fn now() -> Instant {
    *START + PASSED.get()
}

/// Begins the time of a new execution.
pub(crate) fn restart() {
    PASSED.set(Duration::ZERO);
}

fn pass_until(then: Instant) {
    PASSED.set(PASSED.get().max(then - *START));
}

/// As the standard library's, with the model's time-outs. A time-out wakes everybody who waits, not only the
/// one it is for: to the others it is one of the spurious wake-ups they must expect.
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    inner: Arc<shuttle::sync::Condvar>,
}

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar::default()
    }

    pub(crate) fn notify_one(&self) {
        self.inner.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.inner.notify_all();
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.inner.wait(guard)
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        pause: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, ())> {
        let is_over = Arc::new(AtomicBool::new(false));
        if pause < FOR_EVER {
            let (condvar, is_over, then) = (self.inner.clone(), is_over.clone(), now() + pause);
            shuttle::thread::spawn(move || {
                // Again and again, because the first time may be before the wait has begun.
                while !is_over.load(Ordering::Relaxed) {
                    pass_until(then);
                    condvar.notify_all();
                    shuttle::thread::yield_now();
                }
            });
        }
        let woken = self.inner.wait(guard);
        is_over.store(true, Ordering::Relaxed);
        match woken {
            Ok(guard) => Ok((guard, ())),
            Err(poisoned) => Err(PoisonError::new((poisoned.into_inner(), ()))),
        }
    }
}

/// As the standard library's parking of a thread.
#[derive(Debug)]
pub(crate) struct Parker {
    token: shuttle::sync::Mutex<bool>,
    condvar: Condvar,
}

impl Parker {
    pub(crate) fn here() -> Parker {
        Parker { token: shuttle::sync::Mutex::new(false), condvar: Condvar::new() }
    }

    pub(crate) fn park(&self, pause: Duration) {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if !*token {
            token = match self.condvar.wait_timeout(token, pause) {
                Ok((token, ())) => token,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        *token = false;
    }

    pub(crate) fn unpark(&self) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.condvar.notify_one();
    }
}
