//! A server that crashes during a commit: it reports the crash, and the commit may be on disk.

use super::*;
use crate::support::Postgres;
use poolhouse::{Error, Execute};

/// What is there once the server is back.
fn rows(server: &Postgres, id: i32) -> i64 {
    let config = server.database_settings().driver_config();
    let mut rows = None;
    crate::support::eventually("the server is back", SOON, || {
        let client = config.connect(::postgres::NoTls);
        let asked =
            client.and_then(|mut client| client.query_one("SELECT count(*) FROM t WHERE a = $1", &[&id]));
        rows = asked.ok().map(|row| row.get::<_, i64>(0));
        rows.is_some()
    });
    rows.unwrap()
}

/// The disk fails while the commit is flushed: a PANIC, after which the server finds the commit in its log.
#[test]
fn a_commit_over_which_the_server_panics_is_not_taken_for_undone() {
    let Some(server) = Postgres::start_on_failing_disk() else {
        return eprintln!("skipped: the disk cannot be made to fail here");
    };
    server.client().batch_execute("CREATE TABLE t (a int)").unwrap();
    let mut settings = server.pool_settings();
    (settings.min_connections, settings.max_connections) = (1, 1);
    settings.acquire_timeout = Duration::from_secs(30);
    settings.outage_grace = Duration::from_secs(30);
    let pool = Pool::open(&settings).unwrap();
    let insert = "INSERT INTO t VALUES ($1)";
    pool.execute_write(insert, &[&0]).unwrap();

    server.fail_next_flush();
    let outcome = pool.execute_write(insert, &[&1]);
    assert!(server.has_failed());
    let there = rows(&server, 1);
    match outcome {
        Err(Error::OutcomeUnknown(_)) => assert!(there <= 1),
        _ => panic!("reported {outcome:?} with {there} rows there"),
    }

    server.fail_next_flush();
    let outcome = pool.transaction_verified(|tx| tx.execute_write(insert, &[&2]));
    assert!(server.has_failed());
    let there = rows(&server, 2);
    match outcome {
        Ok(1) => assert_eq!(there, 1),
        Err(Error::ConnectionLost(_)) => assert_eq!(there, 0),
        Err(Error::OutcomeUnknown(_)) => assert!(there <= 1),
        _ => panic!("reported {outcome:?} with {there} rows there"),
    }
    assert!(server.log().contains("PANIC"), "{}", server.log());
}
