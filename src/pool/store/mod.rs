//! The store: r2d2's manager, which connects when the gate requests it, and the slots of its connections.
//!
//! It makes sessions and keeps idle ones. It does not decide when to connect (the gate does), or whether an idle session
//! may be lent (acquire and maintenance do).
//!
//! r2d2 is configured with `min_idle` = `max_size`. For every missing connection it therefore runs a job in one of its
//! threads, inside [`Manager::connect`]. The job waits there for a connect request from the gate, connects, and returns
//! when it has succeeded. So r2d2 never sees a failed connect, whose retries it could neither pace nor stop; it never makes
//! a connection that is not needed; and it never loses a slot.
//!
//! **Lock rule**: the store has no lock of its own besides those of the slots ([`slots`]). r2d2 calls none of this code under
//! its lock.

pub(in crate::pool) mod slots;

use crate::error::SettingsError;
use crate::pool::gate::{ConnectRequest, Gate};
use crate::pool::generation::Generations;
use crate::pool::logging::logged;
use crate::pool::session::classify::catalogue::Catalogue;
use crate::pool::session::statement_cache::Statements;
use crate::pool::session::{Login, Session, describe};
use crate::pool::slow_log::SlowLog;
use crate::pool::status::Tally;
use crate::pool::transport::connector::Connector;
use crate::pool::transport::dns::{Endpoint, endpoints};
use crate::pool::transport::tls::TlsPlan;
use crate::pool::transport::wire::Wire;
use crate::settings::{PgBouncerMode, PoolSettings, TargetSessionAttrs};
use log::{info, warn};
use r2d2::ManageConnection;
use r2d2_postgres::PostgresConnectionManager;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// SQLSTATEs of refused logins, which a retry does not change: wrong password, rejected by `pg_hba.conf`, no such database,
/// no privilege to connect to it.
const LOGIN_REFUSED: &[&str] = &["28P01", "28000", "3D000", "42501"];

/// Message texts of refused logins of PgBouncer, whose only SQLSTATE is 08P01.
const LOGIN_REFUSED_BY_PGBOUNCER: &[&str] =
    &["authentication failed", "no such user", "no such database", "does not exist"];

/// r2d2's manager: connects on the gate's requests.
pub(crate) struct Manager {
    gate: Arc<Gate>,
    generations: Arc<Generations>,
    factory: SessionFactory,
}

/// Opens sessions: connects, logs in, and sets a lifetime.
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
    max_reply_bytes: usize,
    pgbouncer_mode: PgBouncerMode,
    statement_timeout: Option<Duration>,
    must_be_writable: bool,
    catalogue: Arc<Catalogue>,
    tally: Arc<Tally>,
    slow_log: Arc<SlowLog>,
}

/// Ends `Manager::connect` when the pool is closed. It is the only error that r2d2 sees.
#[derive(Debug)]
pub(crate) struct PoolClosed;

impl std::fmt::Display for PoolClosed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the pool is closed")
    }
}

impl std::error::Error for PoolClosed {}

/// A failed connect attempt.
#[derive(Debug)]
pub(crate) struct ConnectError {
    pub(crate) text: String,
    /// The server refused the login, so a retry does not help.
    pub(crate) is_login: bool,
}

impl SessionFactory {
    /// # Errors
    ///
    /// `SettingsError`: the certificate file cannot be used.
    pub(crate) fn new(
        settings: &PoolSettings,
        catalogue: Arc<Catalogue>,
        tally: Arc<Tally>,
        slow_log: Arc<SlowLog>,
    ) -> Result<SessionFactory, SettingsError> {
        let database = &settings.database;
        let mut config = database.login_config();
        if let (Some(limit), PgBouncerMode::Off) = (settings.statement_timeout, settings.pgbouncer_mode) {
            // A startup option is the session's default, which DISCARD ALL restores. PgBouncer rejects it.
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
            max_reply_bytes: settings.max_reply_bytes,
            pgbouncer_mode: settings.pgbouncer_mode,
            statement_timeout: settings.statement_timeout,
            must_be_writable: database.target_session_attrs == TargetSessionAttrs::ReadWrite,
            catalogue,
            tally,
            slow_log,
        })
    }

    /// Connects to the first address that accepts, and logs in.
    ///
    /// Resolving the hosts blocks for at most the connect timeout, or `patience` if that is shorter; so does each address.
    pub(crate) fn open_session(
        &self,
        patience: Option<Duration>,
        generation: u64,
    ) -> Result<Session, ConnectError> {
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
        let stream = connector.take_stream().ok_or_else(|| io::Error::other("bug: no stream"))?;
        let wire = Wire::new(stream, connector.conn.clone(), self.max_reply_bytes);
        connector.conn.set_pool(self.pool.clone(), self.catalogue.share_epoch());
        // Up to a tenth shorter at random, so that connections made together do not expire together.
        let retire_at = self.max_lifetime.map(|age| started + age.mul_f64(1.0 - 0.1 * fastrand::f64()));
        let (size, mode) = (self.statement_cache_size, self.pgbouncer_mode);
        let statements = Statements::new(size, mode, self.catalogue.clone(), self.tally.clone());
        let (limit, must_be_writable) = (self.statement_timeout, self.must_be_writable);
        let login = Login { client, wire, connector, slow_log: self.slow_log.clone() };
        Ok(Session::new(login, statements, limit, must_be_writable, retire_at, generation))
    }

    /// Connects and logs in at one address. Given all addresses, the driver would need the placeholder listener open
    /// throughout.
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
            // Other programs fill the listener's accept queue. The next attempt opens another listener.
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

    fn attempt(&self, patience: Option<Duration>) -> Result<Session, ConnectError> {
        // The driver panics if the system is out of file descriptors. A panic must not lose r2d2's slot.
        catch_unwind(AssertUnwindSafe(|| self.factory.open_session(patience, self.generations.current())))
            .unwrap_or_else(|_| {
                let text = "the driver panicked while connecting (out of file descriptors?)".to_owned();
                Err(ConnectError { text, is_login: false })
            })
    }
}

impl ManageConnection for Manager {
    // Boxed, because r2d2 moves connections under its lock. `None` while the session is lent.
    type Connection = Option<Box<Session>>;
    type Error = PoolClosed;

    fn connect(&self) -> Result<Option<Box<Session>>, PoolClosed> {
        loop {
            let patience = match self.gate.next_connect_request() {
                ConnectRequest::Stop => return Err(PoolClosed),
                ConnectRequest::Connect(patience) => patience,
            };
            let started = Instant::now();
            match self.attempt(patience) {
                Ok(session) => {
                    let session = Box::new(session);
                    let down_for = self.gate.connected(started.elapsed());
                    // From here until r2d2 stores it, only the logger may panic, and `logged` catches that.
                    if let Some(down_for) = down_for {
                        let (down_for, pool) = (down_for.as_secs_f64(), &self.factory.pool);
                        logged(|| info!("Database is back after {down_for:.1} s (pool \"{pool}\")"));
                    }
                    return Ok(Some(session));
                }
                Err(error) => {
                    if self.gate.connect_failed(error.text.clone(), error.is_login) {
                        let (text, pool) = (&error.text, &self.factory.pool);
                        logged(|| warn!("Cannot connect to the database: {text} (pool \"{pool}\")"));
                    }
                }
            }
        }
    }

    // The pool checks connections itself, within the caller's deadline.
    fn is_valid(&self, _session: &mut Option<Box<Session>>) -> Result<(), PoolClosed> {
        Ok(())
    }

    fn has_broken(&self, session: &mut Option<Box<Session>>) -> bool {
        session.as_ref().is_none_or(|session| session.is_broken())
    }
}

/// Receives the sessions that r2d2 drops and passes them to the function in it. Closing one waits for the server, which must
/// not happen on a borrower's thread.
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

    /// Fills the accept queue of the placeholder listener before the driver connects.
    #[test]
    fn a_full_placeholder_listener_is_not_mistaken_for_a_silent_server() {
        // A server that accepts connections and sends nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(silent.local_addr().unwrap());
        let endpoint = Endpoint { host: "127.0.0.1".to_owned(), address };
        let deadline = Instant::now() + Duration::from_millis(100);
        let attempt = |is_filled: bool| {
            let connector = Connector::new(endpoint.clone(), TlsPlan::Off, deadline).unwrap();
            let mut config = postgres::Config::new();
            connector.configure(&mut config);
            let placeholder = (config.get_hostaddrs()[0], config.get_ports()[0]).into();
            let connects = || TcpStream::connect_timeout(&placeholder, Duration::from_millis(50)).is_ok();
            assert!(
                !is_filled || (0..5000).take_while(|_| connects()).count() < 5000,
                "the accept queue is never full"
            );
            let mut config = postgres::Config::new();
            let error = connect_through(&connector, config.user("nobody").clone()).err().unwrap();
            (connector.is_reached(), is_timeout(&error))
        };
        assert_eq!(attempt(true), (false, true));
        assert!(attempt(false).0, "the next listener has room");
    }
}
