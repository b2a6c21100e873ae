//! Savepoints and COPY inside of transactions: their limits, and what they take.

use super::*;
use poolhouse::{Error, Execute, with_deadline};
use std::io::Write;
use std::time::Instant;

fn with_table(change: impl FnOnce(&mut PoolSettings)) -> Pool {
    let pool = pool(1, 1, change);
    pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    pool
}

fn rows(pool: &Pool) -> Vec<i32> {
    pool.execute_query("SELECT a FROM t ORDER BY a", &[]).unwrap()
}

const INSERT: &str = "INSERT INTO t VALUES ($1)";

/// Each of its statements has the statement timeout; all of them together may take longer, until the deadline.
#[test]
fn a_savepoint_may_take_longer_than_one_statement() {
    let pool = with_table(|settings| settings.statement_timeout = Some(200 * MS));
    let deadline = Instant::now() + Duration::from_secs(60);
    let outcome = with_deadline(deadline, || {
        pool.transaction(|tx| {
            tx.transaction(|tx| {
                let started = Instant::now();
                // As long as one statement may be waited for, and more.
                while started.elapsed() < 500 * MS {
                    tx.execute_write("SELECT pg_sleep(0.05)", &[])?;
                }
                tx.execute_write(INSERT, &[&1])
            })
        })
    });
    assert_eq!(outcome.unwrap(), 1);
    assert_eq!(rows(&pool), [1]);
    assert_eq!(pool.status().connects, 1);
}

#[test]
fn a_savepoint_that_ends_after_its_deadline_is_undone_and_the_transaction_goes_on() {
    let pool = with_table(|_| ());
    let outcome = pool.transaction(|tx| {
        tx.execute_write(INSERT, &[&1])?;
        let deadline = Instant::now() + 300 * MS;
        let inner = with_deadline(deadline, || {
            tx.transaction(|tx| {
                tx.execute_write(INSERT, &[&2])?;
                while Instant::now() <= deadline {
                    std::thread::sleep(MS);
                }
                Ok(())
            })
        });
        assert!(matches!(inner, Err(Error::DeadlineExceeded(_))), "{inner:?}");
        tx.execute_write(INSERT, &[&3])
    });
    assert_eq!(outcome.unwrap(), 1);
    assert_eq!(rows(&pool), [1, 3]);
    assert_eq!((pool.status().connects, pool.status().closed.total()), (1, 0));
}

#[test]
fn copying_in_takes_nothing_but_copies_from_what_is_sent() {
    let pool = with_table(|_| ());
    for text in [
        "COMMIT",
        "commit and chain",
        "/* x */ END",
        "ROLLBACK",
        "PREPARE TRANSACTION 'x'",
        "INSERT INTO t VALUES (2)",
        "COPY t TO STDOUT",
        "COPY (SELECT 1) TO STDOUT",
        "COPY t FROM STDIN; COMMIT",
        "SELECT 1",
        "",
    ] {
        let outcome = pool.transaction(|tx| {
            tx.execute_write(INSERT, &[&1])?;
            tx.copy_in_writer(text).map(drop)
        });
        assert!(outcome.is_err(), "{text}");
        assert!(rows(&pool).is_empty(), "{text}: {outcome:?} with {:?} there", rows(&pool));
        // Who takes the refusal for granted does not get more than was asked for either.
        let _ = pool.transaction(|tx| {
            let _ = tx.copy_in_writer(text).map(drop);
            tx.execute_write(INSERT, &[&1])?;
            Err::<(), _>(Error::application("undone"))
        });
        assert!(rows(&pool).is_empty(), "{text}: what was undone is there");
    }
    pool.execute_write("CREATE TABLE \"to\" (\"from\" int)", &[]).unwrap();
    for text in [
        "COPY t FROM STDIN",
        "copy public.t (a) from stdin with (format csv)",
        "/* x */ Copy -- to\n t From Stdin;",
        "COPY \"to\" (\"from\") FROM STDIN",
        "COPY t FROM STDIN (DELIMITER ';')",
    ] {
        let copied = pool.transaction(|tx| {
            let mut writer = tx.copy_in_writer(text)?;
            writer.write_all(b"7\n").map_err(Error::application)?;
            Ok(writer.finish()?)
        });
        assert_eq!(copied.unwrap(), 1, "{text}");
    }
    assert_eq!(rows(&pool), [7; 4]);
}
