//! The limits on open connections, derived from the limit on descriptors. At the soft limit the connections that have
//! waited longest for their clients are closed; if none waits, the new connection is over the limit and gets only
//! health routes. At the hard limit no more are accepted.

use crate::http::connection::exchange::Exchange;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Descriptors for other purposes: files, workers, a private server.
const RESERVE: usize = 64;

/// Descriptors for each connection of the pool: itself, its replacement, a cancel request.
const PER_POOLED: usize = 3;

/// The range of the hard limit, whatever the limit on descriptors.
const RANGE: std::ops::RangeInclusive<usize> = 8..=25_000;

/// The limits on the connections of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct ConnectionLimit {
    /// From here on idle connections are closed for new ones.
    pub(in crate::http) soft: usize,
    /// From here on no connection is accepted.
    pub(in crate::http) hard: usize,
}

impl ConnectionLimit {
    /// Divides the process's limit on descriptors among `workers`, beside a pool of `pool_size` connections.
    pub(in crate::http) fn of_this_process(workers: usize, pool_size: usize) -> ConnectionLimit {
        let descriptors = match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((soft, _)) if soft != RLIM_INFINITY => usize::try_from(soft).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        let limit = ConnectionLimit::of(descriptors, workers, pool_size);
        if limit.hard == *RANGE.start() {
            log::warn!("The limit of {descriptors} descriptors (ulimit -n) leaves few for clients: raise it");
        }
        limit
    }

    fn of(descriptors: usize, workers: usize, pool_size: usize) -> ConnectionLimit {
        let for_clients = descriptors.saturating_sub(RESERVE + PER_POOLED * pool_size);
        let hard = (for_clients / workers.max(1)).clamp(*RANGE.start(), *RANGE.end());
        ConnectionLimit { soft: hard - hard.div_ceil(8), hard }
    }
}

thread_local! {
    /// This worker's connections, except the evicted ones. A thread-local, because a worker is one thread: no lock.
    static OPEN: RefCell<HashMap<*const Exchange, Rc<Exchange>>> = RefCell::default();
}

/// A slot for a connection of this worker; dropping it frees it.
#[derive(Debug)]
pub(in crate::http) struct Slot {
    pub(in crate::http) exchange: Rc<Exchange>,
}

impl Slot {
    /// Takes a slot for a new connection, and evicts others if needed.
    pub(in crate::http) fn take(limit: ConnectionLimit) -> Slot {
        OPEN.with_borrow_mut(|open| {
            let is_over_limit = open.len() >= limit.soft && !make_room(open);
            let exchange = Rc::new(Exchange::new(is_over_limit));
            open.insert(Rc::as_ptr(&exchange), exchange.clone());
            Slot { exchange }
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // At the thread's end the table may be dropped before the connections.
        let _ = OPEN.try_with(|open| open.borrow_mut().remove(&Rc::as_ptr(&self.exchange)));
    }
}

/// Evicts some of the connections that have waited longest for their clients; returns whether there were any. It
/// evicts several at once, because the search visits all connections.
fn make_room(open: &mut HashMap<*const Exchange, Rc<Exchange>>) -> bool {
    let mut idle: Vec<_> =
        open.iter().filter_map(|(key, exchange)| exchange.idle_since().map(|since| (since, *key))).collect();
    idle.sort_unstable();
    for (_, key) in idle.iter().take(1 + idle.len() / 8) {
        if let Some(exchange) = open.remove(key) {
            exchange.evict();
        }
    }
    !idle.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::connection::exchange::Phase;
    use std::task::{Context, Waker};

    #[test]
    fn the_limit_of_descriptors_is_shared_out() {
        assert_eq!(ConnectionLimit::of(1024, 2, 10), ConnectionLimit { soft: 406, hard: 465 });
        assert_eq!(ConnectionLimit::of(50, 4, 100), ConnectionLimit { soft: 7, hard: 8 });
        assert_eq!(ConnectionLimit::of(usize::MAX, 1, 10).hard, 25_000);
    }

    #[test]
    fn the_longest_idle_connection_makes_room_and_a_busy_one_does_not() {
        let limit = ConnectionLimit { soft: 3, hard: 4 };
        let mut slots: Vec<_> = (0..3).map(|_| Slot::take(limit)).collect();
        slots[0].exchange.enter(Phase::Handling);
        // The last one may have unread bytes.
        slots[1].exchange.wait(&Context::from_waker(Waker::noop()));
        slots.push(Slot::take(limit));
        let must_close: Vec<_> = slots.iter().map(|slot| slot.exchange.must_close()).collect();
        assert_eq!(must_close, [false, true, false, false]);

        slots.iter().for_each(|slot| slot.exchange.enter(Phase::Handling));
        slots.push(Slot::take(limit));
        let is_over_limit: Vec<_> = slots.iter().map(|slot| slot.exchange.is_over_limit).collect();
        assert_eq!(is_over_limit, [false, false, false, false, true]);
        drop(slots);
        assert_eq!(OPEN.with_borrow(HashMap::len), 0);
    }
}
