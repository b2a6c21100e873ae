//! Eight threads that write while everything around them ends; the reported outcomes are compared with the table.

use super::*;
use crate::support::eventually;
use poolhouse::{Error, Execute};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

pub(super) const INSERT: &str = "INSERT INTO t VALUES ($1)";

const TERMINATE_ALL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";

/// Has `write` write its number into the table `t`, over and over for so many rounds. In each round every session of
/// `admin`'s server is ended, then `inflict` does what else is to happen, and then a write has to succeed: so the storm is
/// as dense as the machine is fast.
///
/// Panics where an outcome was reported wrongly.
pub(super) fn write_under_a_storm(
    pool: &Pool,
    rounds: u32,
    write: impl Fn(i32) -> poolhouse::Result<u64> + Sync,
    mut admin: ::postgres::Client,
    mut inflict: impl FnMut(u32, &mut ::postgres::Client),
) {
    pool.execute_write("CREATE TABLE t (a int PRIMARY KEY)", &[]).unwrap();
    let (done, not_done) = (Mutex::new(HashSet::new()), Mutex::new(HashSet::new()));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..8_i32 {
            let (write, done, not_done, is_over) = (&write, &done, &not_done, &is_over);
            scope.spawn(move || {
                for id in (thread * 1_000_000)..(thread + 1) * 1_000_000 {
                    if is_over.load(Ordering::Relaxed) {
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
        let storm = catch_unwind(AssertUnwindSafe(|| {
            for round in 0..rounds {
                admin.query(TERMINATE_ALL, &[]).unwrap();
                inflict(round, &mut admin);
                let before = done.lock().unwrap().len();
                eventually("a write succeeds", SOON, || done.lock().unwrap().len() > before);
            }
        }));
        is_over.store(true, Ordering::Relaxed);
        if let Err(panic) = storm {
            resume_unwind(panic);
        }
    });
    let there: HashSet<i32> = pool.execute_query("SELECT a FROM t", &[]).unwrap().into_iter().collect();
    let (done, not_done) = (done.into_inner().unwrap(), not_done.into_inner().unwrap());
    assert!(done.is_subset(&there), "{} acknowledged writes are missing", done.difference(&there).count());
    let wrong = not_done.intersection(&there).count();
    assert_eq!(wrong, 0, "of {} writes reported as not done {wrong} are there", not_done.len());
}
