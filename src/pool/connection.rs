//! What a borrower holds.

use super::Shared;
use super::gate::Permit;
use super::session::{Failure, Params, Session};
use crate::error::{Error, Result};
use crate::query::{Execute, Transaction, run_transaction};
use postgres::Row;
use postgres::types::ToSql;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::panic::Location;
use std::sync::Arc;

/// A lent session with the way back; dropping it gives it back.
pub(crate) struct Lease {
    shared: Arc<Shared>,
    // Taken by `drop` only.
    lent: Option<(Box<Session>, Permit)>,
    /// Where it was acquired.
    at: &'static Location<'static>,
}

impl Lease {
    pub(crate) fn new(
        shared: Arc<Shared>,
        session: Box<Session>,
        permit: Permit,
        at: &'static Location<'static>,
    ) -> Lease {
        Lease { shared, lent: Some((session, permit)), at }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn session(&mut self) -> &mut Session {
        self.parts().1
    }

    fn parts(&mut self) -> (&Arc<Shared>, &mut Session) {
        match &mut self.lent {
            Some((session, _)) => (&self.shared, session),
            None => unreachable!("bug: a lease is used after it was dropped"),
        }
    }

    /// Runs a query, within the limits of the pool and of the thread.
    pub(crate) fn query(&mut self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Failure> {
        let (shared, session) = self.parts();
        shared.query(session, sql, params)
    }

    /// Runs a statement that writes, within the same.
    pub(crate) fn write(&mut self, sql: &str, params: Params<'_>) -> Result<u64, Failure> {
        let (shared, session) = self.parts();
        shared.write(session, sql, params)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((session, permit)) = self.lent.take() {
            self.shared.give_back(session, permit, self.at);
        }
    }
}

/// A lent connection: dropping it returns it to the pool, clean for the next borrower.
///
/// It is used by one thread at a time and may move between threads.
pub struct Connection {
    lease: RefCell<Lease>,
}

impl Connection {
    pub(crate) fn new(lease: Lease) -> Connection {
        Connection { lease: RefCell::new(lease) }
    }

    /// Runs `work` in a transaction: commits when it returns `Ok`, rolls back when it returns `Err` or panics.
    ///
    /// # Blocking
    ///
    /// Each statement, and each of BEGIN and COMMIT, for at most the statement timeout.
    ///
    /// # Errors
    ///
    /// As [`Pool::transaction`](crate::Pool::transaction).
    pub fn transaction<R>(&mut self, work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        run_transaction(self.lease.get_mut(), work)
    }

    /// The driver's client, for whatever the helpers do not offer: COPY, LISTEN, cursors, settings.
    ///
    /// The session is reset when the connection is returned (`ROLLBACK`, `DISCARD ALL`, in the background), so
    /// nothing done here reaches the next borrower. Each call to `client` starts the statement timeout anew;
    /// what is done with the client afterwards must end within it, or the connection fails: the cause of the driver's
    /// error then names the deadline and the pool.
    ///
    /// Behind PgBouncer ([`PgBouncerMode::Transaction`](crate::settings::PgBouncerMode)) it is for whole transactions
    /// only: what outlives one stays on a server connection that others get, and only `ROLLBACK` is run on return.
    pub fn client(&mut self) -> &mut postgres::Client {
        let lease = self.lease.get_mut();
        let limit = lease.shared().statement_limit();
        lease.session().set_limit(limit);
        lease.session().client()
    }

    fn with<R>(&self, operation: impl FnOnce(&mut Lease) -> Result<R, Failure>) -> Result<R> {
        operation(&mut self.lease.borrow_mut()).map_err(Error::from)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Execute for Connection {
    fn execute_query<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<T>> {
        let rows = self.with(|lease| lease.query(sql, params))?;
        crate::query::all(&rows)
    }

    fn execute_query_one<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<T>> {
        let rows = self.with(|lease| lease.query(sql, params))?;
        crate::query::at_most_one(&rows)
    }

    fn execute_write(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        self.with(|lease| lease.write(sql, params))
    }
}
