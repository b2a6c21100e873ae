//! The growth rule by itself, and in a simulation that is compared with perfect foresight.

mod simulation;

use super::*;

const MS: Duration = Duration::from_millis(1);

impl Growth {
    /// As the gate does where a connection comes back.
    fn note_use(&mut self, held: Duration) {
        self.hold = Some(average_hold(self.hold, held));
    }
}

fn learnt(connect: Duration, hold: Duration) -> Growth {
    let mut growth = Growth::default();
    growth.note_connect(connect);
    growth.note_use(hold);
    growth
}

/// What is requested at each of these times while eight callers wait behind two connections in use. Each request leaves one
/// caller fewer unserved.
fn requested_at(growth: &mut Growth, start: Instant, times: impl IntoIterator<Item = Duration>) -> Vec<u32> {
    let mut unserved = 8;
    growth.note_demand(start, unserved);
    let request = |after| {
        let requested = growth.connects_wanted(start + after, 2, 0, unserved);
        unserved -= requested as usize;
        growth.note_demand(start + after, unserved);
        requested
    };
    times.into_iter().map(request).collect()
}

#[test]
fn connections_held_longer_than_a_connect_are_not_waited_for() {
    assert_eq!(learnt(5 * MS, 100 * MS).connects_wanted(Instant::now(), 5, 0, 3), 3);
}

#[test]
fn with_no_connection_in_use_every_waiter_gets_a_request() {
    assert_eq!(learnt(150 * MS, 2 * MS).connects_wanted(Instant::now(), 0, 0, 3), 3);
}

#[test]
fn connections_under_maintenance_are_waited_for() {
    let growth = &mut learnt(150 * MS, 200 * MS);
    assert_eq!(growth.connects_wanted(Instant::now(), 0, 1, 1), 0);
    assert_eq!(growth.connects_wanted(Instant::now(), 0, 1, 2), 1);
}

#[test]
fn a_queue_that_empties_within_a_connect_time_requests_nothing() {
    let growth = &mut learnt(150 * MS, 2 * MS);
    assert_eq!(requested_at(growth, Instant::now(), [Duration::ZERO, 20 * MS, 149 * MS]), [0, 0, 0]);
}

#[test]
fn lasting_demand_requests_one_then_two_then_four() {
    let growth = &mut learnt(150 * MS, 2 * MS);
    let times = [149, 150, 151, 299, 300, 450, 451].map(|time| time * MS);
    assert_eq!(requested_at(growth, Instant::now(), times), [0, 1, 0, 0, 2, 4, 0]);
}

#[test]
fn the_due_time_is_when_pressure_reaches_a_connect_time() {
    let start = Instant::now();
    let growth = &mut learnt(150 * MS, 2 * MS);
    assert_eq!(growth.due(), None);
    growth.note_demand(start, 1);
    assert_eq!(growth.due(), Some(start + 150 * MS));
    growth.note_demand(start + 50 * MS, 0);
    assert_eq!(growth.due(), None);
    growth.note_demand(start + 50 * MS + 64 * 10 * MS, 1);
    assert_eq!(growth.due(), Some(start + 640 * MS + 160 * MS), "calm has paid back 10 of 50 ms");
}

#[test]
fn after_a_break_the_steps_begin_with_one_again() {
    let start = Instant::now();
    let growth = &mut learnt(150 * MS, 2 * MS);
    assert_eq!(requested_at(growth, start, [150 * MS, 300 * MS]), [1, 2]);
    growth.note_demand(start + 300 * MS, 0);
    let later = start + Duration::from_secs(10);
    assert_eq!(requested_at(growth, later, [Duration::ZERO, 150 * MS]), [0, 1]);
}

#[test]
fn pressure_is_capped_at_one_connect_time() {
    let start = Instant::now();
    let growth = &mut learnt(150 * MS, 2 * MS);
    // The pool was at its maximum for an hour before there was room.
    assert_eq!(requested_at(growth, start, [Duration::from_secs(3600)]), [1]);
    assert_eq!(requested_at(growth, start + Duration::from_secs(3600), [MS, 150 * MS]), [0, 2]);
}

#[test]
fn callers_that_cannot_wait_are_demand_too() {
    let growth = &mut learnt(150 * MS, 2 * MS);
    let start = Instant::now();
    let first = (1..).find(|tries| {
        let now = start + *tries * MS;
        growth.note_turned_away(now);
        growth.connects_wanted(now, 2, 0, 1) > 0
    });
    // Each counts 2 ms; the calm in between subtracts almost nothing.
    assert!(first.is_some_and(|tries| (75..80).contains(&tries)), "{first:?}");
}
