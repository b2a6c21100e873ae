//! The numbers add up, whatever happens.

use super::*;
use crate::support::eventually;
use poolhouse::{Execute, PoolStatus};
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
