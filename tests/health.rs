//! The health routes: the exact answers, and that they come whatever the pool goes through.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails the test by panicking, as the test itself would"
)]

use crate::http::{get, get_as_known, send};
use crate::support::{App, Postgres, SOON, eventually};
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

/// Without a token, as a load balancer asks; the body has the status and nothing more.
#[track_caller]
fn readiness(app: &App) -> (u16, Value) {
    let answer = get(app, "/api/health/ready");
    (answer.status, answer.json())
}

/// Answered from counters, and so without a connection and whatever else goes on.
#[track_caller]
fn pool_health(app: &App) -> (u16, Value) {
    let answer = get_as_known(app, "/api/health/db");
    (answer.status, answer.json())
}

#[test]
fn the_answers_have_the_keys_users_know() {
    let app = App::start_with(&[
        ("DB_POOL_MIN_CONNECTIONS", "2"),
        ("DB_POOL_MAX_CONNECTIONS", "10"),
        ("DB_POOL_NAME", "orders"),
    ]);
    let process = get(&app, "/api/health");
    assert_eq!((process.status, &process.json()["status"]), (200, &json!("ok")));
    assert!(process.json()["message"].is_string());

    let (status, report) = pool_health(&app);
    assert_eq!((status, &report["status"], &report["warnings"]), (200, &json!("healthy"), &json!([])));
    let stats = &report["pool_stats"];
    assert_eq!((&stats["min_connections"], &stats["max_connections"]), (&json!(2), &json!(10)));
    assert_eq!(stats["name"], "orders");
    let number = |key: &str| stats[key].as_u64().unwrap_or_else(|| panic!("{key}: {stats}"));
    assert_eq!(number("total"), number("available") + number("in_use") + number("being_made"), "{stats}");
    assert_eq!(report["recommendations"]["optimal_range"], "60-80% usage");
    assert_eq!(report["recommendations"]["current_config"], "min=2, max=10");

    let tried = get_as_known(&app, "/api/health/db/test");
    let body = tried.json();
    assert_eq!((tried.status, &body["status"], &body["test_result"]["test"]), (200, &json!("ok"), &json!(1)));
    assert!(body["message"].is_string());
    let time = body["test_result"]["current_time"].as_str().unwrap();
    let time = chrono::DateTime::parse_from_rfc3339(time).unwrap();
    let age = chrono::Utc::now().signed_duration_since(time);
    assert!(age.num_seconds().abs() < 60, "the server's clock is {age} away");
}

#[test]
fn health_answers_head_and_refuses_other_methods_with_those_it_has() {
    let app = App::start();
    for path in ["", "/ready", "/db", "/db/series", "/db/test"] {
        let path = &format!("/api/health{path}");
        let head = send(&app, "HEAD", path, Some(&app.token), None);
        assert_eq!((head.status, head.text.as_str()), (200, ""), "{path}");
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let answer = send(&app, method, path, Some(&app.token), (method != "DELETE").then_some("{}"));
            assert_eq!((answer.status, answer.error_code().as_str()), (405, "method_not_allowed"), "{path}");
            assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{method} {path}");
        }
    }
}

#[test]
fn asking_for_health_takes_no_connection() {
    let app = App::start_with(&[("DB_POOL_MIN_CONNECTIONS", "0"), ("DB_POOL_KEEPALIVE_S", "0")]);
    let taken = |report: &Value| {
        let stats = &report["pool_stats"];
        (
            stats["requests"].as_u64().unwrap(),
            stats["connects"].as_u64().unwrap(),
            stats["in_use"].as_u64().unwrap(),
        )
    };
    let before = taken(&pool_health(&app).1);
    for _ in 0..50 {
        assert_eq!(get(&app, "/api/health").status, 200);
        assert_eq!(taken(&pool_health(&app).1), before);
    }
    // A query would have taken a connection, and the numbers would show it.
    assert_eq!(get_as_known(&app, "/api/health/db/test").status, 200);
    assert_eq!(taken(&pool_health(&app).1).0, before.0 + 1);
}

#[test]
fn with_every_connection_lent_health_answers_and_queries_are_refused_in_time() {
    let app = App::start_with(&[
        ("DB_POOL_MIN_CONNECTIONS", "1"),
        ("DB_POOL_MAX_CONNECTIONS", "2"),
        ("DB_POOL_ACQUIRE_TIMEOUT_S", "0.5"),
    ]);
    assert_eq!(pool_health(&app).1["status"], "healthy");

    // Fault: another client locks the table, and each reader of it holds a connection while it waits.
    let mut locker = app.database().client();
    let mut lock = locker.transaction().unwrap();
    lock.batch_execute("LOCK TABLE movies IN ACCESS EXCLUSIVE MODE").unwrap();
    thread::scope(|scope| {
        let stuck: Vec<_> = (0..2).map(|_| scope.spawn(|| get(&app, "/api/movies/1").status)).collect();
        eventually("both connections are lent", SOON, || pool_health(&app).1["pool_stats"]["in_use"] == 2);

        let (status, report) = pool_health(&app);
        assert_eq!((status, &report["status"]), (200, &json!("warning")), "{report}");
        let requests = |report: &Value| report["pool_stats"]["requests"].as_u64().unwrap();
        assert_eq!(
            requests(&pool_health(&app).1),
            requests(&report),
            "it has asked the pool for a connection"
        );
        assert_eq!(readiness(&app), (200, json!({"status": "ready"})), "a busy pool serves its queue");
        assert_eq!(requests(&pool_health(&app).1), requests(&report), "readiness asked for a connection");
        let warnings = report["warnings"].to_string();
        assert!(warnings.contains("2 of 2 connections in use (100%)"), "{warnings}");
        assert!(
            warnings.contains("No connection is available and the maximum of 2 is reached"),
            "{warnings}"
        );
        assert_eq!(get(&app, "/api/health").status, 200);

        let start = Instant::now();
        let refused = get_as_known(&app, "/api/health/db/test");
        assert_eq!((refused.status, refused.error_code().as_str()), (503, "exhausted"));
        assert!(refused.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
        let waited = start.elapsed();
        assert!((Duration::from_millis(450)..SOON).contains(&waited), "refused after {waited:?}");

        // Repair: the lock is released, and the readers get their rows.
        lock.rollback().unwrap();
        for request in stuck {
            assert_eq!(request.join().unwrap(), 200);
        }
    });
    eventually("the pool is healthy again", SOON, || pool_health(&app).1["status"] == "healthy");
}

#[test]
fn with_the_server_gone_health_says_so_at_once_and_opens_nothing() {
    let server = Postgres::start();
    let database = server.fresh_database().with_schema();
    database.client().batch_execute("INSERT INTO movies VALUES (1, 'Gone with the Wind')").unwrap();
    let url = database.url();
    let app = App::launch(
        tempfile::tempdir().unwrap(),
        &[("DATABASE_URL", &url), ("DB_POOL_OUTAGE_GRACE_S", "0"), ("DB_POOL_ACQUIRE_TIMEOUT_S", "1")],
    );
    assert_eq!(get(&app, "/api/movies/1").status, 200);
    assert_eq!(readiness(&app), (200, json!({"status": "ready"})));

    server.kill();
    eventually("reads are answered with 503", SOON, || {
        let answer = get(&app, "/api/movies/1");
        assert_eq!(answer.status, 503, "{answer:?}");
        answer.error_code() == "down"
    });
    let answer = get(&app, "/api/movies/1");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert!(app.log().contains("answering 503 down (GET /api/movies/{movie_id})"), "{}", app.log());
    let port = server.port().to_string();
    assert!(!answer.text.contains("127.0.0.1") && !answer.text.contains(&port), "{}", answer.text);

    let (status, report) = pool_health(&app);
    assert_eq!((status, &report["status"]), (503, &json!("error")), "{report}");
    assert!(!report.to_string().contains("127.0.0.1") && !report.to_string().contains(&port), "{report}");
    assert_eq!(get(&app, "/api/health").status, 200, "the process itself is well");
    assert_eq!(readiness(&app), (503, json!({"status": "unavailable"})));

    server.start_again();
    eventually("reads are answered again", SOON, || get(&app, "/api/movies/1").status == 200);
    eventually("the pool is healthy again", SOON, || pool_health(&app).1["status"] == "healthy");
    assert_eq!(readiness(&app), (200, json!({"status": "ready"})));
}

/// Names have their addresses in a file that only this service sees.
#[test]
fn a_name_that_stops_resolving_is_an_outage_that_names_it() {
    const NAME: &str = "db.poolhouse.test";
    let with_hosts = ["unshare", "--mount", "sh", "-c", r#"mount --bind hosts /etc/hosts && exec "$0" "$@""#];
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    let resolves = format!("127.0.0.1 localhost {NAME}\n");
    std::fs::write(&hosts, &resolves).unwrap();
    let mut attempt = std::process::Command::new(with_hosts[0]);
    attempt.args(&with_hosts[1..]).arg("true").current_dir(&directory).stderr(std::process::Stdio::null());
    if !attempt.status().is_ok_and(|status| status.success()) {
        return eprintln!("skipped: a process cannot have a hosts file of its own here");
    }
    let database = crate::support::postgres::fresh_database().with_schema();
    let url = database.url().replace("127.0.0.1", NAME);
    assert!(url.contains(NAME), "{url}");
    let variables =
        [("DATABASE_URL", url.as_str()), ("DB_POOL_OUTAGE_GRACE_S", "0.1"), ("DB_CONNECT_TIMEOUT_S", "1")];
    let app = App::spawn(&with_hosts, directory, &variables).until_it_answers();
    assert_eq!(app.get("/api/movies/1").0, 404);

    std::fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    database.client().batch_execute(sql).unwrap();
    let within = SOON;
    eventually("it is down", within, || app.get("/api/movies/1").1.contains("\"down\""));
    eventually("the log says why", within, || app.log().contains(&format!("cannot resolve \"{NAME}\"")));
    let health = get_as_known(&app, "/api/health/db");
    assert!(
        health.status == 503 && !health.text.contains(NAME),
        "it tells where the database is: {health:?}"
    );

    std::fs::write(&hosts, &resolves).unwrap();
    eventually("it is well again", within, || app.get("/api/movies/1").0 == 404);
}
