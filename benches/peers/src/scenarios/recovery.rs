//! The server goes away for a while and comes back: when is the first caller served again, what do callers get
//! meanwhile, and how often is the server knocked at? Every contestant lives through the same outage, each
//! behind a proxy of its own.

use super::Stage;
use crate::contestants::{Setup, deadpool_pool, sqlx_options};
use crate::measure::{Spread, median};
use crate::report::{Table, time, title};
use crate::support::proxy::Proxy;
use poolhouse::settings::DatabaseSettings;
use poolhouse::{Execute, Pool, PoolSettings};
use postgres::NoTls;
use r2d2_postgres::PostgresConnectionManager;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const OUTAGES: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(10)];
const CONNECTIONS: u32 = 8;
const CALLERS: usize = 4;
/// How long callers rest after a failure, as a busy service's next requests would come.
const REST: Duration = Duration::from_millis(20);
/// How long the first success is waited for; the time given where it does not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// One call; whether it was served.
type Call<'a> = Box<dyn Fn() -> bool + Sync + Send + 'a>;

/// Outages of each length.
const ROUNDS: usize = 3;

struct Seen {
    recovered: f64,
    attempts: u64,
    /// How long a call took that began when the outage was older than 2.5 s, and failed.
    refusals: Spread,
}

pub(crate) fn run(stage: &Stage) {
    let names = ["r2d2", "r2d2, no check", "deadpool-postgres", "sqlx", "poolhouse", "poolhouse, min = max"];
    for outage in OUTAGES {
        let mut seen: [Vec<Seen>; 6] = Default::default();
        for _ in 0..ROUNDS {
            for (all, one) in seen.iter_mut().zip(live_through(stage, outage)) {
                all.push(one);
            }
        }
        title(&format!("recovery: every connection reset for {} s, then well again", outage.as_secs()));
        let mut table = Table::new(&[
            "",
            "first success after",
            "(slowest)",
            "connects tried meanwhile",
            "late refusal p50",
            "late refusal max",
        ]);
        for (name, seen) in names.iter().zip(&seen) {
            let slowest = seen.iter().map(|one| one.recovered).fold(0.0, f64::max);
            let of = |get: fn(&Seen) -> f64| median(seen.iter().map(get));
            table.row([
                (*name).to_owned(),
                time(of(|one| one.recovered)),
                format!("({})", time(slowest)),
                format!("{:.0}", of(|one| one.attempts as f64)),
                time(of(|one| one.refusals.p50)),
                time(of(|one| one.refusals.max)),
            ]);
        }
        table.print();
    }
}

fn live_through(stage: &Stage, outage: Duration) -> Vec<Seen> {
    let proxies = [(); 6].map(|()| Proxy::to(&stage.server.database_settings()));
    let [a, b, c, d, e, f] = &proxies;
    let calls = [
        r2d2_call(&a.settings(), false),
        r2d2_call(&b.settings(), true),
        deadpool_call(&stage.runtime, c.settings()),
        sqlx_call(&stage.runtime, &d.settings()),
        ours_call(stage.server.pool_settings().with_database(e.settings())),
        ours_call(stage.server.pool_settings().with_database(f.settings()).with_min_connections(CONNECTIONS)),
    ];
    thread::scope(|scope| {
        let pairs = proxies.iter().zip(&calls);
        let stories: Vec<_> =
            pairs.map(|(proxy, call)| scope.spawn(move || story(proxy, call, outage))).collect();
        stories.into_iter().map(|story| story.join().expect("a story")).collect()
    })
}

/// Callers go on all the time; the network fails under them and comes back.
fn story(proxy: &Proxy, call: &Call<'_>, outage: Duration) -> Seen {
    let is_over = AtomicBool::new(false);
    let served: Mutex<Option<Instant>> = Mutex::new(None);
    let back: Mutex<Option<Instant>> = Mutex::new(None);
    let refusals: Mutex<Vec<u64>> = Mutex::default();
    let failed = Instant::now() + Duration::from_millis(500);
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let is_served = call();
                    let back = *back.lock().expect("the time");
                    match (is_served, back) {
                        (true, Some(_)) => {
                            served.lock().expect("the time").get_or_insert_with(Instant::now);
                        }
                        (false, None) if begun > failed + Duration::from_millis(2500) => {
                            refusals.lock().expect("the times").push(begun.elapsed().as_nanos() as u64);
                        }
                        _ => {}
                    }
                    thread::sleep(REST);
                }
            });
        }
        thread::sleep(failed.saturating_duration_since(Instant::now()));
        proxy.reset();
        let before = proxy.connects();
        thread::sleep(outage);
        let attempts = proxy.connects() - before;
        proxy.pass();
        let since = Instant::now();
        *back.lock().expect("the time") = Some(since);
        while served.lock().expect("the time").is_none() && since.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        is_over.store(true, Ordering::Relaxed);
        let served = *served.lock().expect("the time");
        let recovered = served.map_or(PATIENCE, |at| at.saturating_duration_since(since)).as_secs_f64();
        let refusals = Spread::of(std::mem::take(&mut *refusals.lock().expect("the times")));
        Seen { recovered, attempts, refusals }
    })
}

fn r2d2_call(database: &DatabaseSettings, is_tuned: bool) -> Call<'static> {
    let manager = PostgresConnectionManager::new(database.driver_config(), NoTls);
    let pool = r2d2::Pool::builder()
        .max_size(CONNECTIONS)
        .test_on_check_out(!is_tuned)
        .error_handler(Box::new(r2d2::NopErrorHandler))
        .build(manager)
        .expect("a pool");
    Box::new(move || pool.get().is_ok_and(|mut client| client.query_one("SELECT 1", &[]).is_ok()))
}

fn deadpool_call(runtime: &Runtime, database: DatabaseSettings) -> Call<'_> {
    let setup = Setup { database, connections: CONNECTIONS, workers: CALLERS };
    let pool = deadpool_pool(&setup);
    Box::new(move || {
        runtime.block_on(async {
            let Ok(client) = pool.get().await else { return false };
            let Ok(statement) = client.prepare_cached("SELECT 1").await else { return false };
            client.query_one(&statement, &[]).await.is_ok()
        })
    })
}

fn sqlx_call<'a>(runtime: &'a Runtime, database: &DatabaseSettings) -> Call<'a> {
    let options = sqlx::postgres::PgPoolOptions::new().max_connections(CONNECTIONS);
    let pool = runtime.block_on(options.connect_with(sqlx_options(database))).expect("a pool");
    Box::new(move || runtime.block_on(sqlx::query("SELECT 1").fetch_one(&pool)).is_ok())
}

fn ours_call(defaults: PoolSettings) -> Call<'static> {
    let settings = defaults.with_max_connections(CONNECTIONS);
    let pool = Pool::open(&settings).expect("a pool");
    Box::new(move || pool.execute_query_one::<i32>("SELECT 1", &[]).is_ok())
}
