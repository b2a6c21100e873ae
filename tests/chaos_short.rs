//! A short chaos run, with the ledger and the judge of `make chaos`, and the proof that the judge can find fault.

#[path = "chaos/engine/mod.rs"]
mod engine;

use crate::support::{SOON, postgres};
use engine::Plan;
use engine::clock::{Bound, Clock};
use engine::faults::Fault;
use engine::judge::{judge, unnoticed};
use engine::ledger::{ACCOUNTS, BALANCE, CLEAN, Claim, Claims, INSERT, TABLES, TRACES};
use std::time::Duration;

/// `CHAOS_SEED` repeats a run.
#[test]
fn nothing_is_lost_duplicated_or_reported_wrongly_while_the_server_comes_and_goes() {
    let seed = std::env::var("CHAOS_SEED").ok().map(|seed| seed.parse().expect("CHAOS_SEED is a number"));
    let outcome = engine::run(Plan {
        seed: seed.unwrap_or_else(|| fastrand::u64(..1_000_000)),
        workers: 8,
        first: vec![Fault::Storm, Fault::FastRestart, Fault::Crash, Fault::Reset],
        then: Vec::new(),
        time: Duration::ZERO,
        calm: Duration::from_millis(300),
        with_standby: false,
        is_alone: false,
        // How soon is what `make chaos` is for: here others use the processors at the same time.
        leniency: Duration::from_secs(20),
    });
    assert!(outcome.findings.is_empty(), "{outcome}");
    assert!(outcome.verdict.entries > 0, "nothing was written:\n{outcome}");
}

#[test]
fn the_judge_notices_every_kind_of_falsification() {
    let mut client = postgres::client();
    client.batch_execute(TABLES).unwrap();
    let accounts = "INSERT INTO accounts SELECT id, $1 FROM generate_series(1, $2) id";
    client.execute(accounts, &[&BALANCE, &ACCOUNTS]).unwrap();
    client.execute(INSERT, &[&7_i64, &1, &2, &10_i64]).unwrap();
    client.batch_execute("UPDATE accounts SET balance = balance + 20 * id - 30 WHERE id IN (1, 2)").unwrap();
    let [done, not_done, unknown] = [7, 8, 9].map(|id| vec![Claim::new(id)]);
    let claims = Claims { done, not_done, unknown };
    assert_eq!(judge(&mut client, &claims).findings(), [""; 0]);
    assert_eq!(unnoticed(&mut client, &claims), [""; 0]);
}

#[test]
fn every_kind_of_trace_in_a_session_is_noticed() {
    let database = postgres::fresh_database();
    database.client().batch_execute(TABLES).unwrap();
    for (sql, name) in TRACES {
        let mut client = database.client();
        let found =
            |client: &mut ::postgres::Client| client.query_one(CLEAN, &[]).unwrap().get::<_, String>(0);
        assert_eq!(found(&mut client), "");
        client.batch_execute(&sql.replace("/*id*/", "1")).unwrap();
        assert_eq!(found(&mut client), name);
    }
}

#[test]
fn a_missed_deadline_is_noticed() {
    let clock = Clock::new();
    let wait = |allowed| {
        clock.time(Bound::Acquire, allowed, "a wait", || std::thread::sleep(Duration::from_millis(200)));
    };
    wait(SOON);
    assert_eq!(clock.missed(), []);
    wait(Duration::from_millis(10));
    let missed = clock.missed();
    assert_eq!(missed.len(), 1);
    assert!(missed[0].by >= Duration::from_millis(190), "{missed:?}");
    assert!(missed[0].by - missed[0].machine_was_late_by > Bound::Acquire.tolerance(), "{missed:?}");
}
