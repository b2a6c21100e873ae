//! Poolhouse and its peers as faults meet them: each tells how a call ended, where elsewhere it insists on success.

mod blocking;
mod futures;

use crate::contestants::Movie;
use poolhouse::settings::DatabaseSettings;
use serde::Deserialize;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_postgres::Row;

/// How long everybody may wait for a connection, and for an operation where a deadline for that is offered.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What callers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    /// One row by its primary key.
    Read,
    /// The same, taking a connection first, so that the wait for it can be told.
    ReadInTwoSteps,
    /// One row inserted.
    Write,
    /// The same by poolhouse's `transaction_verified`; nobody else has it.
    VerifiedWrite,
    /// One row of a table whose columns change, decoded by name.
    Star,
    /// Two milliseconds, slept by the server: clients' timers differ.
    Sleep,
}

/// What [`Job::Write`] needs.
pub(super) const WRITES: &str = "CREATE TABLE writes (n integer NOT NULL)";
const WRITE: &str = "INSERT INTO writes VALUES ($1)";
/// What [`Job::Star`] needs.
pub(super) const SHELVES: &str = "CREATE TABLE shelves (id integer PRIMARY KEY, title text NOT NULL);
    INSERT INTO shelves SELECT n, 'Shelf ' || n FROM generate_series(1, 100) n";
const STAR: &str = "SELECT * FROM shelves WHERE id = $1";
const SLEEP: &str = "SELECT 1 FROM pg_sleep(0.002)";

#[derive(Debug, Deserialize)]
struct Shelf {
    #[expect(dead_code, reason = "decoded, and that is all")]
    id: i32,
    #[expect(dead_code, reason = "decoded, and that is all")]
    title: String,
}

/// How a call ended.
pub(super) struct Told {
    /// The wait for the connection, where the call takes it by itself.
    pub(super) acquire: Duration,
    /// Why it failed.
    pub(super) failure: Option<String>,
}

/// A pool whose callers are threads.
pub(super) trait Threads: Send + Sync {
    fn call(&self, job: Job, key: i32) -> Told;
    /// Runs `dirty` as one borrower, and asks `question` as the next.
    fn hand_over(&self, dirty: &str, question: &str) -> bool;
}

/// A pool whose callers are tasks.
pub(super) trait Tasks: Send + Sync {
    /// As [`Threads::call`].
    fn call(&self, job: Job, key: i32) -> Promise<'_, Told>;
    /// As [`Threads::hand_over`].
    fn hand_over<'a>(&'a self, dirty: &'a str, question: &'a str) -> Promise<'a, bool>;
}

pub(super) type Promise<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[derive(Clone)]
pub(super) enum Peer {
    Threads(Arc<dyn Threads>),
    Tasks(Arc<dyn Tasks>),
}

/// Who takes part; each in the place of its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    R2d2,
    Deadpool,
    Sqlx,
    Ours,
}

/// How a pool is set up for a fault: [`PATIENCE`] to wait for a connection, and what differs between faults.
pub(super) struct Opening<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) database: DatabaseSettings,
    pub(super) max: u32,
    /// Connections open from the start, where not the pool's own default.
    pub(super) min: Option<u32>,
    /// Whether to use what the pool and its driver offer to end an operation after [`PATIENCE`].
    pub(super) has_deadline: bool,
    /// Poolhouse's, where not its default.
    pub(super) outage_grace: Option<Duration>,
}

impl Opening<'_> {
    /// Eight connections, and everything else as the pool comes.
    pub(super) fn new(runtime: &Runtime, database: DatabaseSettings) -> Opening<'_> {
        Opening { runtime, database, max: 8, min: None, has_deadline: false, outage_grace: None }
    }
}

impl Kind {
    pub(super) const ALL: [Kind; 4] = [Kind::R2d2, Kind::Deadpool, Kind::Sqlx, Kind::Ours];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::R2d2 => "r2d2",
            Kind::Deadpool => "deadpool-postgres",
            Kind::Sqlx => "sqlx",
            Kind::Ours => "poolhouse",
        }
    }

    pub(super) fn open(self, opening: &Opening<'_>) -> Peer {
        match self {
            Kind::R2d2 => Peer::Threads(Arc::new(blocking::open_r2d2(opening))),
            Kind::Deadpool => {
                Peer::Tasks(Arc::new(opening.runtime.block_on(futures::open_deadpool(opening))))
            }
            Kind::Sqlx => Peer::Tasks(Arc::new(opening.runtime.block_on(futures::open_sqlx(opening)))),
            Kind::Ours => Peer::Threads(Arc::new(blocking::open_ours(opening))),
        }
    }
}

fn told<E: Error>(acquire: Duration, outcome: Result<(), E>) -> Told {
    Told { acquire, failure: outcome.err().map(|error| reason(&error)) }
}

/// What the innermost error says.
fn reason(error: &dyn Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    // Some add lines of detail.
    inner.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Columns are told by name, so that a new one among them does no harm.
fn shelf(row: &Row) -> Result<Shelf, postgres::Error> {
    Ok(Shelf { id: row.try_get("id")?, title: row.try_get("title")? })
}

fn movie(row: &Row) -> Result<Movie, postgres::Error> {
    Ok(Movie {
        movie_id: row.try_get(0)?,
        title: row.try_get(1)?,
        year: row.try_get(2)?,
        genres: row.try_get(3)?,
    })
}
