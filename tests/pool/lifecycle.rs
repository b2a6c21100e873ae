//! Opened, suspended, resized, reset, closed; and connections that are held for too long.

use super::*;
use crate::support::{Proxy, eventually};
use poolhouse::{Error, Execute, PoolState};
use std::thread;

/// The names of this process's threads that belong to pools.
fn pool_threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("poolhouse-"))
        .collect()
}

/// Waiters fail at once, borrowers may finish, nothing stays behind.
#[test]
fn closing_wakes_waiters_and_lets_borrowers_finish() {
    let pool = pool(1, 1, |_| ());
    let held = pool.get_connection().unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.get_connection_timeout(Duration::from_secs(30)).unwrap_err());
        eventually("it waits", SOON, || pool.status().waiting == 1);
        let closer = scope.spawn(|| pool.close(Duration::from_secs(10)));
        assert!(matches!(waiter.join().unwrap(), Error::Closed));
        assert_eq!(held.execute_query_one::<i32>("SELECT 1", &[]).unwrap(), Some(1));
        drop(held);
        assert!(closer.join().unwrap());
    });
    let status = pool.status();
    assert_eq!((status.state, status.in_use, status.closed.retired), (PoolState::Closed, 0, 1));
    assert!(matches!(pool.get_connection().unwrap_err(), Error::Closed));
    assert!(pool.close(Duration::ZERO), "a second close is harmless");
}

#[test]
fn closing_gives_up_on_a_connection_that_is_kept() {
    let pool = pool(1, 1, |_| ());
    let held = pool.get_connection().unwrap();
    let (is_closed, took) = timed(|| pool.close(200 * MS));
    assert!(!is_closed && took < SOON, "{took:?}");
    drop(held);
    assert_eq!(pool.status().closed.retired, 1);
}

#[test]
fn a_closed_or_dropped_pool_leaves_no_session_on_the_server() {
    let database = postgres::fresh_database();
    let mut watcher = postgres::client();
    let mut sessions = || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
        watcher.query_one(sql, &[&database.settings().name]).unwrap().get::<_, i64>(0)
    };
    let first = Pool::open(&database.pool_settings()).unwrap();
    assert!(sessions() > 0);
    first.close(Duration::from_secs(5));
    eventually("closed", SOON, || sessions() == 0);
    let second = Pool::open(&database.pool_settings()).unwrap();
    drop(second);
    eventually("dropped", SOON, || sessions() == 0);
}

/// The size changes at run time.
#[test]
fn a_running_pool_grows_and_shrinks() {
    let pool = pool(1, 2, |_| ());
    pool.resize(4, 6).unwrap();
    eventually("the new minimum", SOON, || pool.status().available == 4);
    let held: Vec<_> = (0..6).map(|_| pool.get_connection().unwrap()).collect();
    pool.resize(1, 2).unwrap();
    drop(held);
    eventually("the new maximum", SOON, || pool.status().total <= 2);
    for (min, max) in [(3, 2), (0, 0), (1, 1_000_000)] {
        assert!(matches!(pool.resize(min, max), Err(Error::Settings(_))), "{min}-{max}");
    }
    assert_eq!((pool.status().min_connections, pool.status().max_connections), (1, 2));
}

#[test]
fn a_suspended_pool_lets_callers_wait() {
    let pool = pool(1, 1, |_| ());
    pool.suspend().unwrap();
    let error = pool.get_connection_timeout(50 * MS).unwrap_err();
    assert!(matches!(error, Error::Suspended(_)), "{error}");
    assert!(error.to_string().starts_with("pool suspended: ") && error.is_transient(), "{error}");
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.get_connection().map(drop));
        eventually("it waits", SOON, || pool.status().waiting == 1);
        pool.resume().unwrap();
        waiter.join().unwrap().unwrap();
    });
    let status = pool.status();
    assert_eq!(
        (status.timed_out, status.turned_away_in_outage),
        (1, 1),
        "a larger pool would not have helped"
    );
}

/// Maintenance of a connection may take longer than the caller wants to wait: here the reset of a session on a server that
/// does not answer.
#[test]
fn closing_takes_no_longer_than_it_may() {
    let database = postgres::fresh_database();
    let is_back_before_the_keeper_is_done = |pause: Duration| {
        let proxy = Proxy::to(&database.settings());
        let pool = Pool::open(&PoolSettings::new(proxy.settings())).unwrap();
        let mut connection = pool.get_connection().unwrap();
        connection.client().batch_execute("SET work_mem = '1MB'").unwrap();
        proxy.stall();
        drop(connection);
        thread::sleep(pause);
        !pool.close(Duration::ZERO) && pool.status().in_use == 1
    };
    // Once the pool is closed maintenance begins nothing, and on a busy machine it may begin late, or be done early.
    assert!((0..20).any(|tries| is_back_before_the_keeper_is_done(tries * 3 * MS)));
}

#[test]
fn a_reset_replaces_idle_ones_now_and_lent_ones_on_return() {
    let pool = pool(2, 2, |_| ());
    let held = pool.get_connection().unwrap();
    pool.reset();
    eventually("the idle one is replaced", SOON, || pool.status().connects == 3);
    assert_eq!(held.execute_query_one::<i32>("SELECT 1", &[]).unwrap(), Some(1), "a lent one goes on");
    drop(held);
    eventually("the lent one is replaced", SOON, || {
        pool.status().connects == 4 && pool.status().available == 2
    });
    assert_eq!(pool.status().closed.retired, 2);
}

#[test]
fn a_connection_held_too_long_is_shown_with_its_place() {
    let pool = pool(1, 2, |settings| settings.leak_threshold = Some(100 * MS));
    let held = pool.get_connection().unwrap();
    eventually("it is reported", SOON, || pool.status().leaks == 1);
    let status = pool.status();
    assert_eq!(status.long_held.len(), 1);
    assert!(status.long_held[0].acquired_at.contains("lifecycle.rs:"), "{status:?}");
    thread::sleep(300 * MS);
    assert_eq!(pool.status().leaks, 1, "reported once");
    drop(held);
    assert!(pool.status().long_held.is_empty());
}

/// A panic where the driver or the pool is called costs no connection's place.
#[test]
fn panicking_borrowers_cost_no_place() {
    let pool = pool(0, 2, |_| ());
    for _ in 0..10 {
        let other = pool.clone();
        let panicked = thread::spawn(move || {
            let _held = other.get_connection().unwrap();
            panic!("as borrowers do");
        });
        assert!(panicked.join().is_err());
    }
    let held = (pool.get_connection().unwrap(), pool.get_connection().unwrap());
    assert_eq!(pool.status().in_use, 2);
    drop(held);
}

#[test]
fn a_closed_pools_threads_are_gone() {
    // Other tests' pools run in this process; what is compared is one pool's worth.
    let script = "closed_threads";
    if std::env::var("POOLHOUSE_TEST_SCRIPT").as_deref() != Ok(script) {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "pool::lifecycle::a_closed_pools_threads_are_gone", "--nocapture"])
            .env("POOLHOUSE_TEST_SCRIPT", script)
            .env("TEST_DATABASE_URL", postgres::url(&postgres::fresh_database().settings()))
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let pool = pool(2, 8, |_| ());
    assert!(pool_threads().len() >= 2, "{:?}", pool_threads());
    assert!(pool.close(Duration::from_secs(5)));
    eventually("no thread is left", SOON, || pool_threads().is_empty());

    let pool = self::pool(2, 8, |_| ());
    let held = pool.get_connection().unwrap();
    assert!(!pool.close(200 * MS));
    eventually("nor because of a connection that is kept", SOON, || pool_threads().is_empty());
    assert_eq!(held.execute_query_one::<i32>("SELECT 1", &[]).unwrap(), Some(1), "which goes on");
    drop(held);
    let status = pool.status();
    assert_eq!((status.total, status.closed.retired), (0, 2));
}
