//! What the pool writes to the log, and what it does where the logger fails.
//!
//! A process has one logger, so each of these runs in a process of its own: this test binary again.

use super::*;
use crate::support::{Proxy, eventually};
use log::{LevelFilter, Log, Metadata, Record};
use poolhouse::{Error, Execute};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Where the test's database is, for the process that runs the test.
const DATABASE: &str = "POOLHOUSE_STORY_DATABASE";

/// Has another process run an ignored test of this file.
fn elsewhere(story: &str) {
    let database = postgres::fresh_database();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", &format!("pool::log_lines::{story}")])
        .env(DATABASE, database.url())
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn story_settings() -> PoolSettings {
    let url = std::env::var(DATABASE).expect("set by another test only");
    PoolSettings::new(postgres::parse(&url))
}

/// Keeps the pool's lines; panics over each of them on request.
struct Lines {
    lines: Mutex<Vec<String>>,
    panics: bool,
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("poolhouse")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("{} {}", record.level(), record.args());
            self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            assert!(!self.panics, "the logger's disk is full");
        }
    }

    fn flush(&self) {}
}

impl Lines {
    fn install(panics: bool) -> &'static Lines {
        let lines: &'static Lines = Box::leak(Box::new(Lines { lines: Mutex::default(), panics }));
        log::set_logger(lines).unwrap();
        log::set_max_level(LevelFilter::Debug);
        lines
    }

    fn with(&self, words: &str) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| line.contains(words)).cloned().collect()
    }
}

#[test]
fn a_logger_that_panics_does_not_end_the_upkeep() {
    elsewhere("the_logger_panics");
}

#[test]
#[ignore = "sets the logger of its process"]
fn the_logger_panics() {
    let lines = Lines::install(true);
    let mut settings = story_settings();
    (settings.min_connections, settings.max_connections) = (1, 4);
    (settings.leak_threshold, settings.idle_timeout) = (Some(50 * MS), Some(100 * MS));
    let pool = Pool::open(&settings).unwrap();
    let first = pool.get_connection().unwrap();
    eventually("the first leak is reported", SOON, || lines.with("leaked?").len() == 1);
    let more = [(); 2].map(|()| pool.get_connection().unwrap());
    eventually("the next ones as well", SOON, || lines.with("leaked?").len() == 3);
    drop((first, more));
    assert_eq!(lines.with("came back after").len(), 3);
    eventually("idle ones are trimmed", SOON, || pool.status().total == 1);
    pool.execute_query_one::<i32>("SELECT 1", &[]).unwrap();
    assert!(pool.close(Duration::from_secs(5)));
}

#[test]
fn what_a_borrower_leaves_behind_is_logged_with_its_place_and_the_pools_name() {
    elsewhere("borrowers_leave_things_behind");
}

#[test]
#[ignore = "sets the logger of its process"]
fn borrowers_leave_things_behind() {
    let lines = Lines::install(false);
    let proxy = Proxy::to(&story_settings().database);
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.name, settings.min_connections, settings.max_connections) = ("orders".into(), 1, 1);
    let pool = Pool::open(&settings).unwrap();
    for _ in 0..3 {
        let mut connection = pool.get_connection().unwrap();
        connection.client().batch_execute("BEGIN").unwrap();
    }
    eventually("they are rolled back", SOON, || pool.status().resets == 3);
    let open = lines.with("came back inside a transaction");
    assert_eq!(open.len(), 1, "once for a place: {open:?}");
    assert!(open[0].starts_with("WARN") && open[0].contains("tests/pool/log_lines.rs:"), "{open:?}");
    assert!(open[0].contains("(pool \"orders\")"), "{open:?}");

    let mut dirty = pool.get_connection().unwrap();
    dirty.client().batch_execute("SET work_mem = '1MB'").unwrap();
    proxy.refuse();
    proxy.cut();
    drop(dirty);
    eventually("it cannot be cleaned", SOON, || pool.status().closed.total() == 1);
    assert_eq!((pool.status().closed.dirty, pool.status().closed.broken), (1, 0));
    let unclean = lines.with("could not be made clean");
    assert_eq!(unclean.len(), 1, "{unclean:?}");
    assert!(unclean[0].contains("the connection broke (pool \"orders\")"), "{unclean:?}");

    eventually("an outage is logged", SOON, || lines.with("Cannot connect").len() == 1);
    assert!(lines.with("Cannot connect")[0].ends_with("(pool \"orders\")"));
    proxy.pass();
    eventually("and its end", SOON, || lines.with("Database is back").len() == 1);
    assert!(lines.with("Database is back")[0].ends_with("(pool \"orders\")"));
}

#[test]
fn slow_statements_and_acquires_are_logged_without_their_values_and_counted() {
    elsewhere("some_are_slow");
}

#[test]
#[ignore = "sets the logger of its process"]
fn some_are_slow() {
    let lines = Lines::install(false);
    let settings = story_settings().with_name("orders").with_min_connections(1).with_max_connections(1);
    let pool =
        Pool::open(&settings.with_slow_statement(Some(10 * MS)).with_slow_acquire(Some(10 * MS))).unwrap();
    let secret = "secret".to_owned();
    for _ in 0..3 {
        let sql = "SELECT pg_sleep(0.02)::text, 'hidden' || $1";
        pool.execute_query::<(String, String)>(sql, &[&secret]).unwrap();
    }
    let events = pool.status().events;
    assert_eq!((events.slow_statements, events.slow_acquires), (3, 0));
    let slow = lines.with("Slow statement: ");
    assert!(slow[0].starts_with("WARN"), "{slow:?}");
    assert!(slow[0].contains("ms for select pg_sleep(?) :: text, ? || $ (pool"), "{slow:?}");
    assert!(slow.len() < 3, "the others are counted in the next line: {slow:?}");
    assert!(lines.with("secret").is_empty() && lines.with("hidden").is_empty());

    let held = pool.get_connection().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| drop(pool.get_connection().unwrap()));
        eventually("it waits", SOON, || pool.status().waiting == 1);
        let since = std::time::Instant::now();
        eventually("for long", SOON, || since.elapsed() > 20 * MS);
        drop(held);
    });
    let slow = lines.with("Slow acquire: ");
    assert!(
        slow.len() == 1 && slow[0].contains("ms for a connection at tests/pool/log_lines.rs:"),
        "{slow:?}"
    );
    assert!(slow[0].ends_with("(pool \"orders\")"), "{slow:?}");
    assert_eq!(pool.status().events.slow_acquires, 1);
    let each = lines.with("Connection acquired at ");
    let first = ": size 1, checked in 0, checked out 1, overflow 0 (pool \"orders\")";
    assert!(each.len() >= 5 && each[0].contains(first), "{each:?}");
}

#[test]
fn errors_name_the_pool_and_the_deadline() {
    let pool = pool(1, 1, |settings| {
        (settings.name, settings.statement_timeout) = ("orders".into(), Some(100 * MS));
    });
    assert_eq!(pool.status().name, "orders");
    let mut held = pool.get_connection().unwrap();
    let error = super::elsewhere({
        let pool = pool.clone();
        move || pool.get_connection_timeout(MS).unwrap_err()
    });
    assert!(matches!(error, Error::Exhausted(_)) && error.to_string().contains("pool \"orders\""), "{error}");
    // The server's own limit would be nearer.
    held.execute_write("SET statement_timeout = 0", &[]).unwrap();
    let error = held.client().batch_execute("SELECT pg_sleep(60)").unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "no answer within the deadline of 300 ms (pool \"orders\")");
}
