//! What a pool reports of itself: its numbers over time, and what it knows of the server.

use crate::support::{Proxy, SOON, eventually, postgres};
use poolhouse::health::HealthReport;
use poolhouse::{Execute, Pool, PoolSettings, Secret};

#[test]
fn the_history_has_the_counters_of_each_second() {
    let pool = super::pool(1, 1, |_| ());
    eventually("two seconds are recorded", SOON, || {
        pool.execute_query_one::<i32>("SELECT 1", &[]).unwrap();
        pool.observe().history.len() > 2
    });
    let observed = pool.observe();
    for pair in observed.history.windows(2) {
        assert!(pair[0].at < pair[1].at && pair[0].status.requests < pair[1].status.requests, "{pair:?}");
    }
    assert!(observed.status.requests >= observed.history[2].status.requests);
}

#[test]
fn a_pool_larger_than_what_the_server_allows_is_reported_with_the_size_that_fits() {
    let database = postgres::fresh_database();
    let name = database.settings().name;
    let role =
        "DO $$ BEGIN CREATE ROLE frugal LOGIN PASSWORD 'frugal'; EXCEPTION WHEN duplicate_object THEN END $$";
    let mut other = database.client();
    other.batch_execute(role).unwrap();
    other.batch_execute(&format!("ALTER DATABASE {name} CONNECTION LIMIT 7")).unwrap();
    let mut settings =
        PoolSettings::new(database.settings().with_user("frugal").with_password(Some(Secret::new("frugal"))));
    (settings.min_connections, settings.max_connections) = (2, 10);
    let pool = Pool::open(&settings).unwrap();

    // The first reader has maintenance ask, and takes no connection for it.
    eventually("the server is asked", SOON, || pool.observe().server.is_some());
    let observed = pool.observe();
    let server = observed.server.unwrap();
    assert_eq!((server.max_connections, server.others, observed.status.requests), (7, 1, 0));
    assert_eq!(
        HealthReport::of(&observed).recommendations.advice,
        [
            "DB_POOL_MAX_CONNECTIONS=6: the server allows 7 connections and others use 1, so the pool cannot have its \
          maximum of 10. Or raise the server's max_connections."
        ]
    );
    // A superuser has more.
    let pool = Pool::open(&database.pool_settings()).unwrap();
    eventually("the server is asked", SOON, || pool.observe().server.is_some());
    assert!(pool.observe().server.unwrap().max_connections > 7);
}

/// Maintenance waits for a network that is silent.
#[test]
fn a_connection_that_is_being_reset_is_told_from_one_in_use() {
    let database = postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    let settings = PoolSettings::new(proxy.settings()).with_min_connections(0).with_max_connections(1);
    let pool = Pool::open(&settings).unwrap();
    // The wait for the reset has an end, which a busy machine may miss.
    eventually("a reset is seen", SOON, || {
        proxy.pass();
        let Ok(mut connection) = pool.get_connection() else { return false };
        connection.client().batch_execute("SET work_mem = '1MB'").unwrap();
        let held = pool.status().holders;
        assert_eq!((held.len(), held[0].is_resetting), (1, false));
        assert!(held[0].acquired_at.contains("observation.rs:"), "{held:?}");
        proxy.stall();
        drop(connection);
        loop {
            match &pool.status().holders[..] {
                [] => return false,
                [held] if held.is_resetting => return true,
                _ => {}
            }
        }
    });
    proxy.pass();
    eventually("nothing is held", SOON, || pool.status().holders.is_empty());
}
