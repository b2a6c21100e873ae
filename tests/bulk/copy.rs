//! `copy_in`: rows as serde values, into columns of a table.

use super::*;
use crate::support::{PgBouncer, Postgres, SOON};
use poolhouse::{Bulk, Error, Execute, with_deadline};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

const MANY: i32 = 50_000;

const COLUMNS: [&str; 2] = ["a", "b"];

fn row(number: i32) -> (i32, String) {
    (number, format!("row {number}"))
}

#[test]
fn all_rows_arrive_in_few_round_trips() {
    let (_database, proxy, pool) = behind_proxy(|_| ());
    assert_eq!(pool.copy_in("t", &COLUMNS, (0..10).map(row)).unwrap(), 10);
    pool.execute_write("DELETE FROM t", &[]).unwrap();
    let (round_trips, bytes) = (proxy.round_trips(), proxy.bytes_to_server());
    assert_eq!(pool.copy_in("t", &COLUMNS, (0..MANY).map(row)).unwrap(), MANY as u64);
    let (round_trips, bytes) = (proxy.round_trips() - round_trips, proxy.bytes_to_server() - bytes);
    assert!(round_trips < 12, "{round_trips} for {bytes} bytes");
    let all: Vec<(i32, String)> = pool.execute_query("SELECT a, b FROM t ORDER BY a", &[]).unwrap();
    assert_eq!(all, (0..MANY).map(row).collect::<Vec<_>>());
    // A table without triggers leaves a clean session.
    assert_eq!((pool.status().connects, pool.status().resets), (1, 0));
}

#[test]
fn without_rows_nothing_is_sent() {
    let (_database, proxy, pool) = behind_proxy(|_| ());
    let before = proxy.round_trips();
    let none = std::iter::empty::<(i32, String)>;
    assert_eq!(pool.copy_in("t", &COLUMNS, none()).unwrap(), 0);
    assert_eq!(pool.get_connection().unwrap().copy_in("t", &COLUMNS, none()).unwrap(), 0);
    assert_eq!(proxy.round_trips(), before);
}

/// What is read back is what was copied, whatever the type and the characters.
#[test]
fn every_type_comes_back_as_it_was() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mood {
        Calm,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        id: i64,
        small: i16,
        flag: Option<bool>,
        real: f32,
        double: f64,
        exact: rust_decimal::Decimal,
        text: String,
        bytes: serde_bytes::ByteBuf,
        at: chrono::DateTime<chrono::Utc>,
        day: chrono::NaiveDate,
        uuid: uuid::Uuid,
        mood: Mood,
        document: Value,
        numbers: Vec<Option<i32>>,
        texts: Vec<String>,
        #[serde(rename = "Odd \"Name\"")]
        odd: Option<String>,
    }
    let pool = pool();
    let mut client = pool.get_connection().unwrap();
    let ddl = "CREATE SCHEMA \"My.s\"; CREATE SCHEMA s; CREATE TYPE mood AS ENUM ('calm');
        CREATE DOMAIN tags AS text[]; CREATE TABLE s.\"Types\" (id bigint GENERATED ALWAYS AS IDENTITY,
        small smallint, flag bool, real real, double float8, exact numeric, text text, bytes bytea, at timestamptz, day date,
        uuid uuid, mood mood, document jsonb, numbers int[], texts tags, \"Odd \"\"Name\"\"\" text)";
    client.client().batch_execute(ddl).unwrap();
    drop(client);
    let texts =
        ["", "\\N", "\\.", "a\tb\nc\rd", "'\"\\", "ä€𝄞", "NULL", "{x,\"y\"}", "\u{1}\u{8}\u{b}\u{7f}"];
    let rows: Vec<Row> = (0_i16..)
        .zip(texts)
        .map(|(number, text)| Row {
            id: i64::from(number) - 4,
            small: number,
            flag: [None, Some(true), Some(false)][number as usize % 3],
            real: [0.1, f32::MAX, -0.0][number as usize % 3],
            double: [1e-300, f64::INFINITY, f64::MIN_POSITIVE][number as usize % 3],
            exact: "-12345678901234567890.123456".parse().unwrap(),
            text: text.to_owned(),
            bytes: vec![0, 92, 255, number as u8].into(),
            at: "2024-02-29T23:59:59.123456Z".parse().unwrap(),
            day: "0001-01-01".parse().unwrap(),
            uuid: uuid::Uuid::from_u128(number as u128),
            mood: Mood::Calm,
            document: json!({"text": text, "list": [null, 1, {"a": text}]}),
            numbers: vec![Some(1), None],
            texts: vec![text.to_owned(), text.repeat(2)],
            odd: Some(text.to_owned()).filter(|text| !text.is_empty()),
        })
        .collect();
    let columns = [
        "texts",
        "id",
        "small",
        "flag",
        "real",
        "double",
        "exact",
        "text",
        "bytes",
        "at",
        "day",
        "uuid",
        "mood",
        "document",
        "numbers",
        "Odd \"Name\"",
    ];
    assert_eq!(pool.copy_in("s.Types", &columns, &rows).unwrap(), rows.len() as u64);
    let read: Vec<Row> = pool.execute_query("SELECT * FROM s.\"Types\" ORDER BY small", &[]).unwrap();
    assert_eq!(read, rows);
}

#[test]
fn a_refused_row_is_named_and_nothing_is_changed() {
    let pool = pool();
    pool.execute_write("INSERT INTO t VALUES (7, 'there')", &[]).unwrap();
    for bad in [0, 1, 30_000, MANY - 1] {
        let rows = (0..MANY).map(|number| (if number == bad { 7 } else { number + 100 }, "x\ny"));
        let error = pool.copy_in("t", &COLUMNS, rows).unwrap_err();
        assert_eq!((error.sqlstate(), error.constraint()), (Some("23505"), Some("t_pkey")));
        let Error::Query(query) = &error else { panic!("{error}") };
        assert_eq!(query.row(), Some(bad as u64), "{error}");
        assert!(query.statement().unwrap().starts_with("COPY \"t\" (\"a\", \"b\") FROM STDIN"), "{error}");
        let rows =
            (0..MANY).map(|number| if number == bad { "x".to_owned() } else { (number + 100).to_string() });
        let error = pool.copy_in("t", &["a"], rows).unwrap_err();
        let Error::Query(query) = &error else { panic!("{error}") };
        assert_eq!((error.sqlstate(), query.row()), (Some("22P02"), Some(bad as u64)), "{error}");
        assert_eq!(count(&pool), 1);
    }
    assert_eq!((pool.status().connects, pool.status().resets), (1, 0));
}

#[test]
fn a_row_that_does_not_fit_is_named_and_nothing_is_loaded() {
    let pool = pool();
    for bad in [0, MANY - 1] {
        let rows = || (0..MANY).map(|number| (number, if number == bad { "a\0b" } else { "x" }));
        let error = pool.copy_in("t", &COLUMNS, rows()).unwrap_err();
        let Error::Query(query) = &error else { panic!("{error}") };
        assert_eq!(query.row(), Some(bad as u64), "{error}");
        assert!(error.to_string().contains("column \"b\" (text)"), "{error}");
        assert_eq!(count(&pool), 0);
        // Also where the caller ignores the error.
        let outcome = pool.transaction(|tx| Ok(tx.copy_in("t", &COLUMNS, rows()).is_err()));
        assert!(matches!(outcome, Err(Error::TransactionAborted)), "{outcome:?}");
        // And where another operation, which has its rows from this one, succeeds.
        let outcome = pool.transaction(|tx| {
            // The second row is made while the outer one is at work.
            let fails = |number| number == 1 && tx.copy_in("t", &COLUMNS, rows()).is_err();
            let outer = (0..2).map(|number| (2 * MANY + number, fails(number).to_string()));
            tx.copy_in("t", &COLUMNS, outer)
        });
        assert!(matches!(outcome, Err(Error::TransactionAborted)), "{outcome:?}");
        assert_eq!(count(&pool), 0);
    }
    assert_eq!(pool.status().connects, 1);
}

#[test]
fn names_are_taken_as_they_are() {
    let pool = pool();
    for (table, columns, code) in [
        ("nowhere", &["a"][..], "42P01"),
        ("T", &["a"], "42P01"),
        ("t (a) FROM PROGRAM 'true'; --", &["a"], "42P01"),
        ("t", &["A"], "42703"),
        ("t", &["a\") FROM PROGRAM 'true'; --"], "42703"),
        ("public.t", &["a", "c"], "42703"),
    ] {
        let error = pool.copy_in(table, columns, [(1, 2)]).unwrap_err();
        assert_eq!(error.sqlstate(), Some(code), "{error}");
    }
    for (table, columns) in [("", &["a"][..]), ("t.", &["a"]), ("t", &["\0"]), ("t", &[])] {
        let error = pool.copy_in(table, columns, [(1,)]).unwrap_err();
        assert!(matches!(error, Error::Query(_)) && error.sqlstate().is_none(), "{error}");
    }
    assert_eq!(pool.copy_in("public.t", &["a"], [1, 2]).unwrap(), 2);
}

/// A trigger may leave a setting, which the next borrower must not see.
#[test]
fn a_table_whose_trigger_changes_the_session_has_it_reset() {
    let pool = pool();
    let mut connection = pool.get_connection().unwrap();
    let ddl = "CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM set_config('my.mark', 'left', false); RETURN NEW; END $$;
        CREATE TRIGGER mark BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION mark()";
    connection.client().batch_execute(ddl).unwrap();
    drop(connection);
    pool.copy_in("t", &COLUMNS, (0..3).map(row)).unwrap();
    let mark: Option<Option<String>> =
        pool.execute_query_one("SELECT nullif(current_setting('my.mark', true), '')", &[]).unwrap();
    assert_eq!(mark, Some(None));
}

#[test]
fn a_panic_of_the_rows_loads_nothing() {
    let pool = pool();
    let panicking =
        || (0..MANY).map(|number| if number < MANY - 1 { row(number) } else { panic!("no more") });
    assert!(catch_unwind(AssertUnwindSafe(|| pool.copy_in("t", &COLUMNS, panicking()))).is_err());
    assert_eq!(count(&pool), 0);
    let outcome = pool.transaction(|tx| {
        assert!(catch_unwind(AssertUnwindSafe(|| tx.copy_in("t", &COLUMNS, panicking()))).is_err());
        tx.execute_query_one::<i64>("SELECT count(*) FROM t", &[])
    });
    assert!(matches!(outcome, Err(Error::TransactionAborted)), "{outcome:?}");
    assert_eq!(count(&pool), 0);
}

#[test]
fn the_deadline_ends_it_in_the_middle() {
    let pool = pool();
    let mut connection = pool.get_connection().unwrap();
    let ddl = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION slow()";
    connection.client().batch_execute(ddl).unwrap();
    drop(connection);
    let (outcome, took) = timed(|| {
        with_deadline(Instant::now() + 300 * MS, || pool.copy_in("t", &COLUMNS, (0..10_000).map(row)))
    });
    assert!(matches!(outcome, Err(Error::DeadlineExceeded(_))), "{outcome:?}");
    assert!(took < SOON, "{took:?}");
    assert_eq!(count(&pool), 0);
}

#[test]
fn a_connection_that_is_cut_in_the_middle_loads_nothing() {
    let (database, proxy, pool) = behind_proxy(|_| ());
    let rows = (0..MANY).map(|number| {
        if number == MANY - 10 {
            proxy.cut();
        }
        row(number)
    });
    let outcome = pool.copy_in("t", &COLUMNS, rows);
    assert!(matches!(outcome, Err(Error::ConnectionLost(_))), "{outcome:?}");
    assert_eq!(database.client().query_one("SELECT count(*) FROM t", &[]).unwrap().get::<_, i64>(0), 0);
    proxy.pass();
    assert_eq!(pool.copy_in("t", &COLUMNS, (0..3).map(row)).unwrap(), 3);
}

#[test]
fn a_lost_answer_to_the_commit_is_unknown() {
    let (database, proxy, pool) = behind_proxy(|_| ());
    pool.copy_in("t", &COLUMNS, [row(1)]).unwrap();
    let before = proxy.bytes_to_client();
    pool.copy_in("t", &COLUMNS, [row(2)]).unwrap();
    // Of the same replies the last one, to COMMIT, is not delivered.
    proxy.stall_replies_after(proxy.bytes_to_client() - before - 1);
    let outcome = with_deadline(Instant::now() + 500 * MS, || pool.copy_in("t", &COLUMNS, [row(3)]));
    assert!(matches!(outcome, Err(Error::OutcomeUnknown(_))), "{outcome:?}");
    assert_eq!(database.client().query_one("SELECT count(*) FROM t", &[]).unwrap().get::<_, i64>(0), 3);
}

#[test]
fn a_server_that_is_killed_in_the_middle_has_none_of_the_rows() {
    let server = Postgres::start();
    create_table(&mut server.client());
    let pool = open(server.pool_settings());
    let rows = (0..MANY).map(|number| {
        if number == MANY - 10 {
            server.kill();
        }
        row(number)
    });
    let outcome = pool.copy_in("t", &COLUMNS, rows);
    assert!(matches!(outcome, Err(Error::ConnectionLost(_))), "{outcome:?}");
    server.start_again();
    assert_eq!(server.client().query_one("SELECT count(*) FROM t", &[]).unwrap().get::<_, i64>(0), 0);
}

#[test]
fn a_server_that_stops_during_a_piece_has_none_of_the_rows() {
    let server = Postgres::start();
    create_table(&mut server.client());
    let pool = open(server.pool_settings());
    let ddl = "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(10); RETURN NEW; END $$;
        CREATE TRIGGER stop BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.a = 49999) EXECUTE FUNCTION stop()";
    server.client().batch_execute(ddl).unwrap();
    let outcome = pool.copy_in("t", &COLUMNS, (0..MANY).map(row));
    assert!(matches!(outcome, Err(Error::ConnectionLost(_))), "{outcome:?}");
    assert_eq!(count(&pool), 0);
}

#[test]
fn copying_works_behind_pgbouncer() {
    let database = postgres::fresh_database();
    create_table(&mut database.client());
    let bouncer = PgBouncer::before(&database.settings(), &[("default_pool_size", "2")]);
    let pool = open(bouncer.pool_settings());
    for round in 0..3 {
        let rows = (0..MANY).map(|number| row(round * MANY + number));
        assert_eq!(pool.copy_in("t", &COLUMNS, rows).unwrap(), MANY as u64);
        let error = pool.copy_in("t", &COLUMNS, [row(0)]).unwrap_err();
        assert_eq!(error.sqlstate(), Some("23505"), "{error}");
        let mut text = Vec::new();
        let rows = pool.copy_out("SELECT * FROM t", poolhouse::CopyFormat::Text, &mut text).unwrap();
        assert_eq!(rows as i64, count(&pool));
    }
    assert_eq!(count(&pool), 3 * i64::from(MANY));
    assert_eq!(pool.status().connects, 1);
}
