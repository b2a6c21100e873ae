//! A caller who is taken along by another one, while its time ends.

use super::*;

/// Waits with a request, and releases a permit at once. Returns whether another caller took the request along.
fn follow_once(gate: &Gate, timeout: Duration) -> Result<bool, Refusal> {
    let started = now();
    let granted = gate.acquire_or_follow(started, started + timeout, || Some(Arc::new(())));
    gate.lock().check();
    match granted.map_err(|(refusal, _)| refusal)? {
        Granted::TakenAlong => Ok(true),
        Granted::Permit(permit) => {
            gate.release(permit, now());
            Ok(false)
        }
    }
}

#[test]
fn a_caller_taken_along_when_its_time_ends_has_one_outcome() {
    explore(|| {
        let gate = Arc::new(stocked(limits(1, 1), Duration::ZERO));
        let permit = gate.acquire_here(AGES).unwrap();
        let hasty = in_thread(&gate, |gate| follow_once(gate, SHORT));
        let patient = in_thread(&gate, |gate| follow_once(gate, AGES));
        let taken = gate.take_along(2, |_| true);
        gate.lock().check();
        gate.release(permit, now());
        taken.iter().for_each(|waiter| waiter.wake());
        let outcomes = [hasty.join().unwrap(), patient.join().unwrap()];
        assert_ne!(outcomes[1], Err(Refusal::TimedOut));
        assert_eq!(
            outcomes.iter().filter(|outcome| **outcome == Ok(true)).count(),
            taken.len(),
            "{outcomes:?}"
        );
        assert_at_rest(&gate, 1);
    });
}
