//! What is done with the driver's client behind PgBouncer, and what it leaves.

use super::*;

#[test]
fn a_transaction_begun_by_raw_access_is_not_ended_by_the_helpers() {
    let stage = Stage::new(2, 2, |_| ());
    stage.pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    let over_socket = Pool::open(&through(stage.bouncer.socket_settings())).unwrap();
    for pool in [&stage.pool, &over_socket] {
        let mut connection = pool.get_connection().unwrap();
        connection.client().batch_execute("BEGIN").unwrap();
        connection.execute_write("INSERT INTO t VALUES ($1)", &[&1]).unwrap();
        assert_eq!(connection.execute_query::<i32>("SELECT a FROM t", &[]).unwrap(), [1]);
        connection.client().batch_execute("ROLLBACK").unwrap();
        assert!(connection.execute_query::<i32>("SELECT a FROM t WHERE a > $1", &[&0]).unwrap().is_empty());
        drop(connection);
        let added = pool.transaction(|tx| tx.execute_write("INSERT INTO t SELECT $1 WHERE false", &[&2]));
        assert_eq!(added.unwrap(), 0);
    }
}

/// What others leave prepared on the server connections is in no client's way for long, and neither is what raw
/// access has the driver look up outside of a transaction.
#[test]
fn names_left_behind_by_others_are_got_over() {
    let stage = Stage::new(3, 2, |_| ());
    let pool = &stage.pool;
    for number in 0..3 {
        pool.execute_write(&format!("CREATE TYPE level{number} AS ENUM ('low', 'high')"), &[]).unwrap();
    }
    for number in 0..9 {
        let sql = format!("SELECT 'high'::level{}, {number}", number % 3);
        let mut connection = pool.get_connection().unwrap();
        for _ in 0..4 {
            // It may work and it may not, as chance has it; it leaves something either way.
            let _ = connection.client().query(&sql, &[]);
        }
        drop(connection);
        let seen: Option<(String, i32)> = pool.execute_query_one(&sql, &[]).unwrap();
        assert_eq!(seen, Some(("high".to_owned(), number)));
        let seen: Option<(String, i32)> = pool.transaction(|tx| tx.execute_query_one(&sql, &[])).unwrap();
        assert_eq!(seen, Some(("high".to_owned(), number)));
    }
}

#[test]
fn what_raw_access_leaves_open_is_rolled_back_and_nothing_else_is_reset() {
    let server = Postgres::start_with(&[("log_statement", "all")]);
    let bouncer = PgBouncer::before(&server.database_settings(), &[("default_pool_size", "2")]);
    let mut settings = bouncer.pool_settings();
    (settings.min_connections, settings.max_connections) = (1, 1);
    let pool = Pool::open(&settings).unwrap();
    pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    for harm in ["BEGIN; INSERT INTO t VALUES (1)", "BEGIN; SELECT 1/0", "SELECT 1"] {
        let mut connection = pool.get_connection().unwrap();
        let _ = connection.client().batch_execute(harm);
        drop(connection);
        assert_eq!(pool.execute_query_one::<i64>("SELECT count(*) FROM t", &[]).unwrap(), Some(0), "{harm}");
    }
    let status = pool.status();
    assert_eq!((status.connects, status.resets), (1, 3), "{status:?}");
    assert!(!server.log().contains("DISCARD"), "{}", server.log());
}
