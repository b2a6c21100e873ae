//! Waiting for a connection: exact, fair, bounded.

use super::*;
use crate::support::{Proxy, eventually};
use poolhouse::{Error, Execute};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Instant;

/// Every caller gets the numbers.
#[test]
fn everything_in_use_is_exhausted_with_its_numbers() {
    let pool = pool(0, 2, |_| ());
    let others = pool.clone();
    let _held = elsewhere(move || [others.get_connection().unwrap(), others.get_connection().unwrap()]);
    let (error, waited) = timed(|| pool.get_connection_timeout(100 * MS).unwrap_err());
    assert!(waited < 100 * MS + OVERSHOOT, "{waited:?}");
    let Error::Exhausted(numbers) = &error else { panic!("{error}") };
    assert_eq!((numbers.in_use, numbers.idle, numbers.max), (2, 0, 2), "{error}");
    assert!(error.is_transient());
}

/// Any timeout is a timeout.
#[test]
fn zero_and_endless_timeouts_are_fine() {
    let pool = pool(1, 1, |_| ());
    let held = pool.get_connection_timeout(Duration::MAX).unwrap();
    let other = pool.clone();
    let (error, waited) =
        elsewhere(move || timed(|| other.get_connection_timeout(Duration::ZERO).unwrap_err()));
    assert!(matches!(error, Error::Exhausted(_)), "{error}");
    assert!(waited < OVERSHOOT, "{waited:?}");
    drop(held);
    pool.get_connection_timeout(Duration::ZERO).unwrap();
}

/// A server that accepts, resets, refuses or falls silent never holds a caller beyond its deadline.
#[test]
fn the_deadline_holds_whatever_the_server_does() {
    type Fault = fn(&Proxy);
    let faults: [(&str, Fault); 5] = [
        ("refuse", Proxy::refuse),
        ("reset", Proxy::reset),
        ("mute", Proxy::mute),
        ("stall", Proxy::stall),
        ("swallow", Proxy::swallow),
    ];
    let database = postgres::fresh_database();
    for (name, fault) in faults {
        let proxy = Proxy::to(&database.settings());
        let mut settings = PoolSettings::new(proxy.settings());
        (settings.min_connections, settings.max_connections) = (2, 4);
        // Every lent connection is checked first, so the silence is met while acquiring.
        settings.pre_ping = poolhouse::settings::PrePing::On;
        let pool = Pool::open(&settings).unwrap();
        fault(&proxy);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..3 {
                        let (result, waited) = timed(|| pool.get_connection_timeout(100 * MS));
                        // Connections made before a refusal are still good.
                        assert!(result.is_err() || name == "refuse" || name == "mute", "{name}");
                        assert!(waited < 100 * MS + OVERSHOOT, "{name}: {waited:?}");
                    }
                });
            }
        });
        proxy.pass();
        eventually("a query succeeds again", SOON, || pool.execute_query_one::<i32>("SELECT 1", &[]).is_ok());
    }
}

/// No caller overtakes another.
#[test]
fn callers_are_served_in_the_order_they_came() {
    let pool = pool(1, 1, |_| ());
    let held = pool.get_connection().unwrap();
    let (sender, served) = mpsc::channel();
    thread::scope(|scope| {
        for number in 0..10 {
            let (pool, sender) = (&pool, sender.clone());
            scope.spawn(move || {
                let connection = pool.get_connection().unwrap();
                sender.send(number).unwrap();
                drop(connection);
            });
            eventually("it waits", SOON, || pool.status().waiting == number + 1);
        }
        drop(held);
    });
    assert_eq!(served.iter().take(10).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
}

/// The queue is bounded and its length known.
#[test]
fn a_full_queue_is_refused_at_once() {
    let pool = pool(1, 1, |settings| settings.max_waiting = 2);
    let held = pool.get_connection().unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| pool.get_connection_timeout(Duration::from_secs(10)).unwrap());
        }
        eventually("two wait", SOON, || pool.status().waiting == 2);
        let third =
            scope.spawn(|| timed(|| pool.get_connection_timeout(Duration::from_secs(10)).unwrap_err()));
        let (error, waited) = third.join().unwrap();
        let Error::Saturated(numbers) = &error else { panic!("{error}") };
        assert_eq!(numbers.waiting, 2);
        assert!(error.to_string().contains("the queue is full, DB_POOL_MAX_WAITING is 2"), "{error}");
        assert!(waited < OVERSHOOT, "{waited:?}");
        drop(held);
    });
    assert_eq!(pool.status().rejected, 1);
}

#[test]
fn a_waiter_that_gives_up_loses_nothing() {
    let pool = pool(1, 1, |_| ());
    let rounds = 200;
    let served = AtomicU32::new(0);
    thread::scope(|scope| {
        for thread in 0..4_u32 {
            let (pool, served) = (&pool, &served);
            scope.spawn(move || {
                for round in 0..rounds {
                    // Deadlines that fall about when the grant does.
                    let timeout = Duration::from_micros(u64::from(50 + (thread * 37 + round * 13) % 200));
                    if let Ok(connection) = pool.get_connection_timeout(timeout) {
                        served.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_micros(60));
                        drop(connection);
                    }
                }
            });
        }
    });
    assert!(served.load(Ordering::Relaxed) > 0);
    let status = pool.status();
    assert_eq!((status.available, status.in_use, status.waiting), (1, 0, 0));
    assert_eq!(status.requests, u64::from(4 * rounds));
}

/// A thread that would wait for itself gets `SelfDeadlock`.
#[test]
fn a_second_connection_is_refused_where_the_first_is_the_last() {
    let pool = pool(1, 1, |_| ());
    let held = pool.get_connection().unwrap();
    let (error, waited) = timed(|| pool.get_connection().unwrap_err());
    assert!(matches!(error, Error::SelfDeadlock(_)), "{error}");
    assert!(waited < OVERSHOOT, "{waited:?}");
    drop(held);
    pool.get_connection().unwrap();
}

#[test]
fn many_threads_share_few_connections_evenly() {
    let pool = pool(4, 4, |_| ());
    let start = Arc::new(Barrier::new(16));
    let served: [AtomicU32; 16] = Default::default();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for served in &served {
            let (pool, start, is_over) = (&pool, start.clone(), &is_over);
            scope.spawn(move || {
                start.wait();
                while !is_over.load(Ordering::Relaxed) {
                    let connection = pool.get_connection().unwrap();
                    thread::sleep(MS);
                    drop(connection);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // The machine, too, may serve some of them more than others, but not for long.
        let outcome = std::panic::catch_unwind(|| {
            eventually("each has its share", SOON, || {
                let counts = served.each_ref().map(|served| served.load(Ordering::Relaxed));
                let average = f64::from(counts.iter().sum::<u32>()) / f64::from(16);
                average >= 50.0 && f64::from(*counts.iter().min().unwrap()) >= 0.8 * average
            });
        });
        is_over.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

#[test]
fn a_queue_that_stays_slow_sheds_the_callers_that_waited_longest() {
    let refused_with = |target: Option<Duration>| {
        let pool = pool(1, 1, |settings| {
            (settings.queue_target, settings.queue_interval) = (target, 100 * MS);
        });
        let refused = AtomicU32::new(0);
        let stop = Instant::now() + 500 * MS;
        thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    while Instant::now() < stop {
                        match pool.get_connection() {
                            Ok(_held) => thread::sleep(10 * MS),
                            Err(error @ Error::Saturated(_)) => {
                                let words =
                                    format!("DB_POOL_QUEUE_TARGET_MS ({} ms)", target.unwrap().as_millis());
                                assert!(error.to_string().contains(&words), "{error}");
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
        });
        refused.into_inner()
    };
    assert_eq!(refused_with(None), 0, "off unless asked for");
    // Ten callers of 10 ms each wait about 90 ms; with none above 30 ms they would wait about that.
    assert!(refused_with(Some(30 * MS)) > 0);
    assert_eq!(refused_with(Some(2 * SOON)), 0, "a delay below the target is well");
}
