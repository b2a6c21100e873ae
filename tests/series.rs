//! The series behind a live page: a pool that is loaded, exhausted, leaking or without its server, as a page sees it.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails the test by panicking, as the test itself would"
)]

use crate::http::{get, get_as_known};
use crate::support::{App, Postgres, SOON, eventually};
use serde_json::{Value, json};
use std::thread;

#[track_caller]
fn series(app: &App, query: &str) -> Value {
    let answer = get_as_known(app, &format!("/api/health/db/series{query}"));
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{answer:?}");
    answer.json()
}

fn steps(series: &Value) -> &Vec<Value> {
    series["steps"].as_array().unwrap()
}

/// The time of the last step; 0 where there is none yet.
fn last(series: &Value) -> u64 {
    steps(series).last().map_or(0, |step| step["at_ms"].as_u64().unwrap())
}

#[test]
fn a_page_asks_for_what_is_new_and_sees_the_load() {
    let app = App::start();
    eventually("a first step", SOON, || last(&series(&app, "")) > 0);
    let first = series(&app, "");
    for _ in 0..20 {
        assert_eq!(get(&app, "/api/movies/1").status, 200);
    }
    let since = format!("?since={}", last(&first));
    eventually("a step with these requests", SOON, || {
        let new = series(&app, &since);
        assert!(steps(&new).iter().all(|step| step["at_ms"].as_u64().unwrap() > last(&first)), "{new}");
        let is_loaded = |step: &Value| {
            step["requests_per_s"].as_f64().unwrap() > 0.0
                && step["wait_p99_ms"].is_number()
                && step["use_p50_ms"].is_number()
                && step["max"] == 10
        };
        new["id"] == first["id"] && steps(&new).iter().any(is_loaded)
    });
    let mut now = Value::Null;
    eventually("the statement is counted", SOON, || {
        now = series(&app, "");
        now["most_frequent"][0]["calls"].as_u64().is_some_and(|calls| calls >= 19)
    });
    let statement = &now["most_frequent"][0];
    let text = statement["text"].as_str().unwrap();
    assert!(text.starts_with("select movie_id, title,") && text.contains("movie_id = $"), "{text}");
    assert_eq!((&statement["rows"], &statement["failures"]), (&statement["calls"], &json!(0)), "{statement}");
    assert!(statement["mean_ms"].as_f64() <= statement["p99_ms"].as_f64(), "{statement}");
    assert_eq!((&now["report"]["status"], &now["outages"]), (&json!("healthy"), &json!([])), "{now}");
    assert!(last(&now) <= now["now_ms"].as_u64().unwrap());

    for (query, message) in [
        ("since=yesterday", "since is 'yesterday': give the at_ms of the last step you have"),
        ("since=-1", "since is '-1'"),
        ("since=99999999999999999999", "since is '99999999999999999999'"),
        ("sinse=1", "unknown field `sinse`, expected `since`"),
    ] {
        let refused = get_as_known(&app, &format!("/api/health/db/series?{query}"));
        assert_eq!((refused.status, refused.error_code().as_str()), (422, "invalid"), "{query}");
        assert!(refused.message().contains(message), "{query}: {}", refused.message());
    }
    assert!(steps(&series(&app, &format!("?since={}", u64::MAX))).is_empty());
}

/// Each of the two connections is held by a reader of a table that another client has locked, for longer than the leak threshold.
#[test]
fn with_every_connection_held_the_series_names_the_lines_that_hold_them() {
    let app = App::start_with(&[
        ("DB_POOL_MIN_CONNECTIONS", "1"),
        ("DB_POOL_MAX_CONNECTIONS", "2"),
        ("DB_POOL_LEAK_THRESHOLD_S", "0.1"),
    ]);
    let mut locker = app.database().client();
    let mut lock = locker.transaction().unwrap();
    lock.batch_execute("LOCK TABLE movies IN ACCESS EXCLUSIVE MODE").unwrap();
    thread::scope(|scope| {
        let stuck: Vec<_> = (0..3).map(|_| scope.spawn(|| get(&app, "/api/movies/1").status)).collect();
        // The third waits for a thread, of which there are as many as connections.
        eventually("two hold connections, and one waits", SOON, || {
            let now = series(&app, "");
            now["leaks"][0]["connections"] == 2 && now["request_threads"]["waiting"] == 1
        });
        let now = series(&app, "");
        let connections = &now["connections"];
        assert_eq!((&connections["in_use"], &connections["idle"]), (&json!(2), &json!(0)), "{connections}");
        let line = connections["held"][1]["acquired_at"].as_str().unwrap();
        assert!(line.starts_with("src/bin/poolhouse/repositories/movies.rs:"), "{connections}");
        assert!(connections["held"][1]["held_ms"].as_f64().unwrap() >= 100.0, "{connections}");
        assert_eq!(now["leaks"][0]["acquired_at"], line);
        let advice = now["report"]["recommendations"]["advice"].to_string();
        assert!(advice.contains(&format!("Look at {line}: 2 connections acquired there")), "{advice}");
        eventually("a step shows them", SOON, || {
            let now = series(&app, "");
            steps(&now).last().is_some_and(|step| step["in_use"] == 2 && step["max"] == 2)
        });
        assert!(stuck.iter().all(|request| !request.is_finished()), "the series waited for a connection");

        lock.rollback().unwrap();
        for request in stuck {
            assert_eq!(request.join().unwrap(), 200);
        }
    });
    eventually("nothing is held", SOON, || {
        let now = series(&app, "");
        now["connections"]["held"] == json!([]) && now["leaks"] == json!([])
    });
    let waits = series(&app, "")["report"]["pool_stats"]["wait_times"].clone();
    assert!(waits["sum_ms"].as_f64().unwrap() >= 100.0, "the wait for a thread is not counted: {waits}");
}

#[test]
fn an_outage_is_a_band_from_its_first_failure_to_the_first_success() {
    let server = Postgres::start();
    let database = server.fresh_database().with_schema();
    let url = database.url();
    let variables = [("DATABASE_URL", url.as_str()), ("DB_CONNECT_TIMEOUT_S", "1")];
    let app = App::launch(tempfile::tempdir().unwrap(), &variables);
    assert_eq!(series(&app, "")["outages"], json!([]));

    // A frozen server does not answer, and then it does not exist.
    server.freeze();
    thread::scope(|scope| {
        let stuck = scope.spawn(|| get(&app, "/api/movies/1").status);
        eventually("a connection waits for the server", SOON, || {
            series(&app, "")["connections"]["in_use"] == 1
        });
        let from = last(&series(&app, ""));
        eventually("the seconds go on", SOON, || last(&series(&app, "")) > from + 1000);
        assert!(!stuck.is_finished(), "the series waited for the server");
        server.thaw();
        assert_eq!(stuck.join().unwrap(), 404);
    });
    server.kill();
    eventually("the page sees it", SOON, || {
        get(&app, "/api/movies/1");
        series(&app, "")["outages"][0]["to_ms"].is_null()
            && series(&app, "")["outages"][0]["from_ms"].is_u64()
    });
    let down = series(&app, "");
    assert!(!down.to_string().contains("127.0.0.1"), "{down}");
    eventually("a step is marked", SOON, || {
        steps(&series(&app, "")).iter().any(|step| step["is_down"] == true)
    });

    server.start_again();
    eventually("the band has an end", SOON, || series(&app, "")["outages"][0]["to_ms"].is_u64());
    let outages = series(&app, "")["outages"].clone();
    assert_eq!(outages.as_array().unwrap().len(), 1, "{outages}");
    assert!(outages[0]["from_ms"].as_u64() < outages[0]["to_ms"].as_u64(), "{outages}");
}

/// A service that was started without its database is no other case.
#[test]
fn without_a_first_connection_the_series_is_there_too() {
    let url = format!("postgres://postgres@127.0.0.1:{}/nowhere", crate::support::server::port_of_its_own());
    let app = App::launch(tempfile::tempdir().unwrap(), &[("DATABASE_URL", &url), ("DB_START", "wait")]);
    let now = series(&app, "");
    assert_eq!(
        (&now["report"]["status"], &now["connections"]["in_use"]),
        (&json!("error"), &json!(0)),
        "{now}"
    );
}
