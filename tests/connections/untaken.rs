//! Answers that their clients do not take.

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Asks for pages until the service cannot write any more, and takes none.
fn take_nothing(app: &App) -> Raw {
    // Pages of 150 KB: sockets hold some MB.
    let long = "INSERT INTO movies (movie_id, title) SELECT 1000000 + n, repeat('界', 500) FROM generate_series(1, 100) n
                ON CONFLICT DO NOTHING";
    app.database().client().batch_execute(long).unwrap();
    let mut raw = Raw::connect(app);
    socket2::SockRef::from(&raw.stream).set_recv_buffer_size(4096).unwrap();
    raw.send(request("GET", "/api/movies?limit=100&after=1000000", "").repeat(200));
    let (mut requests, mut unchanged) = (0, 0);
    // The one worker has answered others over and over, and has nothing more to do with this connection.
    eventually("it can write no more", 2 * SOON, || {
        let health = crate::http::get_as_known(app, "/api/health/db").json();
        let is_at_rest = health["pool_stats"]["in_use"] == 0 && health["request_threads"]["busy"] == 0;
        let before = std::mem::replace(&mut requests, health["pool_stats"]["requests"].as_u64().unwrap());
        unchanged = if requests > 10 && before == requests && is_at_rest { unchanged + 1 } else { 0 };
        unchanged == 20
    });
    assert!(requests < 200, "sockets hold more than was thought");
    raw
}

#[test]
fn a_response_that_no_client_reads_is_given_up() {
    let app = App::start_with(&[("HTTP_REQUEST_TIMEOUT_MS", "1000"), ("HTTP_WORKERS", "1")]);
    let mut raw = take_nothing(&app);
    raw.stream.set_nonblocking(true).unwrap();
    eventually("the service hangs up", SOON, || {
        raw.stream.write(b"G").is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
    });
    // And the end of the service does not wait for it.
    let _raw = take_nothing(&app);
    let (status, log, _) = app.stop();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_response_that_is_cut_at_shutdown_shows_in_the_exit_code() {
    let app = App::start_with(&[("HTTP_SHUTDOWN_TIMEOUT_S", "0.2"), ("HTTP_WORKERS", "1")]);
    let _raw = take_nothing(&app);
    kill(Pid::from_raw(app.pid().cast_signed()), Signal::SIGTERM).unwrap();
    let (status, log, _) = app.ended(SOON);
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("HTTP_SHUTDOWN_TIMEOUT_S=0.2: 1"), "{log}");
}
