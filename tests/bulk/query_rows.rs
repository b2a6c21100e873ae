//! `for_each_row`: a query whose rows are passed on one after the other.

use super::*;
use crate::support::{PgBouncer, SOON};
use poolhouse::{Bulk, Error, Execute, with_deadline};
use serde::Deserialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

const NUMBERS: &str = "SELECT n, 'row ' || n FROM generate_series(1, $1) n";

/// The sum of the first column.
fn sum(db: &impl Bulk, last: i32) -> i64 {
    let mut sum = 0;
    let rows = db.for_each_row(NUMBERS, &[&last], |(number, text): (i32, String)| {
        assert_eq!(text, format!("row {number}"));
        sum += i64::from(number);
        Ok(())
    });
    assert_eq!(rows.unwrap(), last as u64);
    sum
}

#[test]
fn every_row_is_passed_on_once_by_each_handle() {
    let pool = pool();
    for last in [0, 1, 63, 64, 65, 10_000] {
        let expected = i64::from(last) * (i64::from(last) + 1) / 2;
        assert_eq!(sum(&pool, last), expected);
        assert_eq!(sum(&pool.get_connection().unwrap(), last), expected);
        assert_eq!(pool.transaction(|tx| Ok(sum(tx, last))).unwrap(), expected);
    }
    assert_eq!((pool.status().connects, pool.status().resets), (1, 0));
}

/// What the server has sent is never much more than what was passed on, however many rows there are.
#[test]
fn a_million_rows_are_held_in_pieces() {
    let (_database, proxy, pool) = behind_proxy(|_| ());
    let sql = "SELECT n FROM generate_series(1, 1000000) n";
    // A DataRow: five bytes of header, two for the count, four for the length and four for the number.
    const ROW: u64 = 15;
    let before = proxy.bytes_to_client();
    let (mut passed, mut most) = (0_u64, 0);
    let count = pool.for_each_row(sql, &[], |number: i32| {
        passed += 1;
        assert_eq!(number as u64, passed);
        most = most.max((proxy.bytes_to_client() - before).saturating_sub(ROW * passed));
        Ok(())
    });
    assert_eq!(count.unwrap(), 1_000_000);
    assert!(most < 300 * 1024, "{most} bytes ahead");
}

#[test]
fn large_rows_are_held_a_few_at_a_time() {
    let (_database, proxy, pool) = behind_proxy(|_| ());
    let before = proxy.bytes_to_client();
    let mut passed = 0;
    let sql = "SELECT repeat('x', 100000) FROM generate_series(1, 300)";
    let count = pool.for_each_row(sql, &[], |text: String| {
        passed += text.len() as u64;
        // Beyond the first piece, whose rows have an unknown size.
        let ahead = (proxy.bytes_to_client() - before).saturating_sub(passed);
        assert!(passed <= 6_400_000 || ahead < 500_000, "{ahead} bytes ahead after {passed}");
        Ok(())
    });
    assert_eq!(count.unwrap(), 300);
}

#[test]
fn rows_decode_into_structs_and_the_first_that_does_not_fit_ends_it() {
    #[derive(Deserialize)]
    struct Row {
        n: i32,
    }
    let pool = pool();
    let sql = "SELECT nullif(n, 1000) AS n FROM generate_series(1, 5000) n";
    let mut last = 0;
    let outcome = pool.for_each_row(sql, &[], |row: Row| {
        last = row.n;
        Ok(())
    });
    assert!(matches!(outcome, Err(Error::Decode(_))), "{outcome:?}");
    assert_eq!(last, 999);
    assert_eq!(sum(&pool, 10), 55);
    assert_eq!(pool.status().connects, 1);
}

#[test]
fn an_error_or_a_panic_of_the_caller_ends_it_and_keeps_the_connection() {
    let pool = pool();
    let outcome = pool.for_each_row(NUMBERS, &[&5000], |(number, _): (i32, String)| {
        if number == 3000 { Err(Error::application("enough")) } else { Ok(()) }
    });
    assert_eq!(outcome.unwrap_err().to_string(), "enough");
    assert_eq!(sum(&pool, 10), 55);
    assert_eq!(pool.status().connects, 1);
    let panic = catch_unwind(AssertUnwindSafe(|| {
        pool.for_each_row(NUMBERS, &[&5000], |_: (i32, String)| panic!("enough"))
    }));
    assert!(panic.is_err());
    assert_eq!(sum(&pool, 10), 55);
}

/// Each row leads to other statements, and to other queries of the same kind.
#[test]
fn the_transaction_can_be_used_for_each_row() {
    let pool = pool();
    pool.transaction(|tx| {
        tx.for_each_row(NUMBERS, &[&300], |(number, text): (i32, String)| {
            tx.execute_write("INSERT INTO t VALUES ($1, $2)", &[&number, &text])?;
            if number % 100 == 0 {
                assert_eq!(sum(tx, 200), 20_100);
            }
            Ok(())
        })?;
        // A query that is still open would keep the table from being changed.
        let outcome = tx.for_each_row("SELECT a FROM t", &[], |_: i32| Err(Error::application("enough")));
        assert_eq!(outcome.unwrap_err().to_string(), "enough");
        tx.execute_write("ALTER TABLE t ADD c int", &[])
    })
    .unwrap();
    assert_eq!(count(&pool), 300);
}

#[test]
fn a_query_may_write_and_commits_at_its_end() {
    let pool = pool();
    let sql = "INSERT INTO t SELECT n, 'x' FROM generate_series(1, 1000) n RETURNING a";
    let outcome =
        pool.for_each_row(
            sql,
            &[],
            |number: i32| {
                if number == 500 { Err(Error::application("enough")) } else { Ok(()) }
            },
        );
    assert!(outcome.is_err());
    assert_eq!(count(&pool), 0);
    assert_eq!(pool.for_each_row(sql, &[], |_: i32| Ok(())).unwrap(), 1000);
    assert_eq!(count(&pool), 1000);
}

#[test]
fn the_deadline_ends_it_between_two_pieces_and_within_one() {
    let pool = pool();
    for sql in
        ["SELECT n, pg_sleep(0.001)::text FROM generate_series(1, 100000) n", "SELECT 1, pg_sleep(60)::text"]
    {
        let (outcome, took) = timed(|| {
            with_deadline(Instant::now() + 300 * MS, || {
                pool.for_each_row(sql, &[], |_: (i32, Option<String>)| Ok(()))
            })
        });
        assert!(matches!(outcome, Err(Error::DeadlineExceeded(_))), "{outcome:?}");
        assert!(took < SOON, "{took:?}");
    }
}

#[test]
fn a_connection_that_is_cut_in_the_middle_is_reported() {
    let (_database, proxy, pool) = behind_proxy(|_| ());
    let outcome = pool.for_each_row(NUMBERS, &[&50_000], |(number, _): (i32, String)| {
        if number == 20_000 {
            proxy.cut();
        }
        Ok(())
    });
    assert!(matches!(outcome, Err(Error::ConnectionLost(_))), "{outcome:?}");
    proxy.pass();
    assert_eq!(sum(&pool, 10), 55);
}

#[test]
fn both_helpers_work_behind_pgbouncer() {
    let database = postgres::fresh_database();
    create_table(&mut database.client());
    let bouncer = PgBouncer::before(&database.settings(), &[("default_pool_size", "2")]);
    let pool = open(bouncer.pool_settings());
    for round in 0..3 {
        assert_eq!(sum(&pool, 3000), 4_501_500);
        let rows = (0..3000).map(|number| (round * 3000 + number, "x"));
        assert_eq!(pool.execute_many("INSERT INTO t VALUES ($1, $2)", rows).unwrap(), 3000);
    }
    assert_eq!(count(&pool), 9000);
}
