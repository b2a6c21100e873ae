//! The limits of the threads for blocking code: those that the program sets, else those of the process-wide pool.

use crate::database_pool::DatabasePool;
use crate::settings::with_methods::with_methods;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

/// The number of threads of [`blocking`](crate::web::blocking), and the bounds of its queue.
///
/// # Examples
///
/// ```
/// use poolhouse::web::{BlockingLimits, limit_blocking};
/// use std::time::Duration;
///
/// limit_blocking(BlockingLimits::new(30).with_wait(Duration::from_secs(2)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockingLimits {
    /// The most threads; 0 counts as 1. Use the number of connections: further threads would only wait for one.
    pub threads: usize,
    /// How many calls may wait for a thread; further calls fail immediately.
    pub waiting: usize,
    /// How long a call may wait for a thread.
    pub wait: Duration,
}

impl BlockingLimits {
    /// Returns limits with this number of threads, 1000 waiting calls and a wait of 5 s.
    pub fn new(threads: usize) -> BlockingLimits {
        BlockingLimits { threads, waiting: 1000, wait: Duration::from_secs(5) }
    }
}

with_methods! {
    BlockingLimits {
        with_threads(threads: usize),
        with_waiting(waiting: usize),
        with_wait(wait: Duration),
    } except {}
}

/// The limits that [`limit_blocking`] has set. Held for a copy only.
static LIMITS: RwLock<Option<BlockingLimits>> = RwLock::new(None);

/// Sets the limits of [`blocking`](crate::web::blocking) for the whole process, instead of those of [`DatabasePool`]'s settings. Existing threads
/// are kept.
pub fn limit_blocking(limits: BlockingLimits) {
    *LIMITS.write().unwrap_or_else(PoisonError::into_inner) = Some(limits);
}

/// The limits in force.
pub(super) fn limits() -> BlockingLimits {
    if let Some(limits) = *LIMITS.read().unwrap_or_else(PoisonError::into_inner) {
        return limits;
    }
    match DatabasePool::get() {
        Ok(pool) => {
            let (threads, waiting, wait) = pool.shared().bounds();
            BlockingLimits { threads: threads as usize, waiting: waiting as usize, wait }
        }
        // Another pool, without a call of `limit_blocking`: its size is unknown here.
        Err(_) => BlockingLimits::new(10),
    }
}
