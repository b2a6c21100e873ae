//! Everybody who takes part, each the way its documentation recommends.

mod blocking;
mod futures;

pub(crate) use blocking::{Bare, Ours, PerCall, R2d2, Variant};
pub(crate) use futures::{Deadpool, Sqlx, deadpool_config, deadpool_pool, sqlx_options};

use crate::measure::{Figures, Tally, cpu_time};
use poolhouse::settings::DatabaseSettings;
use serde::Deserialize;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Rows of the table.
pub(crate) const ROWS: i32 = 10_000;
/// Rows of a range.
pub(crate) const RANGE: i32 = 100;

/// What every row becomes, whoever reads it.
#[derive(Debug, Deserialize, PartialEq)]
pub(crate) struct Movie {
    pub(crate) movie_id: i32,
    pub(crate) title: String,
    pub(crate) year: Option<i32>,
    pub(crate) genres: Vec<String>,
}

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// One row by its primary key.
    Point,
    /// The same, and the connection is held for 1 ms: the server sleeps, as clients' timers differ (tokio's are
    /// coarse) and would be what is measured.
    HeldPoint,
    /// 100 rows by a range of primary keys.
    Range,
    /// One row changed, by its primary key.
    Update,
}

impl Work {
    pub(crate) const ALL: [Work; 4] = [Work::Point, Work::HeldPoint, Work::Range, Work::Update];

    pub(crate) fn sql(self) -> &'static str {
        match self {
            Work::Point => "SELECT movie_id, title, year, genres FROM films WHERE movie_id = $1",
            Work::HeldPoint => {
                "SELECT movie_id, title, year, genres FROM films, pg_sleep(0.001) WHERE movie_id = $1"
            }
            Work::Range => {
                "SELECT movie_id, title, year, genres FROM films \
                 WHERE movie_id >= $1 AND movie_id < $1 + 100 ORDER BY movie_id"
            }
            Work::Update => "UPDATE films SET year = $2 WHERE movie_id = $1",
        }
    }
}

/// How a pool is set up for a scenario.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) database: DatabaseSettings,
    pub(crate) connections: u32,
    pub(crate) workers: usize,
}

/// One who takes part.
pub(crate) trait Contestant {
    fn name(&self) -> &'static str;
    /// One round.
    fn run(&self, work: Work, length: Duration) -> Figures;
}

/// A blocking one: each worker is a thread with its own lane.
pub(crate) trait Lanes: Sync {
    fn name(&self) -> &'static str;
    fn workers(&self) -> usize;
    /// What worker number `worker` calls; made in the worker's thread. It returns how long it waited for a
    /// connection, where that can be told.
    fn lane(&self, worker: usize) -> Box<dyn FnMut(Work, i32) -> Duration + '_>;
}

/// Calls that nobody counts: they prepare statements and wake connections up.
const WARM_UP: usize = 5;

impl<L: Lanes> Contestant for L {
    fn name(&self) -> &'static str {
        Lanes::name(self)
    }

    fn run(&self, work: Work, length: Duration) -> Figures {
        let workers = self.workers();
        let start = Barrier::new(workers + 1);
        let is_over = AtomicBool::new(false);
        let work_one = |worker: usize| {
            let mut lane = self.lane(worker);
            let mut random = fastrand::Rng::new();
            let mut tally = Tally::default();
            for _ in 0..WARM_UP {
                lane(work, random.i32(1..=ROWS - RANGE));
            }
            start.wait();
            loop {
                let key = random.i32(1..=ROWS - RANGE);
                let begun = Instant::now();
                let wait = lane(work, key);
                let operation = begun.elapsed();
                let is_in_time = !is_over.load(Ordering::Relaxed);
                tally.note(wait, operation, is_in_time);
                if !is_in_time {
                    return tally;
                }
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|worker| scope.spawn(move || work_one(worker))).collect();
            start.wait();
            let (begun, cpu) = (Instant::now(), cpu_time());
            std::thread::sleep(length);
            is_over.store(true, Ordering::Relaxed);
            let lasted = begun.elapsed();
            let tallies = threads.into_iter().map(|thread| thread.join().expect("a worker")).collect();
            Figures::of(tallies, lasted, cpu_time() - cpu)
        })
    }
}

/// An async one: each worker is a task.
pub(crate) trait Tasks: Clone + Send + Sync + 'static {
    fn name(&self) -> &'static str;
    fn workers(&self) -> usize;
    /// As a lane's call.
    fn call(&self, work: Work, key: i32) -> impl Future<Output = Duration> + Send;
}

/// An async contestant with the runtime it lives in.
pub(crate) struct OnRuntime<'a, T>(pub(crate) &'a Runtime, pub(crate) T);

impl<T: Tasks> Contestant for OnRuntime<'_, T> {
    fn name(&self) -> &'static str {
        self.1.name()
    }

    fn run(&self, work: Work, length: Duration) -> Figures {
        let workers = self.1.workers();
        let start = std::sync::Arc::new(tokio::sync::Barrier::new(workers + 1));
        let is_over = std::sync::Arc::new(AtomicBool::new(false));
        self.0.block_on(async {
            let tasks: Vec<_> = (0..workers)
                .map(|_| {
                    let (this, start, is_over) = (self.1.clone(), start.clone(), is_over.clone());
                    tokio::spawn(async move {
                        let mut random = fastrand::Rng::new();
                        let mut tally = Tally::default();
                        for _ in 0..WARM_UP {
                            this.call(work, random.i32(1..=ROWS - RANGE)).await;
                        }
                        start.wait().await;
                        loop {
                            let key = random.i32(1..=ROWS - RANGE);
                            let begun = Instant::now();
                            let wait = this.call(work, key).await;
                            let operation = begun.elapsed();
                            let is_in_time = !is_over.load(Ordering::Relaxed);
                            tally.note(wait, operation, is_in_time);
                            if !is_in_time {
                                return tally;
                            }
                        }
                    })
                })
                .collect();
            start.wait().await;
            let (begun, cpu) = (Instant::now(), cpu_time());
            tokio::time::sleep(length).await;
            is_over.store(true, Ordering::Relaxed);
            let lasted = begun.elapsed();
            let mut tallies = Vec::with_capacity(workers);
            for task in tasks {
                tallies.push(task.await.expect("a worker"));
            }
            Figures::of(tallies, lasted, cpu_time() - cpu)
        })
    }
}

/// What an UPDATE writes.
fn new_year(key: i32) -> i32 {
    1900 + key % 100
}
