//! Single queries of async handlers, which go to the server without a thread of their own: each keeps its rows, error, deadline
//! and cancellation, and whatever could make others wait goes to a thread.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails the test by panicking, as the test itself would"
)]

mod elsewhere;

use crate::support::postgres::{self, Database};
use crate::support::{Proxy, SOON};
use actix_web::rt::{System, spawn};
use poolhouse::settings::{PoolSettings, ShareRoundTrips};
use poolhouse::web::{ApiError, blocking, execute_query, execute_query_one};
use poolhouse::{DatabasePool, PoolStatus};
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// One row, or an error where `$1` is 0.
const NTH: &str = "SELECT n, 100 / n FROM numbers WHERE n = $1";
/// The same of a table that a story may lock.
const OTHER: &str = "SELECT n, 100 / n FROM others WHERE n = $1";

const TABLES: &str = "
    CREATE TABLE numbers (n int PRIMARY KEY);
    CREATE TABLE others (n int PRIMARY KEY);
    CREATE TABLE log (n int PRIMARY KEY);
    INSERT INTO numbers SELECT generate_series(0, 1000);
    INSERT INTO others SELECT generate_series(0, 1000)";

/// The process's pool, which one story at a time may open.
static OPEN: Mutex<()> = Mutex::new(());

struct Open(#[allow(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Drop for Open {
    fn drop(&mut self) {
        DatabasePool::close(SOON);
    }
}

fn database() -> Database {
    let database = postgres::fresh_database();
    database.client().batch_execute(TABLES).unwrap();
    database
}

fn open(settings: &PoolSettings) -> Open {
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    DatabasePool::initialize(settings).unwrap();
    Open(open)
}

/// Settings with this number of connections, all of which open at once.
fn settings(database: poolhouse::DatabaseSettings, connections: u32) -> PoolSettings {
    PoolSettings::new(database).with_min_connections(connections).with_max_connections(connections)
}

fn status() -> PoolStatus {
    DatabasePool::get().unwrap().status()
}

type Row = Result<Option<(i32, i32)>, ApiError>;

/// Runs the query for each of the numbers at the same time.
async fn all_at_once(sql: &'static str, numbers: impl IntoIterator<Item = i32>) -> Vec<Row> {
    let tasks: Vec<_> = numbers.into_iter().map(|n| spawn(execute_query_one(sql, (n,)))).collect();
    let mut rows = Vec::new();
    for task in tasks {
        rows.push(task.await.unwrap());
    }
    rows
}

/// Runs both queries until some of each share a round trip: every connection knows them, and that they are quick.
async fn make_quick() {
    let deadline = Instant::now() + SOON;
    for sql in [NTH, OTHER] {
        let mut shared = 0;
        while shared < 20 {
            assert!(Instant::now() < deadline, "the queries never share a round trip");
            let before = status().shared_round_trips;
            for row in all_at_once(sql, 1..=16).await {
                row.unwrap().unwrap();
            }
            let now = status().shared_round_trips - before;
            shared = if now >= 8 { shared + 1 } else { 0 };
        }
    }
}

fn run(story: impl Future<Output = ()>) {
    System::new().block_on(story);
}

/// Polls `condition` without blocking the worker.
async fn soon(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        actix_web::rt::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs blocking code of the story itself: it may not block a worker.
fn off_the_worker<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| scope.spawn(work).join().unwrap())
}

/// A client that has locked `others`, until it is dropped.
struct Locker(Option<poolhouse::postgres::Client>);

impl Locker {
    fn of(database: &Database) -> Locker {
        off_the_worker(|| {
            let mut client = database.client();
            client.batch_execute("BEGIN; LOCK TABLE others IN ACCESS EXCLUSIVE MODE").unwrap();
            Locker(Some(client))
        })
    }

    /// How many statements wait for the table.
    fn stuck(&mut self) -> i64 {
        let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'others'::regclass
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        off_the_worker(|| self.0.as_mut().unwrap().query_one(sql, &[]).unwrap().get(0))
    }
}

impl Locker {
    /// Calls this function of the server for each process that waits for the table.
    fn signal_the_stuck(&mut self, function: &str) {
        let sql = format!(
            "SELECT {function}(pid) FROM pg_locks WHERE NOT granted AND relation = 'others'::regclass
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        );
        off_the_worker(|| self.0.as_mut().unwrap().batch_execute(&sql).unwrap());
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let client = self.0.take();
        off_the_worker(|| drop(client));
    }
}

#[test]
fn queries_of_one_worker_share_round_trips_and_each_gets_its_own_rows_or_error() {
    let database = database();
    let proxy = Proxy::to(&database.settings());
    let _open = open(&settings(proxy.settings(), 2));
    run(async {
        let deadline = Instant::now() + SOON;
        // On a busy machine they may not be quick each time.
        loop {
            make_quick().await;
            let (before, trips) = (status(), proxy.round_trips());
            for (n, row) in (0..64).zip(all_at_once(NTH, 0..64).await) {
                match n {
                    0 => assert_eq!(row.unwrap_err().status().as_u16(), 500),
                    n => assert_eq!(row.unwrap(), Some((n, 100 / n))),
                }
            }
            let after = status();
            assert_eq!(after.requests - before.requests, 64, "each is a request of the pool");
            assert_eq!(after.closed, before.closed);
            let shared = after.shared_round_trips - before.shared_round_trips;
            if shared >= 50 && proxy.round_trips() - trips <= 20 {
                break;
            }
            assert!(Instant::now() < deadline, "{shared}: {after:?}");
        }
        assert_eq!(all_at_once(NTH, [5000]).await.remove(0).unwrap(), None);
    });
}

#[test]
fn a_late_reply_holds_up_no_other_query_and_is_itself_waited_for() {
    let database = database();
    let _open = open(&settings(database.settings(), 2));
    run(async {
        make_quick().await;
        let mut locker = Locker::of(&database);
        let begun = Instant::now();
        let late = spawn(execute_query_one(OTHER, (7,)));
        for (n, row) in (1..).zip(all_at_once(NTH, 1..8).await) {
            assert_eq!(row.unwrap(), Some((n, 100 / n)));
        }
        assert!(begun.elapsed() < SOON);
        soon("the late one waits", || locker.stuck() == 1).await;
        drop(locker);
        let row: Option<(i32, i32)> = late.await.unwrap().unwrap();
        assert_eq!(row, Some((7, 14)));
        soon("every connection is back", || status().in_use == 0).await;
    });
}

#[test]
fn a_query_whose_request_is_gone_is_cancelled_on_the_server() {
    let database = database();
    let _open = open(&settings(database.settings(), 1));
    run(async {
        make_quick().await;
        let mut locker = Locker::of(&database);
        let late = spawn(execute_query_one::<(i32, i32), _>(OTHER, (7,)));
        soon("it waits", || locker.stuck() == 1).await;
        late.abort();
        soon("it is cancelled", || locker.stuck() == 0).await;
        drop(locker);
        // The only connection there is.
        assert_eq!(all_at_once(NTH, [3]).await.remove(0).unwrap(), Some((3, 33)));
    });
}

#[test]
fn a_query_without_an_answer_ends_at_the_statement_timeout() {
    let database = database();
    let proxy = Proxy::to(&database.settings());
    let timeout = Duration::from_millis(300);
    let _open = open(&settings(proxy.settings(), 1).with_statement_timeout(Some(timeout)));
    run(async {
        make_quick().await;
        let locker = Locker::of(&database);
        // The server's own timeout.
        let error = all_at_once(OTHER, [1]).await.remove(0).unwrap_err();
        assert_eq!((error.status().as_u16(), error.code()), (504, "deadline_exceeded"), "{error}");
        drop(locker);
        make_quick().await;
        proxy.stall_replies_after(0);
        let begun = Instant::now();
        let errors = all_at_once(NTH, 1..=4).await;
        for error in errors {
            let status = error.unwrap_err().status().as_u16();
            assert!([503, 504].contains(&status), "{status}");
        }
        assert!(begun.elapsed() < SOON);
        proxy.cut();
        proxy.pass();
        soon("the pool is itself again", || status().in_use == 0).await;
    });
}

#[test]
fn queries_whose_connection_breaks_are_run_again() {
    let database = database();
    let proxy = Proxy::to(&database.settings());
    let _open = open(&settings(proxy.settings(), 1));
    run(async {
        for _ in 0..5 {
            make_quick().await;
            // The connection ends somewhere in the replies.
            proxy.stall_replies_after(fastrand::u64(0..200));
            let rows = spawn(all_at_once(NTH, 1..=6));
            let before = status().requests;
            soon("the queries are under way", || status().requests > before).await;
            proxy.cut();
            proxy.pass();
            for (n, row) in (1..).zip(rows.await.unwrap()) {
                assert_eq!(row.unwrap(), Some((n, 100 / n)));
            }
        }
    });
}

#[test]
fn what_writes_is_done_once_and_what_cannot_be_sent_is_refused_with_its_reason() {
    let database = database();
    let _open = open(&settings(database.settings(), 2));
    run(async {
        make_quick().await;
        let sql = "INSERT INTO log (n) VALUES ($1) RETURNING n";
        let before = status().shared_round_trips;
        let written: Vec<_> = (0..50).map(|n| spawn(execute_query::<i32, _>(sql, (n,)))).collect();
        for (n, written) in (0..).zip(written) {
            assert_eq!(written.await.unwrap().unwrap(), [n]);
        }
        assert_eq!(status().shared_round_trips, before);
        let kept: Vec<i32> = execute_query("SELECT n FROM log ORDER BY n", ()).await.unwrap();
        assert_eq!(kept, (0..50).collect::<Vec<_>>());

        type Rows = Result<Vec<(i32, i32)>, ApiError>;
        let refused: [(_, Rows); 4] = [
            ("expected 1 parameters but got 0", execute_query(NTH, ()).await),
            ("parameter $1", execute_query(NTH, ("one",)).await),
            ("syntax error", execute_query("SELEC 1", ()).await),
            ("string contains embedded null", execute_query("SELECT 1, 2 -- \0", ()).await),
        ];
        for (reason, rows) in refused {
            let error = rows.unwrap_err();
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains(reason), "{cause}");
        }
        // Far more than a batch takes.
        let text = "x".repeat(1 << 20);
        let lengths: Vec<i32> = execute_query("SELECT length($1)", (text.clone(),)).await.unwrap();
        let again: Vec<i32> = execute_query("SELECT length($1)", (text,)).await.unwrap();
        assert_eq!((lengths, again), (vec![1 << 20], vec![1 << 20]));
        let error = execute_query_one::<(i32, i32), _>("SELECT n, n FROM numbers", ()).await.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("at most one row"), "{cause}");
    });
}

#[test]
fn with_every_connection_lent_a_query_waits_for_one_like_any_other_caller() {
    let database = database();
    let settings = settings(database.settings(), 1).with_acquire_timeout(Duration::from_millis(200));
    let _open = open(&settings);
    run(async {
        make_quick().await;
        let held = DatabasePool::get().unwrap().get_connection().unwrap();
        let errors = all_at_once(NTH, 1..=4).await;
        assert!(
            errors.iter().all(|error| error.as_ref().is_err_and(|e| e.code() == "exhausted")),
            "{errors:?}"
        );
        let waits = spawn(all_at_once(NTH, 1..=4));
        soon("they wait", || status().waiting > 0).await;
        drop(held);
        for (n, row) in (1..).zip(waits.await.unwrap()) {
            assert_eq!(row.unwrap(), Some((n, 100 / n)));
        }
    });
}

#[test]
fn a_closed_pool_says_so_and_a_new_one_serves() {
    let database = database();
    let opened = open(&settings(database.settings(), 1));
    run(async {
        make_quick().await;
        DatabasePool::close(SOON);
        let error = all_at_once(NTH, [1]).await.remove(0).unwrap_err();
        assert!(
            std::error::Error::source(&error).unwrap().to_string().contains("not initialized"),
            "{error}"
        );
        DatabasePool::initialize(&settings(database.settings(), 1)).unwrap();
        make_quick().await;
    });
    drop(opened);
}

/// Both ways at once, with the round trips shared and not, and locks, errors and cancellations in between.
#[test]
fn in_a_crowd_of_both_kinds_every_request_gets_what_it_asked_for() {
    let database = database();
    for share in [ShareRoundTrips::Reads, ShareRoundTrips::Off] {
        let _open = open(&settings(database.settings(), 4).with_share_round_trips(share));
        run(async {
            let tasks: Vec<_> = (0..400)
                .map(|task| {
                    spawn(async move {
                        for _ in 0..10 {
                            let n = fastrand::i32(1..=1000);
                            let row: Option<(i32, i32)> = match task % 4 {
                                0 => {
                                    blocking(move || poolhouse::execute_query_one(NTH, &[&n])).await.unwrap()
                                }
                                1 => execute_query_one(OTHER, (n,)).await.unwrap(),
                                2 => {
                                    // Given up at once, or after a while.
                                    let query = execute_query_one::<(i32, i32), _>(NTH, (n,));
                                    let wait = Duration::from_micros(fastrand::u64(0..2000));
                                    let _ = actix_web::rt::time::timeout(wait, query).await;
                                    Some((n, 100 / n))
                                }
                                _ => execute_query_one(NTH, (n,)).await.unwrap(),
                            };
                            assert_eq!(row, Some((n, 100 / n)));
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            soon("every connection is back", || status().in_use == 0).await;
        });
    }
}
