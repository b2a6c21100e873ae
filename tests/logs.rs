//! What the log contains at its most verbose level, and what it never contains.

use crate::http::{get, send, write};
use crate::support::{App, SOON, eventually};
use serde_json::Value;

/// The most talkative level that is of use in production.
#[test]
fn at_debug_there_are_neither_parameters_nor_endless_lines() {
    let app = App::start_with(&[("RUST_LOG", "debug")]);
    let movie = r#"{"movie_id":900001,"title":"Zyxwv Confidential"}"#;
    assert_eq!(write(&app, "POST", "/api/movies", movie).status, 201);
    assert!(get(&app, "/api/movies?search=zyxwv").text.contains("Confidential"));
    let path = format!("/api/movies/{}", "x".repeat(60_000));
    assert_eq!(send(&app, "DELETE", &path, Some(&app.token), None).status, 422);
    let log = app.log();
    assert!(log.contains("DEBUG") && log.contains("with token \"test\""), "it says little: {log}");
    assert!(!log.to_lowercase().contains("zyxwv"), "{log}");
    let longest = log.lines().map(str::len).max().unwrap();
    assert!(longest < 1000, "{longest} characters: {log:.2000}");
}

/// `GET` with this id, and with the app's token; returns the id of the response.
#[track_caller]
fn get_with_id(app: &App, path: &str, id: Option<&str>) -> String {
    let request = ureq::get(format!("{}{path}", app.base_url));
    let mut request = request.header("authorization", format!("Bearer {}", app.token));
    if let Some(id) = id {
        request = request.header("x-request-id", id);
    }
    let answer = request.call().unwrap();
    answer.headers()["x-request-id"].to_str().unwrap().to_owned()
}

#[test]
fn a_requests_id_is_returned_and_on_each_of_its_lines_also_those_of_its_thread() {
    let app = App::start_with(&[("RUST_LOG", "info,poolhouse=debug")]);
    assert_eq!(get_with_id(&app, "/api/movies/1", Some("order-4711.a")), "order-4711.a");
    let made = get_with_id(&app, "/api/movies/1", None);
    let replaced = get_with_id(&app, "/api/movies/1", Some("a] forged"));
    assert!(made.len() == 16 && replaced.len() == 16 && made != replaced, "{made} {replaced}");
    let log = app.log();
    for id in ["order-4711.a", &made, &replaced] {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(id)).collect();
        // Logged by the pool: on a thread, or where a worker sends the queries of several requests.
        let acquired = format!(" {id}] Connection acquired at src/bin/poolhouse/repositories/movies.rs:");
        assert!(lines.len() == 1 && lines[0].contains(&acquired), "{lines:?}");
        assert!(
            lines[0].contains(": size 10, checked in ") && lines[0].contains(", overflow -"),
            "{lines:?}"
        );
    }
    assert!(!log.contains("forged"), "{log}");
    // Logged by a middleware, on the worker.
    get_with_id(&app, "/api/health/db", Some("watch-1"));
    assert!(app.log().contains(" watch-1] GET /api/health/db with token \"test\""), "{}", app.log());
}

/// A trigger that sends a notice; its text is to look like a line of its own.
const FORGER: &str = r"
    CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE NOTICE E'harmless\n[2026-01-01T00:00:00.000Z ERROR poolhouse] forged\u001b[2J'; RETURN NEW; END $$;
    CREATE TRIGGER forge BEFORE INSERT ON movies FOR EACH ROW EXECUTE FUNCTION forge()";

#[test]
fn a_text_of_the_database_cannot_forge_a_line() {
    for format in ["text", "json"] {
        let app = App::start_with(&[("LOG_FORMAT", format)]);
        app.database().client().batch_execute(FORGER).unwrap();
        assert_eq!(write(&app, "POST", "/api/movies", r#"{"movie_id":900001,"title":"T"}"#).status, 201);
        eventually("the notice is logged", SOON, || app.log().contains("forged"));
        let log = app.log();
        assert!(!log.contains('\u{1b}'), "{log}");
        let forged: Vec<_> = log.lines().filter(|line| line.contains("forged")).collect();
        assert!(forged.len() == 1 && forged[0].contains(r"harmless\n["), "{forged:?}");
        if format == "json" {
            for line in log.lines() {
                let line: Value =
                    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                assert!(
                    ["time", "level", "target", "message"].iter().all(|key| line[key].is_string()),
                    "{line}"
                );
            }
            let line: Value = serde_json::from_str(forged[0]).unwrap();
            assert_eq!((&line["level"], &line["target"]), (&"INFO".into(), &"postgres".into()));
            assert!(line["request_id"].is_string(), "{line}");
        }
    }
}
