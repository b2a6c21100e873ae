//! What the log contains at its most verbose level, and what it never contains.

use crate::http::{get, send, write};
use crate::support::App;

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
