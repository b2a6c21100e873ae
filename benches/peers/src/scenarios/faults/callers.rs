//! Callers that go on whatever happens, and what becomes of their calls.

use super::peers::{Job, Peer, Told};
use crate::contestants::ROWS;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Threads or tasks, twice as many as connections.
pub(super) const CALLERS: usize = 16;
/// How long callers rest after a failure, as a busy service's next requests would come.
const REST: Duration = Duration::from_millis(20);
/// Calls before the fault, so that every connection is there.
const WARM_UP: Duration = Duration::from_millis(500);

/// How long the first success is waited for; the time given where it does not come.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What all callers of one pool have seen since the fault began.
#[derive(Debug, Clone)]
pub(super) struct Log {
    last_success: Instant,
    pub(super) longest_gap: Duration,
    pub(super) longest_acquire: Duration,
    pub(super) longest_operation: Duration,
    /// When the server was there again.
    back: Option<Instant>,
    pub(super) first_success_after: Option<Duration>,
    /// How often, by what was said.
    pub(super) failures: BTreeMap<String, u64>,
}

impl Log {
    fn new() -> Log {
        Log {
            last_success: Instant::now(),
            longest_gap: Duration::ZERO,
            longest_acquire: Duration::ZERO,
            longest_operation: Duration::ZERO,
            back: None,
            first_success_after: None,
            failures: BTreeMap::new(),
        }
    }

    /// Whether it failed.
    fn note(&mut self, begun: Instant, told: Told) -> bool {
        let now = Instant::now();
        self.longest_acquire = self.longest_acquire.max(told.acquire);
        self.longest_operation = self.longest_operation.max(now - begun);
        match told.failure {
            Some(reason) => {
                *self.failures.entry(reason).or_default() += 1;
                true
            }
            None => {
                self.end_gap(now);
                if let Some(back) = self.back {
                    self.first_success_after.get_or_insert(now.saturating_duration_since(back));
                }
                false
            }
        }
    }

    fn end_gap(&mut self, now: Instant) {
        self.longest_gap = self.longest_gap.max(now.saturating_duration_since(self.last_success));
        self.last_success = now;
    }

    pub(super) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// What callers and fault share.
#[derive(Debug)]
pub(super) struct Shared {
    log: Mutex<Log>,
    is_over: AtomicBool,
}

impl Shared {
    fn with<R>(&self, look: impl FnOnce(&mut Log) -> R) -> R {
        look(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// The server is there again.
    pub(super) fn back(&self) {
        self.with(|log| log.back = Some(Instant::now()));
    }

    /// Waits until a call succeeds after [`back`](Shared::back), for [`LONGEST_WAIT`] at most.
    pub(super) fn wait_for_success(&self) {
        let begun = Instant::now();
        let is_served = || self.with(|log| log.first_success_after.is_some());
        while !is_served() && begun.elapsed() < LONGEST_WAIT {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Callers go on with `job` while `fault` runs, and are told to end when it returns.
pub(super) fn live_through(runtime: &Runtime, peer: &Peer, job: Job, fault: impl FnOnce(&Shared)) -> Log {
    let shared = Arc::new(Shared { log: Mutex::new(Log::new()), is_over: AtomicBool::new(false) });
    let fault = || {
        thread::sleep(WARM_UP);
        shared.with(|log| *log = Log::new());
        fault(&shared);
        shared.is_over.store(true, Ordering::Relaxed);
    };
    match peer {
        Peer::Threads(pool) => thread::scope(|scope| {
            for _ in 0..CALLERS {
                scope.spawn(|| {
                    while !shared.is_over() {
                        let begun = Instant::now();
                        let told = pool.call(job, fastrand::i32(1..=ROWS));
                        if shared.with(|log| log.note(begun, told)) {
                            thread::sleep(REST);
                        }
                    }
                });
            }
            fault();
        }),
        Peer::Tasks(pool) => {
            let call_on = || {
                let (pool, shared) = (Arc::clone(pool), Arc::clone(&shared));
                runtime.spawn(async move {
                    while !shared.is_over() {
                        let begun = Instant::now();
                        let told = pool.call(job, fastrand::i32(1..=ROWS)).await;
                        if shared.with(|log| log.note(begun, told)) {
                            tokio::time::sleep(REST).await;
                        }
                    }
                })
            };
            let callers: Vec<_> = (0..CALLERS).map(|_| call_on()).collect();
            fault();
            for caller in callers {
                runtime.block_on(caller).expect("a caller");
            }
        }
    }
    shared.with(|log| {
        log.end_gap(Instant::now());
        log.clone()
    })
}

/// Lets `count` callers go at once, one call each; returns how long it took to serve them all.
pub(super) fn burst(runtime: &Runtime, peer: &Peer, job: Job, count: usize) -> Duration {
    let served = |told: Told| assert_eq!(told.failure, None, "a burst is no fault");
    // All of them are up and wait before the start is given.
    let gather = Duration::from_millis(50);
    match peer {
        Peer::Threads(pool) => {
            let start = Barrier::new(count + 1);
            let begun = thread::scope(|scope| {
                for _ in 0..count {
                    scope.spawn(|| {
                        start.wait();
                        served(pool.call(job, 1));
                    });
                }
                thread::sleep(gather);
                start.wait();
                Instant::now()
            });
            begun.elapsed()
        }
        Peer::Tasks(pool) => runtime.block_on(async {
            let start = Arc::new(tokio::sync::Barrier::new(count + 1));
            let call = || {
                let (pool, start) = (Arc::clone(pool), Arc::clone(&start));
                tokio::spawn(async move {
                    start.wait().await;
                    served(pool.call(job, 1).await);
                })
            };
            let callers: Vec<_> = (0..count).map(|_| call()).collect();
            tokio::time::sleep(gather).await;
            start.wait().await;
            let begun = Instant::now();
            for caller in callers {
                caller.await.expect("a caller");
            }
            begun.elapsed()
        }),
    }
}
