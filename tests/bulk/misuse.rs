//! Statements and parameters that a helper for many rows is not made for.

use super::*;
use ::postgres::types::{IsNull, Type, to_sql_checked};
use bytes::BytesMut;
use poolhouse::{Bulk, Error, Execute, ToSql};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Panics when a part of it is written.
#[derive(Debug)]
struct Panicking;

impl ToSql for Panicking {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(b"half");
        panic!("no more")
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// Half a message would be taken for the beginning of the next one.
#[test]
fn a_parameter_that_panics_leaves_nothing_to_send() {
    const ECHO: &str = "SELECT $1::text";
    fn panics(db: &(impl Bulk + Execute), number: usize) -> bool {
        let call = AssertUnwindSafe(|| match number {
            0 => db.execute_query::<String>(ECHO, &[&Panicking]).map(|_| ()),
            1 => db.for_each_row(ECHO, &[&Panicking], |_: String| Ok(())).map(|_| ()),
            _ => db.execute_many(ECHO, [(Panicking,)]).map(|_| ()),
        });
        catch_unwind(call).is_err()
    }
    let pool = pool();
    for number in 0..3 {
        let connection = pool.get_connection().unwrap();
        assert!(panics(&connection, number));
        assert_eq!(connection.execute_query_one(ECHO, &[&"ok"]).unwrap(), Some("ok".to_owned()));
        drop(connection);
        let outcome = pool.transaction(|tx| {
            tx.execute_write("INSERT INTO t VALUES ($1)", &[&(number as i32)])?;
            assert!(panics(tx, number));
            tx.execute_query_one::<String>(ECHO, &[&"ok"])
        });
        // A part of the rows may have been sent.
        assert_eq!(matches!(outcome, Err(Error::TransactionAborted)), number == 2, "{outcome:?}");
    }
    assert_eq!((count(&pool), pool.status().connects), (2, 1));
}

/// The server has run it then: a caller that ignores the error must not commit it.
#[test]
fn a_copy_to_the_client_is_an_error_of_no_row_and_is_rolled_back() {
    let pool = pool();
    let none: [&(dyn ToSql + Sync); 0] = [];
    let sql = "COPY (INSERT INTO t VALUES (1) RETURNING a) TO STDOUT";
    let outcome = pool.transaction(|tx| {
        let error = tx.execute_many(sql, [none]).unwrap_err();
        let Error::Query(query) = &error else { panic!("{error}") };
        assert_eq!(query.row(), None, "{error}");
        assert!(error.to_string().contains("COPY … TO STDOUT has data"), "{error}");
        Ok(())
    });
    assert!(matches!(outcome, Err(Error::TransactionAborted)), "{outcome:?}");
    assert!(pool.for_each_row(sql, &[], |_: i32| Ok(())).is_err());
    assert_eq!((count(&pool), pool.status().connects), (0, 1));
}

#[test]
fn a_statement_without_rows_passes_none_on_and_is_committed() {
    let pool = pool();
    let none = |_: i32| -> poolhouse::Result<()> { panic!("there is no row") };
    assert_eq!(pool.for_each_row("INSERT INTO t VALUES (1)", &[], none).unwrap(), 0);
    assert_eq!(pool.for_each_row("ALTER TABLE t ADD c int", &[], none).unwrap(), 0);
    assert_eq!(pool.for_each_row("-- nothing", &[], none).unwrap(), 0);
    let error = pool.for_each_row("VACUUM t", &[], none).unwrap_err();
    assert_eq!(error.sqlstate(), Some("25001"), "{error}");
    let error = pool.for_each_row("SAVEPOINT a; SELECT 1", &[], none).unwrap_err();
    assert_eq!(error.sqlstate(), Some("42601"), "{error}");
    assert!(matches!(pool.for_each_row("COMMIT", &[], none), Err(Error::TransactionEnded)));
    assert_eq!((count(&pool), pool.status().connects), (1, 1));
}
