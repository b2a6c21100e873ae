//! The numbers add up, whatever happens.

use super::*;
use crate::support::{Proxy, eventually};
use poolhouse::settings::PrePing;
use poolhouse::{Bulk, Error, Execute, PoolStatus, with_deadline};
use std::thread;
use std::time::Instant;

fn adds_up(status: &PoolStatus) {
    assert_eq!(status.available + status.in_use + status.connecting, status.total, "{status:?}");
    assert!(status.total <= status.max_connections, "{status:?}");
}

#[test]
fn after_a_storm_of_everything_every_count_balances() {
    let pool = pool(2, 6, |settings| {
        settings.max_lifetime = Some(300 * MS);
        settings.validate_after = 20 * MS;
        settings.max_waiting = 4;
    });
    pool.execute_write("CREATE TABLE t (a int)", &[]).unwrap();
    let stop = Instant::now() + Duration::from_secs(1);
    thread::scope(|scope| {
        for seed in 0..10_u64 {
            let pool = &pool;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                while Instant::now() < stop {
                    let timeout = Duration::from_micros(random.u64(0..3000));
                    match random.u32(0..8) {
                        0 => drop(pool.get_connection_timeout(timeout)),
                        1 => drop(pool.execute_write("INSERT INTO t VALUES (1)", &[])),
                        2 => drop(pool.execute_query::<i32>("SELECT 1/0", &[])),
                        3 => drop(pool.transaction(|tx| tx.execute_write("DELETE FROM t WHERE a = 2", &[]))),
                        4 if random.u32(0..20) == 0 => {
                            let _ = pool
                                .execute_query::<bool>("SELECT pg_terminate_backend(pg_backend_pid())", &[]);
                        }
                        5 => {
                            if let Ok(mut connection) = pool.get_connection_timeout(timeout) {
                                let _ = connection.client().batch_execute("BEGIN; SET work_mem = '1MB'");
                            }
                        }
                        _ => {
                            let dirty = "SELECT current_setting('work_mem') = '1MB'";
                            if let Ok(found) = pool.execute_query_one::<bool>(dirty, &[]) {
                                assert_eq!(found, Some(false), "a dirty session was lent");
                            }
                        }
                    }
                    adds_up(&pool.status());
                }
            });
        }
    });
    eventually("everything is back", SOON, || {
        let status = pool.status();
        status.in_use == 0 && status.connecting == 0 && status.waiting == 0
    });
    let status = pool.status();
    adds_up(&status);
    assert_eq!(status.connects, status.closed.total() + u64::from(status.total), "{status:?}");
    // Those who were turned away have waited, if they were in the queue.
    let served = status.requests - status.timed_out - status.rejected - status.refused_down;
    assert!((served..=status.requests).contains(&status.wait_times.count()), "{status:?}");
    pool.close(Duration::from_secs(5));
    let status = pool.status();
    assert_eq!((status.total, status.connects), (0, status.closed.total()), "{status:?}");
}

#[test]
fn each_error_and_each_event_is_counted_once() {
    let pool = pool(1, 1, |settings| {
        settings.statement_cache_size = 2;
        settings.validate_after = FOR_EVER;
    });
    let one = "SELECT 1";
    for sql in [one, one, "SELECT 2", "SELECT 3", one] {
        pool.execute_query_one::<i32>(sql, &[]).unwrap();
    }
    let events = pool.status().events;
    let cache =
        (events.statement_cache_hits, events.statement_cache_misses, events.statement_cache_evictions);
    assert_eq!(cache, (1, 4, 2));

    pool.execute_query::<i32>("SELECT 1/0", &[]).unwrap_err();
    pool.transaction(|tx| tx.execute_query::<i32>("SELECT 1/0", &[])).unwrap_err();
    pool.transaction(|tx| {
        let _ = tx.execute_query::<i32>("SELECT 1/0", &[]);
        Ok(())
    })
    .unwrap_err();
    pool.execute_query_one::<i32>("SELECT generate_series(1, 2)", &[]).unwrap_err();
    pool.execute_query_one::<i32>("SELECT 'x'", &[]).unwrap_err();
    pool.for_each_row("SELECT 'x'", &[], |_: i32| Ok(())).unwrap_err();
    pool.execute_many("SELECT $1::int", [("x",)]).unwrap_err();
    let mine = pool.transaction(|_| Err::<(), _>(Error::application("mine")));
    assert!(matches!(mine, Err(Error::Application(_))));
    let held = pool.get_connection().unwrap();
    pool.get_connection_timeout(Duration::ZERO).unwrap_err();
    let status = pool.status();
    assert_eq!(status.holders.len(), 1);
    assert!(status.holders[0].acquired_at.contains("numbers.rs:") && status.long_held.is_empty());
    held.execute_query::<i32>("SELECT 1/0", &[]).unwrap_err();
    drop(held);
    // Long enough for it to be sent, however busy the machine is.
    let late = Instant::now() + 500 * MS;
    with_deadline(late, || pool.execute_query::<()>("SELECT pg_sleep(60)", &[])).unwrap_err();
    eventually("the statement is cancelled", SOON, || pool.status().events.cancels == 1);
    let counted: Vec<_> = pool.status().errors.iter().filter(|(.., count)| *count > 0).collect();
    let counted: Vec<_> = counted.iter().map(|(name, _, count)| (*name, *count)).collect();
    let expected = [
        ("exhausted", 1),
        ("outcome_unknown", 1),
        ("query", 5),
        ("transaction_aborted", 1),
        ("decode", 2),
        ("too_many_rows", 1),
    ];
    assert_eq!(counted, expected);
    assert!(pool.status().holders.is_empty());
}

#[test]
fn checks_retries_and_the_length_of_an_outage_are_counted() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections, settings.outage_grace) = (1, 1, Duration::ZERO);
    settings.pre_ping = PrePing::On;
    let checked = Pool::open(&settings).unwrap();
    settings.pre_ping = PrePing::Off;
    let unchecked = Pool::open(&settings).unwrap();
    for _ in 0..3 {
        checked.execute_query_one::<i32>("SELECT 1", &[]).unwrap();
        unchecked.execute_query_one::<i32>("SELECT 1", &[]).unwrap();
    }
    assert_eq!((checked.status().events.checks, unchecked.status().events.checks), (3, 0));

    proxy.cut();
    unchecked.execute_query_one::<i32>("SELECT 1", &[]).unwrap();
    assert_eq!((unchecked.status().events.retries, unchecked.status().errors.connection_lost), (1, 0));
    assert_eq!((unchecked.status().outages, unchecked.status().outage_time), (0, Duration::ZERO));

    proxy.refuse();
    proxy.cut();
    eventually("it is down", SOON, || {
        matches!(unchecked.execute_query_one::<i32>("SELECT 1", &[]), Err(Error::Down(_)))
    });
    let first = unchecked.status();
    eventually("the outage grows", SOON, || unchecked.status().outage_time > first.outage_time);
    assert_eq!((first.outages, first.errors.down), (1, 1));
    proxy.pass();
    eventually("it is back", SOON, || unchecked.execute_query_one::<i32>("SELECT 1", &[]).is_ok());
    let after = unchecked.status();
    assert!(after.outages == 1 && after.outage_time > first.outage_time, "{after:?}");
    assert_eq!(unchecked.status().outage_time, after.outage_time, "it goes on after its end");
    let json = serde_json::to_value(&after).unwrap();
    assert_eq!(json["outage_ms"], after.outage_time.as_secs_f64() * 1000.0);
    assert_eq!(json["errors"]["down"], after.errors.down);
    assert_eq!(json["events"]["retries"], after.events.retries);
}
