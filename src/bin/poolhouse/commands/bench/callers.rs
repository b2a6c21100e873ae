//! Callers at the same time, from one to many: a connection per query, against the pool.

use super::figures::{Latency, median};
use super::stage::{Halt, MOST_CALLERS, Stage, go_on};
use crate::repositories::bench as repository;
use poolhouse::Error;
use serde::Serialize;
use std::sync::RwLock;
use std::thread;
use std::time::{Duration, Instant};

/// How often each contestant runs at each level.
const ROUNDS: u32 = 3;

/// Levels, of which the first counts twice: its latencies are shown.
const SLICES: u32 = 2 + MOST_CALLERS.ilog2();

/// Why a connection per query is not measured.
const FULL: &str = "the server has not as many connections free";

/// The figures for a number of callers.
#[derive(Debug, Serialize)]
pub(super) struct Level {
    pub(super) callers: u32,
    pub(super) connection_per_query: Option<Rates>,
    /// Why a connection per query was not measured.
    pub(super) missing: Option<&'static str>,
    pub(super) pool: Rates,
}

impl Level {
    /// How many times as many queries the pool runs.
    pub(super) fn gain(&self) -> Option<f64> {
        self.connection_per_query.map(|without| self.pool.queries_per_s / without.queries_per_s)
    }
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Rates {
    /// The median of the rounds.
    pub(super) queries_per_s: f64,
    /// Over all rounds.
    #[serde(flatten)]
    pub(super) latency: Latency,
}

/// One contestant's rounds.
#[derive(Debug, Default)]
struct Rounds {
    rates: Vec<f64>,
    latencies: Vec<Duration>,
}

impl Rounds {
    fn rates(self) -> Rates {
        Rates { queries_per_s: median(self.rates), latency: Latency::of(self.latencies) }
    }
}

/// `pool_size` connections for the pool; `free` connections are left beside them.
pub(super) fn measure(stage: &Stage, pool_size: u32, free: i64) -> Result<Vec<Level>, Halt> {
    let pool = stage.open_pool(pool_size)?;
    let share = stage.share(45);
    let slice = share / (SLICES * ROUNDS * 2);
    let with_pool = || repository::query(&pool);
    let with_connection = || stage.connect_once(repository::query_on_client).map(drop);
    // A new pool queries the server's catalogue once about each statement.
    run(pool_size, Duration::ZERO, &mut Rounds::default(), &with_pool)?;
    let (start, mut slices) = (Instant::now(), 0);
    let mut levels = Vec::new();
    for callers in (0..=MOST_CALLERS.ilog2()).map(|power| 1 << power) {
        let slice = if callers == 1 { slice * 2 } else { slice };
        slices += if callers == 1 { 2 } else { 1 };
        let (mut without, mut with) = (Rounds::default(), Rounds::default());
        let mut missing = match callers {
            _ if !has_room(callers, free) => Some(FULL),
            // Of many slow connects, those that come first have taken longer than their time.
            _ if start.elapsed() > share * 3 / 2 => Some("no time left: --seconds gives more"),
            _ => None,
        };
        for round in 0..ROUNDS {
            if round > 0 && start.elapsed() >= share * slices / SLICES {
                break;
            }
            if missing.is_none() {
                match run(callers, slice, &mut without, &with_connection) {
                    // Other clients have come in the meantime.
                    Err(Halt::Failed(error)) if error.sqlstate() == Some("53300") => missing = Some(FULL),
                    done => done?,
                }
            }
            run(callers, slice, &mut with, &with_pool)?;
        }
        let connection_per_query = missing.is_none().then(|| without.rates());
        levels.push(Level { callers, connection_per_query, missing, pool: with.rates() });
    }
    Ok(levels)
}

/// The server ends a session a moment after its client has gone: room is needed for those as well.
fn has_room(callers: u32, free: i64) -> bool {
    i64::from(callers) * 5 / 4 <= free
}

/// Runs queries for `slice`, each caller at least one.
fn run(
    callers: u32,
    slice: Duration,
    rounds: &mut Rounds,
    query: &(impl Fn() -> Result<(), Error> + Sync),
) -> Result<(), Halt> {
    // Held until every caller is there.
    let gate = RwLock::new(());
    let caller = || {
        drop(gate.read());
        let (start, mut latencies) = (Instant::now(), Vec::new());
        loop {
            go_on()?;
            let begun = Instant::now();
            query()?;
            latencies.push(begun.elapsed());
            if start.elapsed() >= slice {
                return Ok(latencies);
            }
        }
    };
    let (elapsed, outcomes) = thread::scope(|scope| {
        let held = gate.write();
        let threads: Vec<_> = (0..callers)
            .map(|_| thread::Builder::new().spawn_scoped(scope, caller).map_err(Error::application))
            .collect();
        let start = Instant::now();
        drop(held);
        let outcomes: Vec<Result<Vec<Duration>, Halt>> = threads
            .into_iter()
            .map(|thread| thread?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        (start.elapsed(), outcomes)
    });
    let before = rounds.latencies.len();
    for latencies in outcomes {
        rounds.latencies.extend(latencies?);
    }
    rounds.rates.push((rounds.latencies.len() - before) as f64 / elapsed.as_secs_f64());
    Ok(())
}
