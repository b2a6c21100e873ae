//! What the gate's threads meet in: locks, and the clock. A model checker stands in for them under
//! `--cfg poolhouse_shuttle` (`make model`), so that it decides who runs next and what time it is.

#[cfg(not(poolhouse_shuttle))]
pub(crate) use self::real::now;
#[cfg(not(poolhouse_shuttle))]
pub(crate) use std::sync::atomic::AtomicBool;
#[cfg(not(poolhouse_shuttle))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(poolhouse_shuttle))]
pub(crate) use std::thread_local;

#[cfg(poolhouse_shuttle)]
pub(crate) use self::model::{Condvar, now};
#[cfg(poolhouse_shuttle)]
pub(crate) use shuttle::sync::atomic::AtomicBool;
#[cfg(poolhouse_shuttle)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(poolhouse_shuttle)]
pub(crate) use shuttle::thread_local;

#[cfg(poolhouse_shuttle)]
pub(crate) mod model;

#[cfg(not(poolhouse_shuttle))]
mod real {
    use std::time::Instant;

    /// The time.
    pub(crate) fn now() -> Instant {
        Instant::now()
    }
}
