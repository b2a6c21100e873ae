//! The HTTP service: from settings to a running server, the same for tests and for production.
//!
//! The caller opens the pool before and closes it after; in between, [`run`] blocks.

use crate::http::connection::Connection;
use crate::http::connection::crowd::Ceiling;
use crate::http::connection::exchange::Handling;
use crate::http::handlers::movies::movie_routes;
use crate::process::sd_notify;
use crate::process::signals;
use actix_http::HttpService;
use actix_service::{ServiceFactoryExt, fn_service, map_config};
use actix_web::App;
use actix_web::dev::{AppConfig, Server, Service};
use actix_web::rt::net::TcpStream;
use actix_web::rt::time::{Sleep, sleep};
use actix_web::rt::{self, System};
use poolhouse::web::{ApiError, BearerAuth, RequestDeadline, health_routes, json_errors};
use poolhouse::{DatabasePool, Settings};
use socket2::SockRef;
use std::future::{poll_fn, ready};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

/// How often the service looks whether it can go on.
const ROUND: Duration = Duration::from_secs(1);

/// How many health tests a worker runs at once.
const HEALTH_THREADS: usize = 4;

/// How long a client is waited for: for the head of its request, for the next request, for it to take some of an
/// answer, and for the end of a body that is not wanted. Less where `HTTP_REQUEST_TIMEOUT_MS` is less.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);

/// How long a client may take to hang up after an answer that ends the connection.
const LINGER: Duration = Duration::from_secs(1);

/// How many connections the system keeps that have not been accepted yet.
const BACKLOG: i32 = 1024;

/// A server that listens already; it answers from [`run_until_stopped`](Application::run_until_stopped) on.
pub(crate) struct Application {
    server: Server,
    address: SocketAddr,
    /// Requests that have not been answered yet.
    in_flight: Arc<AtomicUsize>,
    /// How long they may take once the end has begun.
    patience: Duration,
}

impl Application {
    /// Listens where the settings say; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// The address is in use, not this machine's, or not allowed: the text names it and the variable.
    pub(crate) fn build(settings: &Settings) -> io::Result<Application> {
        let auth = BearerAuth::new(settings.http.tokens.iter().cloned());
        let in_flight = Arc::new(AtomicUsize::new(0));
        let counter = in_flight.clone();
        let deadline = RequestDeadline::new(settings.http.request_timeout);
        let app = move || {
            let counter = counter.clone();
            App::new()
                .wrap(deadline)
                .wrap_fn(move |mut request, service| {
                    let handling = Handling::begin(&mut request, &counter);
                    // Where there is no room, whoever looks after the service still learns that it lives.
                    let is_refused = handling.is_surplus() && !request.path().starts_with("/api/health");
                    let answer = match is_refused {
                        true => Err(request.error_response(no_room())),
                        false => Ok(service.call(request)),
                    };
                    async move {
                        Ok(handling.answer(match answer {
                            Ok(answer) => answer.await?.map_into_left_body(),
                            Err(refusal) => refusal.map_into_right_body(),
                        }))
                    }
                })
                .configure(json_errors)
                .configure(health_routes(DatabasePool, auth.clone()))
                .configure(movie_routes(auth.clone()))
        };
        let (bind, workers) = (settings.http.bind, settings.http.workers);
        let patience = settings.http.shutdown_timeout;
        let for_clients = settings.http.request_timeout.map_or(CLIENT_PATIENCE, |it| it.min(CLIENT_PATIENCE));
        let ceiling = Ceiling::of_this_process(workers, settings.pool.max_connections as usize);
        let listener = listen(bind).map_err(|error| explain(bind, &error))?;
        let address = listener.local_addr()?;
        let builder = Server::build();
        let is_ending = builder.graceful_shutdown_signal();
        let server = builder
            .workers(workers)
            .max_concurrent_connections(ceiling.most)
            // For the health test alone: requests have threads of their own.
            .worker_max_blocking_threads(HEALTH_THREADS)
            // Ours ends first, and to the moment.
            .shutdown_timeout(patience.as_secs() + 2)
            .disable_signals()
            // What `HttpServer` does, but for the connection between socket and server.
            .listen("poolhouse", listener, move || {
                let is_ending = is_ending.clone();
                let http = HttpService::build()
                    .graceful_shutdown_signal(move || {
                        let is_ending = is_ending.clone();
                        async move { is_ending.notified().await }
                    })
                    .keep_alive(for_clients * 2)
                    .client_request_timeout(for_clients)
                    .client_disconnect_timeout(LINGER)
                    // A client that hangs up is gone; otherwise its request would go on for nobody.
                    .h1_allow_half_closed(false)
                    .local_addr(address)
                    .on_connect_ext(|connection: &Connection, extensions| {
                        extensions.insert(connection.exchange().clone());
                    })
                    .h1(map_config(app(), |()| AppConfig::default()));
                fn_service(move |socket: TcpStream| {
                    let connection = Connection::new(socket, for_clients, ceiling);
                    let peer = connection.peer();
                    ready(Ok((connection, peer)))
                })
                .and_then(http)
            })
            .map_err(|error| explain(bind, &error))?
            .run();
        Ok(Application { server, address, in_flight, patience })
    }

    /// Where it listens: the real port, where the settings say 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the program is asked to end, and then until the requests in flight are done, at most for
    /// `HTTP_SHUTDOWN_TIMEOUT_S`.
    ///
    /// `lost` is asked every second; once it says why the service cannot go on, that is logged, and the service
    /// ends the same way.
    ///
    /// # Errors
    ///
    /// It had to end; or requests had to be cut.
    pub(crate) async fn run_until_stopped(self, mut lost: impl FnMut() -> Option<String>) -> io::Result<()> {
        let Application { mut server, in_flight, patience, .. } = self;
        let mut rounds = rt::time::interval(ROUND);
        let mut is_lost = false;
        let mut deadline: Option<Pin<Box<Sleep>>> = None;
        let ended = poll_fn(|context| {
            // Until none is ready, so that the next one will wake us. On the way out it may end before us.
            while deadline.is_none() && !is_lost && rounds.poll_tick(context).is_ready() {
                if let Some(why) = lost() {
                    is_lost = true;
                    log::error!("{why}");
                }
            }
            if deadline.is_none() && (is_lost || signals::poll_asked(context).is_ready()) {
                say_stopping();
                rt::spawn(server.handle().stop(true));
                deadline = Some(Box::pin(sleep(patience)));
            }
            if let Poll::Ready(ended) = Pin::new(&mut server).poll(context) {
                return Poll::Ready(ended);
            }
            match &mut deadline {
                // Dropping the server, as returning does, stops its workers by force.
                Some(time) => time.as_mut().poll(context).map(|()| cut(&in_flight, patience)),
                None => Poll::Pending,
            }
        })
        .await;
        match is_lost {
            true => Err(io::Error::other("the service ended because its database did: see the log")),
            false => ended,
        }
    }
}

/// Serves until the program is asked to end, or until `lost` says why serving makes no sense any more. The pool must
/// be open: the caller opens it before and closes it after.
///
/// Logs `Listening on http://…` with the real port, calls `once_listening`, and logs `Application shutting down` at
/// the end.
///
/// # Errors
///
/// [`Application::build`]'s and [`Application::run_until_stopped`]'s.
pub(crate) fn run(
    settings: &Settings,
    once_listening: impl FnOnce(),
    lost: impl FnMut() -> Option<String>,
) -> io::Result<()> {
    System::new().block_on(async {
        let application = Application::build(settings)?;
        let listening = format!("Listening on http://{}", application.address());
        log::info!("{listening}");
        sd_notify::ready(&listening);
        once_listening();
        application.run_until_stopped(lost).await
    })
}

/// Says that the end has begun, to the log and to a supervisor.
pub(crate) fn say_stopping() {
    log::info!("Application shutting down");
    sd_notify::stopping();
}

/// What there is to say of the requests that could not be waited for.
fn cut(in_flight: &AtomicUsize, patience: Duration) -> io::Result<()> {
    match in_flight.load(Ordering::Relaxed) {
        0 => Ok(()),
        n => Err(io::Error::other(format!(
            "requests cut off because they were not done within HTTP_SHUTDOWN_TIMEOUT_S={}: {n}",
            patience.as_secs_f64()
        ))),
    }
}

fn listen(bind: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(bind)?;
    SockRef::from(&listener).listen(BACKLOG)?;
    Ok(listener)
}

/// To a client beyond what the service can look after.
fn no_room() -> ApiError {
    ApiError::unavailable("saturated", "too many clients are connected", "1")
}

/// Whether the service could listen on `bind` now: worth knowing before a database is made for it.
///
/// # Errors
///
/// [`Application::build`]'s.
pub(crate) fn try_address(bind: SocketAddr) -> io::Result<()> {
    TcpListener::bind(bind).map(drop).map_err(|error| explain(bind, &error))
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
