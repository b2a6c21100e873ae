//! A deadline of the caller's own, for everything it does with the pool.

use super::*;
use crate::support::{Proxy, eventually};
use actix_web::rt::{System, time::timeout};
use poolhouse::web::blocking;
use poolhouse::{Error, Execute, TransactionOptions, with_deadline};
use std::thread;
use std::time::Instant;

#[test]
fn a_statement_ends_at_the_callers_deadline_and_on_the_server() {
    let pool = pool(1, 2, |_| ());
    let deadline = Instant::now() + 150 * MS;
    let (error, took) = timed(|| {
        with_deadline(deadline, || pool.execute_query::<()>("SELECT pg_sleep(60)", &[]).unwrap_err())
    });
    // Sleeping is volatile: for all the pool knows, it may have written.
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
    assert!(took < SOON, "{took:?}");
    let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%sleep(60)%'
                   AND pid <> pg_backend_pid() AND datname = current_database()";
    crate::support::eventually("it is cancelled", SOON, || {
        pool.execute_query_one::<i64>(running, &[]).unwrap() == Some(0)
    });
}

#[test]
fn waiting_for_a_connection_ends_at_the_callers_deadline() {
    let pool = pool(1, 1, |settings| settings.acquire_timeout = FOR_EVER);
    let held = pool.get_connection().unwrap();
    let waiting = pool.clone();
    let (error, early, late) = elsewhere(move || {
        let deadline = Instant::now() + 100 * MS;
        let (error, waited) = timed(|| with_deadline(deadline, || waiting.get_connection().unwrap_err()));
        (error, Instant::now() < deadline, waited.saturating_sub(100 * MS))
    });
    assert!(matches!(error, Error::Exhausted(_)), "{error}");
    assert!(!early && late < OVERSHOOT, "{late:?} too late");
    drop(held);
}

/// After the deadline nothing is sent, and the connection is kept.
#[test]
fn what_begins_after_the_deadline_is_not_sent() {
    let pool = pool(1, 1, |_| ());
    let result = pool
        .transaction(|tx| with_deadline(Instant::now(), || tx.execute_write("CREATE TABLE t (a int)", &[])));
    assert!(matches!(result, Err(Error::DeadlineExceeded(_))), "{result:?}");
    assert_eq!(pool.status().closed.total(), 0);
}

/// The transaction is undone, although the time for everything else is over.
#[test]
fn a_transaction_that_meets_its_deadline_is_undone() {
    let pool = pool(1, 1, |_| ());
    pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    let error = with_deadline(Instant::now() + 300 * MS, || {
        pool.transaction(|tx| {
            tx.execute_write("INSERT INTO t VALUES (1)", &[])?;
            tx.execute_query::<()>("SELECT pg_sleep(60)", &[])
        })
    });
    assert!(matches!(error, Err(Error::DeadlineExceeded(_))), "{error:?}");
    assert_eq!(pool.execute_query_one::<i64>("SELECT count(*) FROM t", &[]).unwrap(), Some(0));
}

#[test]
fn a_transaction_whose_deadline_has_passed_is_not_committed() {
    let pool = pool(1, 2, |_| ());
    pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    let options = TransactionOptions::new().with_timeout(Some(400 * MS));
    let outcome = pool.transaction_with(&options, |tx| {
        tx.execute_write("INSERT INTO t VALUES (1)", &[])?;
        // The closure's own work takes longer than there is time.
        std::thread::sleep(400 * MS);
        Ok(())
    });
    assert!(matches!(outcome, Err(Error::DeadlineExceeded(_))), "{outcome:?}");
    assert_eq!(pool.execute_query_one::<i64>("SELECT count(*) FROM t", &[]).unwrap(), Some(0));
    assert_eq!(pool.status().closed.total(), 0, "its connection goes on");
}

/// The request to cancel may arrive long after its sender has given up on it, and then meets whatever runs there.
#[test]
fn a_late_cancel_request_meets_no_other_callers_statement() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (1, 1);
    let pool = Pool::open(&settings).unwrap();
    proxy.delay_connects(700 * MS);
    let called_off = pool.clone();
    System::new().block_on(async move {
        let call =
            blocking(move || called_off.execute_query::<Option<String>>("SELECT pg_sleep(0.3)::text", &[]));
        timeout(100 * MS, call).await.unwrap_err();
    });
    eventually("the connection is given up", SOON, || pool.status().closed.dirty == 1);
    proxy.delay_connects(Duration::ZERO);
    let slept: Option<String> = pool.execute_query_one("SELECT 'slept' FROM pg_sleep(1.5)", &[]).unwrap();
    assert_eq!(slept.as_deref(), Some("slept"));
}

/// One request to cancel that gets no answer is waited for; the others that are asked for meanwhile are sent all the same.
#[test]
fn a_cancel_that_gets_no_answer_costs_the_others_nothing() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections, settings.statement_timeout) = (3, 3, None);
    let pool = Pool::open(&settings).unwrap();
    let mut watcher = database.client();
    let mut running = || {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'
                   AND query = 'SELECT pg_sleep(60)'";
        watcher.query_one(sql, &[]).unwrap().get::<_, i64>(0)
    };
    let (start, connects) = (Instant::now(), proxy.connects());
    thread::scope(|scope| {
        let sleep_until = |limit| {
            let pool = &pool;
            scope.spawn(move || {
                with_deadline(start + limit, || pool.execute_query::<()>("SELECT pg_sleep(60)", &[]))
            })
        };
        let first = sleep_until(600 * MS);
        let others = [sleep_until(900 * MS), sleep_until(900 * MS)];
        eventually("all run", SOON, || running() == 3 || first.is_finished());
        proxy.mute();
        first.join().unwrap().unwrap_err();
        // To cancel, and to replace the connection.
        eventually("both meet silence", SOON, || proxy.connects() >= connects + 2);
        proxy.pass();
        for other in others {
            other.join().unwrap().unwrap_err();
        }
    });
    eventually("the others are cancelled", SOON, || running() <= 1);
}
