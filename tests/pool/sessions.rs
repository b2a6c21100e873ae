//! What one borrower leaves behind, the next does not see.

use super::*;
use crate::support::{Proxy, eventually};
use poolhouse::{Connection, Execute};

/// What is asked of a session to learn whether it is as new; every answer of a fresh one is the same.
const AS_NEW: &str = "SELECT concat_ws(' ',
    current_setting('statement_timeout'), current_setting('search_path'), current_user, session_user,
    current_setting('default_transaction_read_only'), current_setting('work_mem'),
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
    (SELECT count(*) FROM pg_listening_channels()), (SELECT count(*) FROM pg_cursors),
    (SELECT count(*) FROM pg_prepared_statements WHERE from_sql),
    to_regclass('pg_temp.scratch') IS NULL, pg_is_in_recovery(), now() = statement_timestamp())";

fn describe(pool: &Pool) -> String {
    pool.execute_query_one(AS_NEW, &[]).unwrap().unwrap()
}

/// Does `harm` on the only connection, and returns what the next borrower sees.
fn after(pool: &Pool, harm: impl FnOnce(&mut Connection)) -> String {
    let mut connection = pool.get_connection().unwrap();
    harm(&mut connection);
    drop(connection);
    describe(pool)
}

#[test]
fn raw_access_leaves_nothing_behind() {
    let pool = pool(1, 1, |_| ());
    pool.execute_write("CREATE ROLE somebody_else", &[]).ok();
    let clean = describe(&pool);
    for harm in [
        "BEGIN",
        "BEGIN; SELECT 1/0",
        "SET statement_timeout = 1",
        "SET ROLE pg_monitor",
        "SET SESSION AUTHORIZATION pg_monitor",
        "SET search_path = elsewhere",
        "SET default_transaction_read_only = on",
        "SELECT set_config('work_mem', '1MB', false)",
        "CREATE TEMP TABLE scratch (a int)",
        "SELECT pg_advisory_lock(1)",
        "LISTEN news",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "PREPARE p AS SELECT 1",
    ] {
        let seen = after(&pool, |connection| drop(connection.client().batch_execute(harm)));
        assert_eq!(seen, clean, "after {harm}");
    }
    assert_eq!(pool.status().connects, 1, "every session was cleaned, none had to be closed");
    assert!(pool.status().resets >= 13);
}

#[test]
fn the_helpers_leave_nothing_behind_either() {
    let pool = pool(1, 1, |_| ());
    let clean = describe(&pool);
    for harm in [
        "BEGIN",
        "SET statement_timeout = 1",
        "SET ROLE pg_monitor",
        "SET search_path = elsewhere",
        "SELECT set_config('work_mem', '1MB', false)",
        "CREATE TEMP TABLE scratch (a int)",
        "SELECT pg_advisory_lock(1)",
        "LISTEN news",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "PREPARE p AS SELECT 1",
        "DO $$ BEGIN PERFORM set_config('work_mem', '1MB', false); END $$",
    ] {
        let seen = after(&pool, |connection| drop(connection.execute_write(harm, &[])));
        assert_eq!(seen, clean, "after {harm}");
        pool.execute_write(harm, &[]).unwrap();
        assert_eq!(describe(&pool), clean, "after {harm} on the pool");
    }
}

#[test]
fn a_function_that_leaves_something_behind_is_noticed() {
    let pool = pool(1, 1, |_| ());
    let body = "BEGIN PERFORM set_config('work_mem', '1MB', false); RETURN 1; END";
    pool.execute_write(&format!("CREATE FUNCTION leak() RETURNS int LANGUAGE plpgsql AS $$ {body} $$"), &[])
        .unwrap();
    let clean = describe(&pool);
    pool.execute_query_one::<i32>("SELECT leak()", &[]).unwrap();
    assert_eq!(describe(&pool), clean);
}

#[test]
fn a_function_that_cannot_leave_anything_behind_costs_no_reset() {
    let pool = pool(1, 1, |_| ());
    pool.execute_write("CREATE FUNCTION quiet() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'", &[]).unwrap();
    let quiet = || pool.execute_query_one::<i32>("SELECT quiet()", &[]).unwrap();
    // By now the connection that made it has been reset.
    quiet();
    let before = pool.status().resets;
    quiet();
    quiet();
    assert_eq!(pool.status().resets, before);
}

#[test]
fn a_panicking_borrower_takes_its_session_with_it() {
    let pool = pool(1, 1, |_| ());
    let (clean, other) = (describe(&pool), pool.clone());
    let panicked = std::thread::spawn(move || {
        let connection = other.get_connection().unwrap();
        connection.execute_write("BEGIN", &[]).unwrap();
        panic!("half way");
    });
    assert!(panicked.join().is_err());
    assert_eq!(describe(&pool), clean);
    assert_eq!(pool.status().closed.dirty, 1);
}

#[test]
fn a_reply_left_unread_is_not_the_next_borrowers() {
    let pool = pool(1, 1, |_| ());
    let mut connection = pool.get_connection().unwrap();
    let rows = connection.client().query_raw("SELECT generate_series(1, 100000)", [0_i32; 0]).unwrap();
    // Leaked with its rows unread.
    std::mem::forget(rows);
    drop(connection);
    assert_eq!(pool.execute_query_one::<i32>("SELECT 42", &[]).unwrap(), Some(42));
}

#[test]
fn the_helpers_and_transactions_pay_nothing_for_it() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    settings.min_connections = 1;
    let pool = Pool::open(&settings).unwrap();
    let read = || pool.execute_query_one::<i32>("SELECT 1", &[]).unwrap();
    let change = || pool.transaction(|tx| tx.execute_write("SET LOCAL work_mem = '1MB'", &[])).unwrap();
    read();
    change();
    let before = proxy.round_trips();
    read();
    change();
    assert_eq!(proxy.round_trips() - before, 1 + 3);
    assert_eq!(pool.status().resets, 0);
}

#[test]
fn cleaning_is_off_the_callers_path() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (1, 2);
    let pool = Pool::open(&settings).unwrap();
    let mut connection = pool.get_connection().unwrap();
    connection.client().batch_execute("SET work_mem = '1MB'").unwrap();
    // Cleaning cannot get through any more, and the borrower does not notice.
    proxy.stall();
    let ((), took) = timed(|| drop(connection));
    assert!(took < OVERSHOOT, "returning took {took:?}");
    eventually("what cannot be cleaned is closed", SOON, || {
        pool.status().closed.dirty + pool.status().closed.broken == 1
    });
    proxy.pass();
    let work_mem: Option<String> = pool.execute_query_one("SHOW work_mem", &[]).unwrap();
    assert_ne!(work_mem.as_deref(), Some("1MB"));
}

/// Over either of the ways a notification takes: read by the driver already, or still on its way.
#[test]
fn notifications_are_not_the_next_borrowers() {
    let database = postgres::fresh_database();
    let mut settings = database.pool_settings();
    (settings.min_connections, settings.max_connections) = (1, 1);
    let pool = Pool::open(&settings).unwrap();
    let mut direct = database.client();
    for is_read in [true, false] {
        let mut connection = pool.get_connection().unwrap();
        connection.client().batch_execute("LISTEN news").unwrap();
        direct.batch_execute("NOTIFY news, 'for the first only'").unwrap();
        if is_read {
            eventually("it has come", SOON, || {
                connection.client().batch_execute("").unwrap();
                connection.client().notifications().len() == 1
            });
        }
        drop(connection);
        let mut connection = pool.get_connection().unwrap();
        connection.client().batch_execute("").unwrap();
        assert_eq!(connection.client().notifications().len(), 0);
    }
    assert_eq!(pool.status().connects, 1);
}

/// The helpers read the connection too: what they meet of the borrower's notifications is the borrower's.
#[test]
fn a_notification_that_arrives_during_a_helpers_statement_is_not_lost() {
    let database = postgres::fresh_database();
    let pool = Pool::open(&database.pool_settings()).unwrap();
    let mut direct = database.client();
    let mut connection = pool.get_connection().unwrap();
    connection.client().batch_execute("LISTEN news").unwrap();
    for round in 1..=20 {
        direct.batch_execute("NOTIFY news, 'good'").unwrap();
        for number in 0..5 {
            let answer = connection.execute_query_one::<i32>("SELECT $1::int", &[&number]).unwrap();
            assert_eq!(answer, Some(number));
        }
        eventually("it has come", SOON, || {
            connection.client().batch_execute("").unwrap();
            connection.client().notifications().len() == round
        });
    }
}

/// What a policy calls the tenant: lasting, though it reads like SET LOCAL; and local to a transaction, which costs
/// nothing.
#[test]
fn a_tenant_is_not_the_next_borrowers() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (1, 1);
    let pool = Pool::open(&settings).unwrap();
    let tenant = |name: &str| {
        let sql = format!("SELECT current_setting('{name}', true)");
        pool.execute_query_one::<Option<String>>(&sql, &[]).unwrap().flatten().filter(|name| !name.is_empty())
    };
    for name in ["local.tenant", "transaction.tenant", "constraints.tenant", "session.tenant"] {
        pool.execute_write(&format!("SET {name} = 'A'"), &[]).unwrap();
        assert_eq!(tenant(name), None);
        pool.transaction(|tx| tx.execute_write(&format!("SET {name} TO 'A'"), &[])).unwrap();
        assert_eq!(tenant(name), None);
    }

    let request = |name: &str| {
        let seen = pool.transaction(|tx| {
            tx.execute_query::<()>("SELECT set_config('app.tenant', $1, true)", &[&name])?;
            tx.execute_query_one::<String>("SELECT current_setting('app.tenant')", &[])
        });
        assert_eq!(seen.unwrap().as_deref(), Some(name));
    };
    eventually("it is reset", SOON, || pool.status().in_use == 0);
    request("A");
    let (trips, resets) = (proxy.round_trips(), pool.status().resets);
    request("B");
    assert_eq!((proxy.round_trips() - trips, pool.status().resets), (4, resets));
    assert_eq!(tenant("app.tenant"), None);
}

#[test]
fn columns_with_names_of_the_languages_words_cost_no_reset() {
    let pool = pool(1, 1, |_| ());
    pool.execute_write("CREATE TABLE t (temp int, temporary int, set int, local int)", &[]).unwrap();
    eventually("it is back", SOON, || pool.status().in_use == 0);
    let before = pool.status().resets;
    for _ in 0..10 {
        pool.execute_query::<(i32,)>("SELECT temp FROM t WHERE temporary = set AND local > 0", &[]).unwrap();
    }
    assert_eq!(pool.status().resets, before);
}

/// A prepared statement goes on meaning what its literals meant by the settings under which it was prepared.
#[test]
fn a_time_zone_is_not_the_next_borrowers() {
    let pool = pool(1, 1, |_| ());
    let ask = |name: &str| {
        format!("SELECT extract(epoch FROM '2024-01-02 00:00'::timestamptz)::float8 AS t -- {name}")
    };
    let read = |db: &Pool, sql: &str| db.execute_query_one::<f64>(sql, &[]).unwrap().unwrap();
    let usual = read(&pool, &ask("usual"));
    let zones = ["SET TIME ZONE 'America/New_York'", "SET TIME ZONE 'Asia/Tokyo'"];
    for zone in zones {
        let mut connection = pool.get_connection().unwrap();
        connection.client().batch_execute(zone).unwrap();
        for sql in [ask("usual"), ask("lasting")] {
            let seen: Option<f64> = connection.execute_query_one(&sql, &[]).unwrap();
            assert_ne!(seen, Some(usual), "{zone}: it is read as the borrower has it");
        }
    }
    assert_eq!([read(&pool, &ask("usual")), read(&pool, &ask("lasting"))], [usual; 2]);
    for zone in zones {
        let seen = pool.transaction(|tx| {
            tx.execute_write(&zone.replace("SET", "SET LOCAL"), &[])?;
            tx.execute_query_one::<f64>(&ask("local"), &[])
        });
        assert_ne!(seen.unwrap(), Some(usual), "{zone}");
    }
    assert_eq!([read(&pool, &ask("usual")), read(&pool, &ask("local"))], [usual; 2]);
    // What is not reported, and so found out by the reset alone.
    let mut connection = pool.get_connection().unwrap();
    connection.client().batch_execute("SET transform_null_equals = on").unwrap();
    let sql = "SELECT count(*) FROM (VALUES (NULL)) AS x(a) WHERE a = NULL";
    assert_eq!(connection.execute_query_one::<i64>(sql, &[]).unwrap(), Some(1));
    drop(connection);
    assert_eq!(pool.execute_query_one::<i64>(sql, &[]).unwrap(), Some(0));
}
