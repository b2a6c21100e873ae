//! `execute_many`: one statement for many rows of parameters.

use super::*;
use crate::support::{Postgres, SOON};
use poolhouse::{Bulk, Error, Execute, ToSql, with_deadline};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

const INSERT: &str = "INSERT INTO t VALUES ($1, $2)";

/// As many rows as are sent in several pieces.
const MANY: i32 = 20_000;

fn row(number: i32) -> (i32, String) {
    (number, format!("row {number}"))
}

#[test]
fn all_rows_arrive_in_few_round_trips() {
    let (_database, proxy, pool) = behind_proxy(|_| ());
    pool.execute_write("DELETE FROM t WHERE a = 0", &[]).unwrap();
    let before = proxy.round_trips();
    assert_eq!(pool.execute_many(INSERT, (0..MANY).map(row)).unwrap(), MANY as u64);
    let round_trips = proxy.round_trips() - before;
    assert!(round_trips < 40, "{round_trips}");
    assert_eq!(count(&pool), i64::from(MANY));
    let last: Option<String> =
        pool.execute_query_one("SELECT b FROM t WHERE a = $1", &[&(MANY - 1)]).unwrap();
    assert_eq!(last.unwrap(), format!("row {}", MANY - 1));
    let updated = pool.execute_many("UPDATE t SET b = $1 WHERE a < $2", [("x", 10), ("y", 5)]);
    assert_eq!(updated.unwrap(), 15);
    // The session needs no reset afterwards.
    assert_eq!((pool.status().connects, pool.status().resets), (1, 0));
}

#[test]
fn each_form_of_a_row_works_on_each_handle() {
    fn insert(db: &impl Bulk, from: i32) {
        let (b, none) = ("text".to_owned(), None::<String>);
        assert_eq!(db.execute_many(INSERT, [(from, &b), (from + 1, &b)]).unwrap(), 2);
        let numbers = [from + 2, from + 3];
        let arrays = numbers.iter().map(|number| [number as &(dyn ToSql + Sync), &none]);
        assert_eq!(db.execute_many(INSERT, arrays).unwrap(), 2);
        let tuples = [(from + 6, "x"), (from + 7, "x")];
        assert_eq!(db.execute_many(INSERT, &tuples).unwrap(), 2);
        let slice: &[&(dyn ToSql + Sync)] = &[&(from + 8), &b];
        assert_eq!(db.execute_many(INSERT, [slice]).unwrap(), 1);
        let vectors = [from + 4, from + 5];
        let vectors = vectors.iter().map(|number| vec![number as &(dyn ToSql + Sync), &none]);
        assert_eq!(db.execute_many(INSERT, vectors).unwrap(), 2);
    }
    let pool = pool();
    insert(&pool, 0);
    insert(&pool.get_connection().unwrap(), 10);
    pool.transaction(|tx| {
        insert(tx, 20);
        Ok(())
    })
    .unwrap();
    assert_eq!(count(&pool), 27);
}

#[test]
fn without_a_cache_of_statements_it_works_as_well() {
    let mut settings = postgres::pool_settings();
    create_table(&mut postgres::connect(&settings.database));
    settings.statement_cache_size = 0;
    let pool = open(settings);
    for round in 0..2 {
        let rows = (0..MANY).map(|number| row(round * MANY + number));
        assert_eq!(pool.execute_many(INSERT, rows).unwrap(), MANY as u64);
        let mut rows = 0;
        pool.for_each_row("SELECT a, b FROM t WHERE a >= $1", &[&(round * MANY)], |row_: (i32, String)| {
            rows += usize::from(row_ == row(row_.0));
            Ok(())
        })
        .unwrap();
        assert_eq!(rows, MANY as usize);
    }
}

/// A row that the server returns for each row that it is sent is discarded, and later calls know its columns.
#[test]
fn a_statement_that_returns_rows_is_known_to_the_other_helpers_afterwards() {
    let pool = pool();
    let sql = "INSERT INTO t VALUES ($1, $2) RETURNING a, b";
    assert_eq!(pool.execute_many(sql, (0..10).map(row)).unwrap(), 10);
    let returned: Vec<(i32, String)> = pool.execute_query(sql, &[&10, &"row 10"]).unwrap();
    assert_eq!(returned, [row(10)]);
    let mut passed = Vec::new();
    pool.for_each_row(sql, &[&11, &"row 11"], |row: (i32, String)| {
        passed.push(row);
        Ok(())
    })
    .unwrap();
    assert_eq!(passed, [row(11)]);
}

#[test]
fn without_rows_nothing_is_sent() {
    let (_database, proxy, pool) = behind_proxy(|_| ());
    let before = proxy.round_trips();
    let none = std::iter::empty::<(i32, String)>;
    assert_eq!(pool.execute_many(INSERT, none()).unwrap(), 0);
    assert_eq!(pool.get_connection().unwrap().execute_many(INSERT, none()).unwrap(), 0);
    assert_eq!(proxy.round_trips(), before);
}

#[test]
fn a_refused_row_is_named_and_nothing_is_changed() {
    let pool = pool();
    for bad in [0, 1, 9_000, MANY - 1] {
        let rows = (0..MANY).map(|number| (if number == bad { 7 } else { number + 100 }, "x"));
        pool.execute_write("INSERT INTO t VALUES (7, 'there') ON CONFLICT DO NOTHING", &[]).unwrap();
        let error = pool.execute_many(INSERT, rows).unwrap_err();
        assert_eq!((error.sqlstate(), error.constraint()), (Some("23505"), Some("t_pkey")));
        let Error::Query(query) = &error else { panic!("{error}") };
        assert_eq!(query.row(), Some(bad as u64), "{error}");
        assert_eq!(query.statement(), Some(INSERT));
        let text = error.to_string();
        assert!(text.starts_with(&format!("query failed with 23505 at row {bad}: ")), "{text}");
        assert_eq!(count(&pool), 1);
    }
    assert_eq!(pool.status().connects, 1);
}

#[test]
fn a_parameter_that_does_not_fit_is_named_with_its_row() {
    let pool = pool();
    for bad in [0, 15_000] {
        let wrong = 1_i64;
        let right: Vec<i32> = (0..MANY).collect();
        let rows = right.iter().map(|number| -> [&(dyn ToSql + Sync); 2] {
            if *number == bad { [&wrong, &"x"] } else { [number, &"x"] }
        });
        let error = pool.execute_many(INSERT, rows).unwrap_err();
        let Error::Query(query) = &error else { panic!("{error}") };
        assert_eq!((query.row(), query.statement()), (Some(bad as u64), Some(INSERT)));
        assert!(error.to_string().contains("parameter $1"), "{error}");
        assert_eq!(count(&pool), 0);
    }
    let error = pool.execute_many(INSERT, [(1,)]).unwrap_err();
    assert!(error.to_string().contains("expected 2 parameters but got 1"), "{error}");
    assert_eq!(pool.status().connects, 1);
}

/// The server does not know of the rows that were never sent: a caller that ignores the error must not commit the others.
#[test]
fn a_transaction_with_a_part_of_the_rows_does_not_commit() {
    let pool = pool();
    let bad_rows = || (0..MANY).map(|number| (number, if number == MANY - 1 { "\0" } else { "x" }));
    let outcome = pool.transaction(|tx| {
        tx.execute_many(INSERT, bad_rows()).unwrap_err();
        Ok(())
    });
    assert!(matches!(outcome, Err(Error::TransactionAborted)), "{outcome:?}");
    assert_eq!(count(&pool), 0);
    // A savepoint undoes the part.
    let outcome = pool.transaction(|tx| {
        let inner = tx.transaction(|tx| tx.execute_many(INSERT, bad_rows()));
        assert!(inner.is_err());
        let inner = tx.transaction(|tx| {
            let _ = tx.execute_many(INSERT, bad_rows());
            Ok(())
        });
        assert!(matches!(inner, Err(Error::TransactionAborted)), "{inner:?}");
        tx.execute_many(INSERT, [row(1)])
    });
    assert_eq!(outcome.unwrap(), 1);
    assert_eq!(count(&pool), 1);
}

#[test]
fn a_panic_of_the_rows_changes_nothing() {
    let pool = pool();
    let panicking =
        || (0..MANY).map(|number| if number < MANY - 1 { row(number) } else { panic!("no more") });
    assert!(catch_unwind(AssertUnwindSafe(|| pool.execute_many(INSERT, panicking()))).is_err());
    assert_eq!(count(&pool), 0);
    // The closure of a transaction that survives the panic does not commit a part.
    let outcome = pool.transaction(|tx| {
        assert!(catch_unwind(AssertUnwindSafe(|| tx.execute_many(INSERT, panicking()))).is_err());
        tx.execute_query_one::<i64>("SELECT count(*) FROM t", &[])
    });
    assert!(matches!(outcome, Err(Error::TransactionAborted)), "{outcome:?}");
    assert_eq!(count(&pool), 0);
}

/// Nothing is outstanding while the caller's code runs.
#[test]
fn the_rows_may_be_made_with_the_same_transaction() {
    let pool = pool();
    let written = pool.transaction(|tx| {
        let rows = (1..=3).map(|number| {
            let count: i64 = tx.execute_query_one("SELECT count(*) FROM t", &[]).unwrap().unwrap();
            (number, format!("{count} before"))
        });
        tx.execute_many(INSERT, rows)
    });
    assert_eq!(written.unwrap(), 3);
}

#[test]
fn the_deadline_ends_it_in_the_middle() {
    let pool = pool();
    let sql = "INSERT INTO t SELECT $1, pg_sleep(0.02)::text";
    let (outcome, took) = timed(|| {
        with_deadline(Instant::now() + 300 * MS, || {
            pool.execute_many(sql, (0..10_000).map(|number| (number,)))
        })
    });
    assert!(matches!(outcome, Err(Error::DeadlineExceeded(_))), "{outcome:?}");
    assert!(took < SOON, "{took:?}");
    assert_eq!(count(&pool), 0);
    // The caller's own time counts too.
    let deadline = Instant::now() + 200 * MS;
    let endless = (0..).map(|number| {
        std::thread::yield_now();
        row(number)
    });
    let outcome = with_deadline(deadline, || pool.execute_many(INSERT, endless));
    assert!(matches!(outcome, Err(Error::DeadlineExceeded(_))), "{outcome:?}");
    assert_eq!(count(&pool), 0);
}

#[test]
fn a_connection_that_is_cut_in_the_middle_changes_nothing() {
    let (database, proxy, pool) = behind_proxy(|_| ());
    let rows = (0..MANY).map(|number| {
        if number == MANY / 2 {
            proxy.cut();
        }
        row(number)
    });
    let outcome = pool.execute_many(INSERT, rows);
    assert!(matches!(outcome, Err(Error::ConnectionLost(_))), "{outcome:?}");
    let left: i64 = database.client().query_one("SELECT count(*) FROM t", &[]).unwrap().get(0);
    assert_eq!(left, 0);
    proxy.pass();
    assert_eq!(pool.execute_many(INSERT, (0..3).map(row)).unwrap(), 3);
}

#[test]
fn a_lost_answer_to_the_commit_is_unknown() {
    let (database, proxy, pool) = behind_proxy(|_| ());
    pool.execute_many(INSERT, [row(1)]).unwrap();
    let before = proxy.bytes_to_client();
    pool.execute_many(INSERT, [row(2)]).unwrap();
    // Of the same replies the last one, to COMMIT, is not delivered.
    proxy.stall_replies_after(proxy.bytes_to_client() - before - 1);
    let outcome = with_deadline(Instant::now() + 500 * MS, || pool.execute_many(INSERT, [row(3)]));
    assert!(matches!(outcome, Err(Error::OutcomeUnknown(_))), "{outcome:?}");
    let there: i64 = database.client().query_one("SELECT count(*) FROM t", &[]).unwrap().get(0);
    assert_eq!(there, 3);
}

#[test]
fn a_server_that_is_killed_in_the_middle_has_none_of_the_rows() {
    let server = Postgres::start();
    create_table(&mut server.client());
    let pool = open(server.pool_settings());
    let rows = (0..MANY).map(|number| {
        if number == MANY / 2 {
            server.kill();
        }
        row(number)
    });
    let outcome = pool.execute_many(INSERT, rows);
    assert!(matches!(outcome, Err(Error::ConnectionLost(_))), "{outcome:?}");
    server.start_again();
    let mut client = server.client();
    assert_eq!(client.query_one("SELECT count(*) FROM t", &[]).unwrap().get::<_, i64>(0), 0);
}

/// The replies fill the buffers between server and client while the client still sends.
#[test]
fn large_rows_in_both_directions_do_not_block_each_other() {
    let pool = pool();
    let large = "x".repeat(3_000_000);
    let sql = "INSERT INTO t VALUES ($1, $2) RETURNING b || b";
    let written = with_deadline(Instant::now() + SOON, || {
        pool.execute_many(sql, (0..3).map(|number| (number, &large)))
    });
    assert_eq!(written.unwrap(), 3);
    let echoed = with_deadline(Instant::now() + SOON, || {
        pool.execute_many("SELECT $1 || repeat('y', 4000)", (0..20_000).map(|_| ("z",)))
    });
    assert_eq!(echoed.unwrap(), 20_000);
}

#[test]
fn a_statement_that_ends_the_transaction_is_refused() {
    let pool = pool();
    let outcome = pool.execute_many("COMMIT", [[] as [&(dyn ToSql + Sync); 0]]);
    assert!(matches!(outcome, Err(Error::TransactionEnded)), "{outcome:?}");
}
