//! The gate's synchronization primitives and its clock. Under `--cfg poolhouse_shuttle` (`make model`) those of a model checker
//! replace them, so that it controls scheduling and time.

#[cfg(not(poolhouse_shuttle))]
pub(crate) use crate::pool::gate::sync::real::{Parker, SPINS, now, spin};
#[cfg(not(poolhouse_shuttle))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
#[cfg(not(poolhouse_shuttle))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(poolhouse_shuttle))]
pub(crate) use std::thread_local;

#[cfg(poolhouse_shuttle)]
pub(crate) use crate::pool::gate::sync::model::{Condvar, Parker, SPINS, now, spin};
#[cfg(poolhouse_shuttle)]
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
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

    /// Parks one thread until another unparks it. May wake up spuriously.
    #[derive(Debug)]
    pub(crate) struct Parker(Thread);

    impl Parker {
        /// A parker for the current thread.
        pub(crate) fn here() -> Parker {
            Parker(thread::current())
        }

        /// Sleeps for at most `pause`. Only the thread that created the parker may call it.
        pub(crate) fn park(&self, pause: Duration) {
            thread::park_timeout(pause);
        }

        /// Wakes the thread; if it is not asleep, its next `park` returns immediately.
        pub(crate) fn unpark(&self) {
            self.0.unpark();
        }
    }

    /// The current time.
    pub(crate) fn now() -> Instant {
        Instant::now()
    }

    /// How often to look again at what another thread changes within a microsecond, before sleeping.
    pub(crate) const SPINS: u32 = 100;

    /// Lets a moment pass between two looks.
    pub(crate) fn spin() {
        std::hint::spin_loop();
    }
}
