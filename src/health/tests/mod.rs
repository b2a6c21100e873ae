//! The verdict on numbers into which a test could not easily drive a real pool.

mod recording;
mod situations;

use super::*;
use crate::error::ConnectFailure;
use crate::pool::Holding;
use serde_json::json;

/// A pool of 2-10 with room for 100 in the queue.
fn pool(in_use: u32, available: u32) -> PoolStatus {
    PoolStatus {
        min_connections: 2,
        max_connections: 10,
        max_waiting: 100,
        in_use,
        available,
        total: in_use + available,
        ..PoolStatus::default()
    }
}

fn failing(mut pool: PoolStatus) -> PoolStatus {
    pool.last_failure = Some(ConnectFailure::new(
        Duration::from_millis(400),
        Duration::from_millis(12_300),
        "could not connect to db.internal:5432".to_owned(),
    ));
    pool
}

#[test]
fn the_verdict_follows_the_documented_table() {
    use HealthStatus::{Error, Healthy, Warning};
    let small = |max: u32, in_use: u32, available: u32| PoolStatus {
        min_connections: 0,
        max_connections: max,
        ..pool(in_use, available)
    };
    let cases = [
        ("idle", pool(0, 2), Healthy, ""),
        ("nothing open yet", pool(0, 0), Healthy, ""),
        (
            "nothing known yet",
            PoolStatus { connecting: 2, ..pool(0, 0) },
            Error,
            "No connection to the database has been made yet.",
        ),
        ("all replaced", PoolStatus { connecting: 2, connects: 2, ..pool(0, 0) }, Healthy, ""),
        ("half in use", pool(5, 0), Healthy, ""),
        ("exactly 60 %", pool(6, 1), Healthy, ""),
        ("just above 60 %", pool(7, 1), Warning, "7 of 10 connections in use (70%), more than 60%."),
        ("all lent", pool(10, 0), Warning, "No connection is available and the maximum of 10 is reached."),
        (
            "the rest is being made",
            PoolStatus { connecting: 5, ..pool(5, 0) },
            Warning,
            "No connection is available and the maximum of 10 is reached.",
        ),
        ("made smaller", small(4, 8, 0), Warning, "8 connections in use, 4 more than the maximum of 4"),
        (
            "made smaller, one too many",
            small(1, 2, 0),
            Warning,
            "2 connections in use, 1 more than the maximum of 1",
        ),
        ("a maximum of one, idle", small(1, 0, 1), Healthy, ""),
        ("a maximum of one, lent", small(1, 1, 0), Warning, "1 of 1 connection in use (100%)"),
        ("a maximum of zero", small(0, 0, 0), Healthy, ""),
        ("a maximum of zero, one still lent", small(0, 1, 0), Warning, "1 more than the maximum of 0"),
        ("huge numbers", small(u32::MAX, u32::MAX, 0), Warning, "(100%)"),
        (
            "one waits",
            PoolStatus { waiting: 1, ..pool(2, 0) },
            Warning,
            "1 caller waits for a connection (at most 100 may).",
        ),
        ("many wait", PoolStatus { waiting: 42, ..pool(2, 0) }, Warning, "42 callers wait"),
        (
            "suspended",
            PoolStatus { state: PoolState::Suspended, waiting: 3, ..pool(0, 2) },
            Warning,
            "Lending is suspended; callers waiting: 3.",
        ),
        (
            "a leak",
            PoolStatus {
                long_held: vec![Holding {
                    held_for: Duration::from_secs(31),
                    acquired_at: "src/a.rs:7".to_owned(),
                    is_resetting: false,
                }],
                ..pool(1, 1)
            },
            Warning,
            "1 connection held beyond the leak threshold, one for 31.0 s, acquired at src/a.rs:7.",
        ),
        (
            "down",
            failing(pool(0, 0)),
            Error,
            "has failed for 12.3 s, the last attempt 0.4 s ago; no connection is left.",
        ),
        ("half down", failing(pool(1, 2)), Warning, "3 connections left from before."),
        ("closed", PoolStatus { state: PoolState::Closed, ..pool(0, 0) }, Error, "The pool is closed"),
        ("closing", PoolStatus { state: PoolState::Closed, ..pool(3, 0) }, Error, "The pool is closed"),
    ];
    for (name, pool, status, warning) in cases {
        let report = HealthReport::new(&pool);
        assert_eq!(report.status, status, "{name}: {:?}", report.warnings);
        assert_eq!(report.warnings.is_empty(), status == Healthy, "{name}: {:?}", report.warnings);
        assert!(
            report.warnings.is_empty() || report.warnings.join(" ").contains(warning),
            "{name}: {:?}",
            report.warnings
        );
        let stats = &report.pool_stats;
        assert!(stats.usage_percent().is_finite() && stats.usage_percent() >= 0.0, "{name}: {stats:?}");
    }
}

#[test]
fn the_report_has_exactly_the_keys_users_know() {
    let report = serde_json::to_value(HealthReport::new(&PoolStatus { waiting: 3, ..pool(7, 0) })).unwrap();
    let keys: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["pool_stats", "recommendations", "status", "warnings"]);
    assert_eq!(report["status"], "warning");
    for (key, value) in [
        ("min_connections", 2),
        ("max_connections", 10),
        ("available", 0),
        ("in_use", 7),
        ("total", 7),
        ("being_made", 0),
        ("waiting", 3),
        ("max_waiting", 100),
    ] {
        assert_eq!(report["pool_stats"][key], value, "{key}");
    }
    assert_eq!(report["pool_stats"]["usage_percent"], 70.0);
    for (key, value) in [("name", json!("")), ("state", json!("open")), ("long_held", json!(0))] {
        assert_eq!(report["pool_stats"][key], value, "{key}");
    }
    for key in [
        "requests",
        "queued",
        "timed_out",
        "rejected",
        "turned_away_in_outage",
        "refused_down",
        "connects",
        "connect_failures",
        "resets",
        "leaks",
    ] {
        assert_eq!(report["pool_stats"][key], 0, "{key}");
    }
    for reason in ["broken", "invalid", "expired", "idle", "overflow", "dirty", "retired"] {
        assert_eq!(report["pool_stats"]["closed"][reason], 0, "{reason}");
    }
    assert_eq!(report["recommendations"]["optimal_range"], "60-80% usage");
    assert_eq!(report["recommendations"]["current_config"], "min=2, max=10");
    assert_eq!(report["recommendations"]["current_usage"], "7 of 10 connections in use (70%)");
}

#[test]
fn a_report_names_no_host() {
    let report = serde_json::to_string(&HealthReport::new(&failing(pool(0, 0)))).unwrap();
    assert!(!report.contains("db.internal"), "{report}");
}

#[test]
fn without_a_pool_the_report_is_an_error_of_the_same_shape() {
    let report = HealthReport::without_pool(&Error::NotInitialized);
    assert_eq!(report.status, HealthStatus::Error);
    assert_eq!(report.warnings, ["The database pool is not initialized."]);
    assert_eq!((report.pool_stats.max_connections, report.pool_stats.total), (0, 0));
    assert_eq!(report.recommendations.current_config, "min=0, max=0");
}

#[test]
fn a_failed_ping_is_an_error_and_a_good_one_is_timed() {
    let good = HealthReport::new(&pool(1, 1)).with_ping(&Ok(Duration::from_micros(1500)));
    assert_eq!((good.status, good.ping_ms), (HealthStatus::Healthy, Some(1.5)));

    let bad = HealthReport::new(&pool(1, 1)).with_ping(&Err(Error::Closed));
    assert_eq!((bad.status, bad.ping_ms), (HealthStatus::Error, None));
    assert_eq!(bad.warnings, ["A query sent through the pool failed."]);
}
