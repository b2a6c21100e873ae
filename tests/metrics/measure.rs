//! How long the watching routes take, measured in one run and in turns. It asserts nothing:
//! `cargo test --release --test integration -- --ignored --nocapture metrics::measure`.

use super::of_pool;
use crate::support::{App, Postgres, SOON, eventually};
use std::thread;
use std::time::{Duration, Instant};

const ROUNDS: usize = 1000;

#[test]
#[ignore = "a measurement, which asserts nothing"]
fn how_long_watching_takes() {
    let server = Postgres::start();
    let database = server.fresh_database().with_schema();
    let url = database.url();
    let variables = [
        ("DB_POOL_MAX_CONNECTIONS", "8"),
        ("DB_STATEMENT_TIMEOUT_MS", "0"),
        ("HTTP_REQUEST_TIMEOUT_MS", "0"),
    ];
    let app =
        App::launch(tempfile::tempdir().unwrap(), &[&variables[..], &[("DATABASE_URL", &url)]].concat());
    let agent = ureq::agent();
    let get = |path: &str| {
        let request = agent
            .get(format!("{}{path}", app.base_url))
            .header("authorization", format!("Bearer {}", app.token));
        request.call().unwrap().body_mut().read_to_string().unwrap()
    };
    let measure = |state: &str| {
        let paths = ["/api/health", "/metrics", "/api/health/db"];
        let mut times: [Vec<Duration>; 3] = Default::default();
        for _ in 0..ROUNDS {
            for (path, times) in paths.iter().zip(&mut times) {
                let started = Instant::now();
                get(path);
                times.push(started.elapsed());
            }
        }
        for (path, times) in paths.iter().zip(&mut times) {
            times.sort_unstable();
            let of = |share: usize| times[(ROUNDS - 1) * share / 100];
            println!("{state:10} {path:15} p50 {:?}  p99 {:?}  longest {:?}", of(50), of(99), of(100));
        }
    };
    measure("idle");
    let mut locker = database.client();
    let mut lock = locker.transaction().unwrap();
    lock.batch_execute("LOCK TABLE movies IN ACCESS EXCLUSIVE MODE").unwrap();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| app.get("/api/movies/1"));
        }
        let used = r#"poolhouse_connections{pool="poolhouse",state="used"} 8"#;
        eventually("every connection is lent", SOON, || get("/metrics").contains(used));
        measure("exhausted");
        server.freeze();
        measure("frozen");
        server.thaw();
        lock.rollback().unwrap();
    });
    assert!(get("/metrics").contains(&of_pool("poolhouse_connection_max")));
}
