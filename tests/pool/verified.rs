//! The status of a commit whose answer is lost is queried, and reported as it is.

use super::*;
use crate::support::{Postgres, Proxy, eventually};
use poolhouse::settings::TargetSessionAttrs;
use poolhouse::{Error, Execute, Transaction, TransactionOptions};
use std::thread;

/// A pool of one through a proxy, with statements that are given up soon, on a server with a table.
fn pool_behind(proxy: &Proxy) -> Pool {
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (1, 1);
    settings.statement_timeout = Some(200 * MS);
    settings.outage_grace = Duration::ZERO;
    let pool = Pool::open(&settings).unwrap();
    pool.execute_write("CREATE TABLE IF NOT EXISTS t (a int)", &[]).unwrap();
    pool
}

fn insert(tx: &mut Transaction<'_>) -> poolhouse::Result<u64> {
    tx.execute_write("INSERT INTO t VALUES (1)", &[])
}

fn rows(client: &mut poolhouse::postgres::Client) -> i64 {
    client.query_one("SELECT count(*) FROM t", &[]).unwrap().get(0)
}

#[test]
fn a_commit_that_was_done_and_not_answered_is_reported_as_done() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let pool = pool_behind(&proxy);
    let mut direct = database.client();
    thread::scope(|scope| {
        let lost = |verified: bool| {
            let work = |tx: &mut Transaction<'_>| {
                insert(tx)?;
                // From here on the server hears everything, and its replies are lost.
                proxy.stall_replies_after(0);
                Ok("the closure's value")
            };
            if verified { pool.transaction_verified(work) } else { pool.transaction(work) }
        };
        // Without a query the outcome is unknown.
        let error = lost(false).unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
        proxy.pass();
        eventually("a query succeeds again", SOON, || rows_of(&pool) == Some(1));

        let asking = scope.spawn(move || lost(true));
        eventually("it is committed", SOON, || rows(&mut direct) == 2);
        proxy.pass();
        assert_eq!(asking.join().unwrap().unwrap(), "the closure's value");
    });
    assert_eq!(rows_of(&pool), Some(2));
}

fn rows_of(pool: &Pool) -> Option<i64> {
    pool.execute_query_one("SELECT count(*) FROM t", &[]).ok().flatten()
}

#[test]
fn a_commit_that_never_arrived_is_reported_as_not_done() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let pool = pool_behind(&proxy);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            pool.transaction_verified(|tx| {
                insert(tx)?;
                proxy.swallow();
                Ok(())
            })
        });
        eventually("the commit is given up", SOON, || pool.status().closed.broken == 1);
        proxy.pass();
        // The server still holds the transaction open: its end of the connection has not heard of any trouble.
        proxy.cut();
        let error = asking.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::ConnectionLost(_)), "{error}");
    });
    eventually("a query succeeds again", SOON, || rows_of(&pool) == Some(0));
}

/// Loses a transaction that left nothing on disk in a crash of `server`, after which its id is another transaction's, and then
/// `meanwhile` happens before the server is asked.
fn lost_id(server: &Postgres, meanwhile: impl FnOnce()) -> poolhouse::Result<()> {
    let proxy = Proxy::to(&server.database_settings());
    let pool = pool_behind(&proxy);
    let patient = TransactionOptions::new().with_verify_within(Some(Duration::from_secs(20)));
    let mut id = 0;
    let outcome = thread::scope(|scope| {
        let id = &mut id;
        let (pool, proxy) = (&pool, &proxy);
        let asking = scope.spawn(move || {
            pool.transaction_with(&patient, |tx| {
                *id = tx.execute_query_one::<i64>("SELECT txid_current()", &[])?.unwrap();
                proxy.swallow();
                Ok(())
            })
        });
        eventually("the commit is given up", SOON, || pool.status().closed.broken == 1);
        server.kill();
        server.start_again();
        server.client().batch_execute("INSERT INTO t VALUES (2)").unwrap();
        meanwhile();
        proxy.pass();
        asking.join().unwrap()
    });
    let status = server.client().query_one("SELECT txid_status($1)", &[&id]).unwrap();
    assert_eq!(status.get::<_, Option<&str>>(0), Some("committed"), "the id was not given out again");
    outcome
}

/// After a crash the server gives out again the ids that left no trace. Another transaction's commit is not ours.
#[test]
fn an_id_given_out_twice_is_not_taken_for_ours() {
    let server = Postgres::start_with(&[("autovacuum", "off")]);
    let outcome = lost_id(&server, || ());
    assert!(matches!(outcome, Err(Error::ConnectionLost(_))), "{outcome:?}");

    let outcome = lost_id(&server, || {
        server.stop_fast();
        server.start_again();
    });
    assert!(matches!(outcome, Err(Error::OutcomeUnknown(_))), "after an orderly restart: {outcome:?}");

    let outcome = lost_id(&server, || server.client().batch_execute("CHECKPOINT").unwrap());
    assert!(matches!(outcome, Err(Error::OutcomeUnknown(_))), "after a checkpoint: {outcome:?}");
}

/// Commits a row on `server`, loses the answer, and lets `meanwhile` happen before the server can be asked.
fn unanswered(server: &Postgres, meanwhile: impl FnOnce(&Pool)) -> poolhouse::Result<()> {
    let proxy = Proxy::to(&server.database_settings());
    let pool = pool_behind(&proxy);
    let mut direct = server.client();
    thread::scope(|scope| {
        let (pool, proxy) = (&pool, &proxy);
        let asking = scope.spawn(move || {
            pool.transaction_verified(|tx| {
                insert(tx)?;
                proxy.stall_replies_after(0);
                Ok(())
            })
        });
        eventually("it is committed", SOON, || rows(&mut direct) == 1);
        meanwhile(pool);
        proxy.pass();
        asking.join().unwrap()
    })
}

/// As text, a time of India's is read back as one of Israel's, and its month as its day.
#[test]
fn how_the_session_shows_times_does_not_matter() {
    let server = Postgres::start();
    let show = "ALTER SYSTEM SET datestyle = 'SQL, DMY'; ALTER SYSTEM SET timezone = 'Asia/Kolkata'";
    for sql in show.split("; ").chain(["SELECT pg_reload_conf()"]) {
        server.client().batch_execute(sql).unwrap();
    }
    eventually("sessions have it", SOON, || {
        let now: String = server.client().query_one("SELECT now()::text", &[]).unwrap().get(0);
        now.ends_with(" IST")
    });
    unanswered(&server, |pool| {
        eventually("its answer is given up", SOON, || pool.status().closed.broken == 1);
    })
    .unwrap();
}

/// The statistics are reset by hand, when the last checkpoint is that of an orderly stop: it looks like a recovery
/// that did not know the transaction.
#[test]
fn a_commit_is_not_reported_as_not_done_because_of_reset_statistics() {
    let server = Postgres::start();
    server.stop_fast();
    server.start_again();
    let outcome = unanswered(&server, |pool| {
        eventually("its answer is given up", SOON, || pool.status().closed.broken == 1);
        server.client().batch_execute("SELECT pg_stat_reset_shared('bgwriter')").unwrap();
    });
    assert!(matches!(outcome, Err(Error::OutcomeUnknown(_))), "{outcome:?}");
}

/// With so little in the log an ordinary checkpoint may look like that of a recovery.
#[test]
fn an_id_given_out_twice_is_not_taken_for_ours_where_the_log_is_minimal() {
    let minimal = [("autovacuum", "off"), ("wal_level", "minimal"), ("max_wal_senders", "0")];
    let server = Postgres::start_with(&minimal);
    let outcome = lost_id(&server, || server.client().batch_execute("CHECKPOINT").unwrap());
    assert!(matches!(outcome, Err(Error::OutcomeUnknown(_))), "{outcome:?}");
}

/// As after a move to a server that was filled from a dump.
#[test]
fn another_server_with_the_same_id_is_not_believed() {
    let [old, new] = [Postgres::start_with(&[("autovacuum", "off")]), Postgres::start_unrelated()];
    new.client().batch_execute("CREATE TABLE t (a int)").unwrap();
    let proxies = [&old, &new].map(|server| Proxy::to(&server.database_settings()));
    proxies[1].refuse();
    let mut settings = old.pool_settings();
    settings.database.hosts = proxies.iter().map(|proxy| ("127.0.0.1".to_owned(), proxy.port())).collect();
    (settings.min_connections, settings.max_connections) = (1, 1);
    settings.statement_timeout = Some(200 * MS);
    let pool = Pool::open(&settings).unwrap();
    pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    let (noted, id) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let (pool, proxy) = (&pool, &proxies[0]);
        let asking = scope.spawn(move || {
            pool.transaction_verified(|tx| {
                insert(tx)?;
                noted.send(tx.execute_query_one::<i64>("SELECT txid_current()", &[])?.unwrap()).unwrap();
                proxy.swallow();
                Ok(())
            })
        });
        let id = id.recv().unwrap();
        let mut other = new.client();
        while other.query_one("SELECT txid_current()", &[]).unwrap().get::<_, i64>(0) <= id {}
        eventually("the commit is given up", SOON, || pool.status().closed.broken == 1);
        old.kill();
        proxies[0].refuse();
        proxies[1].pass();
        let outcome = asking.join().unwrap();
        assert!(matches!(outcome, Err(Error::OutcomeUnknown(_))), "{outcome:?}");
    });
}

/// A new primary gives out the ids that it has not heard of. It follows a timeline of its own from its first write on,
/// and its control file says so only later.
#[test]
fn an_id_that_the_new_primary_gives_out_is_not_taken_for_ours() {
    let primary = Postgres::start_with(&[("autovacuum", "off")]);
    primary.client().batch_execute("CREATE TABLE t AS SELECT generate_series(1, 100000) AS a").unwrap();
    let Some(standby) = primary.standby() else {
        return eprintln!("skipped: pg_basebackup is not installed");
    };
    let proxies = [&primary, &standby].map(|server| Proxy::to(&server.database_settings()));
    let mut settings = primary.pool_settings();
    settings.database.hosts = proxies.iter().map(|proxy| ("127.0.0.1".to_owned(), proxy.port())).collect();
    settings.database.target_session_attrs = TargetSessionAttrs::ReadWrite;
    (settings.min_connections, settings.max_connections) = (1, 1);
    settings.statement_timeout = Some(200 * MS);
    let pool = Pool::open(&settings).unwrap();
    // Pages for the checkpoint after the promotion to be busy with.
    primary.client().batch_execute("UPDATE t SET a = -a").unwrap();
    primary.wait_for_standbys();
    proxies[1].refuse();
    let mut id = 0;
    thread::scope(|scope| {
        let (pool, proxy, id) = (&pool, &proxies[0], &mut id);
        let asking = scope.spawn(move || {
            pool.transaction_verified(|tx| {
                *id = tx.execute_query_one::<i64>("SELECT txid_current()", &[])?.unwrap();
                proxy.swallow();
                Ok(())
            })
        });
        eventually("the commit is given up", SOON, || pool.status().closed.broken == 1);
        primary.kill();
        proxy.refuse();
        standby.promote();
        standby.client().batch_execute("INSERT INTO t VALUES (2)").unwrap();
        proxies[1].pass();
        let error = asking.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
    });
    let facts = "SELECT txid_status($1), timeline_id FROM pg_control_checkpoint()";
    let facts = standby.client().query_one(facts, &[&id]).unwrap();
    assert_eq!(facts.get::<_, Option<&str>>(0), Some("committed"), "the id was not given out again");
    if facts.get::<_, i32>(1) != 1 {
        eprintln!("the checkpoint was over by then, and the control file knew of the promotion");
    }
}

/// The server calls it committed all the same, and if it fails now the standby knows nothing of it.
#[test]
fn a_commit_is_not_reported_as_done_before_its_standby_answers() {
    let primary = Postgres::start();
    let Some(standby) = primary.standby() else {
        return eprintln!("skipped: pg_basebackup is not installed");
    };
    primary.commit_synchronously();
    let mut settings = primary.pool_settings();
    settings.statement_timeout = Some(200 * MS);
    let pool = Pool::open(&settings).unwrap();
    pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    let verified = |within| {
        let options = TransactionOptions::new().with_verify_within(Some(within));
        pool.transaction_with(&options, insert)
    };
    standby.freeze();
    let error = verified(Duration::from_secs(2)).unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
    assert_eq!(rows(&mut primary.client()), 1, "for itself the primary has done it");
    thread::scope(|scope| {
        let asking = scope.spawn(|| verified(Duration::from_secs(20)));
        eventually("it is done but for the standby", SOON, || rows(&mut primary.client()) == 2);
        standby.thaw();
        assert_eq!(asking.join().unwrap().unwrap(), 1);
    });
}

#[test]
fn a_commit_before_a_crash_is_reported_as_done_after_it() {
    let server = Postgres::start();
    let outcome = unanswered(&server, |_| {
        server.kill();
        server.start_again();
    });
    outcome.unwrap();
}

#[test]
fn a_server_that_stays_away_leaves_it_unknown_within_the_time() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let pool = pool_behind(&proxy);
    let options = TransactionOptions::new().with_verify_within(Some(500 * MS));
    let stalled = |tx: &mut Transaction<'_>| {
        insert(tx)?;
        proxy.stall();
        Ok(())
    };
    let (error, took) = timed(|| pool.transaction_with(&options, stalled).unwrap_err());
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
    assert!(took < SOON, "{took:?}");
}

/// It comes with BEGIN.
#[test]
fn asking_later_costs_no_round_trip_now() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let pool = pool_behind(&proxy);
    let trips_of = |run: &dyn Fn()| {
        run();
        let before = proxy.round_trips();
        run();
        proxy.round_trips() - before
    };
    let plain = trips_of(&|| assert_eq!(pool.transaction(insert).unwrap(), 1));
    let verified = trips_of(&|| assert_eq!(pool.transaction_verified(insert).unwrap(), 1));
    assert_eq!((plain, verified), (3, 3));
}
