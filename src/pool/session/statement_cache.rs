//! The statements one connection knows: prepared on the server by name, or, behind PgBouncer, by the types of
//! their parameters.

use crate::pool::session::classify::catalogue::{Catalogue, SessionState, Traits};
use crate::pool::session::param_types::ParamTypes;
use crate::settings::PgBouncerMode;
use lru::LruCache;
use postgres::types::{ToSql, Type};
use postgres::{Client, Row, Statement};
use std::num::NonZeroUsize;
use std::sync::Arc;

/// A parameter list as callers pass it.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// What is known of the statements, by their text: those used last, as many as the settings say.
pub(crate) struct Statements {
    kept: Option<LruCache<Box<str>, Prepared>>,
    /// Behind PgBouncer in transaction mode, where nothing can be prepared to last.
    learning: Option<ParamTypes>,
    catalogue: Arc<Catalogue>,
}

/// A statement that is ready to run.
#[derive(Clone)]
pub(crate) struct Prepared {
    way: Way,
    pub(crate) traits: Traits,
    /// When the catalogue was asked for the traits; `None` where what the session saw may have been its own alone.
    epoch: Option<u64>,
    /// It was prepared earlier, so that what it was prepared for may have changed since.
    pub(crate) is_kept: bool,
}

#[derive(Clone)]
enum Way {
    /// Prepared on the server, one round trip more where it is not kept.
    Named(Statement),
    /// Sent whole with its parameters' types, one round trip as well; the server parses it each time.
    Typed(Arc<[Type]>),
}

/// Why a statement could not be prepared.
#[derive(Debug)]
pub(crate) struct Unprepared {
    pub(crate) error: postgres::Error,
    /// Something is left on the server connection, or missing there, that only a new connection will mend.
    pub(crate) spoils_session: bool,
}

impl Unprepared {
    fn of_driver(error: postgres::Error) -> Unprepared {
        // Something the driver has prepared for itself is not there: it goes on using it, for each type it looks up.
        let spoils_session = error.code().is_some_and(|code| code.code() == "26000");
        Unprepared { error, spoils_session }
    }

    fn of_question(error: postgres::Error) -> Unprepared {
        Unprepared { error, spoils_session: false }
    }
}

impl Statements {
    /// Keeps as many as `size`.
    pub(crate) fn new(size: usize, mode: PgBouncerMode, catalogue: Arc<Catalogue>) -> Statements {
        Statements {
            catalogue,
            kept: NonZeroUsize::new(size).map(LruCache::new),
            learning: (mode == PgBouncerMode::Transaction).then(ParamTypes::default),
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
        session: SessionState,
    ) -> Result<Prepared, Unprepared> {
        let now = self.catalogue.epoch();
        let epoch = Some(now).filter(|_| !session.is_dirty && !session.is_behind(now));
        // One that is parsed by other rules goes on meaning what it meant then; one without a name is parsed each time.
        let is_lasting = session.is_readable && (session.reads_as_at_login || self.learning.is_some());
        let kept = self.kept.as_mut().filter(|_| is_lasting).and_then(|kept| kept.get_mut(sql));
        if let Some(prepared) = kept.filter(|prepared| prepared.way.takes(params.len())) {
            // In a session that is dirty the answer makes no difference.
            if prepared.epoch != Some(now) && !(session.is_dirty && prepared.epoch.is_none()) {
                prepared.traits =
                    self.catalogue.traits(client, sql, session).map_err(Unprepared::of_question)?;
                prepared.epoch = epoch;
            }
            return Ok(prepared.clone());
        }
        let way = match &mut self.learning {
            Some(learning) => Way::Typed(learning.types(client, sql, params, session.in_transaction)?),
            None => Way::Named(client.prepare(sql).map_err(Unprepared::of_driver)?),
        };
        let traits = self.catalogue.traits(client, sql, session).map_err(Unprepared::of_question)?;
        let prepared = Prepared { way, traits, epoch, is_kept: false };
        if let Some(kept) = self.kept.as_mut().filter(|_| is_lasting) {
            kept.put(sql.into(), Prepared { is_kept: true, ..prepared.clone() });
        }
        Ok(prepared)
    }

    /// What was said of statements in an earlier epoch need not hold any more.
    pub(crate) fn catalogue_epoch(&self) -> u64 {
        self.catalogue.epoch()
    }

    /// A statement has run that may have changed what the catalogue says of others.
    pub(crate) fn note_catalogue_change(&self) {
        self.catalogue.note_change();
    }

    /// How many of the statements that are kept the server keeps as well.
    pub(crate) fn count_on_server(&self) -> usize {
        match self.learning {
            None => self.kept.as_ref().map_or(0, LruCache::len),
            Some(_) => 0,
        }
    }

    /// Has the statement prepared anew when it is next wanted.
    pub(crate) fn forget(&mut self, sql: &str) {
        if let Some(kept) = &mut self.kept {
            kept.pop(sql);
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
