//! Those whose callers are tasks.

use super::{Job, Opening, PATIENCE, Promise, SLEEP, STAR, Shelf, Tasks, Told, WRITE, movie, shelf, told};
use crate::contestants::{Movie, Work, deadpool_config, sqlx_options};
use deadpool_postgres::{Manager, ManagerConfig, Runtime};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor, PgConnection, PgPool, Row};
use std::hint::black_box;
use std::time::{Duration, Instant};
use tokio_postgres::NoTls;

pub(super) async fn open_deadpool(opening: &Opening<'_>) -> deadpool_postgres::Pool {
    let mut config = deadpool_config(&opening.database);
    if opening.has_deadline {
        config.connect_timeout(PATIENCE).tcp_user_timeout(PATIENCE).options("-c statement_timeout=5s");
    }
    let manager = Manager::from_config(config, NoTls, ManagerConfig::default());
    let builder = deadpool_postgres::Pool::builder(manager)
        .max_size(opening.max as usize)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(PATIENCE))
        .create_timeout(Some(PATIENCE))
        .recycle_timeout(Some(PATIENCE));
    let pool = builder.build().expect("a pool");
    // It has no minimum: as many are used at once beforehand.
    let mut warm = Vec::new();
    for _ in 0..opening.min.unwrap_or(0) {
        warm.push(pool.get().await.expect("a connection"));
    }
    drop(warm);
    pool
}

pub(super) async fn open_sqlx(opening: &Opening<'_>) -> PgPool {
    let mut connect = sqlx_options(&opening.database);
    if opening.has_deadline {
        connect = connect.options([("statement_timeout", "5s")]);
    }
    let min = opening.min.unwrap_or(0);
    let options =
        PgPoolOptions::new().max_connections(opening.max).min_connections(min).acquire_timeout(PATIENCE);
    let pool = options.connect_with(connect).await.expect("a pool");
    // It makes the minimum in the background.
    while pool.num_idle() < min as usize {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pool
}

impl Tasks for deadpool_postgres::Pool {
    fn call(&self, job: Job, key: i32) -> Promise<'_, Told> {
        Box::pin(async move {
            let begun = Instant::now();
            let connection = self.get().await;
            let acquire = begun.elapsed();
            match connection {
                Ok(client) => told(acquire, work_deadpool(&client, job, key).await),
                Err(error) => told(acquire, Err(error)),
            }
        })
    }

    fn hand_over<'a>(&'a self, dirty: &'a str, question: &'a str) -> Promise<'a, bool> {
        Box::pin(async move {
            self.get().await.expect("a connection").batch_execute(dirty).await.expect("a dirty session");
            let client = self.get().await.expect("a connection");
            client.query_one(question, &[]).await.expect("an answer").get(0)
        })
    }
}

async fn work_deadpool(
    client: &deadpool_postgres::Client,
    job: Job,
    key: i32,
) -> Result<(), tokio_postgres::Error> {
    let sql = match job {
        Job::Read | Job::ReadInTwoSteps => Work::Point.sql(),
        Job::Write => WRITE,
        Job::Star => STAR,
        Job::Sleep => SLEEP,
        Job::VerifiedWrite => unreachable!("bug: only poolhouse has it"),
    };
    let statement = client.prepare_cached(sql).await?;
    match job {
        Job::Read | Job::ReadInTwoSteps => {
            black_box(movie(&client.query_one(&statement, &[&key]).await?)?);
        }
        Job::Star => {
            black_box(shelf(&client.query_one(&statement, &[&(key % 100 + 1)]).await?)?);
        }
        Job::Write => {
            client.execute(&statement, &[&key]).await?;
        }
        Job::Sleep => {
            client.query_one(&statement, &[]).await?;
        }
        Job::VerifiedWrite => {}
    }
    Ok(())
}

impl Tasks for PgPool {
    fn call(&self, job: Job, key: i32) -> Promise<'_, Told> {
        Box::pin(async move {
            let begun = Instant::now();
            let connection = self.acquire().await;
            let acquire = begun.elapsed();
            match connection {
                Ok(mut connection) => told(acquire, work_sqlx(&mut connection, job, key).await),
                Err(error) => told(acquire, Err(error)),
            }
        })
    }

    fn hand_over<'a>(&'a self, dirty: &'a str, question: &'a str) -> Promise<'a, bool> {
        Box::pin(async move {
            let mut connection = self.acquire().await.expect("a connection");
            connection.execute(dirty).await.expect("a dirty session");
            drop(connection);
            let mut connection = self.acquire().await.expect("a connection");
            sqlx::query_scalar(question).fetch_one(&mut *connection).await.expect("an answer")
        })
    }
}

async fn work_sqlx(connection: &mut PgConnection, job: Job, key: i32) -> Result<(), sqlx::Error> {
    match job {
        Job::Read | Job::ReadInTwoSteps => {
            let movie: Movie = sqlx::query_as(Work::Point.sql()).bind(key).fetch_one(connection).await?;
            black_box(movie);
        }
        Job::Write => {
            sqlx::query(WRITE).bind(key).execute(connection).await?;
        }
        Job::Star => {
            let row = sqlx::query(STAR).bind(key % 100 + 1).fetch_one(connection).await?;
            black_box(Shelf { id: row.try_get("id")?, title: row.try_get("title")? });
        }
        Job::Sleep => {
            sqlx::query(SLEEP).fetch_one(connection).await?;
        }
        Job::VerifiedWrite => unreachable!("bug: only poolhouse has it"),
    }
    Ok(())
}
