//! Faults behind and of PgBouncer, and what its configuration has to do with them.

use super::super::storm::{INSERT, write_under_a_storm};
use super::*;
use crate::support::eventually;
use crate::support::postgres::{GUEST, GUEST_PASSWORD};
use poolhouse::settings::{PgBouncerMode, PrePing, Secret};

#[test]
fn a_statement_that_takes_too_long_is_cancelled_on_the_server() {
    let stage = Stage::new(2, 2, |settings| settings.statement_timeout = Some(300 * MS));
    let pool = &stage.pool;
    let mut admin = stage.database.client();
    let mut running = move || {
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND state = 'active' AND query LIKE 'SELECT pg_sleep%'";
        admin.query_one(sql, &[]).unwrap().get::<_, i64>(0)
    };
    for _ in 0..3 {
        // By itself: the pool gives up, and has PgBouncer cancel it.
        let (error, took) = timed(|| pool.execute_write("SELECT pg_sleep(60)", &[]).unwrap_err());
        assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
        assert!(took < SOON, "{took:?}");
        eventually("it is cancelled", SOON, || running() == 0);
    }
    // In a transaction: the server has the limit too, and the connection goes on.
    let before = pool.status();
    let error = pool.transaction(|tx| tx.execute_write("SELECT pg_sleep(60)", &[])).unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded(_)), "{error}");
    assert_eq!(running(), 0);
    let after = pool.status();
    assert_eq!(after.closed.broken, before.closed.broken, "{after:?}");
    let limit = |db: &dyn Fn() -> poolhouse::Result<Option<String>>| db().unwrap().unwrap();
    let sql = "SELECT current_setting('statement_timeout')";
    assert_eq!(limit(&|| pool.transaction(|tx| tx.execute_query_one(sql, &[]))), "300ms");
    assert_eq!(limit(&|| pool.execute_query_one(sql, &[])), "0", "it ends with the transaction");
}

#[test]
fn connections_are_checked_before_they_are_lent() {
    let stage = Stage::new(1, 2, |settings| {
        settings.pre_ping = PrePing::On;
        (settings.connect_timeout, settings.acquire_timeout) = (2 * SOON, Duration::from_secs(2));
    });
    let Stage { pool, bouncer, .. } = &stage;
    let ask = || pool.execute_query_one::<i32>("SELECT 1", &[]);
    assert_eq!(ask().unwrap(), Some(1));
    let connects = pool.status().connects;
    assert_eq!(ask().unwrap(), Some(1));
    assert_eq!(pool.status().connects, connects);
    bouncer.kill();
    bouncer.start_again();
    assert_eq!(ask().unwrap(), Some(1), "a dead connection is not lent");
    bouncer.freeze();
    let (error, took) = timed(|| ask().unwrap_err());
    assert!(matches!(error, Error::Down(_) | Error::Exhausted(_)), "{error}");
    assert!(took < SOON, "{took:?}");
}

#[test]
fn without_the_mode_the_pool_is_refused_with_the_reason() {
    let database = fresh_database();
    let bouncer = PgBouncer::before(&database.settings(), &[]);
    let settings = bouncer.pool_settings().with_pgbouncer_mode(PgBouncerMode::Off);
    let error = Pool::open(&settings).unwrap_err();
    assert!(error.to_string().contains("unsupported startup parameter: options"), "{error}");
}

#[test]
fn the_shipped_configuration_takes_scram_logins_and_limits_statements() {
    let server = Postgres::start();
    let mut admin = server.client();
    admin.batch_execute("CREATE DATABASE poolhouse").unwrap();
    // As config/userlist.txt.template says.
    let sql = "SELECT format('\"%s\" \"%s\"', rolname, rolpassword) FROM pg_authid WHERE rolname = $1";
    let userlist: String = admin.query_one(sql, &[&GUEST]).unwrap().get(0);
    let mut settings = server.database_settings();
    settings.name = "poolhouse".into();
    settings.user = GUEST.into();
    settings.password = Some(Secret::new(GUEST_PASSWORD));
    let bouncer = PgBouncer::with_logins(&settings, &userlist);
    let pool = Pool::open(&bouncer.pool_settings()).unwrap();
    let sql = "SELECT current_user::text, current_setting('statement_timeout')";
    let seen: Option<(String, String)> = pool.execute_query_one(sql, &[]).unwrap();
    assert_eq!(seen, Some((GUEST.to_owned(), "30s".to_owned())));

    let mut wrong_password = bouncer.pool_settings();
    wrong_password.database.password = Some(Secret::new("wrong"));
    let mut no_user = bouncer.pool_settings();
    no_user.database.user = "nobody".into();
    let mut no_database = bouncer.pool_settings();
    no_database.database.name = "nowhere".into();
    for mut settings in [wrong_password, no_user, no_database] {
        settings.connect_timeout = 2 * SOON;
        let (error, took) = timed(|| Pool::open(&settings).unwrap_err());
        assert!(matches!(error, Error::Authentication(_)), "{error}");
        assert!(took < SOON, "{took:?}");
    }
}

/// Writes a row, with something done just before it may last.
type Write<'a> = &'a (dyn Fn(&dyn Fn()) -> poolhouse::Result<u64> + Sync);

/// The server has done it, and PgBouncer reports the loss of its connection like any refusal.
#[test]
fn a_write_whose_answer_pgbouncer_lost_is_unknown_and_not_repeated() {
    let database = fresh_database();
    let proxy = Proxy::to(&database.settings());
    let bouncer = PgBouncer::before(&proxy.settings(), &[]);
    let pool = Pool::open(&bouncer.pool_settings()).unwrap();
    pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    let insert = "INSERT INTO t VALUES (1)";
    let alone = |before: &dyn Fn()| {
        before();
        pool.execute_write(insert, &[])
    };
    let committed = |before: &dyn Fn()| {
        pool.transaction(|tx| {
            let count = tx.execute_write(insert, &[])?;
            before();
            Ok(count)
        })
    };
    // Its types are known from here on.
    assert_eq!((alone(&|| ()).unwrap(), committed(&|| ()).unwrap()), (1, 1));

    let mut admin = database.client();
    let mut count = move || admin.query_one("SELECT count(*) FROM t", &[]).unwrap().get::<_, i64>(0);
    let writes: [Write<'_>; 2] = [&alone, &committed];
    for (write, there) in writes.into_iter().zip(3..) {
        let reported = thread::scope(|scope| {
            let writing = scope.spawn(|| write(&|| proxy.stall_replies_after(0)));
            eventually("the server has done it", SOON, || count() == there);
            proxy.cut();
            proxy.pass();
            writing.join().unwrap()
        });
        assert!(matches!(reported, Err(Error::OutcomeUnknown(_))), "{reported:?}");
        assert_eq!(count(), there);
    }
}

/// It returns a column that has appeared, of a type that has to be asked about, on another server connection.
#[test]
fn a_write_whose_rows_have_changed_is_understood_and_not_repeated() {
    let stage = Stage::new(3, 3, |_| ());
    let pool = &stage.pool;
    pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    prepared_on_each_server(pool, 3);
    let insert = "INSERT INTO t VALUES ($1) RETURNING *";
    let connection = pool.get_connection().unwrap();
    assert_eq!(connection.execute_query::<i32>(insert, &[&1]).unwrap(), [1]);
    let mut admin = stage.database.client();
    admin.batch_execute("CREATE TYPE level AS ENUM ('low', 'high'); ALTER TABLE t ADD level level").unwrap();
    let rows: Vec<Value> = connection.execute_query(insert, &[&2]).unwrap();
    assert_eq!(rows, [json!({"a": 2, "level": null})]);
    drop(connection);
    let rows: Vec<Value> = pool.execute_query(insert, &[&3]).unwrap();
    assert_eq!(rows, [json!({"a": 3, "level": null})]);
    assert_eq!(pool.execute_query::<i32>("SELECT a FROM t ORDER BY a", &[]).unwrap(), [1, 2, 3]);
}

/// No write is reported wrongly, whatever ends: server connections, PgBouncer, the server.
#[test]
fn writes_under_a_storm_are_never_reported_wrongly() {
    let server = Postgres::start();
    let bouncer = PgBouncer::before(&server.database_settings(), &[("default_pool_size", "3")]);
    let mut settings = bouncer.pool_settings();
    (settings.min_connections, settings.max_connections) = (4, 8);
    let pool = Pool::open(&settings).unwrap();
    let write = |id| match id % 3 {
        0 => pool.execute_write(INSERT, &[&id]),
        1 => pool.execute_query::<i32>("INSERT INTO t VALUES ($1) RETURNING a", &[&id]).map(|_| 1),
        _ => pool.transaction(|tx| tx.execute_write(INSERT, &[&id])),
    };
    let inflict = |round, admin: &mut ::postgres::Client| match round % 64 {
        31 => {
            bouncer.kill();
            bouncer.start_again();
        }
        // PgBouncer has to find its own words for this.
        63 => {
            server.stop_immediate();
            server.start_again();
            *admin = server.client();
        }
        _ => {}
    };
    write_under_a_storm(&pool, 128, write, server.client(), inflict);
}

#[test]
fn a_restarted_pgbouncer_and_a_restarted_server_are_survived() {
    let server = Postgres::start();
    let options = [("default_pool_size", "2"), ("query_wait_timeout", "1")];
    let bouncer = PgBouncer::before(&server.database_settings(), &options);
    let mut settings = bouncer.pool_settings();
    (settings.min_connections, settings.max_connections) = (2, 4);
    let pool = Pool::open(&settings).unwrap();
    pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    let write = || pool.execute_write("INSERT INTO t VALUES ($1)", &[&1]);
    write().unwrap();

    bouncer.kill();
    let error = write().unwrap_err();
    assert!(!matches!(error, Error::OutcomeUnknown(_)) && error.is_transient(), "{error}");
    bouncer.start_again();
    eventually("it goes on", SOON, || write().is_ok());

    server.kill();
    let (error, took) = timed(|| write().unwrap_err());
    assert!(matches!(error, Error::ConnectionLost(_)), "it never reached a server: {error}");
    assert!(took < SOON, "{took:?}");
    server.start_again();
    eventually("it goes on", SOON, || write().is_ok());
    assert_eq!(pool.execute_query_one::<i64>("SELECT count(*) FROM t", &[]).unwrap(), Some(3));
}
