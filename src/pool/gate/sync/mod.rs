//! What the gate's threads meet in: locks, and the clock. A model checker stands in for them under
//! `--cfg poolhouse_shuttle` (`make model`), so that it decides who runs next and what time it is.

#[cfg(not(poolhouse_shuttle))]
pub(crate) use crate::pool::gate::sync::real::{Parker, now};
#[cfg(not(poolhouse_shuttle))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8};
#[cfg(not(poolhouse_shuttle))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(poolhouse_shuttle))]
pub(crate) use std::thread_local;

#[cfg(poolhouse_shuttle)]
pub(crate) use crate::pool::gate::sync::model::{Condvar, Parker, now};
#[cfg(poolhouse_shuttle)]
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU8};
#[cfg(poolhouse_shuttle)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(poolhouse_shuttle)]
pub(crate) use shuttle::thread_local;

#[cfg(poolhouse_shuttle)]
pub(crate) mod model;

#[cfg(not(poolhouse_shuttle))]
mod real {
    use std::thread::{self, Thread};
    use std::time::{Duration, Instant};

    /// Where one thread sleeps until another wakes it. May wake for nothing.
    #[derive(Debug)]
    pub(crate) struct Parker(Thread);

    impl Parker {
        /// For the current thread.
        pub(crate) fn here() -> Parker {
            Parker(thread::current())
        }

        /// Sleeps for at most `pause`; only for the thread that made it.
        pub(crate) fn park(&self, pause: Duration) {
            thread::park_timeout(pause);
        }

        /// Wakes it, also where it is about to sleep.
        pub(crate) fn unpark(&self) {
            self.0.unpark();
        }
    }

    /// The time.
    pub(crate) fn now() -> Instant {
        Instant::now()
    }
}
