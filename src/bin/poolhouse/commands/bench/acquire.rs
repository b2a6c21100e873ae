//! What a connection of the pool costs: the first request, which opens the pool, and every later one.

use super::figures::{Latency, median, ms};
use super::stage::{Halt, Stage, go_on};
use crate::repositories::bench as repository;
use serde::Serialize;
use std::time::{Duration, Instant};

/// How often a pool is opened.
const OPENINGS: usize = 10;

/// How often a connection is acquired.
const ACQUIRES: usize = 100_000;

#[derive(Debug, Serialize)]
pub(super) struct Acquire {
    /// The first query: opening a pool of one, acquiring, and the query.
    pub(super) first_query_ms: f64,
    /// Acquiring a connection of an open pool.
    pub(super) later: Latency,
    /// A query on an open pool.
    pub(super) later_query_ms: f64,
}

pub(super) fn measure(stage: &Stage) -> Result<Acquire, Halt> {
    let share = stage.share(5);
    let (start, mut first, mut later_queries) = (Instant::now(), Vec::new(), Vec::new());
    let pool = loop {
        let opening = Instant::now();
        let pool = stage.open_pool(1)?;
        repository::query(&pool)?;
        first.push(ms(opening.elapsed()));
        for _ in 0..10 {
            let start = Instant::now();
            repository::query(&pool)?;
            later_queries.push(ms(start.elapsed()));
        }
        if first.len() == OPENINGS || start.elapsed() >= share {
            break pool;
        }
    };
    let (start, mut later) = (Instant::now(), Vec::with_capacity(ACQUIRES));
    while later.len() < ACQUIRES && (later.is_empty() || start.elapsed() < share) {
        go_on()?;
        let start = Instant::now();
        let connection = pool.get_connection()?;
        later.push(start.elapsed());
        drop(connection);
    }
    pool.close(Duration::ZERO);
    Ok(Acquire {
        first_query_ms: median(first),
        later: Latency::of(later),
        later_query_ms: median(later_queries),
    })
}
