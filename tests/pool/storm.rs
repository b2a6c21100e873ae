//! Eight threads that write while everything around them ends, and what they were told compared with what is there.

use super::*;
use poolhouse::{Error, Execute};
use std::collections::HashSet;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

pub(super) const INSERT: &str = "INSERT INTO t VALUES ($1)";

const TERMINATE_ALL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";

/// Has `write` write its number into the table `t`, over and over for `duration`, and returns how many it was told
/// are done. In each round every session of `admin`'s server is ended, and then `inflict` does what else is to happen.
///
/// Panics where a thread was told what is not so.
pub(super) fn write_under_a_storm(
    pool: &Pool,
    duration: Duration,
    write: impl Fn(i32) -> poolhouse::Result<u64> + Sync,
    mut admin: ::postgres::Client,
    mut inflict: impl FnMut(u32, &mut ::postgres::Client),
) -> usize {
    pool.execute_write("CREATE TABLE t (a int PRIMARY KEY)", &[]).unwrap();
    let (done, not_done) = (Mutex::new(HashSet::new()), Mutex::new(HashSet::new()));
    let stop = Instant::now() + duration;
    thread::scope(|scope| {
        for thread in 0..8_i32 {
            let (write, done, not_done) = (&write, &done, &not_done);
            scope.spawn(move || {
                for id in (thread * 1_000_000)..(thread + 1) * 1_000_000 {
                    if Instant::now() > stop {
                        break;
                    }
                    match write(id) {
                        Ok(count) => assert!(count == 1 && done.lock().unwrap().insert(id)),
                        Err(Error::OutcomeUnknown(_)) => {}
                        Err(_) => assert!(not_done.lock().unwrap().insert(id)),
                    }
                }
            });
        }
        for round in (0..).take_while(|_| Instant::now() < stop) {
            admin.query(TERMINATE_ALL, &[]).unwrap();
            inflict(round, &mut admin);
            thread::sleep(10 * MS);
        }
    });
    let there: HashSet<i32> = pool.execute_query("SELECT a FROM t", &[]).unwrap().into_iter().collect();
    let (done, not_done) = (done.into_inner().unwrap(), not_done.into_inner().unwrap());
    assert!(done.is_subset(&there), "{} acknowledged writes are missing", done.difference(&there).count());
    let wrong = not_done.intersection(&there).count();
    assert_eq!(wrong, 0, "of {} writes reported as not done {wrong} are there", not_done.len());
    done.len()
}
