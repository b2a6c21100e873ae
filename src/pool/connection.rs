//! What a borrower holds: a [`Lease`] on a session, and the public [`Connection`] around it.
//!
//! It knows nothing of how a session is acquired or cleaned. A `RefCell`, not a lock, guards the lease: one thread at
//! a time uses a connection.

use crate::error::Error;
use crate::pool::gate::Permit;
use crate::pool::session::{Answer, Failure, Params, Session};
use crate::pool::{Holder, Pooled, Shared};
use std::cell::{RefCell, RefMut};
use std::panic::Location;
use std::sync::Arc;
use std::time::Instant;

/// A lent session and its permit. Dropping it returns both to the pool.
pub(crate) struct Lease {
    shared: Arc<Shared>,
    /// `None` only while it is dropped.
    lent: Option<(Pooled, Permit)>,
    /// The caller that acquired it, for warnings.
    at: &'static Location<'static>,
}

impl Lease {
    pub(crate) fn new(
        shared: Arc<Shared>,
        pooled: Pooled,
        permit: Permit,
        at: &'static Location<'static>,
    ) -> Lease {
        Lease { shared, lent: Some((pooled, permit)), at }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn session(&mut self) -> &mut Session {
        self.parts().1
    }

    fn parts(&mut self) -> (&Arc<Shared>, &mut Session) {
        match &mut self.lent {
            Some((pooled, _)) => (&self.shared, pooled),
            None => unreachable!("bug: a lease is used after it was dropped"),
        }
    }

    /// Runs a statement within the statement timeout and the thread's deadline.
    pub(crate) fn run(&mut self, sql: &str, params: Params<'_>) -> Result<Answer, Failure> {
        let (shared, session) = self.parts();
        shared.run(session, sql, params)
    }

    /// Runs a statement likewise, reads its answer, and counts the error.
    pub(crate) fn execute<R>(
        &mut self,
        sql: &str,
        params: Params<'_>,
        read: impl FnOnce(Answer) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let (shared, session) = self.parts();
        shared.execute(session, sql, params, read)
    }

    /// Runs a query again whose answer was lost, in a read-only transaction, within the same limits.
    pub(crate) fn query_again(&mut self, sql: &str, params: Params<'_>) -> Result<Answer, Failure> {
        let (shared, session) = self.parts();
        shared.query_again(session, sql, params)
    }

    /// Ends the current thread's hold. The connection stays lent, without a holder.
    pub(crate) fn detach(&self) {
        if let Some((_, permit)) = &self.lent {
            self.shared.gate.detach(permit);
        }
    }

    /// Returns a connection that was not used.
    pub(crate) fn return_unused(mut self) {
        if let Some((pooled, permit)) = self.lent.take() {
            self.shared.give_back_unused(pooled, permit);
        }
    }

    /// The connection is in use for another caller, which runs its statement at `at`.
    pub(crate) fn note_caller(&mut self, at: &'static Location<'static>) {
        self.at = at;
        if let Some((pooled, _)) = &self.lent {
            self.shared.slots.pass_on(pooled, Holder::new(Instant::now(), at));
        }
    }

    /// Makes the current thread the connection's holder, which acquired it at `at`.
    pub(crate) fn pass_on(&mut self, at: &'static Location<'static>) {
        if let Some((_, permit)) = &self.lent {
            self.shared.gate.pass_on(permit, Instant::now());
        }
        self.note_caller(at);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((pooled, permit)) = self.lent.take() {
            self.shared.give_back(pooled, permit, self.at);
        }
    }
}

/// A connection lent by the pool. Dropping it returns it.
///
/// One thread at a time uses it; it may move between threads.
pub struct Connection {
    lease: RefCell<Lease>,
}

impl Connection {
    pub(crate) fn new(lease: Lease) -> Connection {
        Connection { lease: RefCell::new(lease) }
    }

    /// Returns the driver's client, for what the helpers do not offer: COPY, LISTEN, cursors, settings.
    ///
    /// The pool resets the session in the background when the connection is returned: it runs `ROLLBACK`, and what
    /// `DISCARD ALL` does except for the pool's prepared statements. So the next borrower gets a clean session.
    ///
    /// Each call to `client` restarts the statement timeout. Everything done with the client must end within it, or
    /// the connection fails; the cause of the driver's error then names the deadline and the pool.
    ///
    /// Behind PgBouncer ([`PgBouncerMode::Transaction`](crate::settings::PgBouncerMode)) use it for whole
    /// transactions only. State that outlives a transaction stays on a server connection that other clients share,
    /// and only `ROLLBACK` is run on return.
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
