//! Signals to a service that runs.

use super::*;
use std::process::Stdio;

#[test]
fn requests_in_flight_are_answered_and_no_new_connection_is_accepted() {
    let app = App::start();
    let fresh = connect(&app);
    let mut idle = ask(&app);
    let mut first = [0; 15];
    idle.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    let mut hold = Hold::on(&app);
    let slow = ask(&app);
    hold.until_met();

    send(&app, Signal::SIGTERM);
    let idle = read_to_the_end(idle);
    assert!(idle.matches("HTTP/1.1").count() == 0, "{idle}");
    assert_eq!(read_to_the_end(fresh), "");
    let address = app.base_url.strip_prefix("http://").unwrap();
    eventually("new connections are refused", SOON, || {
        TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    assert!(!app.log().contains("Closed database connection pool"), "{}", app.log());

    hold.end();
    let answer = read_to_the_end(slow).to_lowercase();
    assert!(answer.starts_with("http/1.1 200 ok"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.contains("\"movie_id\":1,"), "{answer}");
    let (status, log, _) = app.ended(SOON);
    assert_eq!(status.code(), Some(0), "{log}");
    assert_in_order(&log, &["Application shutting down", "Closed database connection pool"]);
}

#[test]
fn what_takes_longer_than_the_deadline_is_cut_and_the_exit_code_says_so() {
    let app = App::start_with(&[("HTTP_SHUTDOWN_TIMEOUT_S", "0.3")]);
    let mut hold = Hold::on(&app);
    let slow = ask(&app);
    hold.until_met();
    let start = Instant::now();
    send(&app, Signal::SIGTERM);
    assert_eq!(read_to_the_end(slow), "");
    let (status, log, _) = app.ended(SOON);
    assert_eq!(status.code(), Some(1), "{log}");
    assert_in_order(
        &log,
        &["Application shutting down", "Closed database connection pool", "HTTP_SHUTDOWN_TIMEOUT_S=0.3: 1"],
    );
    // The deadline, and a second for the pool. Without it the query has half a minute.
    assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
}

#[test]
fn without_requests_in_flight_shutdown_takes_no_time() {
    let app = App::start_with(&[("HTTP_SHUTDOWN_TIMEOUT_S", "0")]);
    let _idle = connect(&app);
    let start = Instant::now();
    let (status, log, _) = app.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for (first, second, code) in
        [(Signal::SIGTERM, Signal::SIGINT, 130), (Signal::SIGHUP, Signal::SIGTERM, 143)]
    {
        let app = App::start();
        let mut hold = Hold::on(&app);
        let _slow = ask(&app);
        hold.until_met();
        send(&app, first);
        until_logged(&app, "Application shutting down");
        let start = Instant::now();
        send(&app, second);
        let (status, log, _) = app.ended(SOON);
        assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
        assert_eq!(status.code(), Some(code), "{log}");
        assert!(log.contains("Second signal"), "{log}");
        assert!(!log.contains("Closed database connection pool"), "{log}");
    }
}

#[test]
fn quit_ends_it_at_once() {
    let app = App::start();
    send(&app, Signal::SIGQUIT);
    let (status, log, _) = app.ended(PROMPTLY);
    assert_eq!(status.code(), Some(131), "{log}");
}

#[test]
fn a_hangup_ends_it_in_order_unless_it_is_to_be_ignored() {
    let app = App::start();
    send(&app, Signal::SIGHUP);
    let (status, log, _) = app.ended(SOON);
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("Closed database connection pool"), "{log}");

    if !cfg!(target_os = "linux") {
        eprintln!("skipped: only Linux tells what a process ignores (/proc/self/status)");
        return;
    }
    let database = crate::support::postgres::fresh_database().with_schema();
    let as_nohup_does = ["sh", "-c", r#"trap "" HUP; exec "$0" "$@""#];
    let variables = [("DATABASE_URL", &*database.url())];
    let app = App::spawn(&as_nohup_does, tempfile::tempdir().unwrap(), &variables).until_it_answers();
    send(&app, Signal::SIGHUP);
    // Whatever a signal does it does before a later one.
    send(&app, Signal::SIGTERM);
    let (status, log, _) = app.ended(SOON);
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("Second signal"), "{log}");
}

#[test]
fn other_commands_end_by_one_signal() {
    let database = crate::support::postgres::fresh_database().with_schema();
    let mut hold = database.client();
    hold.batch_execute("BEGIN; LOCK TABLE movies IN ACCESS EXCLUSIVE MODE").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/sample_movies.csv");
    let mut command = crate::support::app::poolhouse(directory.path());
    command.args(["import", file]).env("DATABASE_URL", database.url()).stderr(Stdio::null());
    let mut import = command.spawn().unwrap();
    let mut hold = Hold(hold);
    hold.until_met();
    kill(Pid::from_raw(import.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(import.wait().unwrap().code(), Some(130));
}
