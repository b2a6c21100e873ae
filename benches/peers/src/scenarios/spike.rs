//! Fifty callers at once on a pool that keeps five connections, where making one takes 150 ms.

use super::Stage;
use crate::contestants::{Setup, deadpool_pool, sqlx_options};
use crate::measure::median;
use crate::report::{Table, time, title};
use crate::support::proxy::Proxy;
use poolhouse::settings::DatabaseSettings;
use poolhouse::{Execute, Pool, PoolSettings};
use postgres::NoTls;
use r2d2_postgres::PostgresConnectionManager;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

const CALLERS: usize = 50;
const MIN: u32 = 5;
const MAX: u32 = 50;
const CONNECT_TAKES: Duration = Duration::from_millis(150);
/// Two milliseconds, slept by the server: clients' timers differ.
const WORK: &str = "SELECT 1 FROM pg_sleep(0.002)";
const ROUNDS: usize = 3;

pub(crate) fn run(stage: &Stage) {
    let names = ["r2d2", "deadpool-postgres", "sqlx", "poolhouse", "poolhouse, min = max"];
    let mut served: [Vec<f64>; 5] = Default::default();
    let mut open: [Vec<f64>; 5] = Default::default();
    for _ in 0..ROUNDS {
        let proxies = names.map(|_| {
            let proxy = Proxy::to(&stage.server.database_settings());
            proxy.delay_connects(CONNECT_TAKES);
            proxy
        });
        let [r2d2, deadpool, sqlx, ours, full] = &proxies;
        let (took, _r2d2) = spike_r2d2(r2d2.settings());
        served[0].push(took);
        let (took, _deadpool) = spike_deadpool(stage, &deadpool.settings());
        served[1].push(took);
        let (took, _sqlx) = spike_sqlx(stage, &sqlx.settings());
        served[2].push(took);
        let defaults = stage.server.pool_settings().with_database(ours.settings());
        let (took, _ours) = spike_ours(defaults.clone(), MIN);
        served[3].push(took);
        let defaults = defaults.with_database(full.settings());
        let (took, _full) = spike_ours(defaults, MAX);
        served[4].push(took);
        thread::sleep(Duration::from_secs(5));
        for (open, proxy) in open.iter_mut().zip(&proxies) {
            open.push(proxy.open_connections() as f64);
        }
    }
    title("spike: 50 callers at once, min 5, max 50, a connect takes 150 ms, 2 ms of work");
    let mut table = Table::new(&["", "all served after", "open 5 s later"]);
    for ((name, served), open) in names.iter().zip(served).zip(open) {
        table.row([(*name).to_owned(), time(median(served)), format!("{:.0}", median(open))]);
    }
    table.print();
}

/// Lets 50 threads go at once and returns how long it took them all.
fn threads(call: impl Fn() + Sync) -> f64 {
    let start = Barrier::new(CALLERS + 1);
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                start.wait();
                call();
            });
        }
        // All of them are up and about to wait here.
        thread::sleep(Duration::from_millis(50));
        start.wait();
        Instant::now()
    })
    .elapsed()
    .as_secs_f64()
}

fn spike_r2d2(database: DatabaseSettings) -> (f64, r2d2::Pool<PostgresConnectionManager<NoTls>>) {
    let manager = PostgresConnectionManager::new(database.driver_config(), NoTls);
    let pool = r2d2::Pool::builder().min_idle(Some(MIN)).max_size(MAX).build(manager).expect("a pool");
    let took = threads(|| {
        pool.get().expect("a connection").query_one(WORK, &[]).expect("an answer");
    });
    (took, pool)
}

fn spike_ours(defaults: PoolSettings, min_connections: u32) -> (f64, Pool) {
    let settings = defaults.with_min_connections(min_connections).with_max_connections(MAX);
    let pool = Pool::open(&settings).expect("a pool");
    let took = threads(|| {
        pool.execute_query_one::<i32>(WORK, &[]).expect("an answer");
    });
    (took, pool)
}

/// The same with tasks. `call` makes one caller's future.
async fn tasks<F: Future<Output = ()> + Send + 'static>(call: impl Fn() -> F) -> f64 {
    let start = Arc::new(tokio::sync::Barrier::new(CALLERS + 1));
    let tasks: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (start, call) = (start.clone(), call());
            tokio::spawn(async move {
                start.wait().await;
                call.await;
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    start.wait().await;
    let begun = Instant::now();
    for task in tasks {
        task.await.expect("a caller");
    }
    begun.elapsed().as_secs_f64()
}

fn spike_deadpool(stage: &Stage, database: &DatabaseSettings) -> (f64, deadpool_postgres::Pool) {
    let pool = deadpool_pool(&setup(database));
    let took = stage.runtime.block_on(async {
        // It has no minimum: five are used at once beforehand.
        let mut warm = Vec::new();
        for _ in 0..MIN {
            warm.push(pool.get().await.expect("a connection"));
        }
        drop(warm);
        tasks(|| {
            let pool = pool.clone();
            async move {
                let client = pool.get().await.expect("a connection");
                let statement = client.prepare_cached(WORK).await.expect("a statement");
                client.query_one(&statement, &[]).await.expect("an answer");
            }
        })
        .await
    });
    (took, pool)
}

fn spike_sqlx(stage: &Stage, database: &DatabaseSettings) -> (f64, sqlx::PgPool) {
    stage.runtime.block_on(async {
        let options = sqlx::postgres::PgPoolOptions::new().min_connections(MIN).max_connections(MAX);
        let pool = options.connect_with(sqlx_options(database)).await.expect("a pool");
        // It makes the minimum in the background.
        let begun = Instant::now();
        while pool.size() < MIN && begun.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(CONNECT_TAKES * 2).await;
        let took = tasks(|| {
            let pool = pool.clone();
            async move {
                sqlx::query(WORK).fetch_one(&pool).await.expect("an answer");
            }
        })
        .await;
        (took, pool)
    })
}

fn setup(database: &DatabaseSettings) -> Setup {
    Setup { database: database.clone(), connections: MAX, workers: CALLERS }
}
