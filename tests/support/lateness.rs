//! How long something takes without the time in which the machine has other things to do.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// When something began, and how long this thread had been kept from running by then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) at: Instant,
    pub(crate) delayed: Duration,
}

impl Mark {
    pub(crate) fn now() -> Mark {
        Mark { at: Instant::now(), delayed: delayed() }
    }
}

/// How long this thread has been ready to run and not running, ever: the second number that Linux gives; zero
/// where there is no such thing.
fn delayed() -> Duration {
    thread_local! {
        static FILE: Option<File> = File::open("/proc/thread-self/schedstat").ok();
    }
    let mut bytes = [0; 96];
    let read = FILE.with(|file| file.as_ref().and_then(|file| file.read_at(&mut bytes, 0).ok()));
    let text = String::from_utf8_lossy(&bytes[..read.unwrap_or(0)]).into_owned();
    let nanos = text.split_whitespace().nth(1).and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// What `f` returns, and how long it took: without the time in which this thread could have run and did not.
pub(crate) fn timed<R>(f: impl FnOnce() -> R) -> (R, Duration) {
    let started = Mark::now();
    let result = f();
    let ended = Mark::now();
    let delayed = ended.delayed.saturating_sub(started.delayed);
    (result, (ended.at - started.at).saturating_sub(delayed))
}
