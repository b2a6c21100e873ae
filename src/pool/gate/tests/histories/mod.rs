//! Random histories: one thread does one thing after the other to a gate with patient callers and connectors in
//! threads of their own, and a plain account beside it says who must have been served by now.

mod tally;
mod world;

use super::*;
use crate::pool::gate::tests::histories::world::World;
use proptest::collection::vec;
use proptest::prelude::*;

const AGES: Duration = Duration::from_secs(60);
const MAX: u32 = 4;

/// One thing that happens to a gate. Where it is done to one of several, the number says to which.
#[derive(Debug, Clone)]
enum Event {
    /// Somebody comes who waits as long as it takes.
    Come,
    /// Somebody comes who does not wait.
    Try,
    /// The main thread asks, and waits a moment.
    Ask,
    /// The main thread's connection is dead.
    AskAgain(usize),
    Release(usize),
    Discard(usize),
    Detach(usize),
    BeginCheck(u32),
    EndCheck,
    EndCheckClosed,
    Made {
        took: Duration,
    },
    Failed {
        is_login: bool,
    },
    Resize(u32, u32),
    Suspend,
    Resume,
    Close,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Come),
        4 => Just(Event::Try),
        2 => Just(Event::Ask),
        2 => (0..9usize).prop_map(Event::AskAgain),
        10 => (0..9usize).prop_map(Event::Release),
        3 => (0..9usize).prop_map(Event::Discard),
        1 => (0..9usize).prop_map(Event::Detach),
        2 => (1..4u32).prop_map(Event::BeginCheck),
        2 => Just(Event::EndCheck),
        1 => Just(Event::EndCheckClosed),
        10 => prop_oneof![Just(Duration::ZERO), Just(AGES)].prop_map(|took| Event::Made { took }),
        1 => any::<bool>().prop_map(|is_login| Event::Failed { is_login }),
        // Never smaller than it was: what a smaller maximum does is a story of its own.
        1 => (0..=MAX, MAX..2 * MAX).prop_map(|(min, max)| Event::Resize(min, max)),
        1 => Just(Event::Suspend),
        2 => Just(Event::Resume),
        1 => Just(Event::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_time: 30_000, ..ProptestConfig::default() })]

    #[test]
    fn callers_are_served_in_order_and_everything_balances(
        min in 0..=MAX,
        events in vec(event(), 1..60),
    ) {
        let mut world = World::new(min);
        world.gate.keep_minimum();
        world.settle();
        for event in &events {
            world.live_through(event);
        }
        world.end();
    }
}
