//! The HTTP server: from settings to a server that runs until shutdown. Tests and production start it in the same
//! way.
//!
//! The caller opens the pool before [`run`] and closes it after.

use crate::http::connection::Connection;
use crate::http::connection::exchange::{Answer, Handling};
use crate::http::connection::slots::ConnectionLimit;
use crate::http::handlers::documents::document_routes;
use crate::http::handlers::movies::movie_routes;
use crate::http::handlers::openapi::openapi_routes;
use crate::process::sd_notify;
use crate::process::signals;
use actix_http::HttpService;
use actix_service::{ServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::App;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{AppConfig, Server, Service, ServiceRequest, ServiceResponse};
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::rt::time::{Sleep, sleep};
use actix_web::rt::{self, System};
use poolhouse::settings::DocumentSettings;
use poolhouse::web::{
    ApiError, BearerAuth, RequestDeadline, dashboard_routes, health_routes, json_errors, metrics_routes,
    observe_requests,
};
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

/// How often the server checks whether it can continue.
const ROUND: Duration = Duration::from_secs(1);

/// How many health tests a worker runs at once.
const HEALTH_THREADS: usize = 4;

/// How long the server waits for a client: for the head of a request, for the next request, for the client to read
/// some of a response, and for the end of a body that no handler reads. `HTTP_REQUEST_TIMEOUT_MS` may lower it.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may take to close the connection after the last response on it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The backlog of the listening socket: connections not yet accepted.
const BACKLOG: i32 = 1024;

/// A server that listens. It accepts connections once [`run_until_stopped`](Application::run_until_stopped) runs.
pub(crate) struct Application {
    server: Server,
    address: SocketAddr,
    /// Requests without a complete response.
    in_flight: Arc<AtomicUsize>,
    /// How long these may take after shutdown was requested.
    shutdown_timeout: Duration,
}

impl Application {
    /// Listens on the address of the settings; port 0 takes a free port.
    ///
    /// # Errors
    ///
    /// The address is in use, not of this machine, or not permitted: the text names it and its variable.
    pub(crate) fn build(settings: &Settings) -> io::Result<Application> {
        let (http, bind) = (&settings.http, settings.http.bind);
        let (shutdown_timeout, in_flight) = (http.shutdown_timeout, Arc::new(AtomicUsize::new(0)));
        let listener = listen(bind).map_err(|error| explain(bind, &error))?;
        let address = listener.local_addr()?;
        let auth = BearerAuth::new(http.tokens.iter().cloned());
        let worker = Worker {
            metrics_auth: http.metrics_auth.then(|| auth.clone()),
            auth,
            deadline: RequestDeadline::new(http.request_timeout),
            in_flight: in_flight.clone(),
            documents: settings.documents,
            address,
            client_timeout: http.request_timeout.map_or(CLIENT_TIMEOUT, |it| it.min(CLIENT_TIMEOUT)),
            limit: ConnectionLimit::of_this_process(http.workers, settings.pool.max_connections as usize),
        };
        let builder = Server::build();
        let is_ending = builder.graceful_shutdown_signal();
        let server = builder
            .workers(http.workers)
            .max_concurrent_connections(worker.limit.hard)
            // Used by the health test only: other requests run on the threads of `blocking`.
            .worker_max_blocking_threads(HEALTH_THREADS)
            // Longer than the deadline in `run_until_stopped`, which is exact and comes first.
            .shutdown_timeout(shutdown_timeout.as_secs() + 2)
            .disable_signals()
            .listen("poolhouse", listener, move || {
                let is_ending = is_ending.clone();
                worker.service(move || {
                    let is_ending = is_ending.clone();
                    async move { is_ending.notified().await }
                })
            })
            .map_err(|error| explain(bind, &error))?
            .run();
        Ok(Application { server, address, in_flight, shutdown_timeout })
    }

    /// The address it listens on, with the real port if the settings say 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until shutdown is requested, then until the requests in flight are done, at most for
    /// `HTTP_SHUTDOWN_TIMEOUT_S`.
    ///
    /// `check_lost` is called every second. If it returns a reason why the service cannot continue, that is logged,
    /// and the service shuts down in the same way.
    ///
    /// # Errors
    ///
    /// The service could not continue, or requests were cut off at the deadline.
    pub(crate) async fn run_until_stopped(
        self,
        mut check_lost: impl FnMut() -> Option<String>,
    ) -> io::Result<()> {
        let Application { mut server, in_flight, shutdown_timeout, .. } = self;
        let mut rounds = rt::time::interval(ROUND);
        let mut has_failed = false;
        let mut deadline: Option<Pin<Box<Sleep>>> = None;
        let ended = poll_fn(|context| {
            // Until the tick is pending, which registers the waker. During shutdown the private server may end before
            // this one.
            while deadline.is_none() && !has_failed && rounds.poll_tick(context).is_ready() {
                if let Some(why) = check_lost() {
                    has_failed = true;
                    log::error!("{why}");
                }
            }
            if deadline.is_none() && (has_failed || signals::poll_shutdown(context).is_ready()) {
                report_stopping();
                rt::spawn(server.handle().stop(true));
                deadline = Some(Box::pin(sleep(shutdown_timeout)));
            }
            if let Poll::Ready(ended) = Pin::new(&mut server).poll(context) {
                return Poll::Ready(ended);
            }
            match &mut deadline {
                // Returning drops the server, which stops its workers by force.
                Some(time) => time.as_mut().poll(context).map(|()| cut_off(&in_flight, shutdown_timeout)),
                None => Poll::Pending,
            }
        })
        .await;
        match has_failed {
            true => Err(io::Error::other("the service ended because its database did: see the log")),
            false => ended,
        }
    }
}

/// What a worker starts with. Each has an app and a service of its own.
#[derive(Clone)]
struct Worker {
    auth: BearerAuth,
    /// `None` opens the metrics to everybody.
    metrics_auth: Option<BearerAuth>,
    deadline: RequestDeadline,
    in_flight: Arc<AtomicUsize>,
    documents: DocumentSettings,
    address: SocketAddr,
    client_timeout: Duration,
    limit: ConnectionLimit,
}

impl Worker {
    /// The routes, and what surrounds each of them.
    fn app(
        &self,
    ) -> App<
        impl ServiceFactory<
            ServiceRequest,
            Config = (),
            Response = ServiceResponse<impl MessageBody + use<>>,
            Error = actix_web::Error,
            InitError = (),
        > + use<>,
    > {
        let in_flight = self.in_flight.clone();
        App::new()
            .wrap(self.deadline)
            .wrap_fn(move |request, service| handle(request, service, &in_flight))
            .wrap(from_fn(observe_requests))
            .configure(json_errors)
            .configure(health_routes(DatabasePool, self.auth.clone()))
            .configure(metrics_routes(DatabasePool, self.metrics_auth.clone()))
            .configure(dashboard_routes("/api/health"))
            .configure(openapi_routes)
            .configure(movie_routes(self.auth.clone()))
            .configure(document_routes(self.auth.clone(), self.documents))
    }

    /// Serves HTTP on accepted sockets, as `HttpServer` does it, with our `Connection` between socket and server.
    /// `shutdown` returns once the server is ending.
    fn service<S, F>(&self, shutdown: S) -> impl ServiceFactory<TcpStream, Config = ()> + use<S, F>
    where
        S: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = ()> + 'static,
    {
        let (client_timeout, limit) = (self.client_timeout, self.limit);
        let http = HttpService::build()
            .graceful_shutdown_signal(shutdown)
            .keep_alive(client_timeout * 2)
            .client_request_timeout(client_timeout)
            .client_disconnect_timeout(CLOSE_TIMEOUT)
            // A client that closes its sending half counts as gone; otherwise its request would run on without a
            // reader.
            .h1_allow_half_closed(false)
            .local_addr(self.address)
            .on_connect_ext(|connection: &Connection, extensions| {
                extensions.insert(connection.exchange().clone());
            })
            .h1(map_config(self.app(), |()| AppConfig::default()));
        fn_service(move |socket: TcpStream| {
            let connection = Connection::new(socket, client_timeout, limit);
            let peer = connection.peer();
            ready(Ok((connection, peer)))
        })
        .and_then(http)
    }
}

/// Passes a request to the app, and follows it until its response is written. Over the limit of connections only health
/// routes and metrics answer: a supervisor must see that the service is alive.
fn handle<S, B>(
    mut request: ServiceRequest,
    app: &S,
    in_flight: &Arc<AtomicUsize>,
) -> impl Future<Output = Result<ServiceResponse<Answer<EitherBody<B>>>, actix_web::Error>> + use<S, B>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error>,
{
    let handling = Handling::begin(&mut request, in_flight);
    let is_watching = ["/api/health", "/metrics"].iter().any(|path| request.path().starts_with(path));
    let answer = match handling.is_over_limit() && !is_watching {
        true => Err(request.error_response(saturated())),
        false => Ok(app.call(request)),
    };
    async move {
        Ok(handling.answer(match answer {
            Ok(answer) => answer.await?.map_into_left_body(),
            Err(refusal) => refusal.map_into_right_body(),
        }))
    }
}

/// Serves until shutdown is requested, or until `check_lost` returns a reason why the service cannot continue. The
/// pool must be open: the caller opens it before and closes it after.
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
    check_lost: impl FnMut() -> Option<String>,
) -> io::Result<()> {
    System::new().block_on(async {
        let application = Application::build(settings)?;
        let listening = format!("Listening on http://{}", application.address());
        log::info!("{listening}");
        sd_notify::ready(&listening);
        once_listening();
        application.run_until_stopped(check_lost).await
    })
}

/// Reports the shutdown to the log and to systemd.
pub(crate) fn report_stopping() {
    log::info!("Application shutting down");
    sd_notify::stopping();
}

/// An error if requests are still in flight at the end of the shutdown timeout.
fn cut_off(in_flight: &AtomicUsize, shutdown_timeout: Duration) -> io::Result<()> {
    match in_flight.load(Ordering::Relaxed) {
        0 => Ok(()),
        n => Err(io::Error::other(format!(
            "requests cut off because they were not done within HTTP_SHUTDOWN_TIMEOUT_S={}: {n}",
            shutdown_timeout.as_secs_f64()
        ))),
    }
}

fn listen(bind: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(bind)?;
    SockRef::from(&listener).listen(BACKLOG)?;
    Ok(listener)
}

/// The response to a client over the limit of connections.
fn saturated() -> ApiError {
    ApiError::unavailable("saturated", "too many clients are connected", "1")
}

/// Checks whether the service can listen on `bind`, before a private database is created for it.
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
