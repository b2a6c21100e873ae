//! The threads that run blocking code, and the queue of jobs in front of them.
//!
//! Threads start on demand and are kept. Under load a thread without a job spins for a short time before it parks (adaptive
//! spin). It knows nothing of the database, of requests or of deadlines; a job is any closure.

use serde::Serialize;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// The number of jobs for which threads spin after the queue was longer than the number of threads.
const SPIN_CREDIT: u32 = 64;

/// The spin budget: how long a thread spins before it parks.
const SPIN_BUDGET: Duration = Duration::from_micros(20);

/// The most threads that spin at once: the machine runs no more in parallel.
static MAX_SPINNING: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(0, NonZeroUsize::get));

/// Something to run on one of the threads.
pub(in crate::web) trait Job: Send + Sync {
    fn run(&self);
}

/// Threads with one queue in order of arrival.
pub(in crate::web) struct Threads {
    /// No job runs and no thread is woken under this lock. Starting a thread is the one system call under it.
    state: Mutex<State>,
}

struct State {
    queue: VecDeque<Arc<dyn Job>>,
    /// Parked threads. The last one is woken first: its stack is still in the cache.
    idle: Vec<Arc<IdleThread>>,
    threads: usize,
    /// Threads that have been woken or started and have not taken a job yet. Each has a job in the queue, unless it was withdrawn.
    woken: usize,
    /// Threads that spin. Each of them takes the next job without being woken.
    spinning: usize,
    /// The number of jobs for which threads still spin; 0 while the load is low.
    spin_credit: u32,
    refused: u64,
}

impl State {
    /// The jobs for which no thread is on its way.
    fn waiting(&self) -> usize {
        self.queue.len().saturating_sub(self.woken + self.spinning)
    }
}

/// A parked thread.
struct IdleThread {
    thread: Thread,
    /// Set when the thread is taken out of the list. A wake-up without it is spurious.
    is_woken: AtomicBool,
}

/// The result of submitting a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::web) enum Submission {
    /// A thread is available for it.
    Started,
    /// It waits for a thread.
    Queued,
    /// The queue is full.
    Refused,
}

/// The current load, and the number of jobs refused since the start.
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
            woken: 0,
            spinning: 0,
            spin_credit: 0,
            refused: 0,
        };
        Threads { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `job` as soon as one of at most `max_threads` threads is free; refuses it if `max_queued` jobs wait already.
    pub(in crate::web) fn submit(
        &'static self,
        job: Arc<dyn Job>,
        max_threads: usize,
        max_queued: usize,
    ) -> Submission {
        let mut state = self.state();
        if state.woken + state.spinning > state.queue.len() {
            state.queue.push_back(job);
            return Submission::Started;
        }
        if let Some(idle) = state.idle.pop() {
            state.queue.push_back(job);
            state.woken += 1;
            drop(state);
            idle.is_woken.store(true, Ordering::Release);
            idle.thread.unpark();
            return Submission::Started;
        }
        if state.threads < max_threads.max(1) {
            let name = format!("poolhouse-request-{}", state.threads + 1);
            match thread::Builder::new().name(name).spawn(|| self.work()) {
                Ok(_) => {
                    state.threads += 1;
                    state.woken += 1;
                    state.queue.push_back(job);
                    // The new thread takes the oldest job, which may be another one.
                    return if state.waiting() == 0 { Submission::Started } else { Submission::Queued };
                }
                // The job then waits for an existing thread.
                Err(error) => log::warn!("no thread for a request: {error}"),
            }
        }
        if state.waiting() >= max_queued || state.threads == 0 {
            state.refused += 1;
            return Submission::Refused;
        }
        state.queue.push_back(job);
        if state.waiting() > state.threads {
            state.spin_credit = SPIN_CREDIT;
        }
        Submission::Queued
    }

    /// Removes a job from the queue. Returns whether it was still there: if not, it has started.
    pub(in crate::web) fn withdraw(&self, job: &Arc<dyn Job>) -> bool {
        let mut state = self.state();
        let position = state.queue.iter().position(|other| Arc::ptr_eq(other, job));
        position.is_some_and(|position| state.queue.remove(position).is_some())
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

    /// The loop of each thread: runs jobs, spins if there is none under load, and parks.
    fn work(&self) {
        let this = Arc::new(IdleThread { thread: thread::current(), is_woken: AtomicBool::new(false) });
        let mut is_woken = true;
        loop {
            let mut state = self.state();
            state.woken -= usize::from(std::mem::take(&mut is_woken));
            if state.queue.is_empty() && state.spin_credit > 0 && state.spinning < *MAX_SPINNING {
                state = self.spin(state);
            }
            if let Some(job) = state.queue.pop_front() {
                state.spin_credit = state.spin_credit.saturating_sub(1);
                drop(state);
                // The job catches panics of its work. Dropping its result may panic too, after the caller is gone; the panic
                // hook has logged it.
                let _ = catch_unwind(AssertUnwindSafe(move || {
                    job.run();
                    drop(job);
                }));
                continue;
            }
            state.idle.push(this.clone());
            drop(state);
            while !this.is_woken.swap(false, Ordering::Acquire) {
                thread::park();
            }
            is_woken = true;
        }
    }

    /// Spins until there is a job, at most for the spin budget. Each round yields the processor to the threads that submit
    /// jobs: under load the next job comes soon, and parking and waking would cost more than the job itself.
    fn spin<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.spinning += 1;
        let started = Instant::now();
        while state.queue.is_empty() && started.elapsed() < SPIN_BUDGET {
            drop(state);
            thread::yield_now();
            state = self.state();
        }
        state.spinning -= 1;
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Sends its name when it starts, and ends when its channel closes.
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
    fn jobs_run_in_order_on_at_most_the_given_threads_and_a_full_queue_refuses() {
        let threads = threads();
        let (started, starts) = channel();
        let mut holds = Vec::new();
        let mut submit = |name| {
            let (hold, held) = channel();
            holds.push(hold);
            let job: Arc<dyn Job> = Arc::new(Held(name, started.clone(), Mutex::new(held)));
            (threads.submit(job.clone(), 2, 2), job)
        };
        let submitted: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().map(&mut submit).collect();
        let results: Vec<_> = submitted.iter().map(|(result, _)| *result).collect();
        use Submission::{Queued, Refused, Started};
        assert_eq!(results, [Started, Started, Queued, Queued, Refused]);
        let mut first = [starts.recv().unwrap(), starts.recv().unwrap()];
        first.sort_unstable();
        assert_eq!(first, ["a", "b"]);
        assert_eq!(threads.load(), Load { threads: 2, busy: 2, waiting: 2, refused: 1 });
        assert!(threads.withdraw(&submitted[2].1) && !threads.withdraw(&submitted[0].1));
        drop(holds);
        assert_eq!(starts.recv().unwrap(), "d");
    }

    struct Counted(Arc<AtomicUsize>);

    impl Job for Counted {
        fn run(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_job_runs_once_whether_its_thread_is_woken_or_spins() {
        const JOBS: usize = 5_000;
        let threads = threads();
        let runs = Arc::new(AtomicUsize::new(0));
        // Bursts, whose jobs queue and make threads spin, alternate with single jobs.
        let submit = |count| {
            for _ in 0..count {
                assert_ne!(
                    threads.submit(Arc::new(Counted(runs.clone())), 2, usize::MAX),
                    Submission::Refused
                );
            }
        };
        let started = Instant::now();
        let until = |count| {
            while runs.load(Ordering::Relaxed) < count {
                assert!(started.elapsed() < Duration::from_secs(20), "a job is lost: {:?}", threads.load());
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
