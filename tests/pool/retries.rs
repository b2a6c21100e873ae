//! What is run again, and what is not.

use super::*;
use crate::support::proxy::Act;
use crate::support::{Database, Proxy};
use poolhouse::{Error, Execute, Isolation, RetryPolicy, TransactionOptions};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

fn options(retry: RetryPolicy) -> TransactionOptions {
    TransactionOptions::new().with_isolation(Some(Isolation::Serializable)).with_retry(retry)
}

/// Only reads, and waits while the table is locked.
const READ: &str = "SELECT count(*) FROM t";

#[test]
fn a_read_lost_in_flight_is_run_again_unless_that_is_switched_off() {
    let database = postgres::fresh_database();
    for retry_reads in [true, false] {
        let proxy = Proxy::to(&database.settings());
        let mut settings = PoolSettings::new(proxy.settings());
        settings.retry_reads = retry_reads;
        let pool = Pool::open(&settings).unwrap();
        let (mut admin, mut holder) = (database.client(), database.client());
        admin.batch_execute("CREATE TABLE IF NOT EXISTS t ()").unwrap();
        // Prepared, so that it is run when it is seen to run.
        pool.execute_query_one::<i64>(READ, &[]).unwrap();
        thread::scope(|scope| {
            holder.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").unwrap();
            let reading = scope.spawn(|| pool.execute_query_one::<i64>(READ, &[]));
            let running =
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query = $1
                           AND datname = current_database()";
            crate::support::eventually("it runs", SOON, || {
                admin.query_one(running, &[&READ]).unwrap().get::<_, i64>(0) == 1
            });
            proxy.cut();
            holder.batch_execute("ROLLBACK").unwrap();
            match reading.join().unwrap() {
                Ok(sum) => assert!(retry_reads && sum.is_some(), "{sum:?}"),
                Err(error) => assert!(!retry_reads && matches!(error, Error::ConnectionLost(_)), "{error}"),
            }
        });
        assert_eq!(pool.status().closed.broken, 1);
    }
}

/// Runs a read that waits for a lock, and has `break_session` end each session on which it is seen to run, up to `most` times.
/// Then the lock is released. Returns how many were ended, and the outcome.
fn read_while_sessions_end(
    database: &Database,
    pool: &Pool,
    most: usize,
    mut break_session: impl FnMut(&mut ::postgres::Client, i32),
) -> (usize, poolhouse::Result<Option<i64>>) {
    let (mut admin, mut holder) = (database.client(), database.client());
    // Sessions that are cut off from their client still wait for the lock.
    let next = "SELECT min(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query = $1
                AND datname = current_database() AND pid <> ALL ($2)";
    let mut ended: Vec<i32> = Vec::new();
    holder.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").unwrap();
    let outcome = thread::scope(|scope| {
        let reading = scope.spawn(|| pool.execute_query_one::<i64>(READ, &[]));
        while ended.len() < most {
            let mut running = None;
            crate::support::eventually("it runs, or is given up", SOON, || {
                running = admin.query_one(next, &[&READ, &ended]).unwrap().get::<_, Option<i32>>(0);
                running.is_some() || reading.is_finished()
            });
            let Some(pid) = running else { break };
            break_session(&mut admin, pid);
            ended.push(pid);
        }
        holder.batch_execute("ROLLBACK").unwrap();
        reading.join().unwrap()
    });
    (ended.len(), outcome)
}

#[test]
fn a_read_is_attempted_again_as_often_as_its_sessions_are_terminated_up_to_a_limit() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    settings.acquire_timeout = FOR_EVER;
    let pool = Pool::open(&settings).unwrap();
    database.client().batch_execute("CREATE TABLE t ()").unwrap();
    // Prepared, so that it is run when it is seen to run.
    pool.execute_query_one::<i64>(READ, &[]).unwrap();
    let terminate = |admin: &mut ::postgres::Client, pid: i32| {
        admin.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
    };
    let (ended, outcome) = read_while_sessions_end(&database, &pool, 10, terminate);
    assert_eq!((ended, outcome.unwrap()), (10, Some(0)));
    let (ended, outcome) = read_while_sessions_end(&database, &pool, 100, terminate);
    assert!(ended == 16 && matches!(outcome, Err(Error::ConnectionLost(_))), "{ended}: {outcome:?}");
    // The query may be what breaks the connection.
    let (ended, outcome) = read_while_sessions_end(&database, &pool, 100, |_, _| proxy.cut());
    // A cut may also meet an attempt that has not been seen to run.
    assert!(
        (1..=4).contains(&ended) && matches!(outcome, Err(Error::ConnectionLost(_))),
        "{ended}: {outcome:?}"
    );
}

/// Each reads what the other writes: one of two has to be undone.
#[test]
fn a_transaction_that_lost_against_another_is_run_again_from_the_start() {
    let pool = pool(2, 8, |_| ());
    pool.execute_write("CREATE TABLE counter AS SELECT 0 AS value", &[]).unwrap();
    let runs = AtomicU32::new(0);
    let increment = |options: &TransactionOptions| {
        pool.transaction_with(options, |tx| {
            runs.fetch_add(1, Ordering::Relaxed);
            let value: Option<i32> = tx.execute_query_one("SELECT value FROM counter", &[])?;
            tx.execute_write("UPDATE counter SET value = $1", &[&(value.unwrap_or(0) + 1)])
        })
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    increment(&options(RetryPolicy::times(100))).unwrap();
                }
            });
        }
    });
    assert_eq!(pool.execute_query_one::<i32>("SELECT value FROM counter", &[]).unwrap(), Some(40));
    assert!(runs.load(Ordering::Relaxed) > 40, "no attempt was repeated: the test shows nothing");
}

#[test]
fn a_deadlock_is_reported_or_resolved_by_another_attempt() {
    let pool = pool(2, 4, |_| ());
    pool.execute_write("CREATE TABLE a AS SELECT generate_series(1, 2) AS id, 0 AS value", &[]).unwrap();
    let update = "UPDATE a SET value = value + 1 WHERE id = $1";
    for (retry, failures) in [(RetryPolicy::default(), 1), (RetryPolicy::times(5), 0)] {
        let both_hold_one = Barrier::new(2);
        let options = TransactionOptions::new().with_retry(retry);
        let failed: u32 = thread::scope(|scope| {
            let threads = [(1, 2), (2, 1)].map(|(first, second)| {
                let (pool, both_hold_one, options) = (&pool, &both_hold_one, &options);
                scope.spawn(move || {
                    let mut is_first = true;
                    pool.transaction_with(options, |tx| {
                        tx.execute_write(update, &[&first])?;
                        if std::mem::take(&mut is_first) {
                            both_hold_one.wait();
                        }
                        tx.execute_write(update, &[&second])
                    })
                })
            });
            threads
                .into_iter()
                .map(|thread| match thread.join().unwrap() {
                    Ok(_) => 0,
                    Err(error) => {
                        assert_eq!(error.sqlstate(), Some("40P01"), "{error}");
                        assert!(error.is_transient());
                        1
                    }
                })
                .sum()
        });
        assert_eq!(failed, failures);
    }
}

#[test]
fn attempts_end_with_the_policy_and_with_the_time() {
    let pool = pool(1, 1, |_| ());
    let runs = AtomicU32::new(0);
    let lose = |options: &TransactionOptions| {
        runs.store(0, Ordering::Relaxed);
        let sql = "DO $$ BEGIN RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END $$";
        let error = pool.transaction_with(options, |tx| {
            runs.fetch_add(1, Ordering::Relaxed);
            tx.execute_write(sql, &[])
        });
        (runs.load(Ordering::Relaxed), error.unwrap_err())
    };
    let (runs, error) = lose(&options(RetryPolicy::times(3)));
    assert_eq!((runs, error.sqlstate()), (3, Some("40001")));
    let endless = options(RetryPolicy::times(u32::MAX)).with_timeout(Some(300 * MS));
    let ((runs, error), took) = timed(|| lose(&endless));
    assert!(runs > 1 && took < SOON, "{runs} runs in {took:?}");
    // The time may be over between two of them, or in the middle of one.
    let is_cut = matches!(error, Error::DeadlineExceeded(_));
    assert!(is_cut || error.sqlstate() == Some("40001"), "{error}");
}

#[test]
fn other_failures_are_the_callers() {
    let pool = pool(1, 1, |_| ());
    let runs = AtomicU32::new(0);
    let error = pool.transaction_with(&options(RetryPolicy::times(9)), |tx| {
        runs.fetch_add(1, Ordering::Relaxed);
        tx.execute_write("SELECT 1 / 0", &[])
    });
    assert_eq!(error.unwrap_err().sqlstate(), Some("22012"));
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    let read_only = TransactionOptions::new().with_read_only(true);
    let error = pool.transaction_with(&read_only, |tx| tx.execute_write("CREATE TABLE t (a int)", &[]));
    assert_eq!(error.unwrap_err().sqlstate(), Some("25006"));
}

/// A pool of two behind a proxy that loses answers, on a database with a ledger that several things write to.
fn lossy(database: &Database) -> (Proxy, Pool) {
    let ddl = "CREATE TABLE ledger (a int); CREATE TABLE t (a int); INSERT INTO t VALUES (1);
        CREATE FUNCTION charge(int) RETURNS int LANGUAGE sql AS 'INSERT INTO ledger VALUES ($1) RETURNING a';
        CREATE FUNCTION set(text, text) RETURNS int LANGUAGE sql AS 'SELECT charge(1)';
        CREATE FUNCTION lower(int) RETURNS int LANGUAGE sql AS 'SELECT charge(1)';
        CREATE FUNCTION Éclat(int) RETURNS int LANGUAGE sql AS 'SELECT charge(1)';
        CREATE FUNCTION bill(t) RETURNS int LANGUAGE sql AS 'SELECT charge(1)';
        CREATE FUNCTION lying() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN charge(1); END';
        CREATE FUNCTION quiet(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';
        CREATE VIEW charged AS SELECT charge(1) AS a; CREATE VIEW harmless AS SELECT quiet(a) AS a FROM t";
    database.client().batch_execute(ddl).unwrap();
    let proxy = Proxy::forging(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (2, 2);
    let pool = Pool::open(&settings).unwrap();
    (proxy, pool)
}

#[test]
fn a_read_that_writes_is_not_run_twice() {
    let database = postgres::fresh_database();
    let (proxy, pool) = lossy(&database);
    let mut direct = database.client();
    for sql in [
        "SELECT charge(1)",
        "SELECT a FROM charged",
        "SELECT set('k', 'v')",
        "SELECT lower(1)",
        "SELECT Éclat(1)",
        "SELECT t.bill FROM t",
        // Which nothing shows to be no read, until it is refused where only reads are taken.
        "SELECT lying()",
    ] {
        proxy.forge(sql, Act::Lose);
        let outcome = pool.execute_query::<(i32,)>(sql, &[]);
        assert!(proxy.has_forged());
        assert!(matches!(outcome, Err(Error::OutcomeUnknown(_))), "{sql}: {outcome:?}");
        let written: i64 = direct.query_one("SELECT count(*) FROM ledger", &[]).unwrap().get(0);
        assert_eq!(written, 1, "{sql}");
        direct.batch_execute("TRUNCATE ledger").unwrap();
    }
}

#[test]
fn what_is_known_to_only_read_is_run_again() {
    let database = postgres::fresh_database();
    let (proxy, pool) = lossy(&database);
    for sql in [
        "SELECT a FROM t WHERE a = 1",
        "SELECT a FROM harmless",
        "SELECT quiet(1)",
        "SELECT count(*) FROM t",
        "TABLE t",
    ] {
        proxy.forge(sql, Act::Lose);
        let outcome = pool.execute_query::<(i64,)>(sql, &[]);
        assert!(proxy.has_forged());
        assert_eq!(outcome.unwrap(), [(1,)], "{sql}");
        // The session it was run on again is as any other.
        pool.execute_write("INSERT INTO ledger VALUES (1)", &[]).unwrap();
    }
    assert_eq!(pool.status().resets, 0);
}

/// What a caller may have instead of the pool's errors.
#[derive(Debug)]
enum Refusal {
    SoldOut,
    Database(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::Database(error)
    }
}

#[test]
fn a_closure_with_errors_of_its_own_is_rolled_back_and_attempted_again_like_any_other() {
    let pool = pool(2, 4, |_| ());
    pool.execute_write("CREATE TABLE seats AS SELECT 3 AS free", &[]).unwrap();
    let options = options(RetryPolicy::times(100));
    let book = |options: &TransactionOptions| {
        pool.try_transaction_with(options, |tx| {
            let free: Option<i32> = tx.execute_query_one("SELECT free FROM seats", &[])?;
            tx.execute_write("UPDATE seats SET free = free - 1", &[])?;
            if free == Some(0) { Err(Refusal::SoldOut) } else { Ok(()) }
        })
    };
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| book(&options))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 3, "{outcomes:?}");
    assert!(outcomes.iter().any(|outcome| matches!(outcome, Err(Refusal::SoldOut))), "{outcomes:?}");
    assert_eq!(pool.execute_query_one::<i32>("SELECT free FROM seats", &[]).unwrap(), Some(0));
    // On one connection, and in a savepoint, as well.
    let mut connection = pool.get_connection().unwrap();
    let refused = connection.try_transaction(|tx| {
        tx.execute_write("UPDATE seats SET free = 9", &[])?;
        tx.try_transaction(|tx| {
            tx.execute_write("UPDATE missing SET free = 9", &[])?;
            Ok::<_, Refusal>(())
        })
    });
    assert!(
        matches!(&refused, Err(Refusal::Database(error)) if error.sqlstate() == Some("42P01")),
        "{refused:?}"
    );
    assert_eq!(connection.execute_query_one::<i32>("SELECT free FROM seats", &[]).unwrap(), Some(0));
}
