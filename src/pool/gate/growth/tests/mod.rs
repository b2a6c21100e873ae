//! The rule by itself, and in a simulation that is held against perfect foresight.

mod simulation;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn learnt(connect: Duration, hold: Duration) -> Growth {
    let mut growth = Growth::default();
    growth.note_connect(connect);
    growth.note_use(hold);
    growth
}

/// What is ordered at each of these times while eight wait all the time behind two that are in use, each order
/// being one caller less who has nothing connecting for it.
fn ordered_at(growth: &mut Growth, start: Instant, times: impl IntoIterator<Item = Duration>) -> Vec<u32> {
    let mut unserved = 8;
    growth.note_demand(start, unserved);
    let order = |after| {
        let ordered = growth.connects_wanted(start + after, 2, 0, unserved);
        unserved -= ordered as usize;
        growth.note_demand(start + after, unserved);
        ordered
    };
    times.into_iter().map(order).collect()
}

#[test]
fn long_uses_are_not_waited_for() {
    assert_eq!(learnt(5 * MS, 100 * MS).connects_wanted(Instant::now(), 5, 0, 3), 3);
}

#[test]
fn with_nothing_in_use_there_is_nothing_to_wait_for() {
    assert_eq!(learnt(150 * MS, 2 * MS).connects_wanted(Instant::now(), 0, 0, 3), 3);
}

#[test]
fn what_maintenance_has_is_waited_for() {
    let growth = &mut learnt(150 * MS, 200 * MS);
    assert_eq!(growth.connects_wanted(Instant::now(), 0, 1, 1), 0);
    assert_eq!(growth.connects_wanted(Instant::now(), 0, 1, 2), 1);
}

#[test]
fn a_queue_that_is_empty_before_a_connect_could_be_done_orders_nothing() {
    let growth = &mut learnt(150 * MS, 2 * MS);
    assert_eq!(ordered_at(growth, Instant::now(), [Duration::ZERO, 20 * MS, 149 * MS]), [0, 0, 0]);
}

#[test]
fn lasting_demand_orders_one_then_two_then_four() {
    let growth = &mut learnt(150 * MS, 2 * MS);
    let times = [149, 150, 151, 299, 300, 450, 451].map(|time| time * MS);
    assert_eq!(ordered_at(growth, Instant::now(), times), [0, 1, 0, 0, 2, 4, 0]);
}

#[test]
fn who_is_to_ask_again_is_told_when() {
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
fn after_a_break_it_begins_with_one_again() {
    let start = Instant::now();
    let growth = &mut learnt(150 * MS, 2 * MS);
    assert_eq!(ordered_at(growth, start, [150 * MS, 300 * MS]), [1, 2]);
    growth.note_demand(start + 300 * MS, 0);
    let later = start + Duration::from_secs(10);
    assert_eq!(ordered_at(growth, later, [Duration::ZERO, 150 * MS]), [0, 1]);
}

#[test]
fn pressure_beyond_one_connect_is_not_saved_up() {
    let start = Instant::now();
    let growth = &mut learnt(150 * MS, 2 * MS);
    // At the maximum for an hour, before there is room.
    assert_eq!(ordered_at(growth, start, [Duration::from_secs(3600)]), [1]);
    assert_eq!(ordered_at(growth, start + Duration::from_secs(3600), [MS, 150 * MS]), [0, 2]);
}

#[test]
fn those_who_cannot_wait_are_demand_too() {
    let growth = &mut learnt(150 * MS, 2 * MS);
    let start = Instant::now();
    let first = (1..).find(|tries| {
        let now = start + *tries * MS;
        growth.note_turned_away(now);
        growth.connects_wanted(now, 2, 0, 1) > 0
    });
    // Each counts 2 ms; one of calm in between takes next to nothing away.
    assert!(first.is_some_and(|tries| (75..80).contains(&tries)), "{first:?}");
}
