//! A clock and a condition variable with timeouts for shuttle, whose own condition variable never times out.
//!
//! Time advances only when a wait times out, and then exactly to the end of that wait. Each timeout is a thread that wakes the
//! waiter, so shuttle explores the moment of a timeout like every other scheduling decision. A wait longer than [`FOR_EVER`]
//! never times out: if no other thread wakes it, shuttle reports a deadlock. A lost wake-up therefore cannot hide behind a
//! deadline.

use crate::pool::gate::sync::MutexGuard;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, LockResult, PoisonError};
use std::time::{Duration, Instant};

/// The shortest wait that counts as unlimited.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(3600);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

// Shuttle runs all threads of one execution on one system thread, so they share this value.
std::thread_local!(static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) });

/// The current time.
pub(crate) fn now() -> Instant {
    *START + PASSED.get()
}

/// Resets the clock for a new execution.
pub(crate) fn restart() {
    PASSED.set(Duration::ZERO);
}

/// How often to look again before sleeping; once is enough to explore it.
pub(crate) const SPINS: u32 = 1;

/// Lets other threads run between two looks.
pub(crate) fn spin() {
    shuttle::thread::yield_now();
}

fn pass_until(then: Instant) {
    PASSED.set(PASSED.get().max(then - *START));
}

/// Like the standard library's, with the model's timeouts. A timeout wakes every waiting thread; for the others it is a spurious
/// wake-up.
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
                // Repeated, because the first notification may come before the wait has begun.
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

/// Like the standard library's `park` and `unpark`.
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
