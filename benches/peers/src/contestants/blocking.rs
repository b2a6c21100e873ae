//! Those whose workers are threads.

use super::{Lanes, Movie, RANGE, Setup, Work, new_year};
use poolhouse::settings::ShareRoundTrips;
use poolhouse::{Execute, Pool, PoolSettings};
use postgres::{Client, NoTls, Row, Statement};
use r2d2_postgres::PostgresConnectionManager;
use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

fn movie(row: &Row) -> Movie {
    Movie { movie_id: row.get(0), title: row.get(1), year: row.get(2), genres: row.get(3) }
}

fn movies(rows: &[Row]) -> Vec<Movie> {
    let movies: Vec<Movie> = rows.iter().map(movie).collect();
    assert_eq!(movies.len(), RANGE as usize);
    movies
}

/// One bare client per worker, with its statements prepared: the limit.
pub(crate) struct Bare {
    clients: Vec<Mutex<(Client, Vec<Statement>)>>,
}

impl Bare {
    pub(crate) fn new(setup: &Setup) -> Bare {
        let workers = setup.workers.min(setup.connections as usize);
        let client = || {
            let mut client = setup.database.driver_config().connect(NoTls).expect("a client");
            let prepared = Work::ALL.map(|work| client.prepare(work.sql()).expect("a statement"));
            Mutex::new((client, prepared.to_vec()))
        };
        Bare { clients: (0..workers).map(|_| client()).collect() }
    }
}

impl Lanes for Bare {
    fn name(&self) -> &'static str {
        "bare clients (the limit)"
    }

    fn workers(&self) -> usize {
        self.clients.len()
    }

    fn lane(&self, worker: usize) -> Box<dyn FnMut(Work, i32) -> Duration + '_> {
        let mut guard = self.clients[worker].lock().unwrap_or_else(PoisonError::into_inner);
        Box::new(move |work, key| {
            let (client, statements) = &mut *guard;
            let statement = &statements[work as usize];
            match work {
                Work::Point | Work::HeldPoint => {
                    black_box(movie(&client.query_one(statement, &[&key]).expect("a row")));
                }
                Work::Range => {
                    black_box(movies(&client.query(statement, &[&key]).expect("rows")));
                }
                Work::Update => {
                    assert_eq!(client.execute(statement, &[&key, &new_year(key)]).expect("an update"), 1);
                }
            }
            Duration::ZERO
        })
    }
}

/// Works through `query(&str)`, as code without a statement cache does.
fn work_unprepared(client: &mut Client, work: Work, key: i32) {
    match work {
        Work::Point | Work::HeldPoint => {
            black_box(movie(&client.query_one(work.sql(), &[&key]).expect("a row")));
        }
        Work::Range => {
            black_box(movies(&client.query(work.sql(), &[&key]).expect("rows")));
        }
        Work::Update => {
            assert_eq!(client.execute(work.sql(), &[&key, &new_year(key)]).expect("an update"), 1);
        }
    }
}

/// A connection opened, used and closed by every call.
pub(crate) struct PerCall(pub(crate) Setup);

impl Lanes for PerCall {
    fn name(&self) -> &'static str {
        "a connection per call"
    }

    fn workers(&self) -> usize {
        self.0.workers
    }

    fn lane(&self, _: usize) -> Box<dyn FnMut(Work, i32) -> Duration + '_> {
        let config = self.0.database.driver_config();
        Box::new(move |work, key| {
            let begun = Instant::now();
            let mut client = config.connect(NoTls).expect("a client");
            let wait = begun.elapsed();
            work_unprepared(&mut client, work, key);
            wait
        })
    }
}

/// r2d2, as it comes or without its check before lending.
pub(crate) struct R2d2 {
    pub(crate) pool: r2d2::Pool<PostgresConnectionManager<NoTls>>,
    workers: usize,
    is_tuned: bool,
}

impl R2d2 {
    pub(crate) fn new(setup: &Setup, is_tuned: bool) -> R2d2 {
        let manager = PostgresConnectionManager::new(setup.database.driver_config(), NoTls);
        let mut builder = r2d2::Pool::builder().max_size(setup.connections);
        if is_tuned {
            builder = builder.test_on_check_out(false);
        }
        R2d2 { pool: builder.build(manager).expect("a pool"), workers: setup.workers, is_tuned }
    }
}

impl Lanes for R2d2 {
    fn name(&self) -> &'static str {
        if self.is_tuned { "r2d2, no check" } else { "r2d2" }
    }

    fn workers(&self) -> usize {
        self.workers
    }

    fn lane(&self, _: usize) -> Box<dyn FnMut(Work, i32) -> Duration + '_> {
        Box::new(move |work, key| {
            let begun = Instant::now();
            let mut client = self.pool.get().expect("a connection");
            let wait = begun.elapsed();
            work_unprepared(&mut client, work, key);
            wait
        })
    }
}

/// Poolhouse.
pub(crate) struct Ours {
    pub(crate) pool: Pool,
    variant: Variant,
    workers: usize,
}

/// How poolhouse is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// With its default settings.
    Default,
    /// With all connections from the beginning.
    Full,
    /// The same, and every statement is sent alone.
    Unshared,
    /// The same, and each thread keeps one connection.
    Held,
}

impl Ours {
    pub(crate) fn new(setup: &Setup, defaults: PoolSettings, variant: Variant) -> Ours {
        let mut settings = defaults.with_max_connections(setup.connections);
        if variant != Variant::Default {
            settings = settings.with_min_connections(setup.connections);
        }
        if variant == Variant::Unshared {
            settings = settings.with_share_round_trips(ShareRoundTrips::Off);
        }
        Ours { pool: Pool::open(&settings).expect("a pool"), variant, workers: setup.workers }
    }
}

fn work_through(db: &impl Execute, work: Work, key: i32) {
    match work {
        Work::Point | Work::HeldPoint => {
            let movie: Option<Movie> = db.execute_query_one(work.sql(), &[&key]).expect("an answer");
            black_box(movie.expect("a row"));
        }
        Work::Range => {
            let movies: Vec<Movie> = db.execute_query(work.sql(), &[&key]).expect("rows");
            assert_eq!(black_box(movies).len(), RANGE as usize);
        }
        Work::Update => {
            assert_eq!(db.execute_write(work.sql(), &[&key, &new_year(key)]).expect("an update"), 1);
        }
    }
}

impl Lanes for Ours {
    fn name(&self) -> &'static str {
        match self.variant {
            Variant::Default => "poolhouse",
            Variant::Full => "poolhouse, min = max",
            Variant::Unshared => "poolhouse, min = max, unshared",
            Variant::Held => "poolhouse, one held per thread",
        }
    }

    fn workers(&self) -> usize {
        self.workers
    }

    fn lane(&self, _: usize) -> Box<dyn FnMut(Work, i32) -> Duration + '_> {
        let held = (self.variant == Variant::Held).then(|| self.pool.get_connection().expect("a connection"));
        Box::new(move |work, key| {
            match &held {
                Some(connection) => work_through(connection, work, key),
                None => work_through(&self.pool, work, key),
            }
            Duration::ZERO
        })
    }
}
