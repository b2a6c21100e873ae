//! When connections are made, and when they are closed.

use super::*;
use crate::support::{Proxy, eventually};
use poolhouse::Execute;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

#[test]
fn the_minimum_is_warm_when_open_returns() {
    let pool = pool(3, 10, |_| ());
    let status = pool.status();
    assert_eq!((status.available, status.in_use, status.total), (3, 0, 3));
}

/// One caller at a time needs one connection, whatever the minimum and maximum are.
#[test]
fn one_caller_does_not_grow_the_pool() {
    let pool = pool(1, 50, |_| ());
    for _ in 0..200 {
        pool.execute_query_one::<i32>("SELECT 1", &[]).unwrap();
    }
    assert_eq!(pool.status().connects, 1);
}

/// Fifty callers for two milliseconds each are served by the five that are open, sooner than a sixth could
/// be made.
#[test]
fn a_spike_is_served_without_surplus() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (5, 50);
    (settings.connect_timeout, settings.acquire_timeout) = (SOON, SOON);
    // A busy machine needs longer for them.
    for connect_time in [150 * MS, 600 * MS, 2400 * MS, 9600 * MS] {
        proxy.delay_connects(connect_time);
        let pool = Pool::open(&settings).unwrap();
        let started = Instant::now();
        thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(|| {
                    let connection = pool.get_connection().unwrap();
                    thread::sleep(2 * MS);
                    drop(connection);
                });
            }
        });
        if started.elapsed() < connect_time {
            thread::sleep(connect_time * 2);
            let total = pool.status().total;
            assert!(total <= 7, "{total} connections after the spike");
            return;
        }
    }
    panic!("a spike of 50 times 2 ms was not over sooner than a sixth connection could be made");
}

/// Ten callers that never pause, each of whom waits for far less than a connect takes: together they wait for ever.
#[test]
fn lasting_demand_of_short_statements_brings_the_pool_to_its_maximum() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let mut settings = PoolSettings::new(proxy.settings());
    (settings.min_connections, settings.max_connections) = (2, 10);
    proxy.delay_connects(100 * MS);
    let pool = Pool::open(&settings).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // The last one is there so that each of ten connections is wanted all the time.
        for _ in 0..11 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let connection = pool.get_connection().unwrap();
                    thread::sleep(2 * MS);
                    drop(connection);
                }
            });
        }
        let outcome = std::panic::catch_unwind(|| {
            eventually("ten are open", SOON, || pool.status().total == 10);
        });
        is_over.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
    assert_eq!(pool.status().closed.total(), 0);
}

/// And it does not depend on a caller of whom one waits that long: as many as may be open are used by as many threads.
#[test]
fn as_many_threads_as_there_may_be_connections_end_with_one_each() {
    let pool = pool(2, 8, |_| ());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    pool.execute_query_one::<i32>("SELECT 1", &[]).unwrap();
                }
            });
        }
        let outcome = std::panic::catch_unwind(|| {
            eventually("eight are open", SOON, || pool.status().total == 8);
        });
        is_over.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

#[test]
fn long_uses_make_the_pool_grow_to_its_maximum_and_not_beyond() {
    let pool = pool(0, 6, |settings| settings.acquire_timeout = FOR_EVER);
    // How many may give back what they have.
    let may_end = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let connection = pool.get_connection().unwrap();
                let is_ended = |left: u32| left.checked_sub(1);
                while may_end.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_ended).is_err() {
                    thread::sleep(MS);
                }
                drop(connection);
            });
        }
        let outcome = std::panic::catch_unwind(|| {
            eventually("six are served", SOON, || pool.status().in_use == 6 && pool.status().waiting == 6);
            may_end.store(6, Ordering::Relaxed);
            eventually("and the other six", SOON, || pool.status().in_use == 6 && pool.status().waiting == 0);
        });
        may_end.store(12, Ordering::Relaxed);
        outcome.unwrap();
    });
    let status = pool.status();
    assert_eq!((status.peak_in_use, status.total), (6, 6));
}

/// Idle connections go one by one, down to the minimum and no further.
#[test]
fn idle_connections_above_the_minimum_are_let_go_one_by_one() {
    let pool = pool(2, 6, |settings| settings.idle_timeout = Some(100 * MS));
    let held: Vec<_> = (0..6).map(|_| pool.get_connection().unwrap()).collect();
    drop(held);
    let mut seen = Vec::new();
    eventually("down to the minimum", SOON, || {
        let total = pool.status().total;
        if seen.last() != Some(&total) {
            seen.push(total);
        }
        total == 2
    });
    assert!(seen.windows(2).all(|pair| pair[0] - pair[1] <= 1), "{seen:?}");
    thread::sleep(300 * MS);
    let status = pool.status();
    assert_eq!((status.total, status.closed.idle), (2, 4));
}

/// Each thread would get back the connection that it had before, if nothing else decided.
#[test]
fn threads_that_take_turns_share_one_connection_and_the_others_are_let_go() {
    let pool = pool(1, 4, |settings| settings.idle_timeout = Some(400 * MS));
    let (all, turn, end) = (Barrier::new(4), AtomicU32::new(0), Instant::now() + SOON);
    thread::scope(|scope| {
        for mine in 0..4 {
            let (pool, all, turn) = (&pool, &all, &turn);
            scope.spawn(move || {
                // The first time some connections are new; after the second, every thread has had one from its slot.
                for _ in 0..2 {
                    let own = pool.get_connection().unwrap();
                    all.wait();
                    drop(own);
                    all.wait();
                }
                let mut is_over = false;
                while !is_over {
                    if turn.load(Ordering::Acquire) == mine {
                        is_over = pool.status().total == 1 || Instant::now() > end;
                        // Longer than a thread's own connection is preferred.
                        pool.execute_query::<String>("SELECT pg_sleep(0.002)::text", &[]).unwrap();
                        turn.store((mine + 1) % 4, Ordering::Release);
                    }
                    thread::yield_now();
                }
            });
        }
    });
    let status = pool.status();
    assert_eq!((status.total, status.closed.idle), (1, 3));
}

#[test]
fn overflow_connections_go_soon_after_use() {
    let pool = pool(1, 4, |settings| settings.max_overflow = 2);
    let held: Vec<_> = (0..4).map(|_| pool.get_connection().unwrap()).collect();
    drop(held);
    eventually("no overflow is left", SOON, || pool.status().total == 2);
    assert_eq!(pool.status().closed.overflow, 2);
}

/// A connection that breaks frees its place, and a replacement is made for the waiter.
#[test]
fn a_broken_connection_is_replaced_for_a_waiter() {
    let pool = pool(1, 1, |settings| settings.acquire_timeout = 2 * SOON);
    let held = pool.get_connection().unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let started = Instant::now();
            let connection = pool.get_connection().unwrap();
            connection.execute_query_one::<i32>("SELECT 1", &[]).unwrap();
            started.elapsed()
        });
        eventually("it waits", SOON, || pool.status().waiting == 1);
        let ended = held.execute_query::<bool>("SELECT pg_terminate_backend(pg_backend_pid())", &[]);
        assert!(ended.is_err());
        drop(held);
        assert!(waiter.join().unwrap() < SOON);
    });
    assert_eq!(pool.status().closed.broken, 1);
}
