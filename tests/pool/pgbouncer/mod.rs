//! Behind a real PgBouncer in transaction mode, where every transaction may run on another server connection.

use super::*;
use crate::support::pgbouncer::through;
use crate::support::postgres::{Database, fresh_database};
use crate::support::{PgBouncer, Postgres, Proxy};
use chrono::{DateTime, Utc};
use poolhouse::{Connection, Error, Execute, ToSql};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use uuid::Uuid;

mod outages;
mod raw_access;

/// A database behind a PgBouncer with `servers` server connections, and a pool of `connections` to it.
struct Stage {
    pool: Pool,
    bouncer: PgBouncer,
    database: Database,
}

impl Stage {
    fn new(servers: u32, connections: u32, change: impl FnOnce(&mut PoolSettings)) -> Stage {
        let database = fresh_database();
        let options = [("default_pool_size", servers.to_string())];
        let options: Vec<_> = options.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let bouncer = PgBouncer::before(&database.settings(), &options);
        // PgBouncer makes server connections only as it needs them.
        let mut clients: Vec<_> = (0..servers).map(|_| postgres::connect(&bouncer.settings())).collect();
        for sql in ["BEGIN", "ROLLBACK"] {
            clients.iter_mut().for_each(|client| client.batch_execute(sql).unwrap());
        }
        let mut settings = bouncer.pool_settings();
        (settings.min_connections, settings.max_connections) = (connections.min(2), connections);
        change(&mut settings);
        Stage { pool: Pool::open(&settings).unwrap(), bouncer, database }
    }
}

/// On each of as many server connections as `pool` has connections: how many statements are prepared.
fn prepared_on_each_server(pool: &Pool, servers: usize) -> Vec<i64> {
    let mut held: Vec<Connection> = (0..servers).map(|_| pool.get_connection().unwrap()).collect();
    held.iter_mut().for_each(|connection| connection.client().batch_execute("BEGIN").unwrap());
    let sql = "SELECT pg_backend_pid(), (SELECT count(*) FROM pg_prepared_statements)";
    let seen: Vec<(i32, i64)> =
        held.iter().map(|connection| connection.execute_query_one(sql, &[]).unwrap().unwrap()).collect();
    let different: HashSet<i32> = seen.iter().map(|(backend, _)| *backend).collect();
    assert_eq!(different.len(), servers, "each transaction has a server connection of its own");
    seen.into_iter().map(|(_, count)| count).collect()
}

#[test]
fn many_threads_share_a_few_server_connections() {
    let stage = Stage::new(3, 8, |_| ());
    let pool = &stage.pool;
    pool.execute_write("CREATE TABLE t (a bigint PRIMARY KEY, note text)", &[]).unwrap();
    let most = AtomicU32::new(0);
    thread::scope(|scope| {
        for thread in 0..8_i64 {
            let most = &most;
            scope.spawn(move || {
                for round in 0..25_i64 {
                    let id = thread * 1000 + round;
                    pool.execute_write("INSERT INTO t VALUES ($1, $2)", &[&id, &format!("note {id}")])
                        .unwrap();
                    let note = "SELECT note FROM t WHERE a = $1";
                    assert_eq!(pool.execute_query_one(note, &[&id]).unwrap(), Some(format!("note {id}")));
                    let moved = pool.transaction(|tx| {
                        tx.execute_write("UPDATE t SET a = $2 WHERE a = $1", &[&id, &-id])?;
                        let seen = tx.execute_query_one::<String>(note, &[&-id])?;
                        // So that there are always some at once.
                        tx.execute_query::<String>("SELECT pg_sleep(0.002)::text", &[])?;
                        if round % 2 == 0 { Ok(seen) } else { Err(Error::application("undone")) }
                    });
                    assert_eq!(moved.is_ok(), round % 2 == 0, "{moved:?}");
                    let sql = "SELECT count(*)::int FROM pg_stat_activity
                               WHERE datname = current_database() AND backend_type = 'client backend'";
                    most.fetch_max(
                        pool.execute_query_one::<u32>(sql, &[]).unwrap().unwrap(),
                        Ordering::Relaxed,
                    );
                }
            });
        }
    });
    assert_eq!(most.into_inner(), 3, "server connections");
    let sql = "SELECT count(*) FILTER (WHERE a <= 0), count(*) FILTER (WHERE a > 0) FROM t";
    // Of 25 rounds 13 have moved; round 0 of thread 0 is 0 either way.
    assert_eq!(pool.execute_query_one::<(i64, i64)>(sql, &[]).unwrap(), Some((8 * 13, 8 * 12)));
    assert_eq!(prepared_on_each_server(pool, 3), [0, 0, 0]);
    let status = pool.status();
    assert_eq!(status.closed.broken + status.closed.dirty + status.closed.invalid, 0, "{status:?}");
}

#[test]
fn parameters_of_many_types_arrive() {
    let stage = Stage::new(2, 2, |_| ());
    let pool = &stage.pool;
    let moment: DateTime<Utc> = "2024-02-29T12:34:56.789Z".parse().unwrap();
    let uuid = Uuid::from_u128(0x1234_5678_9abc_def0);
    let bytes = b"\0\x01\xff".to_vec();
    // The second time by the types learnt.
    for _ in 0..2 {
        let row: Option<Value> = pool
            .execute_query_one(
                "SELECT $1::bool AS b, $2::int2 AS s, $3::int8 AS l, $4::float8 AS f, $5::text AS t,
                        $6::timestamptz = '2024-02-29 12:34:56.789Z' AS m, $7::uuid AS u, $8::jsonb AS j,
                        $9::int4[] AS a, $10::bytea = '\\x0001ff' AS y, $11::text AS n, $12::date AS d",
                &[
                    &true,
                    &-7_i16,
                    &i64::MAX,
                    &0.25_f64,
                    &"d'été",
                    &moment,
                    &uuid,
                    &json!({"a": [1, null]}),
                    &vec![Some(1), None, Some(3)],
                    &bytes,
                    &None::<String>,
                    &moment.date_naive(),
                ],
            )
            .unwrap();
        let expected = json!({
            "b": true, "s": -7, "l": i64::MAX, "f": 0.25, "t": "d'été", "m": true, "u": uuid.to_string(),
            "j": {"a": [1, null]}, "a": [1, null, 3], "y": true, "n": null, "d": "2024-02-29",
        });
        assert_eq!(row, Some(expected));
    }
}

#[test]
fn a_statement_is_one_round_trip_once_its_types_are_known() {
    let database = fresh_database();
    let bouncer = PgBouncer::before(&database.settings(), &[("default_pool_size", "3")]);
    let proxy = Proxy::to(&bouncer.settings());
    let mut settings = through(proxy.settings());
    (settings.min_connections, settings.max_connections) = (1, 1);
    settings.validate_after = Duration::from_secs(3600);
    let pool = Pool::open(&settings).unwrap();
    pool.execute_write("CREATE TABLE t (a int, b text)", &[]).unwrap();
    let trips = |what: &dyn Fn()| {
        let before = proxy.round_trips();
        what();
        proxy.round_trips() - before
    };
    let write = || assert_eq!(pool.execute_write("INSERT INTO t VALUES ($1, $2)", &[&1, &"x"]).unwrap(), 1);
    let read = || {
        drop(pool.execute_query::<Value>("SELECT * FROM t WHERE a = $1 AND b <> $2", &[&1, &"y"]).unwrap())
    };
    let returning = || {
        assert_eq!(
            pool.execute_query_one::<i32>("DELETE FROM t WHERE a = $1 RETURNING a", &[&7]).unwrap(),
            None
        )
    };
    for statement in [&write as &dyn Fn(), &read, &returning] {
        let first = trips(statement);
        assert!(first <= 6, "BEGIN, prepare, close, COMMIT, the catalogue, and then the statement: {first}");
        for _ in 0..3 {
            assert_eq!(trips(statement), 1);
        }
    }
    let in_transaction = || {
        pool.transaction(|tx| {
            tx.execute_write("INSERT INTO t VALUES ($1, $2)", &[&2, &"y"])?;
            tx.execute_query_one::<i64>("SELECT count(*) FROM t WHERE a > $1", &[&1])
        })
        .map(drop)
        .unwrap();
    };
    let first = trips(&in_transaction);
    assert!(
        first <= 7,
        "BEGIN, one statement known, prepare, close, the catalogue, the other statement, COMMIT: {first}"
    );
    assert_eq!(trips(&in_transaction), 4, "BEGIN with its limit, two statements, COMMIT");
}

#[test]
fn types_of_ones_own_are_known_on_every_server_connection() {
    let stage = Stage::new(3, 3, |_| ());
    let pool = &stage.pool;
    for number in 0..5 {
        // The driver asks the server about each of these, in ways of its own: an enum, what is built on it, and
        // the row of a table.
        let sql = [
            format!("CREATE TYPE level{number} AS ENUM ('low', 'high')"),
            format!("CREATE DOMAIN grade{number} AS level{number} CHECK (VALUE <> 'low')"),
            format!("CREATE TABLE t{number} (id int, level level{number}, grades grade{number}[])"),
        ];
        sql.iter().for_each(|sql| assert_eq!(pool.execute_write(sql, &[]).unwrap(), 0));
        let insert =
            format!("INSERT INTO t{number} VALUES ($1, $2::text::level{number}, '{{high}}') RETURNING level");
        let select = format!("SELECT id, level, grades FROM t{number} WHERE level = $1::text::level{number}");
        for id in 0..4 {
            let level: Option<String> = pool.execute_query_one(&insert, &[&id, &"high"]).unwrap();
            assert_eq!(level.as_deref(), Some("high"));
            let rows: Vec<Value> = pool.execute_query(&select, &[&"high"]).unwrap();
            let same = pool.transaction(|tx| tx.execute_query::<Value>(&select, &[&"high"])).unwrap();
            assert_eq!(rows, same);
            let whole_rows = pool.execute_write(&format!("SELECT t FROM t{number} t"), &[]).unwrap();
            assert_eq!((rows.len(), whole_rows), (id as usize + 1, id as u64 + 1));
        }
    }
    assert_eq!(prepared_on_each_server(pool, 3), [0, 0, 0], "nothing of the driver's stays prepared");
    let status = pool.status();
    assert_eq!(status.closed.broken + status.closed.dirty + status.closed.invalid, 0, "{status:?}");
}

#[test]
fn a_refused_statement_costs_no_connection_and_leaves_nothing() {
    let stage = Stage::new(2, 2, |_| ());
    let pool = &stage.pool;
    pool.execute_write("CREATE TYPE level AS ENUM ('low', 'high')", &[]).unwrap();
    pool.execute_write("CREATE TABLE t (a int PRIMARY KEY, level level)", &[]).unwrap();
    for _ in 0..4 {
        pool.execute_query::<Value>("SELECT * FROM t", &[]).unwrap();
        let refused = [
            (pool.execute_write("INSERT INTO t (a) VALUES (1), (1)", &[]).unwrap_err(), "23505"),
            (pool.execute_write("INSERT INTO nowhere VALUES ($1)", &[&1]).unwrap_err(), "42P01"),
            (pool.execute_query::<i32>("SELECT 1/$1", &[&0]).unwrap_err(), "22012"),
            (
                pool.transaction(|tx| tx.execute_write("INSERT INTO t (a) VALUES (2), (2)", &[]))
                    .unwrap_err(),
                "23505",
            ),
            (pool.execute_query::<i32>("SELECT 1; SELECT 2", &[]).unwrap_err(), "42601"),
        ];
        for (error, code) in refused {
            assert_eq!(error.sqlstate(), Some(code), "{error}");
        }
        let unique = pool.execute_write("INSERT INTO t (a) VALUES (3), (3)", &[]).unwrap_err();
        assert_eq!(unique.constraint(), Some("t_pkey"));
        for params in [&[] as &[&(dyn ToSql + Sync)], &[&1, &2, &3]] {
            let error = pool.execute_query::<i32>("SELECT $1::int + $2::int", params).unwrap_err();
            assert!(error.to_string().contains("expected 2 parameters but got"), "{error}");
        }
        let wrong = pool.execute_query::<i32>("SELECT $1::int", &[&"one"]).unwrap_err();
        assert!(matches!(wrong, Error::Query(_)), "{wrong}");
        let undone = pool.transaction(|tx| {
            tx.execute_write("INSERT INTO t (a) VALUES (4)", &[])?;
            Err::<(), _>(Error::application("no"))
        });
        assert!(undone.is_err());
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            pool.transaction(|tx| -> poolhouse::Result<()> {
                tx.execute_write("INSERT INTO t (a) VALUES (5)", &[])?;
                panic!("in the middle")
            })
        }));
        assert!(panicked.is_err());
    }
    assert_eq!(pool.execute_query_one::<i64>("SELECT count(*) FROM t", &[]).unwrap(), Some(0));
    assert_eq!(prepared_on_each_server(pool, 2), [0, 0]);
    let status = pool.status();
    assert_eq!(status.closed.broken + status.closed.invalid, 0, "{status:?}");
    // A panic costs its own.
    assert!(status.connects <= 2 + 4, "{status:?}");
}

#[test]
fn a_small_cache_and_none_at_all_cost_only_time() {
    for size in [0, 2] {
        let stage = Stage::new(2, 2, |settings| settings.statement_cache_size = size);
        let pool = &stage.pool;
        for round in 0..3 {
            for number in 0..5 {
                let sql = format!("SELECT $1::int + {number}");
                assert_eq!(pool.execute_query_one(&sql, &[&round]).unwrap(), Some(round + number));
            }
        }
        assert_eq!(prepared_on_each_server(pool, 2), [0, 0], "cache of {size}");
    }
}

#[test]
fn changed_types_heal_by_themselves() {
    let stage = Stage::new(3, 1, |_| ());
    let pool = &stage.pool;
    pool.execute_write("CREATE TABLE t (a text)", &[]).unwrap();
    let insert = "INSERT INTO t (a) VALUES ($1)";
    pool.execute_write(insert, &[&"one"]).unwrap();
    pool.execute_write("DROP TABLE t", &[]).unwrap();
    pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    pool.execute_write(insert, &[&1_i32]).unwrap();
    pool.execute_write("ALTER TABLE t ALTER a TYPE jsonb USING to_jsonb(a)", &[]).unwrap();
    pool.execute_write(insert, &[&json!({"a": 2})]).unwrap();

    // A new column of a new type under a statement that is known; and another type by the same name.
    let all = || pool.execute_query::<Value>("SELECT * FROM t", &[]).unwrap();
    assert_eq!(all(), [json!({"a": 1}), json!({"a": {"a": 2}})]);
    for (words, value) in [("'low', 'high'", "high"), ("'high', 'low'", "high"), ("'top', 'high'", "top")] {
        pool.execute_write(&format!("CREATE TYPE level AS ENUM ({words})"), &[]).unwrap();
        pool.execute_write(&format!("ALTER TABLE t ADD level level DEFAULT '{value}'"), &[]).unwrap();
        for _ in 0..3 {
            assert_eq!(all()[0], json!({"a": 1, "level": value}));
        }
        pool.execute_write("ALTER TABLE t DROP level", &[]).unwrap();
        pool.execute_write("DROP TYPE level", &[]).unwrap();
        assert_eq!(all()[0], json!({"a": 1}));
    }
}

#[test]
fn functions_that_are_not_known_are_asked_about() {
    let stage = Stage::new(3, 2, |_| ());
    let pool = &stage.pool;
    pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    let sql = "CREATE FUNCTION charge(int) RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO t VALUES ($1) RETURNING a'";
    pool.execute_write(sql, &[]).unwrap();
    for round in 0..6 {
        assert_eq!(pool.execute_query_one("SELECT charge($1)", &[&round]).unwrap(), Some(round));
        let sum = pool.transaction(|tx| {
            tx.execute_query_one::<i32>("SELECT charge($1)", &[&100])?;
            tx.execute_query_one::<i64>("SELECT sum(a) FROM t", &[])
        });
        assert!(sum.unwrap().unwrap() > 99);
    }
    // There is nothing to clean that could be reached.
    assert_eq!(pool.status().resets, 0);
}

#[test]
fn copy_and_temporary_tables_work_within_a_transaction() {
    let stage = Stage::new(2, 2, |_| ());
    let pool = &stage.pool;
    for _ in 0..4 {
        let copied: Option<i64> = pool
            .transaction(|tx| {
                tx.execute_write("CREATE TEMPORARY TABLE incoming (a int) ON COMMIT DROP", &[])?;
                let mut writer = tx.copy_in_writer("COPY incoming FROM STDIN")?;
                writer.write_all(b"1\n2\n").map_err(Error::application)?;
                assert_eq!(writer.finish()?, 2);
                tx.execute_query_one("SELECT sum(a) FROM incoming", &[])
            })
            .unwrap();
        assert_eq!(copied, Some(3));
    }
    assert_eq!(prepared_on_each_server(pool, 2), [0, 0]);
}
