//! Scenarios for the model checker. No caller has a time limit unless giving up is part of the scenario, so shuttle reports a
//! lost wake-up as a deadlock.

mod holders;
mod sharing;

use super::*;
use crate::pool::gate::sync::model::{FOR_EVER, restart};
use shuttle::thread::{JoinHandle, spawn};

const AGES: Duration = FOR_EVER.saturating_mul(2);
/// A time limit that may end at any moment of the exploration.
const SHORT: Duration = Duration::from_secs(1);

/// Runs `scenario` in `POOLHOUSE_MODEL_ITERATIONS` random interleavings, and in as many of the PCT scheduler, which finds rare
/// orders of few events.
fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    let iterations = std::env::var("POOLHOUSE_MODEL_ITERATIONS").map_or(4000, |text| text.parse().unwrap());
    let scenario = Arc::new(move || {
        restart();
        fastrand::seed(1);
        scenario();
    });
    let again = scenario.clone();
    shuttle::check_random(move || scenario(), iterations);
    shuttle::check_pct(move || again(), iterations, 3);
}

fn join_all<T>(threads: Vec<JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn in_thread<T: Send + 'static>(
    gate: &Arc<Gate>,
    f: impl FnOnce(&Gate) -> T + Send + 'static,
) -> JoinHandle<T> {
    let gate = gate.clone();
    spawn(move || f(&gate))
}

/// A connector whose first `failures` attempts fail and whose later ones succeed, until the gate is closed.
fn connector(gate: &Arc<Gate>, failures: u32) -> JoinHandle<()> {
    in_thread(gate, move |gate| {
        let mut failures = failures;
        while let ConnectRequest::Connect(_) = gate.next_connect_request() {
            gate.lock().check();
            if failures > 0 {
                failures -= 1;
                gate.connect_failed("refused".to_owned(), false);
            } else {
                gate.connected(Duration::ZERO);
            }
            gate.lock().check();
        }
    })
}

fn use_once(gate: &Gate, timeout: Duration) -> Result<(), Refusal> {
    let permit = gate.acquire_here(timeout)?;
    gate.lock().check();
    gate.release(permit, now());
    Ok(())
}

/// `count` callers without a time limit.
fn callers(gate: &Arc<Gate>, count: usize) -> Vec<JoinHandle<Result<(), Refusal>>> {
    (0..count).map(|_| in_thread(gate, |gate| use_once(gate, AGES))).collect()
}

fn assert_served(callers: Vec<JoinHandle<Result<(), Refusal>>>) {
    for outcome in join_all(callers) {
        assert_eq!(outcome, Ok(()));
    }
}

/// No caller waits, no connection is lent, and `idle` are idle.
fn assert_at_rest(gate: &Gate, idle: u32) {
    let state = gate.lock();
    state.check_at_rest();
    assert_eq!((state.idle, state.in_use, state.checking), (idle, 0, 0), "{state:?}");
    assert!(state.queue.is_empty(), "{state:?}");
}

/// Closes the gate, ends its connectors, and asserts that no connection is left.
fn assert_nothing_left(gate: &Gate, connectors: Vec<JoinHandle<()>>) {
    gate.lock().check_bounded();
    gate.close();
    join_all(connectors);
    assert_at_rest(gate, 0);
}

#[test]
fn callers_are_served_by_the_releases_of_others() {
    explore(|| {
        let gate = Arc::new(stocked(limits(2, 2), Duration::ZERO));
        let callers = (0..4).map(|_| {
            in_thread(&gate, |gate| {
                use_once(gate, AGES).unwrap();
                use_once(gate, AGES).unwrap();
            })
        });
        join_all(callers.collect());
        gate.lock().check_bounded();
        assert_at_rest(&gate, 2);
        let status = gate.snapshot();
        let counted = (status.requests, status.wait_times.count(), status.use_times.count());
        assert_eq!(counted, (8, 8, 8));
        assert!((1..=2).contains(&status.peak_in_use), "{status:?}");
    });
}

#[test]
fn a_grant_to_a_caller_that_gives_up_at_that_moment_is_not_lost() {
    explore(|| {
        let gate = Arc::new(stocked(limits(1, 1), Duration::ZERO));
        let permit = gate.acquire_here(AGES).unwrap();
        let hasty = in_thread(&gate, |gate| use_once(gate, SHORT));
        let patient = in_thread(&gate, |gate| use_once(gate, AGES));
        gate.release(permit, now());
        assert!(matches!(hasty.join().unwrap(), Ok(()) | Err(Refusal::TimedOut)));
        assert_eq!(patient.join().unwrap(), Ok(()));
        assert_at_rest(&gate, 1);
    });
}

#[test]
fn closing_leaves_no_waiter_and_no_connection() {
    explore(|| {
        let gate = Arc::new(stocked(limits(1, 2), Duration::ZERO));
        let permit = gate.acquire_here(AGES).unwrap();
        let connectors = vec![connector(&gate, 0), connector(&gate, 0)];
        let callers = callers(&gate, 3);
        let closer = in_thread(&gate, |gate| {
            gate.close();
            gate.wait_until_idle(now() + AGES)
        });
        gate.release(permit, now());
        assert_eq!(closer.join().unwrap(), 0);
        for outcome in join_all(callers) {
            assert!(matches!(outcome, Ok(()) | Err(Refusal::Closed)), "{outcome:?}");
        }
        join_all(connectors);
        assert_at_rest(&gate, 0);
        assert_eq!(gate.lock().total(), 0, "no connect is requested either");
        assert_eq!(gate.acquire_here(AGES), Err(Refusal::Closed));
    });
}

#[test]
fn two_connectors_serve_callers_of_whom_one_gives_up() {
    explore(|| {
        let gate = Arc::new(Gate::new(limits(0, 2)));
        let connectors = vec![connector(&gate, 0), connector(&gate, 0)];
        let hasty = in_thread(&gate, |gate| use_once(gate, SHORT));
        let patient = callers(&gate, 2);
        hasty.join().unwrap().ok();
        assert_served(patient);
        assert_nothing_left(&gate, connectors);
    });
}

#[test]
fn an_outage_shorter_than_the_grace_is_waited_out() {
    explore(|| {
        let gate = Arc::new(Gate::new(Limits { outage_grace: AGES, ..limits(1, 2) }));
        gate.keep_minimum();
        let connectors = vec![connector(&gate, 1), connector(&gate, 1)];
        let callers = callers(&gate, 3);
        assert_served(callers);
        assert_nothing_left(&gate, connectors);
    });
}

#[test]
fn an_outage_longer_than_the_grace_refuses_every_waiter() {
    explore(|| {
        let gate = Arc::new(stocked(limits(1, 2), Duration::ZERO));
        let permit = gate.acquire_here(AGES).unwrap();
        // The server goes away: attempts fail for ever, and the last connection is lost at any moment.
        let connector = in_thread(&gate, |gate| {
            while let ConnectRequest::Connect(_) = gate.next_connect_request() {
                gate.connect_failed("refused".to_owned(), false);
                gate.lock().check_bounded();
            }
        });
        let callers = callers(&gate, 2);
        gate.discard(permit);
        for outcome in join_all(callers) {
            assert_eq!(outcome, Err(Refusal::Down));
        }
        gate.close();
        connector.join().unwrap();
        assert_at_rest(&gate, 0);
    });
}

#[test]
fn the_loss_of_the_last_connection_in_an_outage_refuses_waiters_without_another_attempt() {
    explore(|| {
        let gate = Arc::new(stocked(Limits { outage_grace: SHORT, ..limits(1, 2) }, Duration::ZERO));
        let permit = gate.acquire_here(AGES).unwrap();
        let caller = in_thread(&gate, |gate| use_once(gate, AGES));
        // One attempt fails, and the next one hangs for good.
        assert!(matches!(gate.next_connect_request(), ConnectRequest::Connect(_)));
        gate.connect_failed("refused".to_owned(), false);
        gate.discard(permit);
        assert_eq!(caller.join().unwrap(), Err(Refusal::Down));
        assert_at_rest(&gate, 0);
    });
}

#[test]
fn making_the_gate_smaller_while_connections_come_back_loses_neither_callers_nor_count() {
    explore(|| {
        let gate = Arc::new(stocked(limits(3, 3), Duration::ZERO));
        let permits: Vec<_> = (0..3).map(|_| gate.acquire_here(AGES).unwrap()).collect();
        let caller = in_thread(&gate, |gate| use_once(gate, AGES));
        let resizer = in_thread(&gate, |gate| assert!(gate.resize(1, 2)));
        let connectors = vec![connector(&gate, 0)];
        let holders = permits.into_iter().map(|permit| {
            in_thread(&gate, |gate| {
                if gate.retires() {
                    gate.discard(permit);
                } else {
                    gate.release(permit, now());
                }
                gate.lock().check();
            })
        });
        join_all(holders.collect());
        resizer.join().unwrap();
        assert_eq!(caller.join().unwrap(), Ok(()));
        // Maintenance closes connections that were returned before the resize.
        for _ in 0..gate.begin_check(gate.surplus(0).above_max) {
            gate.end_check_closed();
        }
        assert_nothing_left(&gate, connectors);
    });
}

#[test]
fn callers_with_dead_connections_are_served_again() {
    explore(|| {
        let gate = Arc::new(stocked(limits(2, 2), Duration::ZERO));
        let connectors = vec![connector(&gate, 0)];
        let unlucky = (0..2).map(|_| {
            in_thread(&gate, |gate| {
                let dead = gate.acquire_here(AGES).unwrap();
                let permit = gate.acquire_again(Some(dead), now(), now() + AGES).unwrap();
                gate.lock().check();
                gate.release(permit, now());
            })
        });
        let mut callers: Vec<_> = unlucky.collect();
        callers.push(in_thread(&gate, |gate| use_once(gate, AGES).unwrap()));
        join_all(callers);
        assert_nothing_left(&gate, connectors);
    });
}

#[test]
fn maintenance_leaves_no_caller_unserved() {
    explore(|| {
        let gate = Arc::new(stocked(limits(2, 2), Duration::ZERO));
        let maintenance = in_thread(&gate, |gate| {
            for _ in 0..2 {
                for taken in 0..gate.begin_check(u32::MAX) {
                    if taken == 0 {
                        gate.end_check()
                    } else {
                        gate.end_check_closed()
                    }
                    gate.lock().check_bounded();
                }
            }
        });
        let connectors = vec![connector(&gate, 0)];
        let callers = callers(&gate, 3);
        assert_served(callers);
        maintenance.join().unwrap();
        assert_nothing_left(&gate, connectors);
    });
}

#[test]
fn resuming_serves_every_waiter() {
    explore(|| {
        let gate = Arc::new(stocked(limits(1, 1), Duration::ZERO));
        let permit = gate.acquire_here(AGES).unwrap();
        let callers = callers(&gate, 2);
        let operator = in_thread(&gate, |gate| {
            assert!(gate.suspend());
            gate.lock().check_bounded();
            assert!(gate.resume());
        });
        gate.release(permit, now());
        operator.join().unwrap();
        assert_served(callers);
        assert_at_rest(&gate, 1);
    });
}

#[test]
fn free_room_is_used_though_a_holder_keeps_its_connection_unusually_long() {
    explore(|| {
        // Uses have been short and connects long, so that at first a caller waits for a release.
        let gate = Arc::new(stocked(limits(2, 2), Duration::from_millis(150)));
        gate.release(gate.acquire_here(AGES).unwrap(), now());
        let broken = gate.acquire_here(AGES).unwrap();
        let kept = gate.acquire_here(AGES).unwrap();
        assert!(gate.resize(0, 2));
        let caller = in_thread(&gate, |gate| use_once(gate, AGES));
        let connectors = vec![connector(&gate, 0)];
        gate.discard(broken);
        assert_eq!(caller.join().unwrap(), Ok(()), "served before the other connection is back");
        gate.release(kept, now());
        assert_nothing_left(&gate, connectors);
    });
}

#[test]
fn waiters_of_an_outage_get_new_connections_when_it_is_over() {
    explore(|| {
        // Uses have been short and connects long, so that at first a caller waits for a release.
        let gate = Arc::new(stocked(limits(1, 3), Duration::from_millis(150)));
        gate.release(gate.acquire_here(AGES).unwrap(), now());
        let kept = gate.acquire_here(AGES).unwrap();
        assert!(gate.resize(2, 3));
        assert!(matches!(gate.next_connect_request(), ConnectRequest::Connect(_)));
        gate.connect_failed("refused".to_owned(), false);
        let callers: Vec<_> = (0..2).map(|_| in_thread(&gate, |gate| gate.acquire_here(AGES))).collect();
        let connectors = vec![connector(&gate, 0)];
        for permit in join_all(callers) {
            gate.release(permit.unwrap(), now());
        }
        gate.release(kept, now());
        assert_nothing_left(&gate, connectors);
    });
}

#[test]
fn every_waiter_gets_a_connection_though_none_is_returned_and_one_waiter_gives_up() {
    explore(|| {
        // Uses have been short and connects long, so that at first a caller waits for a release.
        let gate = Arc::new(stocked(limits(1, 4), Duration::from_millis(150)));
        gate.release(gate.acquire_here(AGES).unwrap(), now());
        let kept = gate.acquire_here(AGES).unwrap();
        let patient: Vec<_> = (0..3).map(|_| in_thread(&gate, |gate| gate.acquire_here(AGES))).collect();
        let hasty = in_thread(&gate, |gate| use_once(gate, SHORT));
        let connectors = vec![connector(&gate, 0), connector(&gate, 0)];
        for permit in join_all(patient) {
            gate.release(permit.unwrap(), now());
        }
        hasty.join().unwrap().ok();
        gate.release(kept, now());
        assert_nothing_left(&gate, connectors);
    });
}
