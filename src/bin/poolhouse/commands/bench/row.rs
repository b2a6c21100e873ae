//! A hundred queries in a row: a connection for each, against a pool that is opened for them.

use super::figures::{median, ms};
use super::stage::{Halt, Stage, go_on};
use crate::repositories::bench as repository;
use serde::Serialize;
use std::time::Instant;

/// How many queries a row has.
pub(super) const QUERIES: usize = 100;

/// How many rows each contestant runs at most.
const ROWS: usize = 10;

/// Medians over the rows.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) connection_per_query_ms: f64,
    /// How many queries of each row were run; the time for the rest is extrapolated.
    pub(super) queries_with_connection: usize,
    /// Opening the pool is included.
    pub(super) pool_ms: f64,
    /// One connect, with the delay that is added.
    pub(super) connect_ms: f64,
}

pub(super) fn measure(stage: &Stage) -> Result<Row, Halt> {
    let (share, start) = (stage.share(15), Instant::now());
    let (mut without, mut with, mut connects, mut fewest) = (Vec::new(), Vec::new(), Vec::new(), QUERIES);
    loop {
        let row = Instant::now();
        let mut queries = 0;
        while queries < QUERIES && (queries == 0 || row.elapsed() < share) {
            go_on()?;
            connects.push(ms(stage.connect_once(repository::query_on_client)?.connecting));
            queries += 1;
        }
        without.push(ms(row.elapsed()) * QUERIES as f64 / queries as f64);
        fewest = fewest.min(queries);

        let row = Instant::now();
        let pool = stage.open_pool(1)?;
        for _ in 0..QUERIES {
            go_on()?;
            repository::query(&pool)?;
        }
        with.push(ms(row.elapsed()));

        if with.len() == ROWS || start.elapsed() >= share {
            return Ok(Row {
                connection_per_query_ms: median(without),
                queries_with_connection: fewest,
                pool_ms: median(with),
                connect_ms: median(connects),
            });
        }
    }
}
