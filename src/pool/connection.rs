//! What a borrower holds.

use crate::pool::Shared;
use crate::pool::gate::Permit;
use crate::pool::session::{Failure, Params, Session};
use postgres::Row;
use std::cell::{RefCell, RefMut};
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

    /// Runs a query again whose answer was lost, within the same.
    pub(crate) fn query_again(&mut self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Failure> {
        let (shared, session) = self.parts();
        shared.query_again(session, sql, params)
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

    /// The driver's client, for whatever the helpers do not offer: COPY, LISTEN, cursors, settings.
    ///
    /// The session is reset when the connection is returned, in the background: `ROLLBACK`, and what `DISCARD ALL` does
    /// except for the pool's prepared statements. So nothing done here reaches the next borrower. Each call to `client`
    /// starts the statement timeout anew; what is done with the client afterwards must end within it, or the connection
    /// fails: the cause of the driver's error then names the deadline and the pool.
    ///
    /// Behind PgBouncer ([`PgBouncerMode::Transaction`](crate::settings::PgBouncerMode)) it is for whole transactions
    /// only: what outlives one stays on a server connection that others get, and only `ROLLBACK` is run on return.
    pub fn client(&mut self) -> &mut postgres::Client {
        let lease = self.lease.get_mut();
        let limit = lease.shared().statement_limit();
        lease.session().set_limit(limit);
        lease.session().client()
    }

    pub(crate) fn lease(&self) -> RefMut<'_, Lease> {
        self.lease.borrow_mut()
    }

    pub(crate) fn lease_mut(&mut self) -> &mut Lease {
        self.lease.get_mut()
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}
