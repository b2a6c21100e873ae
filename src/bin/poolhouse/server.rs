//! The HTTP service: from settings to a running server, the same for tests and for production.
//!
//! The caller opens the pool before and closes it after; in between, [`run`] blocks.

use crate::cli::spelled;
use crate::handlers::movies::movie_routes;
use crate::services::movies::{self, MovieError};
use actix_web::dev::Server;
use actix_web::rt::{self, System, signal::unix};
use actix_web::{App, HttpServer};
use poolhouse::web::{BearerAuth, health_routes, json_errors};
use poolhouse::{DatabasePool, PoolSettings, Settings};
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// How long requests in flight may take to finish once the service is asked to stop, in seconds.
const SHUTDOWN_TIMEOUT_S: u64 = 30;

/// How often the service looks whether it can go on.
const ROUND: Duration = Duration::from_secs(1);

/// The most blocking threads of a worker.
const MAX_THREADS: u32 = 1024;

/// A server that listens already; it answers from [`run_until_stopped`](Application::run_until_stopped) on.
pub(crate) struct Application {
    server: Server,
    address: SocketAddr,
}

impl Application {
    /// Listens where the settings say; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// The address is in use, not this machine's, or not allowed: the text names it and the variable.
    pub(crate) fn build(settings: &Settings) -> io::Result<Application> {
        let auth = BearerAuth::new(settings.http.tokens.iter().cloned());
        let app = move || {
            App::new()
                .configure(json_errors)
                .configure(health_routes(DatabasePool, auth.clone()))
                .configure(movie_routes(auth.clone()))
        };
        let bind = settings.http.bind;
        let server = HttpServer::new(app)
            .workers(settings.http.workers)
            .worker_max_blocking_threads(blocking_threads(&settings.pool))
            .shutdown_timeout(SHUTDOWN_TIMEOUT_S)
            .disable_signals()
            .bind(bind)
            .map_err(|error| explain(bind, &error))?;
        let address = server.addrs().first().copied().unwrap_or(bind);
        Ok(Application { server: server.run(), address })
    }

    /// Where it listens: the real port, where the settings say 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until SIGTERM or SIGINT, and then until the requests in flight are done, at most
    /// [`SHUTDOWN_TIMEOUT_S`]. A second signal ends it at once.
    ///
    /// `lost` is asked every second; once it says why the service cannot go on, that is logged, and the service
    /// ends the same way.
    ///
    /// # Errors
    ///
    /// It had to end, or signals cannot be received.
    pub(crate) async fn run_until_stopped(self, mut lost: impl FnMut() -> Option<String>) -> io::Result<()> {
        let mut server = self.server;
        let mut rounds = rt::time::interval(ROUND);
        let mut is_lost = false;
        let mut signals =
            [unix::signal(unix::SignalKind::terminate())?, unix::signal(unix::SignalKind::interrupt())?];
        let mut is_stopping = false;
        let ended = poll_fn(|context| {
            // Until none is ready, so that each has been asked and will wake us.
            while signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready()) {
                if is_stopping {
                    log::warn!("Second signal: stopping at once");
                    // Dropping the server stops its workers by force.
                    return Poll::Ready(Ok(()));
                }
                is_stopping = true;
                log::info!("Application shutting down");
                rt::spawn(server.handle().stop(true));
            }
            while rounds.poll_tick(context).is_ready() {
                // On the way out it may end before us.
                if !is_stopping && let Some(why) = lost() {
                    (is_lost, is_stopping) = (true, true);
                    log::error!("{why}");
                    log::info!("Application shutting down");
                    rt::spawn(server.handle().stop(true));
                }
            }
            Pin::new(&mut server).poll(context)
        })
        .await;
        match is_lost {
            true => Err(io::Error::other("the service ended because its database did: see the log")),
            false => ended,
        }
    }
}

/// Serves until SIGTERM or SIGINT, or until `lost` says why that makes no sense any more. The pool must be open:
/// the caller opens it before and closes it after.
///
/// Logs `Listening on http://…` with the real port, `Application started with N movies`, and at the first
/// signal `Application shutting down`.
///
/// # Errors
///
/// - The database has no schema, or cannot be asked for its number of movies.
/// - [`Application::build`]'s and [`Application::run_until_stopped`]'s.
pub(crate) fn run(settings: &Settings, lost: impl FnMut() -> Option<String>) -> io::Result<()> {
    let movies = movies::count_movies().map_err(without_movies)?;
    System::new().block_on(async {
        let application = Application::build(settings)?;
        log::info!("Listening on http://{}", application.address());
        log::info!("Application started with {movies} movies");
        application.run_until_stopped(lost).await
    })
}

/// Whether the service could listen on `bind` now: worth knowing before a database is made for it.
///
/// # Errors
///
/// [`Application::build`]'s.
pub(crate) fn try_address(bind: SocketAddr) -> io::Result<()> {
    TcpListener::bind(bind).map(drop).map_err(|error| explain(bind, &error))
}

/// Every caller whom the pool lets wait needs a thread to wait in. With fewer, a second queue would form in
/// front of the pool, without a bound and without a deadline; threads are made only when they are needed.
fn blocking_threads(pool: &PoolSettings) -> usize {
    pool.max_connections.saturating_add(pool.max_waiting).clamp(1, MAX_THREADS) as usize
}

fn explain(bind: SocketAddr, error: &io::Error) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use: stop the program that listens there, or choose another (0 takes a free one)"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address: 127.0.0.1 and 0.0.0.0 always are"
        }
        io::ErrorKind::PermissionDenied => "not allowed: ports below 1024 are for root, choose a higher one",
        _ => "cannot listen there",
    };
    io::Error::new(error.kind(), format!("HTTP_BIND={bind}: {advice} ({error})"))
}

fn without_movies(error: MovieError) -> io::Error {
    match &error {
        // No such table, no such column.
        MovieError::Database(database) if matches!(database.sqlstate(), Some("42P01" | "42703")) => {
            io::Error::other(format!(
                "the database has not the tables of this version: run {} first ({database})",
                spelled("schema")
            ))
        }
        _ => io::Error::other(error),
    }
}
