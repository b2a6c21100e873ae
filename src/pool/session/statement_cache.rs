//! The prepared statements of one session: an LRU cache keyed by the statement's text.
//!
//! A cached statement is prepared on the server by name, or, behind PgBouncer, known by its parameters' types. It
//! carries the [`Traits`] that the catalogue found for it. This file knows nothing of failures; `outcome.rs`
//! interprets them.

use crate::pool::session::classify::catalogue::{Catalogue, SessionState, Traits};
use crate::pool::session::param_types::ParamTypes;
use crate::settings::PgBouncerMode;
use lru::LruCache;
use postgres::types::{ToSql, Type};
use postgres::{Client, Row, Statement};
use std::num::NonZeroUsize;
use std::sync::Arc;

/// The parameters of a statement.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The prepared statements of one session.
pub(crate) struct Statements {
    /// `None` where the settings turn the cache off.
    cache: Option<LruCache<Box<str>, Prepared>>,
    /// Present behind PgBouncer in transaction mode, where a prepared statement does not outlive its transaction.
    param_types: Option<ParamTypes>,
    catalogue: Arc<Catalogue>,
}

/// A statement that is ready to run.
#[derive(Clone)]
pub(crate) struct Prepared {
    method: Method,
    pub(crate) traits: Traits,
    /// The catalogue's epoch when the traits were looked up; `None` where the session may have seen objects that other
    /// sessions do not see.
    epoch: Option<u64>,
    /// It was prepared for an earlier call, so the objects it refers to may have changed since.
    pub(crate) is_cached: bool,
}

/// How a prepared statement is run.
#[derive(Clone)]
enum Method {
    /// Prepared on the server: one round trip, and one more where it is not cached.
    Named(Statement),
    /// Sent as text with its parameters' types: also one round trip, but the server parses it each time.
    Typed(Arc<[Type]>),
}

/// Why a statement could not be prepared.
#[derive(Debug)]
pub(crate) struct Unprepared {
    pub(crate) error: postgres::Error,
    /// Prepared statements on the server connection differ from what the driver expects. Only a new connection
    /// repairs that.
    pub(crate) spoils_session: bool,
}

impl Unprepared {
    fn of_driver(error: postgres::Error) -> Unprepared {
        // A type lookup that the driver has prepared is missing on the server. The driver would use it again.
        let spoils_session = error.code().is_some_and(|code| code.code() == "26000");
        Unprepared { error, spoils_session }
    }

    fn of_lookup(error: postgres::Error) -> Unprepared {
        Unprepared { error, spoils_session: false }
    }
}

impl Statements {
    /// A cache of `size` statements; 0 turns it off.
    pub(crate) fn new(size: usize, mode: PgBouncerMode, catalogue: Arc<Catalogue>) -> Statements {
        Statements {
            catalogue,
            cache: NonZeroUsize::new(size).map(LruCache::new),
            param_types: (mode == PgBouncerMode::Transaction).then(ParamTypes::default),
        }
    }

    /// Whether each transaction may run on another server connection.
    pub(crate) fn are_behind_pgbouncer(&self) -> bool {
        self.param_types.is_some()
    }

    /// Makes the statement ready to run with `params`.
    pub(crate) fn prepare(
        &mut self,
        client: &mut Client,
        sql: &str,
        params: Params<'_>,
        session: SessionState,
    ) -> Result<Prepared, Unprepared> {
        let now = self.catalogue.epoch();
        let epoch = Some(now).filter(|_| !session.is_dirty && !session.is_behind(now));
        // The server parses a named statement once, by the session's current rules, and its literals keep the meaning they
        // have now. Where those differ from the rules at login, the cache is not used. An unnamed one is parsed each time.
        let is_lasting = session.is_readable && (session.reads_as_at_login || self.param_types.is_some());
        let cached = self.cache.as_mut().filter(|_| is_lasting).and_then(|cache| cache.get_mut(sql));
        if let Some(prepared) = cached.filter(|prepared| prepared.method.accepts(params.len())) {
            // In a dirty session the traits make no difference.
            if prepared.epoch != Some(now) && !(session.is_dirty && prepared.epoch.is_none()) {
                prepared.traits =
                    self.catalogue.traits(client, sql, session).map_err(Unprepared::of_lookup)?;
                prepared.epoch = epoch;
            }
            return Ok(prepared.clone());
        }
        let method = match &mut self.param_types {
            Some(types) => Method::Typed(types.look_up(client, sql, params, session.in_transaction)?),
            None => Method::Named(client.prepare(sql).map_err(Unprepared::of_driver)?),
        };
        let traits = self.catalogue.traits(client, sql, session).map_err(Unprepared::of_lookup)?;
        let prepared = Prepared { method, traits, epoch, is_cached: false };
        if let Some(cache) = self.cache.as_mut().filter(|_| is_lasting) {
            cache.put(sql.into(), Prepared { is_cached: true, ..prepared.clone() });
        }
        Ok(prepared)
    }

    /// The catalogue's epoch: traits looked up in an earlier one may not hold any more.
    pub(crate) fn catalogue_epoch(&self) -> u64 {
        self.catalogue.epoch()
    }

    /// Makes all sessions look up traits again: a statement may have changed the catalogue.
    pub(crate) fn note_catalogue_change(&self) {
        self.catalogue.note_change();
    }

    /// The number of cached statements that are prepared on the server.
    pub(crate) fn count_on_server(&self) -> usize {
        match self.param_types {
            None => self.cache.as_ref().map_or(0, LruCache::len),
            Some(_) => 0,
        }
    }

    /// Removes the statement, so that its next use prepares it again.
    pub(crate) fn forget(&mut self, sql: &str) {
        if let Some(cache) = &mut self.cache {
            cache.pop(sql);
        }
    }
}

impl Prepared {
    pub(crate) fn query(
        &self,
        client: &mut Client,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, postgres::Error> {
        match &self.method {
            Method::Named(statement) => client.query(statement, params),
            Method::Typed(types) => client.query_typed(sql, &with_types(params, types)),
        }
    }

    pub(crate) fn execute(
        &self,
        client: &mut Client,
        sql: &str,
        params: Params<'_>,
    ) -> Result<u64, postgres::Error> {
        match &self.method {
            Method::Named(statement) => client.execute(statement, params),
            Method::Typed(types) => client.execute_typed(sql, &with_types(params, types)),
        }
    }

    /// Whether the driver may query the server for the result's types after the statement has run.
    pub(crate) fn may_look_up_types(&self) -> bool {
        matches!(self.method, Method::Typed(_))
    }
}

impl Method {
    /// Whether the statement can run with `count` parameters. Except for `Typed` the driver checks that itself.
    fn accepts(&self, count: usize) -> bool {
        !matches!(self, Method::Typed(types) if types.len() != count)
    }
}

/// Each parameter with its type.
fn with_types<'a>(params: Params<'a>, types: &[Type]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    params.iter().copied().zip(types.iter().cloned()).collect()
}
