//! `poolhouse bench`: what it measures, what it leaves behind, and what it refuses.

use crate::support::app::poolhouse;
use crate::support::postgres::{self, GUEST, GUEST_PASSWORD};
use crate::support::{Database, Postgres, Proxy, SOON, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use poolhouse::Secret;
use poolhouse::settings::SslMode;
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

fn command(directory: &TempDir, url: &str, arguments: &[&str]) -> Command {
    let mut command = poolhouse(directory.path());
    command
        .arg("bench")
        .args(arguments)
        .env("DATABASE_URL", url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn bench(url: &str, arguments: &[&str]) -> Output {
    command(&TempDir::new().unwrap(), url, arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[track_caller]
fn assert_ends(output: &Output, code: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// The figures of a run in JSON.
#[track_caller]
fn figures(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{}", said(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(output)))
}

#[track_caller]
fn number(figures: &Value, path: &str) -> f64 {
    figures.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number {path} in {figures}"))
}

fn has_schema(database: &Database) -> bool {
    let sql = "SELECT to_regnamespace('poolhouse_bench') IS NOT NULL";
    database.client().query_one(sql, &[]).unwrap().get(0)
}

/// A run in the background that writes documents by now.
fn start(directory: &TempDir, database: &Database) -> Child {
    let mut child = command(directory, &database.url(), &["--seconds", "60"]).spawn().unwrap();
    eventually("documents are written", SOON, || {
        assert!(child.try_wait().unwrap().is_none(), "the run has ended");
        has_schema(database)
    });
    child
}

#[test]
fn every_part_is_measured_and_a_delay_is_added_to_each_connect() {
    let database = postgres::fresh_database();
    let output = bench(&database.url(), &["--seconds", "1", "--connect-delay", "20ms", "--json"]);
    let figures = figures(&output, 0);
    assert_eq!(
        (&figures["is_complete"], &figures["connections_made_by"]),
        (&true.into(), &"the driver".into())
    );
    // The delay is in whatever connects, and in nothing else.
    for (path, connects) in [
        ("/acquire/first_query_ms", 1.0),
        ("/row/connect_ms", 1.0),
        ("/row/connection_per_query_ms", 100.0),
        ("/row/pool_ms", 1.0),
        ("/documents/connection_per_document/connecting_ms", 1000.0),
        ("/documents/pool/connecting_ms", 1.0),
        ("/callers/0/connection_per_query/p50_ms", 1.0),
    ] {
        assert!(number(&figures, path) >= connects * 20.0, "{path}: {figures}");
    }
    for (with, without) in [
        ("/acquire/later/p50_ms", "/row/connect_ms"),
        ("/acquire/later_query_ms", "/row/connect_ms"),
        ("/documents/pool/connecting_ms", "/documents/connection_per_document/connecting_ms"),
    ] {
        assert!(number(&figures, with) < number(&figures, without), "{with}: {figures}");
    }
    let levels = figures["callers"].as_array().unwrap();
    let callers: Vec<_> = levels.iter().map(|level| level["callers"].as_u64().unwrap()).collect();
    assert_eq!(callers, [1, 2, 4, 8, 16, 32, 64]);
    for level in levels {
        assert!(number(level, "/pool/p50_ms") <= number(level, "/pool/p99_ms"), "{level}");
        assert!(number(level, "/pool/samples") >= number(level, "/callers"), "{level}");
        assert_ne!(level["missing"].is_null(), level["connection_per_query"].is_null(), "{level}");
    }
    let guides: Vec<_> = figures["promises"].as_array().unwrap().iter().map(|one| &one["guides"]).collect();
    assert_eq!(guides, ["10x", "50x", "1 ms", "0.1 s in place of 100 s"]);
    assert!(!has_schema(&database));
}

#[test]
fn a_run_that_was_killed_is_cleaned_up_by_the_next_and_a_stopped_one_by_itself() {
    let (database, directory) = (postgres::fresh_database(), TempDir::new().unwrap());
    let mut killed = start(&directory, &database);
    assert_ends(&bench(&database.url(), &["--seconds", "1"]), 1, &["another poolhouse bench runs"]);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
    eventually("its sessions are gone", SOON, || {
        database.client().query_one(sessions, &[]).unwrap().get::<_, i64>(0) == 1
    });
    assert!(has_schema(&database));
    let output = bench(&database.url(), &["--seconds", "1"]);
    let tables = ["One caller", "Acquiring", "100 queries in a row", "1,000 documents", "█", "guides"];
    assert_ends(&output, 0, &tables);
    assert!(!said(&output).contains("NOTICE"), "{}", said(&output));
    assert!(!has_schema(&database));

    let stopped = start(&directory, &database);
    kill(Pid::from_raw(stopped.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_ends(&stopped.wait_with_output().unwrap(), 3, &["poolhouse: stopped before the end"]);
    assert!(!has_schema(&database));
}

#[test]
fn what_is_not_allowed_is_refused_before_anything_is_tried() {
    let nowhere = "postgres://me:swordfish-t7Kq2Wz9Xb4Lm@127.0.0.1:1/movies";
    for (arguments, words) in [
        (&["--seconds", "0"][..], "1..=600"),
        (&["--connect-delay", "100"], "as 100ms or 0.1s"),
        (&["--connect-delay=-1ms"], "as 100ms or 0.1s"),
        (
            &["--seconds", "5", "--connect-delay", "101ms"],
            "allowed is at most a fiftieth of --seconds 5, 100 ms",
        ),
    ] {
        assert_ends(&bench(nowhere, arguments), 2, &[words]);
    }
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join(".env.production"), "API_TOKENS=ci=k3Vd8sQ1x9Zt5Lw7Rb2Nf6Hj4Mc0PyUa\n")
        .unwrap();
    let production =
        |arguments| command(&directory, nowhere, arguments).env("APP_ENV", "production").output();
    let output = production(&[]).unwrap();
    assert_ends(&output, 2, &["production", "--yes", "127.0.0.1:1/movies"]);
    assert!(!said(&output).contains("swordfish"));
    assert_ends(&production(&["--yes"]).unwrap(), 1, &["cannot use the database 127.0.0.1:1/movies"]);
}

#[test]
fn without_the_right_to_write_everything_else_is_measured() {
    let server = Postgres::start();
    let database = server.fresh_database();
    let guest = database.settings().with_user(GUEST).with_password(Some(Secret::new(GUEST_PASSWORD)));
    let guest = postgres::url(&guest);
    let output = bench(&guest, &["--seconds", "1", "--json"]);
    assert_ends(&output, 3, &["documents were not measured", "GRANT CREATE ON DATABASE", GUEST]);
    let figures = figures(&output, 3);
    assert!(figures["documents"].is_null() && number(&figures, "/row/pool_ms") > 0.0, "{figures}");

    // A schema of somebody else's is left alone.
    database.client().batch_execute("CREATE SCHEMA poolhouse_bench CREATE TABLE chunks ()").unwrap();
    let output = bench(&database.url(), &["--seconds", "1"]);
    assert_ends(&output, 3, &["there is a schema poolhouse_bench that this command has not made"]);
    database.client().batch_execute("SELECT FROM poolhouse_bench.chunks").unwrap();
}

#[test]
fn a_server_that_is_gone_or_full_is_reported() {
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let gone = format!("postgres://me@127.0.0.1:{free}/movies?sslmode=disable");
    assert_ends(&bench(&gone, &[]), 1, &["database down", "refused", &format!("127.0.0.1:{free}/movies")]);

    let server = Postgres::start_with(&[("max_connections", "6"), ("superuser_reserved_connections", "2")]);
    let database = server.fresh_database();
    let _held: Vec<_> = (0..2).map(|_| database.client()).collect();
    assert_ends(&bench(&database.url(), &["--seconds", "1"]), 1, &["is full", "needs 2 at least"]);

    let (database, directory) = (postgres::fresh_database(), TempDir::new().unwrap());
    let proxy = Proxy::to(&database.settings());
    let through = postgres::url(&proxy.settings());
    let child = command(&directory, &through, &["--seconds", "60"]).spawn().unwrap();
    eventually("documents are written", SOON, || has_schema(&database));
    proxy.refuse();
    proxy.cut();
    assert_ends(&child.wait_with_output().unwrap(), 1, &["cannot use the database"]);
}

#[test]
fn connections_are_encrypted_where_the_settings_require_it() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let server = Postgres::start_encrypted(&key.cert.pem(), &key.signing_key.serialize_pem());
    let settings = server.fresh_database().settings().with_sslmode(SslMode::Require);
    let output = bench(&postgres::url(&settings), &["--seconds", "1", "--json"]);
    let figures = figures(&output, 0);
    assert_eq!(figures["connections_made_by"], "a pool of one");
    assert!(number(&figures, "/callers/0/connection_per_query/samples") >= 1.0);
}
