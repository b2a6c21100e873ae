//! Those whose callers are threads.

use super::{Job, Opening, PATIENCE, SLEEP, STAR, Shelf, Threads, Told, WRITE, movie, shelf, told};
use crate::contestants::{Movie, Work};
use poolhouse::{Execute, Pool, PoolSettings};
use postgres::NoTls;
use r2d2_postgres::PostgresConnectionManager;
use std::hint::black_box;
use std::time::{Duration, Instant};

type R2d2 = r2d2::Pool<PostgresConnectionManager<NoTls>>;

pub(super) fn open_r2d2(opening: &Opening<'_>) -> R2d2 {
    let mut config = opening.database.driver_config();
    if opening.has_deadline {
        config.connect_timeout(PATIENCE).tcp_user_timeout(PATIENCE).options("-c statement_timeout=5s");
    }
    let builder = r2d2::Pool::builder()
        .max_size(opening.max)
        .min_idle(opening.min)
        .connection_timeout(PATIENCE)
        .error_handler(Box::new(r2d2::NopErrorHandler));
    builder.build(PostgresConnectionManager::new(config, NoTls)).expect("a pool")
}

impl Threads for R2d2 {
    fn call(&self, job: Job, key: i32) -> Told {
        let begun = Instant::now();
        let connection = self.get();
        let acquire = begun.elapsed();
        let mut client = match connection {
            Ok(client) => client,
            Err(error) => return told(acquire, Err(error)),
        };
        let outcome = match job {
            Job::Read | Job::ReadInTwoSteps => client
                .query_one(Work::Point.sql(), &[&key])
                .and_then(|row| movie(&row))
                .map(|movie| drop(black_box(movie))),
            Job::Write => client.execute(WRITE, &[&key]).map(drop),
            Job::Star => client
                .query_one(STAR, &[&(key % 100 + 1)])
                .and_then(|row| shelf(&row))
                .map(|shelf| drop(black_box(shelf))),
            Job::Sleep => client.query_one(SLEEP, &[]).map(drop),
            Job::VerifiedWrite => unreachable!("bug: only poolhouse has it"),
        };
        told(acquire, outcome)
    }

    fn hand_over(&self, dirty: &str, question: &str) -> bool {
        self.get().expect("a connection").batch_execute(dirty).expect("a dirty session");
        self.get().expect("a connection").query_one(question, &[]).expect("an answer").get(0)
    }
}

pub(super) fn open_ours(opening: &Opening<'_>) -> Pool {
    let defaults = PoolSettings::new(opening.database.clone());
    let outage_grace = opening.outage_grace.unwrap_or(defaults.outage_grace);
    let min_connections = opening.min.unwrap_or(defaults.min_connections.min(opening.max));
    let statement_timeout = if opening.has_deadline { Some(PATIENCE) } else { defaults.statement_timeout };
    let settings = defaults
        .with_outage_grace(outage_grace)
        .with_max_connections(opening.max)
        .with_min_connections(min_connections)
        .with_acquire_timeout(PATIENCE)
        .with_statement_timeout(statement_timeout);
    Pool::open(&settings).expect("a pool")
}

impl Threads for Pool {
    fn call(&self, job: Job, key: i32) -> Told {
        let mut acquire = Duration::ZERO;
        let outcome = match job {
            Job::Read => read_ours(self, key),
            Job::ReadInTwoSteps => {
                let begun = Instant::now();
                let connection = self.get_connection();
                acquire = begun.elapsed();
                connection.and_then(|connection| read_ours(&connection, key))
            }
            Job::Write => self.execute_write(WRITE, &[&key]).map(drop),
            Job::VerifiedWrite => self.transaction_verified(|tx| tx.execute_write(WRITE, &[&key])).map(drop),
            Job::Star => self
                .execute_query_one::<Shelf>(STAR, &[&(key % 100 + 1)])
                .map(|shelf| drop(black_box(shelf.expect("a row")))),
            Job::Sleep => self.execute_query_one::<i32>(SLEEP, &[]).map(drop),
        };
        // What it says first; the numbers that follow differ each time.
        let first = |text: String| text.split([':', ';']).next().unwrap_or_default().to_owned();
        Told { acquire, failure: outcome.err().map(|error| first(error.to_string())) }
    }

    fn hand_over(&self, dirty: &str, question: &str) -> bool {
        let mut connection = self.get_connection().expect("a connection");
        connection.client().batch_execute(dirty).expect("a dirty session");
        drop(connection);
        let connection = self.get_connection().expect("a connection");
        connection.execute_query_one(question, &[]).expect("an answer").expect("a row")
    }
}

fn read_ours(db: &impl Execute, key: i32) -> poolhouse::Result<()> {
    let movie: Option<Movie> = db.execute_query_one(Work::Point.sql(), &[&key])?;
    drop(black_box(movie.expect("a row")));
    Ok(())
}
