//! How r2d2 makes and judges connections.
//!
//! r2d2 is told to keep itself full (`min_idle` = `max_size`), so that for every connection it lacks a job is
//! parked in one of its worker threads, inside [`Manager::connect`]. There it waits until the gate orders a
//! connection, makes it, and only then returns. So r2d2 never sees a failed connect (its retries cannot be
//! paced or stopped), never makes one that nobody wants, and never loses a slot.

use super::address::{Endpoint, endpoints};
use super::catalogue::Catalogue;
use super::gate::{Gate, Order};
use super::generation::Generations;
use super::session::{Session, describe};
use super::statements::Statements;
use super::tls::TlsPlan;
use super::transport::Connector;
use crate::error::SettingsError;
use crate::settings::{PgBouncerMode, PoolSettings, TargetSessionAttrs};
use log::{info, warn};
use r2d2::ManageConnection;
use r2d2_postgres::PostgresConnectionManager;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// SQLSTATEs of a connect that no waiting will mend: wrong password, refused by `pg_hba.conf`, no such
/// database, no right to connect to it.
const LOGIN_REFUSED: &[&str] = &["28P01", "28000", "3D000", "42501"];

/// The same in the words of PgBouncer, which has one SQLSTATE for everything: 08P01.
const LOGIN_REFUSED_BY_PGBOUNCER: &[&str] =
    &["authentication failed", "no such user", "no such database", "does not exist"];

/// Makes sessions.
pub(crate) struct Manager {
    gate: Arc<Gate>,
    generations: Arc<Generations>,
    maker: SessionMaker,
}

/// Everything that making a session needs.
#[derive(Clone)]
pub(crate) struct SessionMaker {
    config: postgres::Config,
    hosts: Vec<(String, u16)>,
    tls: TlsPlan,
    connect_timeout: Duration,
    max_lifetime: Option<Duration>,
    statement_cache_size: usize,
    pgbouncer_mode: PgBouncerMode,
    statement_timeout: Option<Duration>,
    must_be_writable: bool,
    catalogue: Arc<Catalogue>,
}

/// Why `connect` gives up: r2d2 wants an error type, and this is the only one it ever sees.
#[derive(Debug)]
pub(crate) struct PoolClosed;

impl std::fmt::Display for PoolClosed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the pool is closed")
    }
}

impl std::error::Error for PoolClosed {}

/// A failed attempt to connect.
#[derive(Debug)]
pub(crate) struct ConnectError {
    pub(crate) text: String,
    /// The server refuses this login; waiting does not help.
    pub(crate) is_login: bool,
}

impl SessionMaker {
    /// # Errors
    ///
    /// `SettingsError` when the certificate file cannot be used.
    pub(crate) fn new(settings: &PoolSettings) -> Result<SessionMaker, SettingsError> {
        let database = &settings.database;
        let mut config = database.login_config();
        if let (Some(limit), PgBouncerMode::Off) = (settings.statement_timeout, settings.pgbouncer_mode) {
            // As a startup option it is the session's default, and so survives DISCARD ALL. PgBouncer refuses it.
            config.options(&format!("-c statement_timeout={}", limit.as_millis()));
        }
        let tls = TlsPlan::new(database)?;
        Ok(SessionMaker {
            config,
            hosts: database.hosts.clone(),
            tls,
            connect_timeout: settings.connect_timeout,
            max_lifetime: settings.max_lifetime,
            statement_cache_size: settings.statement_cache_size,
            pgbouncer_mode: settings.pgbouncer_mode,
            statement_timeout: settings.statement_timeout,
            must_be_writable: database.target_session_attrs == TargetSessionAttrs::ReadWrite,
            catalogue: Arc::new(Catalogue::new()),
        })
    }

    /// Connects and logs in.
    ///
    /// Blocks for at most the connect timeout, or `patience` where that is less, for finding the addresses and
    /// again for each of them.
    pub(crate) fn make(&self, patience: Option<Duration>, generation: u64) -> Result<Session, ConnectError> {
        let started = Instant::now();
        let limit = patience.map_or(self.connect_timeout, |patience| patience.min(self.connect_timeout));
        let mut attempt = Err(ConnectError::from(io::Error::other("no address to connect to")));
        for endpoint in endpoints(&self.hosts, limit)? {
            attempt = self.connect(&endpoint, Instant::now() + limit);
            if attempt.is_ok() {
                break;
            }
        }
        let (client, connector) = attempt?;
        // Up to a tenth less, so that connections made together do not end together.
        let retire_at = self.max_lifetime.map(|age| started + age.mul_f64(1.0 - 0.1 * fastrand::f64()));
        let statements =
            Statements::new(self.statement_cache_size, self.pgbouncer_mode, self.catalogue.clone());
        let (limit, must_be_writable) = (self.statement_timeout, self.must_be_writable);
        Ok(Session::new(client, connector, statements, limit, must_be_writable, retire_at, generation))
    }

    /// Connects and logs in at one place. The driver would go through all of them, and with a listener that is open
    /// all the while.
    fn connect(
        &self,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<(postgres::Client, Connector), ConnectError> {
        loop {
            let connector = Connector::new(endpoint.clone(), self.tls.clone(), deadline)?;
            let mut config = self.config.clone();
            connector.direct(&mut config);
            let error = match PostgresConnectionManager::new(config, connector.clone()).connect() {
                Ok(client) => return Ok((client, connector)),
                Err(error) => error,
            };
            if connector.is_reached() {
                return Err(ConnectError::new(&error));
            }
            let is_barred = std::error::Error::source(&error)
                .and_then(|cause| cause.downcast_ref::<io::Error>())
                .is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut);
            // Other programs keep the listener busy: another one is elsewhere.
            if !is_barred || Instant::now() >= deadline {
                let text = format!("cannot reach the pool's own listener on 127.0.0.1: {}", describe(&error));
                return Err(ConnectError { text, is_login: false });
            }
        }
    }
}

impl From<std::io::Error> for ConnectError {
    fn from(error: std::io::Error) -> ConnectError {
        ConnectError { text: error.to_string(), is_login: false }
    }
}

impl ConnectError {
    fn new(error: &postgres::Error) -> ConnectError {
        let is_login = match error.as_db_error() {
            Some(refusal) if refusal.code().code() == "08P01" => {
                LOGIN_REFUSED_BY_PGBOUNCER.iter().any(|words| refusal.message().contains(words))
            }
            Some(refusal) => LOGIN_REFUSED.contains(&refusal.code().code()),
            None => describe(error) == "password missing",
        };
        let text = if is_login && error.as_db_error().is_none() {
            "the server asks for a password and the settings give none (DB_PASSWORD)".to_owned()
        } else {
            describe(error)
        };
        ConnectError { text, is_login }
    }
}

impl Manager {
    pub(crate) fn new(gate: Arc<Gate>, generations: Arc<Generations>, maker: SessionMaker) -> Manager {
        Manager { gate, generations, maker }
    }
}

impl ManageConnection for Manager {
    // Boxed: r2d2 moves connections in and out of its list under its lock. `None` while it is lent.
    type Connection = Option<Box<Session>>;
    type Error = PoolClosed;

    fn connect(&self) -> Result<Option<Box<Session>>, PoolClosed> {
        loop {
            let patience = match self.gate.next_order() {
                Order::Stop => return Err(PoolClosed),
                Order::Make(patience) => patience,
            };
            let started = Instant::now();
            // The driver unwraps where the system has no descriptor left: a panic must cost no slot.
            let attempt =
                catch_unwind(AssertUnwindSafe(|| self.maker.make(patience, self.generations.current())));
            let attempt = attempt.unwrap_or_else(|_| {
                let text = "the driver panicked while connecting (out of file descriptors?)".to_owned();
                Err(ConnectError { text, is_login: false })
            });
            match attempt {
                Ok(session) => {
                    let session = Box::new(session);
                    let down_for = self.gate.made(started.elapsed());
                    // From here to the store nothing may panic but the logger, and that is caught.
                    if let Some(down_for) = down_for {
                        let _ =
                            catch_unwind(|| info!("Database is back after {:.1} s", down_for.as_secs_f64()));
                    }
                    return Ok(Some(session));
                }
                Err(error) => {
                    if self.gate.failed(error.text.clone(), error.is_login) {
                        let _ = catch_unwind(|| warn!("Cannot connect to the database: {}", error.text));
                    }
                }
            }
        }
    }

    // Checking is done by the pool, within the caller's deadline.
    fn is_valid(&self, _session: &mut Option<Box<Session>>) -> Result<(), PoolClosed> {
        Ok(())
    }

    fn has_broken(&self, session: &mut Option<Box<Session>>) -> bool {
        session.as_ref().is_none_or(|session| session.is_broken())
    }
}

/// Sends sessions that r2d2 lets go of to the keeper, so that saying goodbye to the server costs no borrower.
#[derive(Debug)]
pub(crate) struct Farewell {
    pub(crate) keeper: super::keeper::KeeperHandle,
    pub(crate) gate: Arc<Gate>,
}

impl r2d2::CustomizeConnection<Option<Box<Session>>, PoolClosed> for Farewell {
    fn on_release(&self, session: Option<Box<Session>>) {
        if let Some(session) = session {
            self.keeper.let_go(session, &self.gate);
        }
    }
}
