//! A thread that asks for a connection while it holds one.

use super::*;

#[test]
fn a_holder_that_asks_for_another_connection_is_served_or_refused_at_once() {
    explore(|| {
        let gate = Arc::new(stocked(limits(2, 2), Duration::ZERO));
        let mine = gate.acquire_here(AGES).unwrap();
        let other = in_thread(&gate, |gate| use_once(gate, AGES).and_then(|()| use_once(gate, AGES)));
        match gate.acquire_here(AGES) {
            Ok(permit) => gate.release(permit, now()),
            Err(refusal) => assert_eq!(refusal, Refusal::SelfDeadlock),
        }
        gate.release(mine, now());
        assert_eq!(other.join().unwrap(), Ok(()));
        assert_at_rest(&gate, 2);
    });
}

#[test]
fn a_holder_gets_the_connection_that_is_being_cleaned() {
    explore(|| {
        let gate = Arc::new(stocked(limits(2, 2), Duration::ZERO));
        let mine = gate.acquire_here(AGES).unwrap();
        let other = gate.acquire_here(AGES).unwrap();
        gate.detach(&other);
        let cleaner = in_thread(&gate, |gate| gate.release(other, now()));
        let cleaned = gate.acquire_here(AGES).unwrap();
        gate.release(cleaned, now());
        gate.release(mine, now());
        cleaner.join().unwrap();
        assert_at_rest(&gate, 2);
    });
}
