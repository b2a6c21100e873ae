//! Prepared statements: kept, bounded, healed.

use super::*;
use crate::support::{Postgres, Proxy, eventually};
use poolhouse::Execute;
use serde_json::{Value, json};
use std::thread;

fn prepared(pool: &Pool) -> i64 {
    pool.execute_query_one("SELECT count(*) FROM pg_prepared_statements", &[]).unwrap().unwrap()
}

#[test]
fn many_texts_keep_the_cache_within_its_size_on_both_sides() {
    let pool = pool(1, 1, |settings| settings.statement_cache_size = 10);
    for number in 0..100 {
        let sql = format!("SELECT {number} AS n");
        assert_eq!(pool.execute_query_one::<i32>(&sql, &[]).unwrap(), Some(number));
    }
    let kept = prepared(&pool);
    assert!(kept <= 11, "{kept} statements on the server");
}

#[test]
fn without_a_cache_nothing_stays_prepared() {
    let pool = pool(1, 1, |settings| settings.statement_cache_size = 0);
    for number in 0..20 {
        assert_eq!(pool.execute_query_one::<i32>("SELECT $1::int4", &[&number]).unwrap(), Some(number));
    }
    let kept = prepared(&pool);
    assert!(kept <= 1, "{kept} statements on the server");
}

#[test]
fn a_changed_table_heals_by_itself() {
    let pool = pool(2, 2, |_| ());
    pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    pool.execute_write("INSERT INTO t VALUES (1)", &[]).unwrap();
    // Both connections know the statement.
    let held = (pool.get_connection().unwrap(), pool.get_connection().unwrap());
    for connection in [&held.0, &held.1] {
        connection.execute_query::<Value>("SELECT * FROM t", &[]).unwrap();
    }
    drop(held);
    for column in 0..8 {
        pool.execute_write(&format!("ALTER TABLE t ADD COLUMN c{column} int"), &[]).unwrap();
        for _ in 0..2 {
            let row: Option<Value> = pool.execute_query_one("SELECT * FROM t", &[]).unwrap();
            assert_eq!(row.unwrap().as_object().unwrap().len(), 2 + column);
        }
    }
    // Inside a transaction it cannot heal, and the next transaction is well.
    let ask = || pool.transaction(|tx| tx.execute_query_one::<Value>("SELECT * FROM t", &[]));
    ask().unwrap();
    pool.execute_write("ALTER TABLE t ADD COLUMN last int", &[]).unwrap();
    let refused = (0..4).filter(|_| ask().is_err()).count();
    assert!(refused <= 2, "{refused} of 4 refused, at most one per connection is right");
}

#[test]
fn statements_deallocated_behind_our_back_heal_by_themselves() {
    let pool = pool(1, 1, |_| ());
    let ask =
        |connection: &poolhouse::Connection| connection.execute_query_one::<i32>("SELECT 1 AS one", &[]);
    let mut connection = pool.get_connection().unwrap();
    ask(&connection).unwrap();
    connection.client().batch_execute("DEALLOCATE ALL").unwrap();
    assert_eq!(ask(&connection).unwrap(), Some(1));
}

#[test]
fn changed_types_heal_by_themselves() {
    let pool = pool(1, 1, |_| ());
    pool.execute_write("CREATE TABLE t (a text)", &[]).unwrap();
    let insert = "INSERT INTO t VALUES ($1)";
    pool.execute_write(insert, &[&"one"]).unwrap();
    pool.execute_write("DROP TABLE t", &[]).unwrap();
    pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    pool.execute_write(insert, &[&1_i32]).unwrap();

    let ask = || pool.execute_query_one::<String>("SELECT 'high'::level", &[]);
    pool.execute_write("CREATE TYPE level AS ENUM ('low', 'high')", &[]).unwrap();
    assert_eq!(ask().unwrap().as_deref(), Some("high"));
    pool.execute_write("DROP TYPE level", &[]).unwrap();
    pool.execute_write("CREATE TYPE level AS ENUM ('high', 'low')", &[]).unwrap();
    assert_eq!(ask().unwrap().as_deref(), Some("high"));
}

/// Preparing and running are two round trips the first time.
#[test]
fn a_table_that_changes_between_the_two_heals_as_well() {
    let database = postgres::fresh_database();
    database.client().batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").unwrap();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (1, 1);
    let pool = Pool::open(&settings).unwrap();
    let mut direct = database.client();
    thread::scope(|scope| {
        proxy.stall_replies_after(0);
        let before = proxy.bytes_to_server();
        let reading = scope.spawn(|| pool.execute_query::<Value>("SELECT * FROM t", &[]));
        eventually("it is being prepared", SOON, || proxy.bytes_to_server() > before);
        // What it may do has been asked behind it, in the same round trip.
        let prepared = "SELECT count(*) FROM pg_stat_activity
                        WHERE query LIKE '%pg_rewrite%' AND state = 'idle' AND pid <> pg_backend_pid()
                        AND datname = current_database()";
        eventually("it is prepared", SOON, || direct.query_one(prepared, &[]).unwrap().get::<_, i64>(0) == 1);
        direct.batch_execute("ALTER TABLE t ADD COLUMN b int").unwrap();
        proxy.pass();
        let rows = reading.join().unwrap().unwrap();
        assert_eq!(rows, [json!({"a": 1, "b": null})]);
    });
}

/// The driver looks types up by statements of its own, which it believes to be there for as long as it lives.
#[test]
fn a_reset_leaves_the_statements_that_are_not_the_borrowers() {
    let database = postgres::fresh_database();
    database
        .client()
        .batch_execute(
            "CREATE TYPE level AS ENUM ('low'); CREATE TYPE mood AS ENUM ('high'); CREATE DOMAIN d AS level",
        )
        .unwrap();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (1, 1);
    settings.validate_after = Duration::from_secs(3600);
    let pool = Pool::open(&settings).unwrap();
    let level = || pool.execute_query_one::<String>("SELECT 'low'::level", &[]).unwrap().unwrap();
    level();
    let mut connection = pool.get_connection().unwrap();
    connection.client().batch_execute("PREPARE mine AS SELECT 1; SET work_mem = '1MB'").unwrap();
    drop(connection);
    eventually("it is reset", SOON, || pool.status().resets == 1);

    let before = proxy.round_trips();
    level();
    assert_eq!(proxy.round_trips() - before, 1, "it is still prepared");
    for (sql, is) in
        [("SELECT 'high'::mood", "high"), ("SELECT 'low'::d", "low"), ("SELECT max('low'::level)", "low")]
    {
        assert_eq!(pool.execute_query_one::<String>(sql, &[]).unwrap().as_deref(), Some(is));
    }
    let of_borrowers = "SELECT count(*) FROM pg_prepared_statements WHERE from_sql";
    assert_eq!(pool.execute_query_one::<i64>(of_borrowers, &[]).unwrap(), Some(0));
    assert_eq!((pool.status().connects, pool.status().closed.total()), (1, 0));
}

#[test]
fn what_the_driver_misses_costs_the_session_and_not_its_borrower() {
    let pool = pool(1, 1, |_| ());
    for name in ["level", "mood"] {
        pool.execute_write(&format!("CREATE TYPE {name} AS ENUM ('low')"), &[]).unwrap();
    }
    let ask = |name: &str| pool.execute_query_one::<String>(&format!("SELECT 'low'::{name}"), &[]);
    ask("level").unwrap();
    pool.get_connection().unwrap().client().batch_execute("DEALLOCATE ALL").unwrap();
    for name in ["mood", "level"] {
        assert_eq!(ask(name).unwrap().as_deref(), Some("low"));
    }
    // Inside a transaction it cannot be mended, and the next one is well.
    pool.get_connection().unwrap().client().batch_execute("DEALLOCATE ALL").unwrap();
    let again = || pool.transaction(|tx| tx.execute_query_one::<String>("SELECT min('low'::mood)", &[]));
    let _ = again();
    assert_eq!(again().unwrap().as_deref(), Some("low"));
}

#[test]
fn a_failure_in_a_borrowers_own_transaction_is_reported_as_it_is() {
    let pool = pool(1, 1, |_| ());
    pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    let connection = pool.get_connection().unwrap();
    let ask = || connection.execute_query::<i32>("SELECT a FROM t", &[]);
    ask().unwrap();
    connection.execute_write("BEGIN", &[]).unwrap();
    connection.execute_write("ALTER TABLE t RENAME a TO b", &[]).unwrap();
    // Prepared anew, it would fail with the transaction, and no more be said of the column.
    assert_eq!(ask().unwrap_err().sqlstate(), Some("42703"));
}

/// Nothing of ours is missing then, so that the reset does not notice.
#[test]
fn the_same_where_no_statements_are_kept() {
    let pool = pool(1, 1, |settings| settings.statement_cache_size = 0);
    for name in ["level", "mood"] {
        pool.execute_write(&format!("CREATE TYPE {name} AS ENUM ('low')"), &[]).unwrap();
    }
    let ask = |name: &str| pool.execute_query_one::<String>(&format!("SELECT 'low'::{name}"), &[]);
    ask("level").unwrap();
    pool.get_connection().unwrap().client().batch_execute("DISCARD ALL").unwrap();
    for name in ["mood", "level"] {
        assert_eq!(ask(name).unwrap().as_deref(), Some("low"));
    }
}

/// What the planner expects to be costly (`jit_above_cost`) the server compiles first, and that takes a hundred times as long as
/// to answer this.
#[test]
fn what_is_asked_about_a_statement_is_not_worth_compiling() {
    let server = Postgres::start();
    let mut admin = server.client();
    if admin.batch_execute("LOAD 'auto_explain'").is_err() {
        return eprintln!("skipped: PostgreSQL's auto_explain is not installed");
    }
    for sql in [
        "ALTER SYSTEM SET auto_explain.log_min_duration = 0",
        "ALTER SYSTEM SET session_preload_libraries = 'auto_explain'",
        "SELECT pg_reload_conf()",
    ] {
        admin.batch_execute(sql).unwrap();
    }
    eventually("sessions have it", SOON, || {
        let limit =
            server.client().query_one("SELECT current_setting('auto_explain.log_min_duration', true)", &[]);
        limit.unwrap().get::<_, Option<String>>(0).as_deref() == Some("0")
    });
    let pool = Pool::open(&server.pool_settings()).unwrap();
    let names: Vec<_> = (0..100).map(|number| format!("a{number}")).collect();
    let many = format!(
        "SELECT count(*) FROM (VALUES (upper(lower('x')))) AS t (a) CROSS JOIN (SELECT 1 AS {}) AS u",
        names.join(", 1 AS ")
    );
    assert_eq!(pool.execute_query_one::<i64>(&many, &[]).unwrap(), Some(1));
    let cost = || {
        let log = server.log();
        let (_, plan) = log.split_once("WITH RECURSIVE cascade")?;
        let (_, cost) = plan.split_once("(cost=")?.1.split_once("..")?;
        cost.split(' ').next()?.parse::<f64>().ok()
    };
    eventually("its plan is in the log", SOON, || cost().is_some());
    let limit: f64 = admin.query_one("SELECT current_setting('jit_above_cost')::float8", &[]).unwrap().get(0);
    assert!(cost().unwrap() < limit, "{:?} of {limit}", cost());
}

/// It is parsed, and then refused before its columns are described.
#[test]
fn a_statement_that_is_refused_at_its_first_run_on_a_connection_is_described_at_the_next() {
    let pool = pool(2, 2, |_| ());
    let sql = "SELECT $1::text AS text, 1 AS number";
    let (known, other) = (pool.get_connection().unwrap(), pool.get_connection().unwrap());
    assert_eq!(known.execute_query::<Value>(sql, &[&"a"]).unwrap(), [json!({"text": "a", "number": 1})]);
    for _ in 0..2 {
        let refused = other.execute_query::<Value>(sql, &[&"a\0b"]).unwrap_err();
        assert_eq!(refused.sqlstate(), Some("22021"), "{refused}");
    }
    assert_eq!(other.execute_query::<Value>(sql, &[&"b"]).unwrap(), [json!({"text": "b", "number": 1})]);
}

/// It is not cached where the session reads literals in its own way, and must not stand in for the next statement.
#[test]
fn a_statement_that_could_not_run_is_not_run_in_place_of_another() {
    let pool = pool(1, 1, |_| ());
    let mut connection = pool.get_connection().unwrap();
    connection.client().batch_execute("SET TIME ZONE 'Asia/Tokyo'").unwrap();
    let wrong = connection.execute_query::<i32>("SELECT $1::int", &[&"one"]).unwrap_err();
    assert!(wrong.to_string().contains("parameter $1"), "{wrong}");
    connection.client().batch_execute("RESET TIME ZONE").unwrap();
    assert_eq!(connection.execute_query::<String>("SELECT $1::text", &[&"two"]).unwrap(), ["two"]);
    let failed = connection.transaction(|tx| tx.execute_write("COMMIT", &[]).map(drop));
    assert!(failed.is_err());
    assert_eq!(connection.execute_query::<i32>("SELECT $1::int", &[&3]).unwrap(), [3]);
}

/// The server begins to wait for data, and then refuses, which leaves two replies or one.
#[test]
fn a_copy_through_a_helper_is_refused_and_shifts_no_reply() {
    let pool = pool(1, 1, |_| ());
    pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    pool.execute_write("CREATE VIEW v AS SELECT 1 AS a", &[]).unwrap();
    let connection = pool.get_connection().unwrap();
    for sql in ["COPY t FROM STDIN", "COPY v FROM STDIN", "/* so */ COPY v (a) FROM STDIN WITH (FORMAT csv)"]
    {
        for _ in 0..10 {
            let refused = connection.execute_write(sql, &[]).unwrap_err();
            assert!(refused.to_string().contains("copy_in"), "{refused}");
            for number in 0..3 {
                let answer = connection.execute_query_one::<i32>("SELECT $1::int", &[&number]).unwrap();
                assert_eq!(answer, Some(number), "{sql}");
            }
        }
    }
}
