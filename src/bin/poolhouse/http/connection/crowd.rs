//! How many connections there may be: fewer than descriptors. Where a worker has its share, the connections that have
//! waited longest for their clients make room for the next one; where none waits, the next one is answered too, but
//! with nothing except health.

use crate::http::connection::exchange::Exchange;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Descriptors that are not for connections: files, workers, a private server.
const RESERVE: usize = 64;

/// What a connection of the pool may take: itself, one that replaces it, one that cancels for it.
const PER_POOLED: usize = 3;

/// No worker has less, however few descriptors there are, nor more.
const SHARE: std::ops::RangeInclusive<usize> = 8..=25_000;

/// The most connections of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct Ceiling {
    /// From here on others make room.
    pub(in crate::http) share: usize,
    /// From here on no more are accepted.
    pub(in crate::http) most: usize,
}

impl Ceiling {
    /// What the process's limit of descriptors allows each of `workers`, beside a pool of `pooled` connections.
    pub(in crate::http) fn of_this_process(workers: usize, pooled: usize) -> Ceiling {
        let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((soft, _)) if soft != RLIM_INFINITY => usize::try_from(soft).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        let ceiling = Ceiling::of(limit, workers, pooled);
        if ceiling.most == *SHARE.start() {
            log::warn!("The limit of {limit} descriptors (ulimit -n) leaves few for clients: raise it");
        }
        ceiling
    }

    fn of(descriptors: usize, workers: usize, pooled: usize) -> Ceiling {
        let for_clients = descriptors.saturating_sub(RESERVE + PER_POOLED * pooled);
        let most = (for_clients / workers.max(1)).clamp(*SHARE.start(), *SHARE.end());
        Ceiling { share: most - most.div_ceil(8), most }
    }
}

thread_local! {
    /// This worker's connections, except those that have been sent away.
    static OPEN: RefCell<HashMap<*const Exchange, Rc<Exchange>>> = RefCell::default();
}

/// A place among the connections of this worker; free again when dropped.
#[derive(Debug)]
pub(in crate::http) struct Place {
    pub(in crate::http) exchange: Rc<Exchange>,
}

impl Place {
    /// For a new connection.
    pub(in crate::http) fn take(ceiling: Ceiling) -> Place {
        OPEN.with_borrow_mut(|open| {
            let is_surplus = open.len() >= ceiling.share && !make_room(open);
            let exchange = Rc::new(Exchange::new(is_surplus));
            open.insert(Rc::as_ptr(&exchange), exchange.clone());
            Place { exchange }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The thread's end takes the table along before some of the connections.
        let _ = OPEN.try_with(|open| open.borrow_mut().remove(&Rc::as_ptr(&self.exchange)));
    }
}

/// Sends away some that have waited longest for their clients; returns whether there were any. Several at once,
/// because finding them takes a look at all.
fn make_room(open: &mut HashMap<*const Exchange, Rc<Exchange>>) -> bool {
    let mut idle: Vec<_> =
        open.iter().filter_map(|(key, exchange)| exchange.idle_since().map(|since| (since, *key))).collect();
    idle.sort_unstable();
    for (_, key) in idle.iter().take(1 + idle.len() / 8) {
        if let Some(exchange) = open.remove(key) {
            exchange.send_away();
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
        assert_eq!(Ceiling::of(1024, 2, 10), Ceiling { share: 406, most: 465 });
        assert_eq!(Ceiling::of(50, 4, 100), Ceiling { share: 7, most: 8 });
        assert_eq!(Ceiling::of(usize::MAX, 1, 10).most, 25_000);
    }

    #[test]
    fn the_longest_idle_makes_room_and_who_is_at_work_does_not() {
        let ceiling = Ceiling { share: 3, most: 4 };
        let mut places: Vec<_> = (0..3).map(|_| Place::take(ceiling)).collect();
        places[0].exchange.enter(Phase::Handling);
        // What the last one has sent, nobody has looked at yet.
        places[1].exchange.wait(&Context::from_waker(Waker::noop()));
        places.push(Place::take(ceiling));
        let must_go: Vec<_> = places.iter().map(|place| place.exchange.must_go()).collect();
        assert_eq!(must_go, [false, true, false, false]);

        places.iter().for_each(|place| place.exchange.enter(Phase::Handling));
        places.push(Place::take(ceiling));
        let is_surplus: Vec<_> = places.iter().map(|place| place.exchange.is_surplus).collect();
        assert_eq!(is_surplus, [false, false, false, false, true]);
        drop(places);
        assert_eq!(OPEN.with_borrow(HashMap::len), 0);
    }
}
