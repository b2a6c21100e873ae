//! The pool against a real server. Many tests show how the pool handles something that r2d2 alone does not, such as a deadline
//! or an outage.
//!
//! One trait of r2d2 is kept on purpose: the connection used last is lent first. It leaves the others idle, so that they
//! can be trimmed.

mod adversary;
mod age;
mod basics;
mod crashes;
mod deadlines;
mod encryption;
mod failures;
mod growth;
mod interrupted;
mod lifecycle;
mod log_lines;
mod messages;
mod numbers;
mod observation;
mod outcomes;
mod parameters;
mod pgbouncer;
mod retries;
mod sessions;
mod sharing;
mod statements;
mod storm;
#[cfg(target_os = "linux")]
mod strangers;
mod transactions;
mod verified;
mod waiting;

use crate::support::{SOON, postgres, timed};
use poolhouse::{Pool, PoolSettings};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

/// A pool of `min` to `max` connections on a new database, with `change` made to its settings.
fn pool(min: u32, max: u32, change: impl FnOnce(&mut PoolSettings)) -> Pool {
    let mut settings = postgres::pool_settings();
    (settings.min_connections, settings.max_connections) = (min, max);
    change(&mut settings);
    Pool::open(&settings).unwrap()
}

/// What a wait for a connection may take beyond its deadline, without the time in which the machine kept the thread from running.
/// The promise is 20 ms; the rest is for locks whose holders are kept from running.
const OVERSHOOT: Duration = Duration::from_millis(100);

/// What a story has wait for longer than anything else in it may take.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// Runs `f` on a thread of its own and waits for it: what it holds is held by another thread than the test's.
fn elsewhere<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> R {
    std::thread::spawn(f).join().unwrap()
}
