//! A request has a deadline as a whole, and work whose client has gone is cancelled.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails the test by panicking, as the test itself would"
)]

use crate::support::{App, Postgres, Proxy, SOON, eventually};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// Sends a GET with one more header line and leaves the connection to the caller.
fn begin(app: &App, path: &str, header: &str) -> TcpStream {
    let address = app.base_url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(2 * SOON)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{header}\r\n\r\n")
        .unwrap();
    stream
}

/// The status, and all of the answer.
fn end(mut stream: TcpStream) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.get(9..12).and_then(|code| code.parse().ok());
    (status.unwrap_or_else(|| panic!("{text:?}")), text)
}

/// A client that locks the table, so that no other can read it.
fn holding_the_movies(app: &App) -> poolhouse::postgres::Client {
    let mut client = app.database().client();
    client.batch_execute("BEGIN; LOCK TABLE movies IN ACCESS EXCLUSIVE MODE").unwrap();
    client
}

/// Of this database alone: databases copied from one template share the numbers of their tables.
fn stuck(client: &mut poolhouse::postgres::Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'movies'::regclass
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    client.query_one(sql, &[]).unwrap().get(0)
}

/// The first time the queries run on threads; the second time they are known, and quick, and the workers send them.
#[test]
fn a_request_ends_at_the_clients_deadline_and_so_does_its_query() {
    // As long as it would take without it.
    let app = App::start_with(&[("DB_STATEMENT_TIMEOUT_MS", "60000"), ("HTTP_REQUEST_TIMEOUT_MS", "60000")]);
    for _ in 0..2 {
        let mut holder = holding_the_movies(&app);
        let started = Instant::now();
        let (status, text) = end(begin(&app, "/api/movies/1", "X-Request-Timeout-Ms: 200"));
        assert_eq!(status, 504, "{text}");
        assert!(text.contains("deadline_exceeded") && text.contains("was not done"), "{text}");
        let took = started.elapsed();
        assert!((Duration::from_millis(200)..SOON).contains(&took), "{took:?}");
        eventually("its query is gone", SOON, || stuck(&mut holder) == 0);
        holder.batch_execute("ROLLBACK").unwrap();
        for _ in 0..40 {
            assert_eq!(end(begin(&app, "/api/movies/1", "X-Request-Timeout-Ms: 30000")).0, 200);
        }
    }
    assert!(!app.log().contains("Cannot connect"), "{}", app.log());
    assert_eq!(end(begin(&app, "/api/movies/1", "X-Request-Timeout-Ms: soon")).0, 422);
}

#[test]
fn a_request_whose_client_has_gone_frees_its_place() {
    let app = App::start_with(&[("DB_POOL_MIN_CONNECTIONS", "1"), ("DB_POOL_MAX_CONNECTIONS", "1")]);
    for _ in 0..2 {
        let mut holder = holding_the_movies(&app);
        let in_flight = begin(&app, "/api/movies/1", "X-Nothing: 1");
        eventually("its query waits", SOON, || stuck(&mut holder) == 1);
        let queued = begin(&app, "/api/movies/1", "X-Nothing: 1");
        drop((in_flight, queued));
        eventually("its query is gone", SOON, || stuck(&mut holder) == 0);
        // The one connection there is, with the table still held.
        let mut status = 0;
        eventually("another gets the connection", SOON, || {
            let answer = crate::http::get_as_known(&app, "/api/health/db/test");
            status = answer.status;
            status == 200
        });
        holder.batch_execute("ROLLBACK").unwrap();
        for _ in 0..40 {
            assert_eq!(end(begin(&app, "/api/movies/1", "X-Nothing: 1")).0, 200);
        }
    }
}

#[test]
fn of_many_requests_that_are_given_up_at_once_every_query_is_cancelled() {
    const MANY: usize = 16;
    let app = App::start_with(&[("DB_POOL_MIN_CONNECTIONS", "16"), ("DB_POOL_MAX_CONNECTIONS", "16")]);
    let mut holder = holding_the_movies(&app);
    let all_wait = |header: &str, holder: &mut poolhouse::postgres::Client| {
        let requests: Vec<_> = (0..MANY).map(|_| begin(&app, "/api/movies/1", header)).collect();
        eventually("their queries wait", SOON, || stuck(holder) == MANY as i64);
        requests
    };
    drop(all_wait("X-Nothing: 1", &mut holder));
    eventually("their clients have gone, and they have", SOON, || stuck(&mut holder) == 0);
    for request in all_wait("X-Request-Timeout-Ms: 2000", &mut holder) {
        assert_eq!(end(request).0, 504);
    }
    eventually("their time is up, and they are gone", SOON, || stuck(&mut holder) == 0);
    let pool = &crate::http::get_as_known(&app, "/api/health/db").json()["pool_stats"];
    // On a busy machine the answer to a cancel request may come too late for a connection.
    let connects = pool["connects"].as_u64().unwrap() as usize;
    assert!(connects < 2 * MANY, "connections are kept: {pool}");
}

/// The one connection is out with a query that gets no answer. The first request has the one thread, and waits with it
/// for the connection; the second waits for the thread, and then not as long again.
#[test]
fn what_a_request_has_waited_for_a_thread_it_need_not_wait_again() {
    let database = crate::support::postgres::fresh_database().with_schema();
    let proxy = Proxy::to(&database.settings());
    let url = crate::support::postgres::url(&proxy.settings());
    let variables = [
        ("DATABASE_URL", &*url),
        ("DB_POOL_MIN_CONNECTIONS", "1"),
        ("DB_POOL_MAX_CONNECTIONS", "1"),
        ("DB_POOL_ACQUIRE_TIMEOUT_S", "1"),
    ];
    let app = App::launch(tempfile::tempdir().unwrap(), &variables);
    assert_eq!(end(begin(&app, "/api/movies", "X-Nothing: 1")).0, 200);
    proxy.stall_replies_after(0);
    let _stuck = begin(&app, "/api/health/db/test", &format!("Authorization: Bearer {}", app.token));
    let pool = || crate::http::get_as_known(&app, "/api/health/db").json();
    eventually("the connection is out", SOON, || pool()["pool_stats"]["in_use"] == 1);
    let [first, second] = ["busy", "waiting"].map(|counted| {
        let request = begin(&app, "/api/movies", "X-Nothing: 1");
        eventually("it has come", SOON, || pool()["request_threads"][counted] == 1);
        (Instant::now(), request)
    });
    let took = [first, second].map(|(began, request)| {
        let (status, text) = end(request);
        assert!(status == 503 && text.contains("\"exhausted\""), "{text}");
        began.elapsed()
    });
    assert!(took[1] < took[0].mul_f64(1.6), "{took:?}");
}

/// Bounded, counted, shed.
#[test]
fn a_frozen_server_does_not_pile_up_threads() {
    let server = Postgres::start();
    let database = server.fresh_database().with_schema();
    let app = App::launch(
        tempfile::tempdir().unwrap(),
        &[
            ("DATABASE_URL", database.url().as_str()),
            ("DB_POOL_MAX_CONNECTIONS", "4"),
            ("DB_POOL_MAX_WAITING", "8"),
            ("HTTP_REQUEST_TIMEOUT_MS", "1500"),
            // As long as it would take without that.
            ("DB_STATEMENT_TIMEOUT_MS", "60000"),
            ("DB_POOL_ACQUIRE_TIMEOUT_S", "60"),
        ],
    );
    let threads = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", app.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Threads:")).unwrap();
        line.trim().parse::<usize>().unwrap()
    };
    assert_eq!(end(begin(&app, "/api/movies", "X-Nothing: 1")).0, 200);
    let before = threads();
    server.freeze();
    let started = Instant::now();
    let requests: Vec<_> = (0..60).map(|_| begin(&app, "/api/movies", "X-Nothing: 1")).collect();
    let answers: Vec<_> = requests.into_iter().map(end).collect();
    let took = started.elapsed();
    let most = threads();
    for (status, text) in &answers {
        assert!(matches!(status, 503 | 504), "{text}");
        assert!(*status == 504 || text.contains("retry-after: "), "{text}");
    }
    let shed = answers.iter().filter(|(_, text)| text.contains("saturated")).count();
    assert!(shed >= 60 - 4 - 8, "{shed} of 60 were shed");
    assert!(took < SOON, "{took:?}");
    assert!(most <= before + 4, "{before} threads became {most}");
    let health = crate::http::get_as_known(&app, "/api/health/db").json();
    assert!(health["request_threads"]["refused"].as_u64().unwrap() >= shed as u64, "{health}");

    server.thaw();
    let thawed = Instant::now();
    while end(begin(&app, "/api/movies", "X-Nothing: 1")).0 != 200 {
        assert!(thawed.elapsed() < SOON, "it does not come back");
        thread::yield_now();
    }
}
