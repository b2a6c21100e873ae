//! Random histories: one thread applies events to a gate whose callers and connectors are other threads. After each event a
//! simple model of the gate says which callers must have been served or refused.

mod tally;
mod world;

use super::*;
use crate::pool::gate::tests::histories::world::World;
use proptest::collection::vec;
use proptest::prelude::*;

const AGES: Duration = Duration::from_secs(60);
const MAX: u32 = 4;

/// An event. A number selects one of several connections.
#[derive(Debug, Clone)]
enum Event {
    /// A caller with a long timeout arrives, in a thread of its own.
    Arrive,
    /// The main thread acquires with a zero timeout.
    Try,
    /// The main thread acquires with a short timeout.
    Acquire,
    /// A lent connection is dead, and the main thread acquires again.
    AcquireAgain(usize),
    Release(usize),
    Discard(usize),
    Detach(usize),
    BeginCheck(u32),
    EndCheck,
    EndCheckClosed,
    Connected {
        took: Duration,
    },
    ConnectFailed {
        is_login: bool,
    },
    Resize(u32, u32),
    Suspend,
    Resume,
    Close,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Arrive),
        4 => Just(Event::Try),
        2 => Just(Event::Acquire),
        2 => (0..9usize).prop_map(Event::AcquireAgain),
        10 => (0..9usize).prop_map(Event::Release),
        3 => (0..9usize).prop_map(Event::Discard),
        1 => (0..9usize).prop_map(Event::Detach),
        2 => (1..4u32).prop_map(Event::BeginCheck),
        2 => Just(Event::EndCheck),
        1 => Just(Event::EndCheckClosed),
        10 => prop_oneof![Just(Duration::ZERO), Just(AGES)].prop_map(|took| Event::Connected { took }),
        1 => any::<bool>().prop_map(|is_login| Event::ConnectFailed { is_login }),
        // Never smaller than before: other tests cover a smaller maximum.
        1 => (0..=MAX, MAX..2 * MAX).prop_map(|(min, max)| Event::Resize(min, max)),
        1 => Just(Event::Suspend),
        2 => Just(Event::Resume),
        1 => Just(Event::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_time: 30_000, ..ProptestConfig::default() })]

    #[test]
    fn callers_are_served_in_order_and_every_count_matches(
        min in 0..=MAX,
        events in vec(event(), 1..60),
    ) {
        let mut world = World::new(min);
        world.gate.keep_minimum();
        world.settle();
        for event in &events {
            world.apply(event);
        }
        world.end();
    }
}
