//! The gate's guarantees, one test each. Times are real: every wait ends immediately or is bounded from both sides.

use super::*;
use crate::error::PoolNumbers;
use crate::pool::gate::waiters::CHECK_SLACK;

const MOMENT: Duration = Duration::from_millis(30);
const AGES: Duration = Duration::from_secs(20);

fn waiting(gate: &Gate) -> usize {
    gate.lock().queue.len()
}

/// Waits, for a while, until `condition` holds.
#[track_caller]
fn until(mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "the condition never became true");
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn numbers(outcome: Result<Permit, (Refusal, Box<PoolNumbers>)>) -> (Refusal, Box<PoolNumbers>) {
    outcome.expect_err("a refusal")
}

#[test]
fn a_zero_timeout_is_refused_at_once_and_its_connect_request_is_carried_out() {
    let gate = Arc::new(Gate::new(limits(0, 1)));
    // The first connect is always requested, to learn whether the server can be used.
    gate.keep_minimum();
    assert!(matches!(gate.next_connect_request(), ConnectRequest::Connect(_)));
    gate.connected(Duration::ZERO);
    gate.discard(gate.acquire_here(Duration::ZERO).unwrap());
    assert_eq!(gate.lock().total(), 0);

    assert_eq!(gate.acquire_here(Duration::ZERO), Err(Refusal::TimedOut));
    let connectors_gate = gate.clone();
    let connector = std::thread::spawn(move || connectors_gate.next_connect_request());
    until(|| connector.is_finished());
    assert!(matches!(connector.join().unwrap(), ConnectRequest::Connect(_)));
    gate.connected(Duration::ZERO);
    gate.release(gate.acquire_here(Duration::ZERO).unwrap(), now());
}

#[test]
fn a_new_connection_serves_its_caller_and_requests_no_other() {
    let gate = Gate::new(limits(0, 10));
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| gate.acquire_here(AGES));
        until(|| waiting(&gate) == 1);
        assert!(matches!(gate.next_connect_request(), ConnectRequest::Connect(_)));
        gate.connected(Duration::ZERO);
        assert!(caller.join().unwrap().is_ok());
    });
    assert_eq!(gate.lock().total(), 1);
}

#[test]
fn a_deadline_is_kept_and_the_refusal_has_the_numbers() {
    let gate = stocked(limits(2, 2), Duration::ZERO);
    std::thread::scope(|scope| {
        let holders = [0, 1].map(|_| scope.spawn(|| gate.acquire_here(AGES).unwrap()));
        let _permits = holders.map(|holder| holder.join().unwrap());
        let started = now();
        let (refusal, numbers) = numbers(gate.acquire(started, started + MOMENT));
        assert_eq!(refusal, Refusal::TimedOut);
        assert!(numbers.waited >= MOMENT && numbers.waited < MOMENT + AGES / 10, "{numbers:?}");
        assert_eq!((numbers.in_use, numbers.idle, numbers.connecting), (2, 0, 0));
        assert_eq!((numbers.waiting, numbers.max), (0, 2));
    });
    assert_eq!(waiting(&gate), 0, "a caller that gave up is not in the queue");
}

#[test]
fn the_queue_takes_max_waiting_callers_and_no_more() {
    let gate = stocked(Limits { max_waiting: 3, ..limits(1, 1) }, Duration::ZERO);
    let permit = std::thread::scope(|scope| scope.spawn(|| gate.acquire_here(AGES).unwrap()).join().unwrap());
    std::thread::scope(|scope| {
        let callers = [0; 3].map(|_| scope.spawn(|| gate.acquire_here(AGES)));
        until(|| waiting(&gate) == 3);
        let started = now();
        let (refusal, numbers) = numbers(gate.acquire(started, started + AGES));
        assert_eq!((refusal, numbers.waiting), (Refusal::Saturated, 3));
        gate.close();
        assert!(callers.into_iter().all(|caller| caller.join().unwrap() == Err(Refusal::Closed)));
    });
    gate.release(permit, now());
    assert_eq!(gate.lock().total(), 0);
}

#[test]
fn a_self_deadlock_is_refused_unless_a_connection_is_under_maintenance() {
    let gate = stocked(limits(2, 2), Duration::ZERO);
    let mine = gate.acquire_here(AGES).unwrap();
    // The other connection is under maintenance: waiting is no deadlock.
    assert_eq!(gate.begin_check(1), 1);
    assert_eq!(gate.acquire_here(MOMENT), Err(Refusal::TimedOut));
    gate.end_check();
    // The other connection is lent as well.
    let other = gate.acquire_here(AGES).unwrap();
    let started = Instant::now();
    assert_eq!(gate.acquire_here(AGES), Err(Refusal::SelfDeadlock));
    assert!(started.elapsed() < AGES / 10);
    // The other connection is being cleaned.
    gate.detach(&other);
    assert_eq!(gate.acquire_here(MOMENT), Err(Refusal::TimedOut));
    // Another thread may wait whatever this one holds.
    let refusal = std::thread::scope(|scope| scope.spawn(|| gate.acquire_here(MOMENT)).join().unwrap());
    assert_eq!(refusal, Err(Refusal::TimedOut));
    gate.discard(other);
    gate.release(mine, now());
}

#[test]
fn a_zero_timeout_waits_for_a_connection_under_maintenance() {
    let gate = stocked(limits(1, 1), Duration::ZERO);
    assert_eq!(gate.begin_check(u32::MAX), 1);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let started = Instant::now();
            (gate.acquire_here(Duration::ZERO), started.elapsed())
        });
        until(|| waiting(&gate) == 1 || caller.is_finished());
        gate.end_check();
        // If this thread was delayed for longer than `CHECK_SLACK`, the caller was right to give up.
        let (outcome, waited) = caller.join().unwrap();
        assert!(outcome.is_ok() || waited >= CHECK_SLACK, "{outcome:?} after {waited:?}");
    });
    assert_eq!(gate.lock().requested, 0, "no connect is requested for a connection under maintenance");
}

#[test]
fn past_its_deadline_a_caller_with_a_dead_connection_gets_no_other() {
    let gate = stocked(limits(2, 2), Duration::ZERO);
    let dead = gate.acquire_here(AGES).unwrap();
    let started = now();
    let outcome = gate.acquire_again(Some(dead), started, started);
    assert_eq!(numbers(outcome).0, Refusal::Down, "a connection that did not answer is no exhaustion");
    let state = gate.lock();
    assert_eq!((state.idle, state.in_use, state.requested), (1, 0, 1), "the minimum is restored");
}

#[test]
fn dead_connections_do_not_count_as_uses() {
    let gate = stocked(limits(2, 2), Duration::from_millis(10));
    let dead = gate.acquire_here(AGES).unwrap();
    // Its wait is not part of the use either.
    let started = now() - AGES;
    let permit = gate.acquire_again(Some(dead), started, now() + AGES).unwrap();
    gate.release(permit, now());
    let status = gate.snapshot();
    assert_eq!((status.use_times.count(), status.wait_times.count(), status.requests), (1, 1, 1));
    assert!(status.use_times.sum < AGES / 10, "{:?}", status.use_times.sum);
}

#[test]
fn in_an_outage_a_zero_timeout_is_refused_with_the_outage() {
    for (is_login, expected) in [(false, Refusal::Down), (true, Refusal::Login)] {
        let gate = Gate::new(limits(1, 1));
        gate.keep_minimum();
        assert!(matches!(gate.next_connect_request(), ConnectRequest::Connect(_)));
        assert!(gate.connect_failed("refused".to_owned(), is_login));
        let started = now();
        let (refusal, numbers) = numbers(gate.acquire(started, started));
        assert_eq!(refusal, expected);
        assert!(numbers.last_failure.is_some());
    }
}

#[test]
fn a_waiter_is_refused_when_the_grace_of_an_outage_ends() {
    let grace = Duration::from_millis(60);
    let gate = Gate::new(Limits { outage_grace: grace, ..limits(0, 1) });
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| gate.acquire_here(AGES));
        until(|| waiting(&gate) == 1);
        assert!(matches!(gate.next_connect_request(), ConnectRequest::Connect(_)));
        gate.connect_failed("refused".to_owned(), false);
        let began = Instant::now();
        // No further attempt ends before that.
        assert_eq!(caller.join().unwrap(), Err(Refusal::Down));
        assert!(began.elapsed() < AGES / 10, "refused after {:?}", began.elapsed());
    });
}

#[test]
fn a_server_that_does_not_answer_before_the_deadline_is_down() {
    let gate = Gate::new(limits(1, 1));
    gate.keep_minimum();
    let refused = gate.wait_until_warm(now() + MOMENT);
    assert!(matches!(refused, Err((Refusal::Down, _))), "{refused:?}");
}

#[test]
fn a_smaller_maximum_drops_pending_requests_before_it_closes_connections() {
    let gate = stocked(limits(2, 10), Duration::ZERO);
    assert!(gate.resize(8, 10));
    assert_eq!(gate.lock().requested, 6);
    assert!(gate.resize(1, 2));
    assert_eq!(gate.lock().total(), 2);
    assert!(!gate.retires());
}

#[test]
fn a_delay_is_shed_only_after_it_has_lasted() {
    let (target, interval) = (Duration::from_millis(5), Duration::from_millis(40));
    let shedding = Some((target, interval));
    let gate = stocked(Limits { shedding, ..limits(1, 1) }, Duration::ZERO);
    // Two slow hand-overs, each followed by a pause longer than the interval: neither delay lasts.
    for _ in 0..2 {
        let outcome = std::thread::scope(|scope| {
            let permit = gate.acquire_here(AGES).unwrap();
            let caller = scope.spawn(|| gate.acquire_here(AGES).map(|permit| gate.release(permit, now())));
            until(|| waiting(&gate) == 1);
            std::thread::sleep(2 * target);
            gate.release(permit, now());
            caller.join().unwrap()
        });
        assert!(outcome.is_ok(), "{outcome:?}");
        std::thread::sleep(2 * interval);
    }
}

#[test]
fn a_timeout_of_a_century_is_possible() {
    let gate = stocked(limits(1, 1), Duration::ZERO);
    let permit = gate.acquire_here(Duration::ZERO).unwrap();
    let age = Duration::from_secs(100 * 365 * 24 * 3600);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| gate.acquire_here(age));
        until(|| waiting(&gate) == 1);
        gate.release(permit, now());
        assert!(caller.join().unwrap().is_ok());
    });
}

#[test]
fn every_wait_is_counted_once_and_to_its_end() {
    let gate = stocked(Limits { max_waiting: 1, ..limits(2, 2) }, Duration::ZERO);
    let waits = || gate.snapshot().wait_times;
    std::thread::scope(|scope| {
        let permits = scope.spawn(|| [0; 2].map(|_| gate.acquire_here(AGES).unwrap())).join().unwrap();
        // Two callers that did not wait, and one that timed out.
        assert_eq!(gate.acquire_here(MOMENT), Err(Refusal::TimedOut));
        assert!(waits().count() == 3 && waits().sum >= MOMENT, "{:?}", waits());
        // A caller that waits, and one that is refused before it waits.
        let caller = scope.spawn(|| gate.acquire_here(AGES));
        until(|| waiting(&gate) == 1);
        assert_eq!(gate.acquire_here(AGES), Err(Refusal::Saturated));
        for permit in permits {
            gate.release(permit, now());
        }
        gate.release(caller.join().unwrap().unwrap(), now());
        assert_eq!(waits().count(), 4);
    });
    // A caller whose connection was found dead has waited since its first request, and is counted once.
    let before = waits();
    let started = now();
    let dead = gate.acquire(started, started + AGES).unwrap();
    let permit = gate.acquire_again(Some(dead), started - AGES, now() + AGES).unwrap();
    gate.release(permit, now());
    assert_eq!(waits().count(), before.count() + 1);
    assert!(waits().sum >= before.sum + AGES, "{:?}", waits());
}

#[test]
fn a_hanging_connect_is_reported_as_down_and_not_as_exhaustion() {
    let gate = stocked(limits(1, 1), Duration::ZERO);
    gate.discard(gate.acquire_here(AGES).unwrap());
    assert!(matches!(gate.next_connect_request(), ConnectRequest::Connect(_)));
    let mut last = None;
    until(|| {
        let started = now();
        let (refusal, numbers) = numbers(gate.acquire(started, started + MOMENT));
        assert!(numbers.unanswered_for >= last && numbers.in_use == 0, "{numbers:?}");
        last = numbers.unanswered_for;
        refusal == Refusal::Down
    });
    assert!(last.is_some());
    gate.connected(Duration::ZERO);
    gate.release(gate.acquire_here(Duration::ZERO).unwrap(), now());
    assert_eq!(gate.lock().numbers(Duration::ZERO).unanswered_for, None);
}

#[test]
fn callers_turned_away_by_an_outage_or_a_suspension_are_counted_apart() {
    let gate = stocked(limits(1, 1), Duration::ZERO);
    let turned_away = || {
        let counts = &gate.lock().counts;
        (counts.timed_out, counts.turned_away_in_outage)
    };
    let borrow =
        || std::thread::scope(|scope| scope.spawn(|| gate.acquire_here(AGES).unwrap()).join().unwrap());
    // The connection is in use and comes back: the pool was too small.
    let permit = borrow();
    assert_eq!(gate.acquire_here(MOMENT), Err(Refusal::TimedOut));
    gate.release(permit, now());
    assert_eq!(turned_away(), (1, 0));
    // The connection is in use because the server no longer answers, which becomes known later.
    let permit = borrow();
    assert_eq!(gate.acquire_here(MOMENT), Err(Refusal::TimedOut));
    gate.discard(permit);
    assert!(matches!(gate.next_connect_request(), ConnectRequest::Connect(_)));
    gate.connect_failed("silence".to_owned(), false);
    assert_eq!(turned_away(), (2, 1));
    assert!(matches!(gate.next_connect_request(), ConnectRequest::Connect(_)));
    gate.connected(Duration::ZERO);
    // Lending is suspended.
    assert!(gate.suspend());
    assert_eq!(gate.acquire_here(MOMENT), Err(Refusal::Suspended));
    assert_eq!(turned_away(), (3, 2));
}

#[test]
fn a_connection_that_is_not_in_the_store_yet_is_not_lost() {
    let gate = stocked(limits(1, 1), Duration::ZERO);
    let started = now();
    let permit = gate.acquire(started, started).unwrap();
    let (refusal, numbers) = gate.put_back(permit, started);
    assert_eq!((refusal, numbers.in_use), (Refusal::TimedOut, 0));
    let state = gate.lock();
    assert_eq!((state.idle, state.in_use, state.requested), (1, 0, 0));
    assert_eq!((state.counts.requests, state.counts.timed_out, state.counts.wait_times.count()), (1, 1, 1));
}

#[test]
fn callers_are_taken_along_from_the_head_of_the_queue_up_to_the_first_that_is_refused() {
    let gate = Arc::new(stocked(limits(1, 1), MOMENT));
    let permit = gate.acquire_here(AGES).unwrap();
    let threads: Vec<_> = (0..4_u32)
        .map(|number| {
            let other = gate.clone();
            let thread = std::thread::spawn(move || {
                let started = now();
                let request = || (number != 2).then(|| Arc::new(number) as Request);
                let granted = other.acquire_or_follow(started, started + AGES, request);
                match granted.map_err(|(refusal, _)| refusal).unwrap() {
                    Granted::TakenAlong => true,
                    Granted::Permit(permit) => {
                        other.release(permit, now());
                        false
                    }
                }
            });
            while gate.lock().queue.len() <= number as usize {
                std::thread::yield_now();
            }
            thread
        })
        .collect();
    let mut asked = Vec::new();
    let taken = gate.take_along(7, |request| {
        asked.push(*request.downcast_ref::<u32>().unwrap());
        true
    });
    assert_eq!((taken.len(), asked), (2, vec![0, 1]));
    assert!(gate.take_along(7, |_| true).is_empty(), "the head has no request");
    gate.lock().check();
    assert_eq!(gate.snapshot().shared_round_trips, 2);
    gate.release(permit, now());
    taken.iter().for_each(|waiter| waiter.wake());
    let followed: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(followed, [true, true, false, false]);
}
