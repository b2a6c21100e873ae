//! `copy_out`: the rows of a query, written as they arrive.

use super::*;
use crate::support::{SOON, eventually};
use poolhouse::{Bulk, CopyFormat, Error, Execute, with_deadline};
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

const CSV: CopyFormat = CopyFormat::Csv { has_header: true };

fn text_of(db: &impl Bulk, query: &str, format: CopyFormat) -> (u64, String) {
    let mut out = Vec::new();
    let rows = db.copy_out(query, format, &mut out).unwrap();
    (rows, String::from_utf8(out).unwrap())
}

#[test]
fn rows_are_written_in_the_chosen_format_by_each_handle() {
    let pool = pool();
    let query = "VALUES (1, 'a,b'), (2, NULL), (3, E'\\t\"') -- the end";
    let csv = "column1,column2\n1,\"a,b\"\n2,\n3,\"\t\"\"\"\n".to_owned();
    assert_eq!(text_of(&pool, query, CSV), (3, csv.clone()));
    assert_eq!(text_of(&pool.get_connection().unwrap(), query, CSV), (3, csv.clone()));
    assert_eq!(pool.transaction(|tx| Ok(text_of(tx, query, CSV))).unwrap(), (3, csv.clone()));
    let without = CopyFormat::Csv { has_header: false };
    assert_eq!(text_of(&pool, &format!("{query}\n;"), without).1, csv.split_once('\n').unwrap().1);
    let text = "1\ta,b\n2\t\\N\n3\t\\t\"\n".to_owned();
    assert_eq!(text_of(&pool, query, CopyFormat::Text), (3, text));
    assert_eq!(text_of(&pool, "SELECT * FROM t", CSV), (0, "a,b\n".to_owned()));
    assert_eq!((pool.status().connects, pool.status().resets), (1, 0));
}

/// What the server has sent is never much more than what was written.
#[test]
fn many_rows_are_written_as_they_arrive() {
    struct Counter<'a> {
        proxy: &'a Proxy,
        before: u64,
        written: u64,
        most: u64,
    }
    impl Write for Counter<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.written += bytes.len() as u64;
            self.most =
                self.most.max((self.proxy.bytes_to_client() - self.before).saturating_sub(self.written));
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (_database, proxy, pool) = behind_proxy(|_| ());
    let mut out = Counter { proxy: &proxy, before: proxy.bytes_to_client(), written: 0, most: 0 };
    let query = "SELECT repeat('x', 995) FROM generate_series(1, 50000)";
    assert_eq!(pool.copy_out(query, CopyFormat::Text, &mut out).unwrap(), 50_000);
    assert_eq!(out.written, 50_000 * 996);
    // The buffers of the sockets and the proxy, and one piece.
    assert!(out.most < 20_000_000, "{}", out.most);
}

#[test]
fn a_query_that_the_server_refuses_writes_nothing() {
    let pool = pool();
    for (query, code) in [
        ("SELECT nowhere", "42703"),
        ("SELECT 1) TO STDOUT; DROP TABLE t; COPY (SELECT 1", "42601"),
        ("SELECT 1; SELECT 2", "42601"),
        ("CREATE TABLE u (a int)", "42601"),
        ("SELECT 1/0", "22012"),
    ] {
        let mut out = Vec::new();
        let error = pool.copy_out(query, CopyFormat::Text, &mut out).unwrap_err();
        assert_eq!((error.sqlstate(), out.len()), (Some(code), 0), "{error}");
    }
    let error = pool.copy_out("SELECT $1::int", CSV, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("parameters"), "{error}");
    assert_eq!(count(&pool), 0);
}

/// Takes `left` bytes, and fails then.
struct Full {
    left: usize,
}

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.left.checked_sub(bytes.len()) {
            Some(left) => self.left = left,
            None => return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left")),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn where_the_writer_fails_the_query_is_cancelled() {
    let pool = pool();
    let endless = "SELECT repeat('x', 1000), generate_series(1, 2000000000)";
    let (outcome, took) = timed(|| pool.copy_out(endless, CSV, &mut Full { left: 1_000_000 }));
    let Err(Error::Application(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.downcast_ref::<io::Error>().unwrap().kind(), io::ErrorKind::StorageFull);
    assert!(took < SOON, "{took:?}");
    let running =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY (SELECT repeat%' AND state = 'active'
        AND datname = current_database()";
    eventually("the query ends", SOON, || pool.execute_query_one(running, &[]).unwrap() == Some(0_i64));
    // The last piece, when the server has sent everything.
    let outcome = pool.copy_out("SELECT 1", CSV, &mut Full { left: 0 });
    assert!(matches!(outcome, Err(Error::Application(_))), "{outcome:?}");
    assert_eq!(text_of(&pool, "SELECT 1 AS a", CSV).1, "a\n1\n");
}

#[test]
fn where_the_writer_fails_a_query_that_writes_is_rolled_back() {
    let pool = pool();
    let query = "INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 1000) n RETURNING b";
    let outcome = pool.copy_out(query, CSV, &mut Full { left: 500_000 });
    assert!(matches!(outcome, Err(Error::Application(_))), "{outcome:?}");
    assert_eq!(count(&pool), 0);
    assert_eq!(text_of(&pool, query, CopyFormat::Text).0, 1000);
    assert_eq!(count(&pool), 1000);
}

/// The reply is not complete then: nothing that follows may take the rest of it for its own.
#[test]
fn a_panic_of_the_writer_ends_the_connection() {
    struct Panicking;
    impl Write for Panicking {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            panic!("no more")
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let pool = pool();
    let query = "SELECT n, repeat('x', 1000) FROM generate_series(1, 100000) n";
    let outcome = pool.transaction(|tx| {
        tx.execute_write("INSERT INTO t VALUES (1)", &[])?;
        assert!(catch_unwind(AssertUnwindSafe(|| tx.copy_out(query, CSV, &mut Panicking))).is_err());
        Ok(())
    });
    assert!(matches!(outcome, Err(Error::ConnectionLost(_) | Error::TransactionAborted)), "{outcome:?}");
    assert!(catch_unwind(AssertUnwindSafe(|| pool.copy_out(query, CSV, &mut Panicking))).is_err());
    assert_eq!(count(&pool), 0);
    assert_eq!(text_of(&pool, "SELECT 1 AS a", CSV).1, "a\n1\n");
}

#[test]
fn the_deadline_ends_it_and_the_outcome_says_so() {
    let pool = pool();
    let query = "SELECT n, pg_sleep(0.001) FROM generate_series(1, 1000000) n";
    let mut out = Vec::new();
    let (outcome, took) =
        timed(|| with_deadline(Instant::now() + 400 * MS, || pool.copy_out(query, CSV, &mut out)));
    assert!(matches!(outcome, Err(Error::DeadlineExceeded(_))), "{outcome:?}");
    assert!(took < SOON, "{took:?}");
}

#[test]
fn an_error_in_the_middle_is_an_error_of_the_whole() {
    let pool = pool();
    let query = "SELECT 1 / (n - 50000) FROM generate_series(1, 100000) n";
    let mut out = Vec::new();
    let error = pool.copy_out(query, CopyFormat::Text, &mut out).unwrap_err();
    assert_eq!(error.sqlstate(), Some("22012"), "{error}");
    assert!(!out.is_empty());
    assert_eq!(pool.status().connects, 1);
}

#[test]
fn a_connection_that_is_cut_in_the_middle_is_reported() {
    struct Cutting<'a>(&'a Proxy);
    impl Write for Cutting<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.cut();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (_database, proxy, pool) = behind_proxy(|_| ());
    let query = "SELECT repeat('x', 1000) FROM generate_series(1, 50000)";
    let outcome = pool.copy_out(query, CSV, &mut Cutting(&proxy));
    assert!(matches!(outcome, Err(Error::ConnectionLost(_))), "{outcome:?}");
    proxy.pass();
    assert_eq!(text_of(&pool, "SELECT 1 AS a", CSV).1, "a\n1\n");
}

/// The request to cancel the query comes late where the rest of it has arrived already.
#[test]
fn where_the_writer_fails_what_follows_on_the_connection_is_not_cancelled() {
    let pool = pool();
    let connection = pool.get_connection().unwrap();
    let small = "SELECT repeat('x', 1000) FROM generate_series(1, 80)";
    for round in 0..20 {
        let outcome = connection.copy_out(small, CSV, &mut Full { left: 0 });
        assert!(matches!(outcome, Err(Error::Application(_))), "{outcome:?}");
        let slept = connection.execute_query_one::<i32>("SELECT 1 FROM pg_sleep(0.05)", &[]);
        assert_eq!(slept.unwrap(), Some(1), "{round}");
    }
}
