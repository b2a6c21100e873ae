//! Those whose workers are tasks.

use super::{Movie, RANGE, Setup, Tasks, Work, new_year};
use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod};
use poolhouse::settings::DatabaseSettings;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow, PgSslMode};
use sqlx::{FromRow, Row};
use std::hint::black_box;
use std::time::{Duration, Instant};
use tokio_postgres::NoTls;

/// deadpool-postgres with `prepare_cached`.
#[derive(Clone)]
pub(crate) struct Deadpool {
    pub(crate) pool: deadpool_postgres::Pool,
    workers: usize,
}

impl Deadpool {
    pub(crate) fn new(setup: &Setup) -> Deadpool {
        Deadpool { pool: deadpool_pool(setup), workers: setup.workers }
    }
}

/// Its default queue takes the connection that lay idle longest.
pub(crate) fn deadpool_pool(setup: &Setup) -> deadpool_postgres::Pool {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(deadpool_config(&setup.database), NoTls, recycling);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(setup.connections as usize).build();
    pool.expect("a pool")
}

pub(crate) fn deadpool_config(database: &DatabaseSettings) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    for (host, port) in &database.hosts {
        config.host(host).port(*port);
    }
    config.user(&database.user).dbname(&database.name);
    config
}

fn movie(row: &tokio_postgres::Row) -> Movie {
    Movie { movie_id: row.get(0), title: row.get(1), year: row.get(2), genres: row.get(3) }
}

impl Tasks for Deadpool {
    fn name(&self) -> &'static str {
        "deadpool-postgres"
    }

    fn workers(&self) -> usize {
        self.workers
    }

    async fn call(&self, work: Work, key: i32) -> Duration {
        let begun = Instant::now();
        let client = self.pool.get().await.expect("a connection");
        let wait = begun.elapsed();
        let statement = client.prepare_cached(work.sql()).await.expect("a statement");
        match work {
            Work::Point | Work::HeldPoint => {
                black_box(movie(&client.query_one(&statement, &[&key]).await.expect("a row")));
            }
            Work::Range => {
                let rows = client.query(&statement, &[&key]).await.expect("rows");
                let movies: Vec<Movie> = rows.iter().map(movie).collect();
                assert_eq!(black_box(movies).len(), RANGE as usize);
            }
            Work::Update => {
                let changed = client.execute(&statement, &[&key, &new_year(key)]).await.expect("an update");
                assert_eq!(changed, 1);
            }
        }
        wait
    }
}

/// sqlx with its own statement cache, as it comes or without its check before lending.
#[derive(Clone)]
pub(crate) struct Sqlx {
    pub(crate) pool: sqlx::PgPool,
    workers: usize,
    is_tuned: bool,
}

impl Sqlx {
    /// Runs inside the runtime: the pool connects at once.
    pub(crate) async fn new(setup: &Setup, is_tuned: bool) -> Sqlx {
        let options = PgPoolOptions::new().max_connections(setup.connections).test_before_acquire(!is_tuned);
        let pool = options.connect_with(sqlx_options(&setup.database)).await.expect("a pool");
        Sqlx { pool, workers: setup.workers, is_tuned }
    }
}

pub(crate) fn sqlx_options(database: &DatabaseSettings) -> PgConnectOptions {
    let (host, port) = &database.hosts[0];
    PgConnectOptions::new_without_pgpass()
        .host(host)
        .port(*port)
        .username(&database.user)
        .database(&database.name)
        .ssl_mode(PgSslMode::Disable)
}

impl<'r> FromRow<'r, PgRow> for Movie {
    fn from_row(row: &'r PgRow) -> Result<Movie, sqlx::Error> {
        Ok(Movie {
            movie_id: row.try_get(0)?,
            title: row.try_get(1)?,
            year: row.try_get(2)?,
            genres: row.try_get(3)?,
        })
    }
}

impl Tasks for Sqlx {
    fn name(&self) -> &'static str {
        if self.is_tuned { "sqlx, no check" } else { "sqlx" }
    }

    fn workers(&self) -> usize {
        self.workers
    }

    async fn call(&self, work: Work, key: i32) -> Duration {
        let begun = Instant::now();
        let mut connection = self.pool.acquire().await.expect("a connection");
        let wait = begun.elapsed();
        match work {
            Work::Point | Work::HeldPoint => {
                let movie: Movie =
                    sqlx::query_as(work.sql()).bind(key).fetch_one(&mut *connection).await.expect("a row");
                black_box(movie);
            }
            Work::Range => {
                let movies: Vec<Movie> =
                    sqlx::query_as(work.sql()).bind(key).fetch_all(&mut *connection).await.expect("rows");
                assert_eq!(black_box(movies).len(), RANGE as usize);
            }
            Work::Update => {
                let query = sqlx::query(work.sql()).bind(key).bind(new_year(key));
                let done = query.execute(&mut *connection).await.expect("an update");
                assert_eq!(done.rows_affected(), 1);
            }
        }
        wait
    }
}
