//! A database that is away, or not as it should be, when the service starts; and signals while it starts.

use super::*;
use crate::support::app::poolhouse;
use crate::support::postgres::{GUEST, GUEST_PASSWORD};
use crate::support::{Postgres, Proxy};
use poolhouse::settings::Start;
use poolhouse::{Error, Pool, PoolSettings};
use std::fs;

#[test]
fn production_serves_without_its_database_and_comes_up_by_itself() {
    let server = Postgres::start();
    let database = server.fresh_database().with_schema();
    server.stop_immediate();
    let directory = tempfile::tempdir().unwrap();
    // A password, because production insists; this server asks for none.
    let file = format!("DATABASE_URL={}\nDB_PASSWORD=mS8dQ2vL\n", database.url());
    fs::write(directory.path().join(".env.production"), file).unwrap();
    let app = App::launch(directory, &[("APP_ENV", "production"), ("DB_POOL_OUTAGE_GRACE_S", "0")]);

    eventually("it is reported as an error", SOON, || health(&app) == (503, "error".to_owned()));
    until_logged(&app, "is away");
    let (status, body) = app.get("/api/movies/1");
    assert_eq!(status, 503, "{body}");
    assert!(body.contains(r#""code":"down""#), "{body}");
    assert!(!app.log().contains("Application started with"), "{}", app.log());

    server.start_again();
    until_logged(&app, "Application started with 0 movies");
    assert_eq!(app.get("/api/movies/1").0, 404);
    assert_eq!(health(&app), (200, "healthy".to_owned()));
    assert_in_order(&app.log(), &["Cannot connect to the database", "is back after", "Application started"]);
}

#[test]
fn a_pool_opened_without_its_server_lends_once_that_is_there() {
    let database = crate::support::postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    proxy.refuse();
    let mut settings = PoolSettings::new(proxy.settings());
    assert!(matches!(Pool::open(&settings), Err(Error::Down(_))));
    settings.start = Start::Wait;
    settings.outage_grace = Duration::ZERO;
    settings.min_connections = 0;
    let pool = Pool::open(&settings).unwrap();
    eventually("the failure is known", SOON, || pool.status().last_failure.is_some());
    assert!(matches!(pool.get_connection(), Err(Error::Down(_))));
    proxy.pass();
    eventually("a connection is lent", SOON, || pool.get_connection().is_ok());
    assert!(pool.status().last_failure.is_none());
    assert!(pool.close(SOON));
}

#[test]
fn a_silent_database_does_not_look_healthy() {
    let database = crate::support::postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    proxy.mute();
    let url = crate::support::postgres::url(&proxy.settings());
    let variables = [
        ("DATABASE_URL", &*url),
        ("DB_START", "wait"),
        ("DB_POOL_ACQUIRE_TIMEOUT_S", "0.3"),
        ("DB_CONNECT_TIMEOUT_S", "60"),
    ];
    let app = App::launch(tempfile::tempdir().unwrap(), &variables);
    assert_eq!(health(&app), (503, "error".to_owned()));
    let (status, body) = app.get("/api/movies/1");
    assert!(status == 503 && body.contains("\"down\""), "{body}");
    // An attempt to connect is under way, and has a minute; the end does not wait for it.
    let start = Instant::now();
    let (status, log, _) = app.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
}

#[test]
fn a_refused_login_is_waited_for_until_it_is_mended() {
    let server = Postgres::start();
    server.client().batch_execute(include_str!("../../config/schema.sql")).unwrap();
    server.client().batch_execute(&format!("GRANT SELECT ON movies TO {GUEST}")).unwrap();
    let (port, password) = (server.port(), "another");
    let url = format!("postgres://{GUEST}:{password}@127.0.0.1:{port}/postgres?sslmode=disable");
    let app = App::launch(tempfile::tempdir().unwrap(), &[("DATABASE_URL", &url), ("DB_START", "wait")]);
    until_logged(&app, "password authentication failed");
    eventually("it is reported as an error", SOON, || health(&app) == (503, "error".to_owned()));
    assert_eq!(app.get("/api/movies/1").0, 503);

    server.client().batch_execute(&format!("ALTER ROLE {GUEST} PASSWORD '{password}'")).unwrap();
    until_logged(&app, "Application started with 0 movies");
    assert_eq!(app.get("/api/movies/1").0, 404);
    assert_ne!(password, GUEST_PASSWORD);
}

#[test]
fn missing_tables_are_waited_for_and_reported() {
    let database = crate::support::postgres::fresh_database();
    let variables = [("DATABASE_URL", &*database.url()), ("DB_START", "wait")];
    let app = App::launch(tempfile::tempdir().unwrap(), &variables);
    until_logged(&app, "lacks tables of this version");
    let schema =
        poolhouse(app.directory()).arg("schema").env("DATABASE_URL", database.url()).output().unwrap();
    assert!(schema.status.success(), "{}", String::from_utf8_lossy(&schema.stderr));
    until_logged(&app, "Application started with 0 movies");
    assert_eq!(app.log().matches("lacks tables of this version").count(), 1, "{}", app.log());
}

#[test]
fn settings_that_cannot_be_used_are_not_waited_for() {
    let variables = [
        ("DATABASE_URL", "postgres://a:b@127.0.0.1:1/x?sslmode=verify-full"),
        ("DB_SSLROOTCERT", "bad.pem"),
        ("DB_START", "wait"),
    ];
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("bad.pem"), "no certificate\n").unwrap();
    let (status, log, _) = App::spawn(&[], directory, &variables).ended(SOON);
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("DB_SSLROOTCERT"), "{log}");
}

#[test]
fn a_signal_ends_a_start_that_waits_for_its_database() {
    let database = crate::support::postgres::fresh_database();
    let proxy = Proxy::to(&database.settings());
    proxy.mute();
    let url = crate::support::postgres::url(&proxy.settings());
    let variables = [("DATABASE_URL", &*url), ("DB_START", "fail"), ("DB_CONNECT_TIMEOUT_S", "60")];
    let app = App::spawn(&[], tempfile::tempdir().unwrap(), &variables);
    until_logged(&app, "Connecting to PostgreSQL");
    eventually("it has connected", SOON, || proxy.connects() > 0);
    send(&app, Signal::SIGTERM);
    let (status, log, _) = app.ended(PROMPTLY);
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("Application shutting down") && !log.contains("Listening"), "{log}");
}

#[test]
fn a_signal_ends_a_start_that_waits_for_an_answer() {
    let app = App::start();
    let mut hold = Hold::on(&app);
    for start in ["fail", "wait"] {
        let variables = [("DATABASE_URL", &*app.database().url()), ("DB_START", start)];
        let second = App::spawn(&[], tempfile::tempdir().unwrap(), &variables);
        hold.until_met();
        send(&second, Signal::SIGINT);
        let (status, log, _) = second.ended(PROMPTLY);
        assert_eq!(status.code(), Some(0), "{log}");
        let lines = ["Initialized", "Application shutting down", "Closed database connection pool"];
        assert_in_order(&log, &lines);
        // The server lets go of it a moment later.
        hold.until_alone();
    }
}

#[test]
fn the_web_server_speaks_only_when_asked() {
    let app = App::start();
    assert!(!app.log().contains("actix"), "{}", app.log());
    let variables = [("DATABASE_URL", &*app.database().url()), ("RUST_LOG", "info")];
    let second = App::launch(tempfile::tempdir().unwrap(), &variables);
    assert!(second.log().contains("actix_server"), "{}", second.log());
}
