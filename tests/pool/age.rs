//! How connections end for their age, and how they are checked.

use super::*;
use crate::support::{Postgres, Proxy, eventually};
use poolhouse::settings::PrePing;
use poolhouse::{Error, Execute};
use std::collections::HashSet;
use std::time::Instant;

fn backend(pool: &Pool) -> i32 {
    pool.execute_query_one("SELECT pg_backend_pid()", &[]).unwrap().unwrap()
}

/// A connection in constant use meets its end too.
#[test]
fn the_lifetime_holds_for_busy_connections() {
    let started = Instant::now();
    let pool = pool(1, 1, |settings| settings.max_lifetime = Some(200 * MS));
    let mut backends = HashSet::new();
    eventually("three have met their end", SOON, || {
        backends.extend((0..20).map(|_| backend(&pool)));
        pool.status().closed.expired >= 3
    });
    let expired = pool.status().closed.expired;
    // The last one may be a replacement that is not used yet.
    assert!(backends.len() as u64 <= expired + 1, "{backends:?} for {expired} ends");
    // A tenth of it is left to chance.
    assert!(started.elapsed() >= 180 * MS * expired as u32, "{expired} ends in {:?}", started.elapsed());
}

/// Connections made together do not end together.
#[test]
fn lifetimes_are_spread() {
    let pool = pool(8, 8, |settings| settings.max_lifetime = Some(Duration::from_secs(1)));
    let mut totals = HashSet::new();
    eventually("all have been replaced", SOON, || {
        totals.insert(pool.status().closed.expired);
        pool.status().closed.expired >= 8
    });
    assert!(totals.len() >= 3, "they ended in {} steps: {totals:?}", totals.len());
}

#[test]
fn a_connection_just_used_is_lent_unchecked_and_an_old_one_checked() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    for (pre_ping, fresh, rested) in [(PrePing::Auto, 1, 2), (PrePing::On, 2, 2), (PrePing::Off, 1, 1)] {
        let mut settings = PoolSettings::new(proxy.settings());
        (settings.min_connections, settings.max_connections) = (1, 1);
        (settings.pre_ping, settings.validate_after) = (pre_ping, 200 * MS);
        let pool = Pool::open(&settings).unwrap();
        let cost = |pool: &Pool| {
            let before = proxy.round_trips();
            backend(pool);
            proxy.round_trips() - before
        };
        backend(&pool);
        // Just used, where the machine has nothing else to do for longer than that.
        let mut just_used = None;
        eventually("it is lent again soon", SOON, || {
            backend(&pool);
            let used = Instant::now();
            just_used = Some(cost(&pool));
            used.elapsed() < 200 * MS
        });
        assert_eq!(just_used, Some(fresh), "{pre_ping:?}, just used");
        std::thread::sleep(250 * MS);
        assert_eq!(cost(&pool), rested, "{pre_ping:?}, rested");
    }
}

/// Dead connections cost the borrower nothing but the time to take another.
#[test]
fn ten_dead_connections_cost_no_borrower_an_error() {
    let pool = pool(10, 10, |settings| settings.validate_after = Duration::ZERO);
    let name = settings_of(&pool);
    kill_backends_of(&pool, &name);
    for _ in 0..10 {
        pool.execute_query_one::<i32>("SELECT 1", &[]).unwrap();
    }
}

/// The first that breaks makes all the others suspect, so that they are closed at no caller's cost.
#[test]
fn ten_dead_connections_that_are_not_checked_cost_one_failure_at_most() {
    let pool = pool(10, 10, |settings| settings.validate_after = Duration::from_secs(3600));
    let name = settings_of(&pool);
    kill_backends_of(&pool, &name);
    let failures = (0..30).filter(|_| pool.execute_query_one::<i32>("SELECT 1", &[]).is_err()).count();
    assert!(failures <= 1, "{failures} failures");
}

#[test]
fn idle_connections_are_kept_alive_in_the_background() {
    let pool = pool(2, 2, |settings| settings.keepalive = Some(100 * MS));
    let name = settings_of(&pool);
    kill_backends_of(&pool, &name);
    eventually("the dead are found and replaced", SOON, || {
        let status = pool.status();
        status.closed.invalid >= 2 && status.available == 2
    });
}

/// A check in the background does not count as use.
#[test]
fn connections_kept_alive_are_trimmed_all_the_same() {
    let pool =
        pool(1, 4, |settings| (settings.keepalive, settings.idle_timeout) = (Some(50 * MS), Some(400 * MS)));
    let held: Vec<_> = (0..4).map(|_| pool.get_connection().unwrap()).collect();
    drop(held);
    eventually("down to the minimum", SOON, || pool.status().total == 1);
}

/// Acquiring and releasing a connection proves nothing about the server: only a reply does.
#[test]
fn a_dead_connection_that_is_borrowed_for_nothing_is_checked_before_it_is_used() {
    let pool = pool(1, 1, |settings| settings.validate_after = 300 * MS);
    let mut admin = postgres::client();
    admin.execute("SELECT pg_terminate_backend($1, 5000)", &[&backend(&pool)]).unwrap();
    let killed = Instant::now();
    while killed.elapsed() < 310 * MS {
        drop(pool.get_connection().unwrap());
        std::thread::sleep(20 * MS);
    }
    let connection = pool.get_connection().unwrap();
    assert_eq!(connection.execute_query_one::<i32>("SELECT 1", &[]).unwrap(), Some(1));
}

/// Six suspect connections cost the time of one check, and callers get an error.
#[test]
fn many_suspects_on_a_frozen_server_cost_the_background_one_wait() {
    let server = Postgres::start();
    let open = |connections| {
        let mut settings = server.pool_settings();
        (settings.min_connections, settings.max_connections) = (connections, connections);
        (settings.statement_timeout, settings.outage_grace) = (Some(Duration::from_secs(5)), Duration::ZERO);
        settings.validate_after = Duration::from_secs(3600);
        let pool = Pool::open(&settings).unwrap();
        let broken = pool.get_connection().unwrap();
        let pid: i32 = broken.execute_query_one("SELECT pg_backend_pid()", &[]).unwrap().unwrap();
        server.client().execute("SELECT pg_terminate_backend($1, 5000)", &[&pid]).unwrap();
        (pool, broken)
    };
    let [(few, of_few), (many, of_many)] = [open(2), open(7)];
    server.freeze();
    let started = Instant::now();
    let until_gone = |pool: &Pool, broken: poolhouse::Connection, connections| {
        broken.execute_query::<i32>("SELECT 1", &[]).unwrap_err();
        drop(broken);
        eventually("the suspects are gone", SOON, || pool.status().closed.total() >= connections);
        started.elapsed()
    };
    let (one, six) = std::thread::scope(|scope| {
        let one = scope.spawn(|| until_gone(&few, of_few, 2));
        let six = until_gone(&many, of_many, 7);
        (one.join().unwrap(), six)
    });
    assert!(six < 3 * one, "{six:?} for six, {one:?} for one");
    eventually("callers get an error", SOON, || {
        matches!(many.get_connection_timeout(50 * MS), Err(Error::Down(_)))
    });
    server.thaw();
}

fn settings_of(pool: &Pool) -> String {
    pool.execute_query_one("SELECT current_database()::text", &[]).unwrap().unwrap()
}

/// Ends every backend of the database, from a session of another.
fn kill_backends_of(_pool: &Pool, database: &str) {
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1";
    let ended: i64 = postgres::client().query_one(sql, &[&database]).unwrap().get(0);
    assert!(ended > 0);
}
