//! The reported outcome of a write is what happened to it.

use super::storm::{INSERT, write_under_a_storm};
use super::*;
use crate::support::{Postgres, Proxy, eventually};
use poolhouse::{Error, Execute};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::thread;

fn with_table(pool: &Pool) {
    pool.execute_write("CREATE TABLE t (a int PRIMARY KEY)", &[]).unwrap();
}

fn rows(pool: &Pool) -> Vec<i32> {
    pool.execute_query("SELECT a FROM t ORDER BY a", &[]).unwrap()
}

#[test]
fn writes_under_a_storm_of_terminations_are_never_reported_wrongly() {
    let server = Postgres::start();
    let mut settings = server.pool_settings();
    (settings.min_connections, settings.max_connections) = (4, 8);
    let pool = Pool::open(&settings).unwrap();
    let write = |id| match id % 2 {
        0 => pool.execute_write(INSERT, &[&id]),
        _ => pool.transaction(|tx| tx.execute_write(INSERT, &[&id])),
    };
    write_under_a_storm(&pool, 128, write, server.client(), |_, _| {});
}

#[test]
fn a_connection_that_died_while_idle_costs_its_borrower_nothing() {
    let pool = pool(1, 1, |settings| settings.validate_after = Duration::from_secs(3600));
    with_table(&pool);
    let backend: i32 = pool.execute_query_one("SELECT pg_backend_pid()", &[]).unwrap().unwrap();
    let mut admin = postgres::client();
    admin.query_one("SELECT pg_terminate_backend($1)", &[&backend]).unwrap();
    eventually("it is gone", SOON, || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
        admin.query_one(sql, &[&backend]).unwrap().get::<_, i64>(0) == 0
    });
    assert_eq!(pool.execute_write("INSERT INTO t VALUES (1)", &[]).unwrap(), 1);
    assert_eq!(rows(&pool), [1]);
}

/// Statements that are forgotten are closed on the way of the next one, so that what the server says in place of a
/// reply is taken for the reply to that: it is about both.
#[test]
fn the_servers_last_words_are_heard_behind_forgotten_statements() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (1, 1);
    settings.validate_after = Duration::from_secs(3600);
    let pool = Pool::open(&settings).unwrap();
    with_table(&pool);
    let backend: i32 = pool.execute_query_one("SELECT pg_backend_pid()", &[]).unwrap().unwrap();
    pool.get_connection().unwrap().client().batch_execute("SET work_mem = '1MB'").unwrap();
    eventually("it is reset", SOON, || pool.status().resets == 1);

    proxy.stall();
    let before = proxy.round_trips();
    let written = thread::scope(|scope| {
        let write = scope.spawn(|| pool.execute_write("INSERT INTO t VALUES (1)", &[]));
        eventually("something is sent", SOON, || proxy.round_trips() > before);
        let mut admin = database.client();
        admin.execute("SELECT pg_terminate_backend($1)", &[&backend]).unwrap();
        eventually("the session is gone", SOON, || {
            admin.query("SELECT FROM pg_stat_activity WHERE pid = $1", &[&backend]).unwrap().is_empty()
        });
        proxy.pass();
        write.join().unwrap()
    });
    assert_eq!(written.unwrap(), 1, "it was not done, and is done elsewhere");
    assert_eq!(rows(&pool), [1]);
}

#[test]
fn what_the_driver_cannot_send_is_the_callers_error_and_costs_no_connection() {
    let pool = pool(1, 2, |_| ());
    let error = pool.execute_query_one::<i32>("SELECT 'a\0b'", &[]).unwrap_err();
    assert!(matches!(error, Error::Query(_)), "{error}");
    assert_eq!(pool.status().closed.total(), 0);
}

#[test]
fn a_copy_that_was_not_finished_is_not_committed() {
    let pool = pool(1, 1, |_| ());
    with_table(&pool);
    let result = pool.transaction(|tx| {
        tx.execute_write("INSERT INTO t VALUES (1)", &[])?;
        let mut writer = tx.copy_in_writer("COPY t FROM STDIN")?;
        writer.write_all(b"2\n").map_err(Error::application)
    });
    assert!(matches!(result, Err(Error::TransactionAborted)), "{result:?}");
    assert!(rows(&pool).is_empty());
}

#[test]
fn a_closure_that_ends_the_transaction_itself_gets_an_error() {
    let pool = pool(1, 1, |_| ());
    with_table(&pool);
    for ending in ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "/* so */ End", "BEGIN"] {
        let result = pool.transaction(|tx| {
            tx.execute_write(ending, &[])?;
            tx.execute_write("INSERT INTO t VALUES (1)", &[])
        });
        assert!(matches!(result, Err(Error::TransactionEnded)), "{ending}: {result:?}");
        let result = pool.transaction(|tx| tx.execute_write(ending, &[]));
        assert!(matches!(result, Err(Error::TransactionEnded)), "{ending}: {result:?}");
    }
    assert!(rows(&pool).is_empty(), "nothing was committed on its own");
}

/// Has a procedure write a row, commit, and do `rest`, which ends it.
fn assert_unknown_after_a_commit(pool: &Pool, rest: &str) {
    with_table(pool);
    let body = format!("INSERT INTO t VALUES (1); COMMIT; {rest}");
    pool.execute_write(&format!("CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN {body} END $$"), &[])
        .unwrap();
    let error = pool.execute_write("CALL p()", &[]).unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
    assert_eq!(rows(pool), [1]);
}

#[test]
fn a_procedure_that_commits_half_way_is_not_reported_as_not_done() {
    let end = "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1);";
    assert_unknown_after_a_commit(&pool(1, 2, |_| ()), end);
}

#[test]
fn a_procedure_that_is_cancelled_half_way_is_not_reported_as_not_done() {
    let pool = pool(1, 2, |settings| settings.statement_timeout = Some(200 * MS));
    assert_unknown_after_a_commit(&pool, "PERFORM pg_sleep(10);");
}

#[test]
fn a_transaction_whose_closure_overlooks_the_loss_of_its_connection_is_lost() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    settings.statement_timeout = Some(200 * MS);
    let pool = Pool::open(&settings).unwrap();
    let mut runs = 0;
    let outcome = pool.transaction(|tx| {
        runs += 1;
        let _ = tx.execute_write("SELECT pg_terminate_backend(pg_backend_pid())", &[]);
        Ok(())
    });
    assert!(matches!(outcome, Err(Error::ConnectionLost(_))), "{outcome:?}");
    let outcome = pool.transaction(|tx| {
        runs += 1;
        proxy.stall();
        let _ = tx.execute_query_one::<i32>("SELECT 1", &[]);
        proxy.pass();
        Ok(())
    });
    assert!(matches!(outcome, Err(Error::ConnectionLost(_) | Error::DeadlineExceeded(_))), "{outcome:?}");
    assert_eq!(runs, 2);
}

#[test]
fn a_copy_on_a_broken_connection_is_reported_as_lost() {
    let pool = pool(1, 2, |_| ());
    with_table(&pool);
    let mut admin = postgres::client();
    let outcome = pool.transaction(|tx| {
        let backend: Option<i32> = tx.execute_query_one("SELECT pg_backend_pid()", &[])?;
        admin.query_one("SELECT pg_terminate_backend($1, 5000)", &[&backend]).unwrap();
        tx.copy_in_writer("COPY t FROM STDIN")?.finish().map_err(Error::from)
    });
    assert!(matches!(outcome, Err(Error::ConnectionLost(_))), "{outcome:?}");
    let refused = pool.transaction(|tx| tx.copy_in_writer("COPY nowhere FROM STDIN").map(drop));
    assert_eq!(refused.unwrap_err().sqlstate(), Some("42P01"));
}

#[test]
fn a_panic_caught_inside_a_transaction_undoes_the_inner_part() {
    let pool = pool(1, 1, |_| ());
    with_table(&pool);
    pool.transaction(|tx| {
        tx.execute_write("INSERT INTO t VALUES (1)", &[])?;
        let inner = catch_unwind(AssertUnwindSafe(|| {
            tx.transaction(|tx| -> poolhouse::Result<()> {
                tx.execute_write("INSERT INTO t VALUES (2)", &[])?;
                panic!("half way")
            })
        }));
        assert!(inner.is_err());
        Ok(())
    })
    .unwrap();
    assert_eq!(rows(&pool), [1]);
}

#[test]
fn several_hosts_are_tried_in_turn_each_with_its_own_time() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    proxy.mute();
    let mut settings = database.pool_settings();
    settings.database.hosts.insert(0, ("127.0.0.1".into(), proxy.port()));
    (settings.connect_timeout, settings.min_connections) = (300 * MS, 1);
    // The pool waits for one connect timeout when it opens, and the mute host takes that; it comes up behind.
    let pool = loop {
        match Pool::open(&settings.clone().with_connect_timeout(500 * MS)) {
            Ok(pool) => break pool,
            Err(error) => {
                assert!(matches!(error, Error::Down(_)), "{error}");
                proxy.refuse();
            }
        }
    };
    with_table(&pool);
    let error = pool.execute_write("INSERT INTO t VALUES (1), (1)", &[]).unwrap_err();
    assert_eq!(error.constraint(), Some("t_pkey"));
    assert_eq!(pool.status().closed.total(), 0, "a refused statement costs no connection");
}

#[test]
fn a_client_put_in_anothers_place_is_not_lent_on() {
    let pool = pool(1, 1, |_| ());
    let name = "SELECT current_database()::text";
    let database: Option<String> = pool.execute_query_one(name, &[]).unwrap();
    let mut connection = pool.get_connection().unwrap();
    let stolen = std::mem::replace(connection.client(), postgres::client());
    drop(connection);
    assert_eq!(pool.execute_query_one::<String>(name, &[]).unwrap(), database);
    drop(stolen);
}

/// A transaction that was made a read-only one is no sign that the server has been demoted.
#[test]
fn what_makes_a_transaction_read_only_costs_no_connection() {
    let pool = pool(3, 3, |settings| {
        settings.database.target_session_attrs = poolhouse::settings::TargetSessionAttrs::ReadWrite;
    });
    with_table(&pool);
    eventually("all are made and clean", SOON, || pool.status().available == 3);
    let before = pool.status().connects;
    for set in [
        "SET TRANSACTION READ ONLY",
        "SET LOCAL transaction_read_only = on",
        "SELECT set_config('transaction_read_only', 'on', true)",
    ] {
        let refused = pool.transaction(|tx| {
            tx.execute_write(set, &[])?;
            tx.execute_write("INSERT INTO t VALUES (1)", &[])
        });
        assert_eq!(refused.unwrap_err().sqlstate(), Some("25006"), "{set}");
    }
    eventually("all are back", SOON, || pool.status().available == 3);
    assert_eq!(pool.status().connects, before);
}

/// A server that accepts no writes any more is left for the next of the list, and the write that met it is done there.
#[test]
fn a_demoted_primary_is_left_for_the_next_host() {
    let (old, new) = (Postgres::start(), Postgres::start());
    for server in [&old, &new] {
        server.client().batch_execute("CREATE TABLE t (a int PRIMARY KEY)").unwrap();
    }
    let mut settings = old.pool_settings();
    settings.database.hosts.push(("127.0.0.1".into(), new.port()));
    settings.database.target_session_attrs = poolhouse::settings::TargetSessionAttrs::ReadWrite;
    (settings.min_connections, settings.max_connections) = (4, 4);
    let pool = Pool::open(&settings).unwrap();
    pool.execute_write("INSERT INTO t VALUES (1)", &[]).unwrap();
    eventually("all are made", SOON, || pool.status().available == 4);
    // What once was a read-only transaction's is no different.
    let read_only = poolhouse::TransactionOptions::new().with_read_only(true);
    let all_have_one = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                pool.transaction_with(&read_only, |tx| {
                    all_have_one.wait();
                    tx.execute_query::<i32>("SELECT a FROM t", &[])
                })
                .unwrap()
            });
        }
    });
    let mut admin = old.client();
    admin.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").unwrap();
    eventually("it refuses writes", SOON, || {
        old.client().batch_execute("INSERT INTO t VALUES (99)").is_err()
    });
    pool.execute_write("INSERT INTO t VALUES (2)", &[]).unwrap();
    for a in 3..10 {
        pool.execute_write("INSERT INTO t VALUES ($1)", &[&a]).unwrap();
    }
    let there: i64 = new.client().query_one("SELECT count(*) FROM t", &[]).unwrap().get(0);
    assert_eq!(there, 8, "all but the first");
    assert!(pool.status().closed.total() >= 4, "{:?}", pool.status().closed);

    // A write in a read-only transaction is an error of the caller, and closes no connection.
    let before = pool.status().closed.total();
    let error = pool.transaction_with(&read_only, |tx| tx.execute_write("INSERT INTO t VALUES (50)", &[]));
    assert_eq!(error.unwrap_err().sqlstate(), Some("25006"));
    assert_eq!(pool.status().closed.total(), before);
}
