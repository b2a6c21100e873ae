//! The statements one connection knows: prepared on the server by name, or, behind PgBouncer, by the types of
//! their parameters.

mod learning;

use self::learning::Learning;
use super::sql::Kind;
use crate::settings::PgBouncerMode;
use lru::LruCache;
use postgres::types::{ToSql, Type};
use postgres::{Client, Row, Statement};
use std::num::NonZeroUsize;
use std::sync::Arc;

/// A parameter list as callers pass it.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Whether any function of these names, in whatever schema, is volatile: asked once per statement and
/// connection, and only of statements that call what is not known.
const VOLATILE: &str =
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_proc WHERE lower(proname) = ANY ($1) AND provolatile = 'v')";

/// What is known of the statements, by their text: those used last, as many as the settings say.
pub(crate) struct Statements {
    kept: Option<LruCache<Box<str>, Prepared>>,
    /// Behind PgBouncer in transaction mode, where nothing can be prepared to last.
    learning: Option<Learning>,
}

/// A statement that is ready to run.
#[derive(Clone)]
pub(crate) struct Prepared {
    way: Way,
    pub(crate) traits: Traits,
    /// It was prepared earlier, so that what it was prepared for may have changed since.
    pub(crate) is_kept: bool,
}

#[derive(Clone)]
enum Way {
    /// Prepared on the server, one round trip.
    Named(Statement),
    /// Sent whole with its parameters' types, one round trip as well; the server parses it each time.
    Typed(Arc<[Type]>),
    /// Prepared for this once, two round trips.
    Once,
}

/// What of a [`Kind`] is of use once its unknown calls are resolved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traits {
    pub(crate) is_read: bool,
    pub(crate) leaves_traces: bool,
    pub(crate) controls_transaction: bool,
}

impl Traits {
    fn of(kind: &Kind) -> Traits {
        let Kind { is_read, leaves_traces, controls_transaction, .. } = *kind;
        Traits { is_read, leaves_traces, controls_transaction }
    }
}

/// Why a statement could not be prepared.
#[derive(Debug)]
pub(crate) struct Unprepared {
    pub(crate) error: postgres::Error,
    /// Something is left on the server connection, or missing there, that only a new connection will mend.
    pub(crate) spoils_session: bool,
}

impl Statements {
    /// Keeps as many as `size`.
    pub(crate) fn new(size: usize, mode: PgBouncerMode) -> Statements {
        Statements {
            kept: NonZeroUsize::new(size).map(LruCache::new),
            learning: (mode == PgBouncerMode::Transaction).then(Learning::default),
        }
    }

    /// Whether the server connection may be another one after every transaction.
    pub(crate) fn are_behind_pgbouncer(&self) -> bool {
        self.learning.is_some()
    }

    /// Makes the statement ready to run with `params`.
    pub(crate) fn prepare(
        &mut self,
        client: &mut Client,
        sql: &str,
        params: Params<'_>,
        in_transaction: bool,
    ) -> Result<Prepared, Unprepared> {
        let kept = self.kept.as_mut().and_then(|kept| kept.get(sql));
        if let Some(prepared) = kept.filter(|prepared| prepared.way.takes(params.len())) {
            return Ok(prepared.clone());
        }
        let way = match (&mut self.learning, &self.kept) {
            (Some(learning), _) => Way::Typed(learning.types(client, sql, params, in_transaction)?),
            (None, Some(_)) => {
                let statement = client.prepare(sql);
                Way::Named(statement.map_err(|error| Unprepared { error, spoils_session: false })?)
            }
            // Every unknown call counts as volatile: asking would be a round trip for each run.
            (None, None) => {
                let traits = Traits::of(&Kind::of(sql).resolved(true));
                return Ok(Prepared { way: Way::Once, traits, is_kept: false });
            }
        };
        let kind = Kind::of(sql);
        let is_volatile = match kind.unknown_calls.as_slice() {
            [] => false,
            names => match client.query_typed(VOLATILE, &[(&names, Type::TEXT_ARRAY)]) {
                Ok(rows) => rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or(true),
                // A server of another kind may not know these tables.
                Err(error) if error.as_db_error().is_some() && !in_transaction => true,
                Err(error) => return Err(Unprepared { error, spoils_session: false }),
            },
        };
        let prepared = Prepared { way, traits: Traits::of(&kind.resolved(is_volatile)), is_kept: false };
        if let Some(kept) = &mut self.kept {
            kept.put(sql.into(), Prepared { is_kept: true, ..prepared.clone() });
        }
        Ok(prepared)
    }

    /// Has the statement prepared anew when it is next wanted.
    pub(crate) fn forget(&mut self, sql: &str) {
        if let Some(kept) = &mut self.kept {
            kept.pop(sql);
        }
    }

    pub(crate) fn forget_all(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.clear();
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
        match &self.way {
            Way::Named(statement) => client.query(statement, params),
            Way::Typed(types) => client.query_typed(sql, &with_types(params, types)),
            Way::Once => client.query(sql, params),
        }
    }

    pub(crate) fn execute(
        &self,
        client: &mut Client,
        sql: &str,
        params: Params<'_>,
    ) -> Result<u64, postgres::Error> {
        match &self.way {
            Way::Named(statement) => client.execute(statement, params),
            Way::Typed(types) => client.execute_typed(sql, &with_types(params, types)),
            Way::Once => client.execute(sql, params),
        }
    }

    /// Whether the driver may ask the server about the types of the rows after the statement has run.
    pub(crate) fn asks_afterwards(&self) -> bool {
        matches!(self.way, Way::Typed(_))
    }
}

impl Way {
    /// The driver judges the number of parameters itself but where it has only their types.
    fn takes(&self, count: usize) -> bool {
        !matches!(self, Way::Typed(types) if types.len() != count)
    }
}

fn with_types<'a>(params: Params<'a>, types: &[Type]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    params.iter().copied().zip(types.iter().cloned()).collect()
}
