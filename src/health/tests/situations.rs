//! Situations, recorded second by second, and the exact words about each.

use super::failing;
use super::recording::{CROWD, EASY, NOTHING, Recording, Second};
use crate::health::{HealthReport, HealthStatus};
use crate::pool::{Holding, PoolState, PoolStatus};
use std::time::Duration;

#[test]
fn healthy() {
    Recording::of(2, 10).seconds(90, EASY).is_reported_as(
        HealthStatus::Healthy,
        "",
        &[],
        "60 s observed: 200 requests/s x 2.0 ms occupy 0.4 connections; wait p99 at most 0.001 ms; 10% in \
         use.",
    );
}

#[test]
fn too_small() {
    Recording::of(2, 12).on_server(97, 20).seconds(90, CROWD).is_reported_as(
        HealthStatus::Warning,
        "In the last 60 s: wait p99 at most 262 ms at 92% in use.",
        &["DB_POOL_MAX_CONNECTIONS=14: wait p99 at most 262 ms at 92% in use; 610 requests/s x 18 ms need \
             11 connections."],
        "60 s observed: 610 requests/s x 18 ms occupy 11.0 connections; wait p99 at most 262 ms; 92% in use.",
    );
}

#[test]
fn overloaded() {
    let crowd = Second {
        requests: 800,
        timed_out: 130,
        held: &[(670, 18)],
        in_use: 12,
        waiting: 90,
        waited: &[(800, 130)],
        ..CROWD
    };
    Recording::of(2, 12).on_server(97, 20).seconds(90, crowd).is_reported_as(
        HealthStatus::Warning,
        "In the last 60 s: wait p99 at most 131 ms at 100% in use, 7800 calls turned away.",
        &[
            "DB_POOL_MAX_CONNECTIONS=18: wait p99 at most 131 ms at 100% in use, 7800 calls turned away; 800 \
             requests/s x 18 ms need 15 connections.",
        ],
        "60 s observed: 800 requests/s x 18 ms occupy 14.4 connections; wait p99 at most 131 ms; 100% in use.",
    );
}

/// Each caller comes back as soon as it is served, so there are no more requests than the pool can serve.
#[test]
fn too_small_for_callers_that_come_back_at_once() {
    let crowd = Second {
        requests: 660,
        held: &[(660, 18)],
        waited: &[(640, 6), (20, 40)],
        in_use: 12,
        waiting: 4,
        ..CROWD
    };
    Recording::of(2, 12).on_server(97, 20).seconds(90, crowd).is_reported_as(
        HealthStatus::Warning,
        "In the last 60 s: wait p99 at most 66 ms at 100% in use.",
        &[
            "DB_POOL_MAX_CONNECTIONS=21: wait p99 at most 66 ms at 100% in use; 660 requests/s x 18 ms occupy \
             12.0 connections while 4.6 callers wait.",
        ],
        "60 s observed: 660 requests/s x 18 ms occupy 11.9 connections; wait p99 at most 66 ms; 100% in use.",
    );
}

#[test]
fn too_small_on_a_server_of_which_the_limit_is_not_known() {
    Recording::of(2, 12).seconds(90, CROWD).is_reported_as(
        HealthStatus::Warning,
        "In the last 60 s: wait p99 at most 262 ms at 92% in use.",
        &["DB_POOL_MAX_CONNECTIONS=14, if the server's max_connections allows it: wait p99 at most 262 ms \
             at 92% in use; 610 requests/s x 18 ms need 11 connections."],
        "60 s observed: 610 requests/s x 18 ms occupy 11.0 connections; wait p99 at most 262 ms; 92% in use.",
    );
}

#[test]
fn too_large() {
    let load = Second { in_use: 3, ..EASY };
    Recording::of(40, 60).seconds(300, load).is_reported_as(
        HealthStatus::Healthy,
        "",
        &[
            "DB_POOL_MIN_CONNECTIONS=6: of 40 connections kept open at most 3 were in use at once since the \
             start.",
        ],
        "60 s observed: 200 requests/s x 2.0 ms occupy 0.4 connections; wait p99 at most 0.001 ms; 5% in use.",
    );
    Recording::of(5, 60).on_server(97, 10).seconds(300, load).is_reported_as(
        HealthStatus::Healthy,
        "",
        &[
            "DB_POOL_MAX_CONNECTIONS=6: at most 3 of 60 were in use at once since the start, and the maximum \
             is more than half of what the server allows.",
        ],
        "60 s observed: 200 requests/s x 2.0 ms occupy 0.4 connections; wait p99 at most 0.001 ms; 5% in use.",
    );
}

#[test]
fn leaking() {
    let leaks = |status: &mut PoolStatus| {
        let held = |held_for, line: &str| Holding {
            held_for: Duration::from_secs(held_for),
            acquired_at: line.to_owned(),
            is_resetting: false,
        };
        status.long_held = vec![
            held(31, "src/report.rs:7:20"),
            held(95, "src/mail.rs:31:9"),
            held(64, "src/report.rs:7:20"),
            held(40, "src/report.rs:7:20"),
        ];
    };
    let load = Second { in_use: 10, waiting: 2, waited: &[(20, 900)], ..EASY };
    Recording::of(2, 10).seconds(90, load).then(leaks).is_reported_as(
        HealthStatus::Warning,
        "In the last 60 s: wait p99 at most 1.0 s at 100% in use.",
        &["Look at src/report.rs:7:20: 3 connections acquired there have not come back, the first for 64.0 \
             s. A larger pool would run out as well; DB_POOL_LEAK_THRESHOLD_S has the limit."],
        "60 s observed: 200 requests/s x 2.0 ms occupy 0.4 connections; wait p99 at most 1.0 s; 100% in use.",
    );
}

#[test]
fn slow_queries() {
    let slow = Second {
        requests: 60,
        held: &[(55, 180)],
        in_statements: 9600,
        waited: &[(40, 400)],
        in_use: 10,
        waiting: 12,
        ..NOTHING
    };
    let before = Second { requests: 61, held: &[(61, 12)], in_statements: 600, in_use: 1, ..NOTHING };
    Recording::of(2, 10).on_server(97, 20).seconds(241, before).seconds(60, slow).is_reported_as(
        HealthStatus::Warning,
        "In the last 60 s: wait p99 at most 524 ms at 99% in use.",
        &[
            "Look for slow statements and for locks: 60 requests/s hold a connection for 180 ms each (before: 61 \
             requests/s, 12 ms), 97% of it in statements. More connections would run more of them at once; \
             DB_STATEMENT_TIMEOUT_MS bounds each.",
        ],
        "60 s observed: 60 requests/s x 180 ms occupy 10.8 connections; wait p99 at most 524 ms; 99% in use.",
    );
}

/// Statements that are not counted may be slow, and those that are counted may not be the cause.
#[test]
fn slow_queries_and_slow_callers() {
    let uncounted =
        Second { requests: 20, held: &[(20, 480)], waited: &[(20, 400)], in_use: 10, waiting: 8, ..NOTHING };
    let basis =
        "60 s observed: 20 requests/s x 480 ms occupy 9.6 connections; wait p99 at most 524 ms; 100% in use.";
    let warning = "In the last 60 s: wait p99 at most 524 ms at 100% in use.";
    Recording::of(2, 10).on_server(97, 20).seconds(61, uncounted).is_reported_as(
        HealthStatus::Warning,
        warning,
        &["Look for slow statements and for locks: 20 requests/s hold a connection for 480 ms each. More \
           connections would run more of them at once; DB_STATEMENT_TIMEOUT_MS bounds each."],
        basis,
    );
    let idle = Second { in_statements: 1150, ..uncounted };
    Recording::of(2, 10).on_server(97, 20).seconds(61, idle).is_reported_as(
        HealthStatus::Warning,
        warning,
        &["Have callers return connections earlier: 20 requests/s hold a connection for 480 ms each, 12% of it \
           in statements of the helpers. Raw access and COPY are not counted."],
        basis,
    );
}

#[test]
fn long_transactions() {
    let load = Second {
        requests: 100,
        held: &[(98, 2), (2, 4200)],
        waited: &[(30, 300)],
        in_use: 9,
        waiting: 1,
        ..NOTHING
    };
    Recording::of(2, 10).on_server(97, 20).seconds(61, load).is_reported_as(
        HealthStatus::Warning,
        "In the last 60 s: wait p99 at most 524 ms at 90% in use.",
        &["Shorten the long transactions: 120 of 6000 uses of a connection took more than 524 ms and with \
             that 98% of the time in use, while half took less than 2.0 ms. A DB_POOL_LEAK_THRESHOLD_S below \
             their length has the log name their lines."],
        "60 s observed: 100 requests/s x 86 ms occupy 8.6 connections; wait p99 at most 524 ms; 90% in use.",
    );
}

#[test]
fn bursty() {
    let burst = Second {
        requests: 200,
        held: &[(200, 18)],
        waited: &[(60, 60), (40, 180)],
        in_use: 10,
        waiting: 60,
        ..NOTHING
    };
    let mut recording = Recording::of(10, 10).on_server(97, 20);
    for _ in 0..13 {
        recording = recording.seconds(1, burst).seconds(4, NOTHING);
    }
    recording.is_reported_as(
        HealthStatus::Healthy,
        "In the last 60 s: wait p99 at most 262 ms at 20% in use.",
        &["DB_POOL_MAX_CONNECTIONS=20 as a first step, the load asks for more: wait p99 at most 262 ms at \
             20% in use; that is a burst of about 156 calls of 18 ms each. Or spread the calls."],
        "60 s observed: 40 requests/s x 18 ms occupy 0.7 connections; wait p99 at most 262 ms; 20% in use.",
    );
    let burst = Second {
        connects: 6,
        closed_idle: 6,
        held: &[(100, 10)],
        in_use: 8,
        waited: &[(20, 40)],
        waiting: 0,
        ..burst
    };
    let mut recording = Recording::of(2, 10).on_server(97, 20);
    for _ in 0..13 {
        recording = recording.seconds(1, burst).seconds(4, NOTHING);
    }
    recording.is_reported_as(
        HealthStatus::Healthy,
        "In the last 60 s: wait p99 at most 66 ms at 16% in use.",
        &["DB_POOL_MIN_CONNECTIONS=8, or a longer DB_POOL_IDLE_TIMEOUT_S: 72 connections were opened in 60 \
             s and 72 closed as idle, with at most 8 in use; wait p99 at most 66 ms at 16% in use."],
        "60 s observed: 40 requests/s x 10 ms occupy 0.4 connections; wait p99 at most 66 ms; 16% in use.",
    );
}

#[test]
fn a_server_near_its_limit() {
    Recording::of(10, 10).on_server(97, 85).seconds(61, EASY).is_reported_as(
        HealthStatus::Healthy,
        "The server has 95 of 97 connections in use, 10 by this pool.",
        &[
            "Raise the server's max_connections, or lower DB_POOL_MAX_CONNECTIONS of the pools that share it: \
             of 97 connections others use 85.",
        ],
        "60 s observed: 200 requests/s x 2.0 ms occupy 0.4 connections; wait p99 at most 0.001 ms; 10% in \
         use.",
    );
    Recording::of(2, 12).on_server(97, 81).seconds(61, CROWD).is_reported_as(
        HealthStatus::Warning,
        "The server has 92 of 97 connections in use, 11 by this pool.",
        &[
            "Raise the server's max_connections, or lower DB_POOL_MAX_CONNECTIONS of the pools that share it: \
             of 97 connections others use 81.",
            "Hold connections for less time, raise the server's max_connections, which leaves this pool no \
             more, or put PgBouncer in front of it: wait p99 at most 262 ms at 92% in use; 610 requests/s x \
             18 ms need 11 connections.",
        ],
        "60 s observed: 610 requests/s x 18 ms occupy 11.0 connections; wait p99 at most 262 ms; 92% in use.",
    );
    Recording::of(2, 12).on_server(97, 74).seconds(61, CROWD).is_reported_as(
        HealthStatus::Warning,
        "In the last 60 s: wait p99 at most 262 ms at 92% in use.",
        &["DB_POOL_MAX_CONNECTIONS=13, the most that the server has room for: wait p99 at most 262 ms at 92% \
             in use; 610 requests/s x 18 ms need 11 connections."],
        "60 s observed: 610 requests/s x 18 ms occupy 11.0 connections; wait p99 at most 262 ms; 92% in use.",
    );
}

#[test]
fn down() {
    let mut recording = Recording::of(2, 12).seconds(90, CROWD);
    recording.observed.status = failing(recording.observed.status);
    let recording = recording.seconds(5, Second { requests: 610, ..NOTHING });
    recording.is_reported_as(
        HealthStatus::Warning,
        "Connecting to the database has failed for 12.3 s, the last attempt 0.4 s ago; 11 connections left \
         from before.",
        &[
            "Restore the server or the way to it, for which the log has the reason: connecting has failed for \
             12.3 s. A larger pool would not help.",
        ],
        "Too little data for advice on the load: 0 requests in 0 s observed, 100 in 30 s are needed.",
    );
    recording
        .then(|status| {
            if let Some(failure) = &mut status.last_failure {
                failure.text = "sorry, too many clients already (53300)".to_owned();
            }
        })
        .is_reported_as(
        HealthStatus::Warning,
        "Connecting to the database has failed for 12.3 s, the last attempt 0.4 s ago; 11 connections left \
         from before.",
        &[
            "The server refuses further connections because its limit is reached (53300): lower \
             DB_POOL_MAX_CONNECTIONS of the pools that share it, raise its max_connections, or put PgBouncer \
             in front of it.",
        ],
        "Too little data for advice on the load: 0 requests in 0 s observed, 100 in 30 s are needed.",
    );
}

#[test]
fn churning() {
    let load = Second { connects: 3, closed_overflow: 3, in_use: 4, ..EASY };
    Recording::of(2, 10).seconds(61, load).is_reported_as(
        HealthStatus::Healthy,
        "",
        &["DATABASE_POOL_SIZE=4 with as much less DATABASE_MAX_OVERFLOW: 180 connections were opened in 60 \
             s and 180 closed as overflow, with at most 4 in use; wait p99 at most 0.001 ms at 40% in use."],
        "60 s observed: 200 requests/s x 2.0 ms occupy 0.4 connections; wait p99 at most 0.001 ms; 40% in \
         use.",
    );
}

#[test]
fn too_little_to_judge_by() {
    Recording::of(2, 12).seconds(12, CROWD).is_reported_as(
        HealthStatus::Warning,
        "3 callers wait for a connection (at most 100 may).",
        &[],
        "Too little data for advice on the load: 7320 requests in 12 s observed, 100 in 30 s are needed.",
    );
    Recording::of(2, 10).seconds(60, Second { requests: 1, held: &[(1, 2)], ..NOTHING }).is_reported_as(
        HealthStatus::Healthy,
        "",
        &[],
        "Too little data for advice on the load: 60 requests in 60 s observed, 100 in 30 s are needed.",
    );
}

/// What was before an outage, a suspension, a resize or a pause says nothing about the load now.
#[test]
fn a_window_is_of_one_situation() {
    let crowded = || Recording::of(2, 12).seconds(90, CROWD);
    let interruptions: [(&str, Recording); 4] = [
        ("outage", {
            let mut r = crowded();
            r.observed.status = failing(r.observed.status);
            r.seconds(2, NOTHING).then(|s| s.last_failure = None)
        }),
        (
            "suspension",
            crowded()
                .then(|s| s.state = PoolState::Suspended)
                .seconds(2, NOTHING)
                .then(|s| s.state = PoolState::Open),
        ),
        ("resize", crowded().then(|s| s.max_connections = 20)),
        ("pause", crowded().pause(Duration::from_secs(3600))),
    ];
    for (name, recording) in interruptions {
        let report = HealthReport::of(&recording.seconds(20, EASY).observed);
        assert_eq!(report.recommendations.advice, Vec::<String>::new(), "{name}");
        assert!(
            report.recommendations.basis.starts_with("Too little"),
            "{name}: {}",
            report.recommendations.basis
        );
    }
}
