//! Round trips shared by callers that wait: each keeps its own rows, error, deadline and outcome.

use super::*;
use crate::support::{Proxy, eventually};
use poolhouse::settings::ShareRoundTrips;
use poolhouse::{Error, Execute, Result, with_deadline};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Instant;

/// One row of a table, or an error where `$1` is 0.
const NTH: &str = "SELECT n, 100 / n FROM numbers WHERE n = $1";
/// One row of another table, which a story may lock.
const OTHER: &str = "SELECT n FROM others WHERE n = $1";
const ADD: &str = "INSERT INTO log (n) VALUES ($1)";

const TABLES: &str = "
    CREATE TABLE numbers (n int PRIMARY KEY);
    CREATE TABLE others (n int PRIMARY KEY);
    CREATE TABLE log (n int PRIMARY KEY CHECK (n > 0));
    INSERT INTO numbers SELECT generate_series(0, 1000);
    INSERT INTO others SELECT generate_series(0, 1000)";

/// The most callers of one batch: its leader and seven others.
const BATCH: usize = 8;

/// A pool on a database with the tables, whose only connection knows the statements and how quick they are.
fn pool_of_one(database: poolhouse::DatabaseSettings, share: ShareRoundTrips) -> Pool {
    let mut settings = PoolSettings::new(database);
    (settings.min_connections, settings.max_connections) = (1, 1);
    settings.share_round_trips = share;
    let pool = Pool::open(&settings).unwrap();
    make_known(&pool);
    pool
}

/// Runs each statement until the pool's only connection counts it as quick: below a millisecond on average.
fn make_known(pool: &Pool) {
    static NEXT: AtomicI32 = AtomicI32::new(1_000_000);
    let run: [&dyn Fn(); 3] = [
        &|| assert_eq!(nth(pool, 1).unwrap(), Some((1, 100))),
        &|| assert_eq!(pool.execute_query_one(OTHER, &[&1]).unwrap(), Some(1)),
        &|| {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            assert_eq!(pool.execute_write(ADD, &[&n]).unwrap(), 1);
        },
    ];
    for run in run {
        let (mut mean, deadline) = (4 * MS, Instant::now() + SOON);
        while mean > MS / 2 {
            let begun = Instant::now();
            assert!(begun < deadline, "the statement takes {mean:?}");
            run();
            mean = mean - mean / 16 + begun.elapsed().min(4 * MS) / 16;
        }
    }
}

type Call<'a, R> = Box<dyn FnOnce() -> R + Send + 'a>;

/// `call` with each of the numbers.
fn each<'a, R>(
    numbers: impl IntoIterator<Item = i32>,
    call: impl Fn(i32) -> R + Copy + Send + 'a,
) -> Vec<Call<'a, R>> {
    numbers.into_iter().map(|n| Box::new(move || call(n)) as Call<'a, R>).collect()
}

/// Runs `calls` while the only connection is lent, so that they wait in this order, and then returns it.
fn all_at_once<R: Send>(pool: &Pool, calls: Vec<Call<'_, R>>) -> Vec<R> {
    thread::scope(|scope| {
        let held = elsewhere_held(pool);
        let mut threads = Vec::new();
        for call in calls {
            threads.push(scope.spawn(call));
            let waiting = threads.len() as u32;
            eventually("the caller waits", SOON, || pool.status().waiting == waiting);
        }
        drop(held);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn elsewhere_held(pool: &Pool) -> poolhouse::Connection {
    let pool = pool.clone();
    elsewhere(move || pool.get_connection().unwrap())
}

fn nth(pool: &Pool, n: i32) -> Result<Option<(i32, i32)>> {
    pool.execute_query_one(NTH, &[&n])
}

#[test]
fn callers_that_wait_share_a_round_trip_and_each_gets_its_own_rows() {
    let database = postgres::fresh_database();
    database.client().batch_execute(TABLES).unwrap();
    let proxy = Proxy::to(&database.settings());
    let pool = pool_of_one(proxy.settings(), ShareRoundTrips::Reads);
    let before = pool.status().shared_round_trips;
    let pool = &pool;
    let calls = each(1..=BATCH as i32, |n| nth(pool, n).unwrap());
    let rows = all_at_once(pool, calls);
    assert_eq!(rows, (1..=8).map(|n| Some((n, 100 / n))).collect::<Vec<_>>());
    assert_eq!(pool.status().shared_round_trips - before, BATCH as u64 - 1);
    assert_eq!(pool.status().closed, poolhouse::ClosedCounts::default());
}

#[test]
fn a_caller_whose_statement_is_refused_has_the_error_alone() {
    let database = postgres::fresh_database();
    database.client().batch_execute(TABLES).unwrap();
    let pool = &pool_of_one(database.settings(), ShareRoundTrips::Reads);
    let calls = each([1, 0, 2, 0, 3], |n| nth(pool, n));
    let results = all_at_once(pool, calls);
    for (n, result) in [1, 0, 2, 0, 3].into_iter().zip(results) {
        match n {
            0 => assert_eq!(result.unwrap_err().sqlstate(), Some("22012")),
            n => assert_eq!(result.unwrap(), Some((n, 100 / n))),
        }
    }
    assert_eq!(pool.status().shared_round_trips, 4);
    assert_eq!(pool.status().closed, poolhouse::ClosedCounts::default());
}

#[test]
fn a_leader_whose_parameters_cannot_be_sent_leaves_the_others_to_themselves() {
    let database = postgres::fresh_database();
    database.client().batch_execute(TABLES).unwrap();
    let pool = &pool_of_one(database.settings(), ShareRoundTrips::Reads);
    let calls: Vec<Call<'_, _>> = vec![
        Box::new(|| pool.execute_query_one(NTH, &[&"one"])),
        Box::new(|| nth(pool, 1)),
        Box::new(|| pool.execute_query_one(NTH, &[])),
        Box::new(|| nth(pool, 2)),
    ];
    let results = all_at_once(pool, calls);
    let texts: Vec<_> = results.iter().map(|result| result.as_ref().map_err(ToString::to_string)).collect();
    assert!(texts[0].as_ref().is_err_and(|text| text.contains("parameter $1")), "{texts:?}");
    assert_eq!(texts[1], Ok(&Some((1, 100))));
    assert!(
        texts[2].as_ref().is_err_and(|text| text.contains("expected 1 parameters but got 0")),
        "{texts:?}"
    );
    assert_eq!(texts[3], Ok(&Some((2, 50))));
}

/// A statement of the batch waits for a lock. Those behind it are run again on another connection, and those before it have
/// their rows; the one that waits keeps the connection, and has its own deadline.
#[test]
fn a_late_statement_holds_up_no_other_caller() {
    let database = postgres::fresh_database();
    database.client().batch_execute(TABLES).unwrap();
    for late in 0..3 {
        let pool = &pool_of_one(database.settings(), ShareRoundTrips::Reads);
        let mut locker = database.client();
        let mut lock = locker.transaction().unwrap();
        lock.batch_execute("LOCK TABLE others IN ACCESS EXCLUSIVE MODE").unwrap();
        let before = pool.status().shared_round_trips;
        let calls = (0..3).map(|place| {
            let call: Call<'_, Result<Option<i32>>> = match place == late {
                true => Box::new(|| {
                    with_deadline(Instant::now() + 2000 * MS, || pool.execute_query_one::<i32>(OTHER, &[&7]))
                }),
                false => Box::new(move || Ok(nth(pool, place + 1)?.map(|(n, _)| n))),
            };
            call
        });
        // Those behind the late one need a second connection.
        pool.resize(1, 2).unwrap();
        let (first, second) = (elsewhere_held(pool), elsewhere_held(pool));
        let results = thread::scope(|scope| {
            let mut threads = Vec::new();
            for call in calls {
                threads.push(scope.spawn(move || timed(call)));
                let waiting = threads.len() as u32;
                eventually("the caller waits", SOON, || pool.status().waiting == waiting);
            }
            drop(first);
            eventually("the batch is sent", SOON, || pool.status().shared_round_trips == before + 2);
            drop(second);
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        for (place, (result, took)) in results.into_iter().enumerate() {
            if place == late as usize {
                assert!(matches!(result, Err(Error::DeadlineExceeded(_))), "{late}: {result:?}");
            } else {
                assert_eq!(result.unwrap(), Some(place as i32 + 1));
                assert!(took < 1500 * MS, "{late}: {took:?}");
            }
        }
        lock.rollback().unwrap();
        assert_eq!(pool.execute_query_one::<i32>(OTHER, &[&7]).unwrap(), Some(7));
        eventually("every connection is back", SOON, || pool.status().in_use == 0);
    }
}

#[test]
fn reads_of_a_batch_whose_connection_breaks_are_run_again() {
    let database = postgres::fresh_database();
    database.client().batch_execute(TABLES).unwrap();
    let proxy = Proxy::to(&database.settings());
    let pool = &pool_of_one(proxy.settings(), ShareRoundTrips::Reads);
    for _ in 0..5 {
        make_known(pool);
        // The connection ends somewhere in the replies.
        let before = pool.status().shared_round_trips;
        proxy.stall_replies_after(fastrand::u64(0..200));
        let calls = each(1..=6, |n| nth(pool, n).unwrap());
        let rows = thread::scope(|scope| {
            scope.spawn(|| {
                eventually("the batch is sent", SOON, || pool.status().shared_round_trips > before);
                proxy.cut();
                proxy.pass();
            });
            all_at_once(pool, calls)
        });
        assert_eq!(rows, (1..=6).map(|n| Some((n, 100 / n))).collect::<Vec<_>>());
    }
}

/// The reported outcomes of a batch of writes, and what is in the table.
#[test]
fn each_write_of_a_batch_has_its_own_outcome() {
    let database = postgres::fresh_database();
    database.client().batch_execute(TABLES).unwrap();
    let pool = &pool_of_one(database.settings(), ShareRoundTrips::All);
    let before = pool.status().shared_round_trips;
    let writes = each([5, -1, 5, 6], |n| pool.execute_write(ADD, &[&n]));
    let results = all_at_once(pool, writes);
    assert_eq!(pool.status().shared_round_trips - before, 3);
    let codes: Vec<_> =
        results.iter().map(|result| result.as_ref().map_err(|error| error.sqlstate())).collect();
    assert_eq!(codes, [Ok(&1), Err(Some("23514")), Err(Some("23505")), Ok(&1)]);
    let kept: Vec<i32> = pool.execute_query("SELECT n FROM log WHERE n < 1000000 ORDER BY n", &[]).unwrap();
    assert_eq!(kept, [5, 6]);
}

#[test]
fn of_writes_in_a_batch_that_is_lost_none_is_reported_as_lost_that_was_done() {
    let database = postgres::fresh_database();
    database.client().batch_execute(TABLES).unwrap();
    let proxy = Proxy::to(&database.settings());
    let pool = &pool_of_one(proxy.settings(), ShareRoundTrips::All);
    let mut next = 1;
    for _ in 0..8 {
        let before = pool.status().shared_round_trips;
        let first = next;
        next += 6;
        let writes = each(first..next, |n| pool.execute_write(ADD, &[&n]));
        proxy.stall_replies_after(fastrand::u64(0..200));
        let results = thread::scope(|scope| {
            scope.spawn(|| {
                eventually("the batch is sent", SOON, || pool.status().shared_round_trips > before);
                proxy.cut();
                proxy.pass();
            });
            all_at_once(pool, writes)
        });
        let mut admin = database.client();
        for (n, result) in (first..next).zip(results) {
            let is_there = admin.query("SELECT 1 FROM log WHERE n = $1", &[&n]).unwrap().len() == 1;
            match result {
                Ok(count) => assert!(count == 1 && is_there, "{n}"),
                Err(Error::OutcomeUnknown(_)) => {}
                Err(Error::ConnectionLost(_)) => assert!(!is_there, "{n} is done, and was reported as lost"),
                Err(error) => panic!("{error}"),
            }
        }
        make_known(pool);
    }
}

#[test]
fn what_is_switched_off_or_writes_or_holds_state_is_sent_alone() {
    let database = postgres::fresh_database();
    database.client().batch_execute(TABLES).unwrap();
    let off = &pool_of_one(database.settings(), ShareRoundTrips::Off);
    let calls = each(1..=4, |n| nth(off, n).unwrap());
    all_at_once(off, calls);
    assert_eq!(off.status().shared_round_trips, 0);

    let reads = &pool_of_one(database.settings(), ShareRoundTrips::Reads);
    // A write, a query that writes, one whose function may leave state, and one inside a transaction.
    reads.execute_query_one::<i32>("SELECT 1 WHERE pg_try_advisory_lock(1) IS NULL", &[]).unwrap();
    for _ in 0..20 {
        reads.execute_query_one::<i64>("SELECT nextval('s')", &[]).unwrap_err();
    }
    let calls: Vec<Call<'_, ()>> = vec![
        Box::new(|| assert!(nth(reads, 1).is_ok())),
        Box::new(|| assert_eq!(reads.execute_write(ADD, &[&1]).unwrap(), 1)),
        Box::new(|| {
            drop(reads.execute_query_one::<i32>("SELECT 1 WHERE pg_try_advisory_lock(1) IS NULL", &[]))
        }),
        Box::new(|| {
            reads.transaction(|tx| tx.execute_query_one::<(i32, i32)>(NTH, &[&1]).map(drop)).unwrap()
        }),
    ];
    all_at_once(reads, calls);
    assert_eq!(reads.status().shared_round_trips, 0);
}

/// 32 threads on four connections, with statements of every kind between them.
#[test]
fn in_a_crowd_every_caller_gets_what_it_asked_for() {
    let database = postgres::fresh_database();
    database.client().batch_execute(TABLES).unwrap();
    for share in [ShareRoundTrips::Reads, ShareRoundTrips::All] {
        let mut settings = database.pool_settings();
        (settings.min_connections, settings.max_connections) = (4, 4);
        settings.share_round_trips = share;
        let pool = &Pool::open(&settings).unwrap();
        let first = if share == ShareRoundTrips::All { 100_000 } else { 200_000 };
        thread::scope(|scope| {
            for thread in 0..32 {
                scope.spawn(move || {
                    for call in 0..100 {
                        let n = fastrand::i32(1..=1000);
                        match call % 10 {
                            0 => assert_eq!(
                                pool.execute_write(ADD, &[&(first + thread * 1000 + call)]).unwrap(),
                                1
                            ),
                            1 => assert_eq!(nth(pool, 0).unwrap_err().sqlstate(), Some("22012")),
                            2 => {
                                let found: Vec<i32> = pool
                                    .execute_query("SELECT n FROM numbers WHERE n < $1 ORDER BY n", &[&n])
                                    .unwrap();
                                assert_eq!(found, (0..n).collect::<Vec<_>>());
                            }
                            _ => assert_eq!(nth(pool, n).unwrap(), Some((n, 100 / n))),
                        }
                    }
                });
            }
        });
        let status = pool.status();
        assert!(status.shared_round_trips > 0, "{status:?}");
        // Maintenance may still receive replies that no caller waits for.
        eventually("every connection is back", SOON, || pool.status().in_use == 0);
        assert_eq!(pool.status().waiting, 0);
        let kept = pool.execute_query_one::<i64>(
            "SELECT count(*) FROM log WHERE n BETWEEN $1 AND $2",
            &[&first, &(first + 99_999)],
        );
        assert_eq!(kept.unwrap(), Some(320));
    }
}
