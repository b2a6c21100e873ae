//! How r2d2 makes and judges connections.
//!
//! r2d2 is told to keep itself full (`min_idle` = `max_size`), so that for every connection it lacks a job is
//! parked in one of its worker threads, inside [`Manager::connect`]. There it waits until the gate orders a
//! connection, makes it, and only then returns. So r2d2 never sees a failed connect (its retries cannot be
//! paced or stopped), never makes one that nobody wants, and never loses a slot.

pub(in crate::pool) mod lent;

use crate::error::SettingsError;
use crate::pool::gate::{ConnectRequest, Gate};
use crate::pool::generation::Generations;
use crate::pool::logging::logged;
use crate::pool::session::classify::catalogue::Catalogue;
use crate::pool::session::statement_cache::Statements;
use crate::pool::session::{Session, describe};
use crate::pool::transport::connector::Connector;
use crate::pool::transport::dns::{Endpoint, endpoints};
use crate::pool::transport::tls::TlsPlan;
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
    factory: SessionFactory,
}

/// Everything that making a session needs.
#[derive(Clone)]
pub(crate) struct SessionFactory {
    /// The pool's name.
    pool: Arc<str>,
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

impl SessionFactory {
    /// # Errors
    ///
    /// `SettingsError` when the certificate file cannot be used.
    pub(crate) fn new(
        settings: &PoolSettings,
        catalogue: Arc<Catalogue>,
    ) -> Result<SessionFactory, SettingsError> {
        let database = &settings.database;
        let mut config = database.login_config();
        if let (Some(limit), PgBouncerMode::Off) = (settings.statement_timeout, settings.pgbouncer_mode) {
            // As a startup option it is the session's default, and so survives DISCARD ALL. PgBouncer refuses it.
            config.options(&format!("-c statement_timeout={}", limit.as_millis()));
        }
        let tls = TlsPlan::new(database)?;
        Ok(SessionFactory {
            pool: settings.name.as_str().into(),
            config,
            hosts: database.hosts.clone(),
            tls,
            connect_timeout: settings.connect_timeout,
            max_lifetime: settings.max_lifetime,
            statement_cache_size: settings.statement_cache_size,
            pgbouncer_mode: settings.pgbouncer_mode,
            statement_timeout: settings.statement_timeout,
            must_be_writable: database.target_session_attrs == TargetSessionAttrs::ReadWrite,
            catalogue,
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
        connector.conn.set_pool(self.pool.clone());
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
            let error = match connect_through(&connector, self.config.clone()) {
                Ok(client) => return Ok((client, connector)),
                Err(error) => error,
            };
            if connector.is_reached() {
                return Err(ConnectError::new(&error));
            }
            // Other programs keep the listener busy: another one is elsewhere.
            if !is_timeout(&error) || Instant::now() >= deadline {
                let text = format!("cannot reach the pool's own listener on 127.0.0.1: {}", describe(&error));
                return Err(ConnectError { text, is_login: false });
            }
        }
    }
}

fn connect_through(
    connector: &Connector,
    mut config: postgres::Config,
) -> Result<postgres::Client, postgres::Error> {
    connector.configure(&mut config);
    PostgresConnectionManager::new(config, connector.clone()).connect()
}

fn is_timeout(error: &postgres::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
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
    pub(crate) fn new(gate: Arc<Gate>, generations: Arc<Generations>, factory: SessionFactory) -> Manager {
        Manager { gate, generations, factory }
    }
}

impl ManageConnection for Manager {
    // Boxed: r2d2 moves connections in and out of its list under its lock. `None` while it is lent.
    type Connection = Option<Box<Session>>;
    type Error = PoolClosed;

    fn connect(&self) -> Result<Option<Box<Session>>, PoolClosed> {
        loop {
            let patience = match self.gate.next_connect_request() {
                ConnectRequest::Stop => return Err(PoolClosed),
                ConnectRequest::Connect(patience) => patience,
            };
            let started = Instant::now();
            // The driver unwraps where the system has no descriptor left: a panic must cost no slot.
            let attempt =
                catch_unwind(AssertUnwindSafe(|| self.factory.make(patience, self.generations.current())));
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
                        let (down_for, pool) = (down_for.as_secs_f64(), &self.factory.pool);
                        logged(|| info!("Database is back after {down_for:.1} s (pool \"{pool}\")"));
                    }
                    return Ok(Some(session));
                }
                Err(error) => {
                    if self.gate.failed(error.text.clone(), error.is_login) {
                        let (text, pool) = (&error.text, &self.factory.pool);
                        logged(|| warn!("Cannot connect to the database: {text} (pool \"{pool}\")"));
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

/// Passes on the sessions that r2d2 drops: closing one waits for the server, which no borrower is to do.
pub(crate) struct Dropped<F>(pub(crate) F);

impl<F> std::fmt::Debug for Dropped<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dropped")
    }
}

impl<F> r2d2::CustomizeConnection<Option<Box<Session>>, PoolClosed> for Dropped<F>
where
    F: Fn(Box<Session>) + Send + Sync + 'static,
{
    fn on_release(&self, session: Option<Box<Session>>) {
        if let Some(session) = session {
            (self.0)(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::transport::dns::Address;
    use std::net::TcpStream;

    /// As if they had found it and filled its queue before the driver connects.
    #[test]
    fn a_listener_kept_busy_by_others_is_not_taken_for_a_silent_server() {
        // A server that takes connections and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(silent.local_addr().unwrap());
        let endpoint = Endpoint { host: "127.0.0.1".to_owned(), address };
        let deadline = Instant::now() + Duration::from_millis(100);
        let attempt = |barred: bool| {
            let connector = Connector::new(endpoint.clone(), TlsPlan::Off, deadline).unwrap();
            let mut config = postgres::Config::new();
            connector.configure(&mut config);
            let decoy = (config.get_hostaddrs()[0], config.get_ports()[0]).into();
            let reach = || TcpStream::connect_timeout(&decoy, Duration::from_millis(50)).is_ok();
            assert!(!barred || (0..5000).take_while(|_| reach()).count() < 5000, "it is never full");
            let mut config = postgres::Config::new();
            let error = connect_through(&connector, config.user("nobody").clone()).err().unwrap();
            (connector.is_reached(), is_timeout(&error))
        };
        assert_eq!(attempt(true), (false, true));
        assert!(attempt(false).0, "another one lets it through");
    }
}
