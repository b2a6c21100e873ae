//! The threads that blocking code runs on, and the queue in front of them.

use serde::Serialize;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How many jobs are looked out for after there was a crowd.
const CROWD: u32 = 64;

/// How long a thread looks out.
const SPIN_BUDGET: Duration = Duration::from_micros(20);

/// How many look out at once: more could not run.
static MOST_SPINNING: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(0, NonZeroUsize::get));

/// Something to run on one of the threads.
pub(in crate::web) trait Job: Send + Sync {
    fn run(&self);
}

/// Threads, made when they are needed and kept, with one queue in order of arrival.
pub(in crate::web) struct Threads {
    state: Mutex<State>,
}

struct State {
    queue: VecDeque<Arc<dyn Job>>,
    /// The one that became idle last is called first: its stack is still warm.
    idle: Vec<Arc<Idler>>,
    threads: usize,
    /// Threads that have been called and have not taken a job yet: as many jobs do not wait.
    called: usize,
    /// Threads that look out for a job instead of being called: as many do not wait either.
    looking: usize,
    /// So many jobs more are looked out for, because lately more waited than there are threads.
    crowd: u32,
    refused: u64,
}

impl State {
    fn waiting(&self) -> usize {
        self.queue.len().saturating_sub(self.called + self.looking)
    }
}

/// A thread without work.
struct Idler {
    thread: Thread,
    /// Set when it is taken out of the list: waking for anything else means nothing.
    is_called: AtomicBool,
}

/// What becomes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::web) enum Accepted {
    /// A thread is there for it.
    AtOnce,
    /// It waits for one.
    Queued,
    /// Too many wait already.
    Refused,
}

/// What the threads do right now, and how many jobs were ever refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(in crate::web) struct Load {
    pub(in crate::web) threads: usize,
    pub(in crate::web) busy: usize,
    pub(in crate::web) waiting: usize,
    pub(in crate::web) refused: u64,
}

impl Threads {
    pub(in crate::web) const fn new() -> Threads {
        let state = State {
            queue: VecDeque::new(),
            idle: Vec::new(),
            threads: 0,
            called: 0,
            looking: 0,
            crowd: 0,
            refused: 0,
        };
        Threads { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `job` as soon as one of at most `most_threads` threads is free, unless `most_queued` wait already.
    pub(in crate::web) fn submit(
        &'static self,
        job: Arc<dyn Job>,
        most_threads: usize,
        most_queued: usize,
    ) -> Accepted {
        let mut state = self.state();
        if state.called + state.looking > state.queue.len() {
            state.queue.push_back(job);
            return Accepted::AtOnce;
        }
        if let Some(idler) = state.idle.pop() {
            state.queue.push_back(job);
            state.called += 1;
            drop(state);
            idler.is_called.store(true, Ordering::Release);
            idler.thread.unpark();
            return Accepted::AtOnce;
        }
        if state.threads < most_threads.max(1) {
            let name = format!("poolhouse-request-{}", state.threads + 1);
            match thread::Builder::new().name(name).spawn(|| self.work()) {
                Ok(_) => {
                    state.threads += 1;
                    state.called += 1;
                    state.queue.push_back(job);
                    // It takes the oldest, where others wait already.
                    return if state.waiting() == 0 { Accepted::AtOnce } else { Accepted::Queued };
                }
                // It waits for another thread then.
                Err(error) => log::warn!("no thread for a request: {error}"),
            }
        }
        if state.waiting() >= most_queued || state.threads == 0 {
            state.refused += 1;
            return Accepted::Refused;
        }
        state.queue.push_back(job);
        if state.waiting() > state.threads {
            state.crowd = CROWD;
        }
        Accepted::Queued
    }

    /// Takes a job back that has not begun. Returns whether that was so.
    pub(in crate::web) fn withdraw(&self, job: &Arc<dyn Job>) -> bool {
        let mut state = self.state();
        let place = state.queue.iter().position(|other| Arc::ptr_eq(other, job));
        place.is_some_and(|place| state.queue.remove(place).is_some())
    }

    pub(in crate::web) fn load(&self) -> Load {
        let state = self.state();
        Load {
            threads: state.threads,
            busy: state.threads - state.idle.len(),
            waiting: state.waiting(),
            refused: state.refused,
        }
    }

    fn work(&self) {
        let me = Arc::new(Idler { thread: thread::current(), is_called: AtomicBool::new(false) });
        let mut is_called = true;
        loop {
            let mut state = self.state();
            state.called -= usize::from(std::mem::take(&mut is_called));
            if state.queue.is_empty() && state.crowd > 0 && state.looking < *MOST_SPINNING {
                state = self.look_out(state);
            }
            if let Some(job) = state.queue.pop_front() {
                state.crowd = state.crowd.saturating_sub(1);
                drop(state);
                // Also what it drops may panic, where nobody waits for it any more; the panic hook has told.
                let _ = catch_unwind(AssertUnwindSafe(move || {
                    job.run();
                    drop(job);
                }));
                continue;
            }
            state.idle.push(me.clone());
            drop(state);
            while !me.is_called.swap(false, Ordering::Acquire) {
                thread::park();
            }
            is_called = true;
        }
    }

    /// Lets whoever hands out jobs run, and looks whether there is one then: under load there is, and to fall asleep and
    /// be woken for it would cost more than the job.
    fn look_out<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.looking += 1;
        let started = Instant::now();
        while state.queue.is_empty() && started.elapsed() < SPIN_BUDGET {
            drop(state);
            thread::yield_now();
            state = self.state();
        }
        state.looking -= 1;
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Says its name when it begins, and ends when it is told to.
    struct Held(&'static str, Sender<&'static str>, Mutex<Receiver<()>>);

    impl Job for Held {
        fn run(&self) {
            self.1.send(self.0).unwrap();
            let _ = self.2.lock().unwrap().recv();
        }
    }

    fn threads() -> &'static Threads {
        Box::leak(Box::new(Threads::new()))
    }

    #[test]
    fn jobs_run_in_order_on_so_many_threads_and_the_queue_has_an_end() {
        let threads = threads();
        let (begun, beginnings) = channel();
        let mut holds = Vec::new();
        let mut submit = |name| {
            let (hold, held) = channel();
            holds.push(hold);
            let job: Arc<dyn Job> = Arc::new(Held(name, begun.clone(), Mutex::new(held)));
            (threads.submit(job.clone(), 2, 2), job)
        };
        let accepted: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().map(&mut submit).collect();
        let fates: Vec<_> = accepted.iter().map(|(fate, _)| *fate).collect();
        use Accepted::{AtOnce, Queued, Refused};
        assert_eq!(fates, [AtOnce, AtOnce, Queued, Queued, Refused]);
        let mut first = [beginnings.recv().unwrap(), beginnings.recv().unwrap()];
        first.sort_unstable();
        assert_eq!(first, ["a", "b"]);
        assert_eq!(threads.load(), Load { threads: 2, busy: 2, waiting: 2, refused: 1 });
        assert!(threads.withdraw(&accepted[2].1) && !threads.withdraw(&accepted[0].1));
        drop(holds);
        assert_eq!(beginnings.recv().unwrap(), "d");
    }

    struct Counted(Arc<AtomicUsize>);

    impl Job for Counted {
        fn run(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_job_runs_once_whether_its_thread_is_called_or_looks_out_for_it() {
        const JOBS: usize = 5_000;
        let threads = threads();
        let runs = Arc::new(AtomicUsize::new(0));
        // One submits so much at once that they queue, the other one by one.
        let submit = |count| {
            for _ in 0..count {
                assert_ne!(threads.submit(Arc::new(Counted(runs.clone())), 2, usize::MAX), Accepted::Refused);
            }
        };
        let started = Instant::now();
        let until = |count| {
            while runs.load(Ordering::Relaxed) < count {
                assert!(
                    started.elapsed() < Duration::from_secs(20),
                    "a job is forgotten: {:?}",
                    threads.load()
                );
                thread::yield_now();
            }
        };
        for round in 1..=10 {
            submit(JOBS / 20);
            until(round * JOBS / 10 - JOBS / 20);
            for job in 1..=JOBS / 20 {
                submit(1);
                until(round * JOBS / 10 - JOBS / 20 + job);
            }
        }
        assert_eq!((runs.load(Ordering::Relaxed), threads.load().waiting), (JOBS, 0));
    }
}
