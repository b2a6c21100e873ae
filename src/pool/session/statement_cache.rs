//! The statements that one session knows: an LRU cache keyed by the statement's text.
//!
//! A statement is prepared on the server under a name of the pool's own. Behind PgBouncer, without the cache, and where
//! its text may mean something else in another session, it is parsed without a name in the send that runs it. It carries
//! the [`Traits`] that the catalogue found for it. This file knows nothing of failures; `outcome.rs` interprets them.

use crate::pool::session::classify::catalogue::{Catalogue, Description, Traits};
use crate::pool::session::outcome::Fault;
use crate::pool::statement_stats::Counts;
use crate::pool::status::{Event, Tally};
use crate::pool::transport::protocol::reply::Reply;
use crate::pool::transport::wire::Wire;
use crate::rows::Column;
use crate::settings::PgBouncerMode;
use bytes::BytesMut;
use lru::LruCache;
use postgres::types::{IsNull, ToSql, Type};
use postgres_protocol::message::frontend::{self, BindError};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

/// The parameters of a statement.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The statements of one session.
pub(crate) struct Statements {
    /// `None` where the settings turn the cache off.
    cache: Option<LruCache<Box<str>, Prepared>>,
    /// The statement that is about to run, where the cache does not keep it.
    uncached: Option<Prepared>,
    /// The names of statements on the server that the cache has dropped. They are closed ahead of the next statement.
    dropped: Vec<String>,
    /// Portals that are not needed any more, closed likewise: an open one keeps the server from changing its tables.
    ended_portals: Vec<String>,
    is_behind_pgbouncer: bool,
    catalogue: Arc<Catalogue>,
    tally: Arc<Tally>,
}

/// A statement that is ready to run.
pub(crate) struct Prepared {
    description: Arc<Description>,
    columns: Option<Columns>,
    /// How long its calls took lately; `None` before the second call.
    mean_time: Option<Duration>,
    /// What is not reported yet; made at the first call.
    counts: Option<Box<Counts>>,
    /// It may be prepared by name.
    is_named: bool,
    is_on_server: bool,
    pub(super) traits: Traits,
    /// The catalogue's epoch when the traits were looked up; `None` where the session may have seen objects that other
    /// sessions do not see.
    pub(super) epoch: Option<u64>,
}

/// The columns of a result, as the server described them last.
struct Columns {
    /// The body of the RowDescription.
    described: Box<[u8]>,
    columns: Arc<[Column]>,
}

impl Statements {
    /// A cache of `size` statements; 0 turns it off.
    pub(crate) fn new(
        size: usize,
        mode: PgBouncerMode,
        catalogue: Arc<Catalogue>,
        tally: Arc<Tally>,
    ) -> Statements {
        Statements {
            catalogue,
            tally,
            cache: NonZeroUsize::new(size).map(LruCache::new),
            uncached: None,
            dropped: Vec::new(),
            ended_portals: Vec::new(),
            is_behind_pgbouncer: mode == PgBouncerMode::Transaction,
        }
    }

    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Whether each transaction may run on another server connection.
    pub(crate) fn are_behind_pgbouncer(&self) -> bool {
        self.is_behind_pgbouncer
    }

    /// Whether a statement may be prepared by name.
    pub(super) fn are_named(&self) -> bool {
        self.cache.is_some() && !self.is_behind_pgbouncer
    }

    /// Counts a run of a statement, which was in the cache or not.
    pub(super) fn note_run(&self, is_hit: bool) {
        self.tally.add(if is_hit { Event::CacheHit } else { Event::CacheMiss });
    }

    /// The cached statement with this text, which becomes the one used last.
    pub(super) fn cached(&mut self, sql: &str) -> Option<&mut Prepared> {
        self.cache.as_mut()?.get_mut(sql)
    }

    /// Makes the statement the one that is about to run. `is_lasting`: it means the same in later calls.
    pub(super) fn put(&mut self, sql: &str, prepared: Prepared, is_lasting: bool) {
        match self.cache.as_mut().filter(|_| is_lasting) {
            None => self.uncached = Some(prepared),
            Some(cache) => {
                let dropped = cache.push(sql.into(), prepared);
                if let Some((evicted, _)) = &dropped
                    && **evicted != *sql
                {
                    self.tally.add(Event::CacheEviction);
                }
                self.dropped.extend(dropped.and_then(|(_, dropped)| dropped.name_on_server()));
            }
        }
    }

    /// The statement that is about to run.
    pub(super) fn ready(&mut self, sql: &str) -> Option<&mut Prepared> {
        match &mut self.uncached {
            Some(prepared) => Some(prepared),
            None => self.cache.as_mut()?.peek_mut(sql),
        }
    }

    /// Writes the statement that is about to run to `wire`, after the closing of dropped ones, as one request.
    pub(super) fn write(&mut self, wire: &mut Wire, sql: &str, params: Params<'_>) -> Result<(), Fault> {
        self.write_with(wire, sql, |prepared, requests| prepared.write(requests, sql, params))
    }

    /// Writes the messages of `write`, which run the statement, to `wire`, after the closing of dropped ones, as one request.
    pub(super) fn write_with(
        &mut self,
        wire: &mut Wire,
        sql: &str,
        write: impl FnOnce(&Prepared, &mut BytesMut) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let prepared = self.uncached.as_ref().or_else(|| self.cache.as_ref()?.peek(sql));
        let prepared =
            prepared.ok_or_else(|| Fault::refused("bug: a statement runs that is not prepared"))?;
        wire.write_request(|requests| {
            for name in &self.dropped {
                frontend::close(b'S', name, requests)?;
            }
            for portal in &self.ended_portals {
                frontend::close(b'P', portal, requests)?;
            }
            write(prepared, requests)
        })?;
        self.dropped.clear();
        self.ended_portals.clear();
        Ok(())
    }

    /// Has the portal closed ahead of the next statement.
    pub(super) fn end_portal(&mut self, portal: String) {
        self.ended_portals.push(portal);
    }

    /// The statement that is about to run is on the server under `name` only, and is to be under the name in its description.
    pub(super) fn rename(&mut self, sql: &str, name: String) {
        let Some(prepared) = self.ready(sql) else { return };
        if std::mem::take(&mut prepared.is_on_server) {
            self.dropped.push(name);
        }
    }

    /// Ends the run of a statement: one that is not cached is forgotten.
    pub(super) fn end_run(&mut self) {
        self.uncached = None;
    }

    /// The number of statements that are prepared on the server.
    pub(crate) fn count_on_server(&self) -> usize {
        let cached = self.cache.iter().flat_map(LruCache::iter);
        cached.filter(|(_, prepared)| prepared.is_on_server).count()
    }

    /// What the statements have counted, by their texts.
    pub(super) fn counts(&mut self) -> impl Iterator<Item = (&str, &mut Counts)> {
        let cached = self.cache.iter_mut().flat_map(LruCache::iter_mut);
        cached.filter_map(|(sql, prepared)| Some((&**sql, &mut **prepared.counts.as_mut()?)))
    }

    /// Removes the statement here and what the pool knows of it, so that its next use describes it again.
    pub(crate) fn forget(&mut self, sql: &str) {
        self.catalogue.forget(sql);
        let dropped = self.cache.as_mut().and_then(|cache| cache.pop(sql));
        self.dropped.extend(dropped.and_then(|dropped| dropped.name_on_server()));
    }
}

/// A statement is quick below this mean time.
const QUICK: Duration = Duration::from_millis(1);

/// The mean is a moving average, of about this many calls.
const MEAN_OF: u32 = 16;

/// Writes one statement that is parsed without a name, with its parameters and their types, as one request.
pub(super) fn write_typed(
    wire: &mut Wire,
    sql: &str,
    params: &[(&(dyn ToSql + Sync), Type)],
) -> Result<(), Fault> {
    let (values, types): (Vec<_>, Vec<_>) = params.iter().cloned().unzip();
    wire.write_request(|requests| {
        frontend::parse("", sql, types.iter().map(Type::oid), requests)?;
        write_bind("", &types, &values, requests)?;
        Ok(frontend::execute("", 0, requests)?)
    })
}

/// Writes the message that gives a statement its parameters. All values of the result are to be binary.
pub(super) fn write_bind(
    name: &str,
    types: &[Type],
    params: Params<'_>,
    requests: &mut BytesMut,
) -> Result<(), Fault> {
    write_bind_to("", name, types, params, requests)
}

/// Writes the same message for the portal with this name.
pub(super) fn write_bind_to(
    portal: &str,
    name: &str,
    types: &[Type],
    params: Params<'_>,
    requests: &mut BytesMut,
) -> Result<(), Fault> {
    if types.len() != params.len() {
        let text = format!("expected {} parameters but got {}", types.len(), params.len());
        return Err(Fault::refused(text));
    }
    let formats = params.iter().zip(types).map(|(param, type_)| param.encode_format(type_) as i16);
    let mut number = 0;
    let serialize = |(param, type_): (&&(dyn ToSql + Sync), &Type), requests: &mut BytesMut| {
        number += 1;
        param.to_sql_checked(type_, requests).map(|is_null| match is_null {
            IsNull::Yes => postgres_protocol::IsNull::Yes,
            IsNull::No => postgres_protocol::IsNull::No,
        })
    };
    let values = params.iter().zip(types);
    let bound = frontend::bind(portal, name, formats, values, serialize, Some(1), requests);
    bound.map_err(|error| match error {
        BindError::Conversion(error) => Fault::of_parameter(number, error),
        BindError::Serialization(error) => error.into(),
    })
}

impl Prepared {
    pub(super) fn new(
        description: Arc<Description>,
        traits: Traits,
        epoch: Option<u64>,
        is_named: bool,
    ) -> Prepared {
        Prepared {
            description,
            columns: None,
            mean_time: None,
            counts: None,
            is_named,
            is_on_server: false,
            traits,
            epoch,
        }
    }

    /// Its name, if it is prepared on the server.
    fn name_on_server(self) -> Option<String> {
        self.is_on_server.then(|| self.description.name.clone())
    }

    /// Writes all messages that run the statement, except for the Sync.
    fn write(&self, requests: &mut BytesMut, sql: &str, params: Params<'_>) -> Result<(), Fault> {
        self.write_parse(requests, sql)?;
        write_bind(self.name(), &self.description.params, params, requests)?;
        if self.is_described_by_reply() {
            frontend::describe(b'P', "", requests)?;
        }
        frontend::execute("", 0, requests)?;
        Ok(())
    }

    /// How the server described it.
    pub(super) fn description(&self) -> &Arc<Description> {
        &self.description
    }

    /// The name under which it runs; empty where it has none.
    pub(super) fn name(&self) -> &str {
        if self.is_named { &self.description.name } else { "" }
    }

    /// Writes the messages after which it can be bound any number of times.
    pub(super) fn write_parsed(&self, requests: &mut BytesMut, sql: &str) -> Result<(), Fault> {
        self.write_parse(requests, sql)?;
        if self.is_described_by_reply() {
            frontend::describe(b'S', self.name(), requests)?;
        }
        Ok(())
    }

    /// Has the server parse it, where it is not there.
    fn write_parse(&self, requests: &mut BytesMut, sql: &str) -> Result<(), Fault> {
        if !self.is_on_server {
            let types = self.description.params.iter().map(Type::oid);
            frontend::parse(self.name(), sql, types, requests)?;
        }
        Ok(())
    }

    /// Whether the reply describes the columns. Those of a statement on the server cannot change: the server refuses to
    /// run it then.
    fn is_described_by_reply(&self) -> bool {
        !self.is_on_server || self.columns.is_none()
    }

    /// Notes what a reply to the statement, or to its description, says of it. Returns the body of a description of
    /// columns that is new.
    pub(super) fn note_reply(&mut self, reply: &Reply) -> Option<Box<[u8]>> {
        let is_described = self.is_described_by_reply();
        self.is_on_server |= self.is_named && reply.is_parsed();
        if reply.is_refused() {
            // The description may be missing.
            return None;
        }
        let body = reply.row_description().unwrap_or_default();
        let is_known = self.columns.as_ref().is_some_and(|known| *known.described == *body);
        (is_described && !is_known).then(|| body.into())
    }

    /// Whether the server runs it at once by its name, and its reply has no description: its messages are the same for every
    /// session of the pool.
    pub(super) fn is_settled(&self) -> bool {
        self.is_on_server && !self.is_described_by_reply()
    }

    /// Notes how long a call took that failed.
    pub(super) fn note_failure(&mut self, time: Duration) {
        self.counts.get_or_insert_default().note_failure(time);
    }

    /// Counts a call, how long it took, and the rows that it returned or affected.
    pub(super) fn note_call(&mut self, time: Duration, rows: u64) {
        self.counts.get_or_insert_default().note_call(time, rows);
    }

    /// Notes how long the server took for a call.
    pub(super) fn note_time(&mut self, time: Duration) {
        // One late call may be the machine's doing; several are the statement's.
        let time = time.min(4 * QUICK);
        let mean = self.mean_time.map_or(time, |mean| mean - mean / MEAN_OF + time / MEAN_OF);
        self.mean_time = Some(mean);
    }

    /// Whether its recent calls took less than [`QUICK`] on average; not known of one that was never called.
    pub(super) fn is_quick(&self) -> bool {
        self.mean_time.is_some_and(|mean| mean < QUICK)
    }

    pub(super) fn set_columns(&mut self, described: Box<[u8]>, columns: Arc<[Column]>) {
        self.columns = Some(Columns { described, columns });
    }

    /// The columns of the result.
    pub(super) fn columns(&self) -> Arc<[Column]> {
        self.columns.as_ref().map(|known| known.columns.clone()).unwrap_or_default()
    }
}
