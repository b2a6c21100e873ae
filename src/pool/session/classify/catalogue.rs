//! Looks the names of a statement up in the server's catalogue: whether an object behind them may write, or leave
//! state in the session.
//!
//! "Only a volatile function may change the database" (PostgreSQL, "Function Volatility Categories"); likewise only a
//! volatile function may set, lock or listen. So a statement is safe if it can reach no volatile function:
//!
//! - No function with a name of the text is volatile, in any schema and with any arguments.
//! - No view, rule or policy of a relation with a name of the text, or of a relation behind it, calls one.
//! - Where the statement writes, no default, constraint or trigger of these relations calls one.
//! - No operator, cast, type, domain, aggregate or argument default of the database calls one: a statement can use
//!   these without naming them.
//!
//! Names are looked up in all schemas, so the result does not depend on `search_path`. A false match costs a reset. A
//! name that cannot be looked up counts as unsafe.
//!
//! **Lock rule**: each mutex is held for one lookup or one insertion, never during a query to the server.

use crate::error::ServerError;
use crate::pool::session::classify::{Form, Syntax};
use crate::pool::transport::protocol::reply::Reply;
use crate::rows::Values;
use lru::LruCache;
use postgres::types::{Oid, ToSql, Type};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is known about the effects of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traits {
    /// It cannot change the database.
    pub(crate) only_reads: bool,
    /// It leaves no state in the session that the next borrower would see.
    pub(crate) is_clean: bool,
    /// It takes effect as a whole or not at all.
    pub(crate) is_atomic: bool,
    /// It begins or ends a transaction.
    pub(crate) controls_transaction: bool,
    /// It may make the transaction that it runs in a read-only one.
    pub(crate) sets: bool,
}

/// What is known about the objects behind the names of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Safety {
    only_reads: bool,
    is_clean: bool,
}

impl Safety {
    const UNPROVEN: Safety = Safety { only_reads: false, is_clean: false };
}

/// The state of the session that runs the statement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionState {
    pub(crate) in_transaction: bool,
    /// The epoch in which the pool's transaction, if there is one, began: what that sees may be as old.
    pub(crate) began: Option<u64>,
    /// What it sees may be its own alone, as a function that is not committed yet, or a setting.
    pub(crate) is_dirty: bool,
    /// The server parses the text by the same rules as the pool.
    pub(crate) is_readable: bool,
    /// And the literals in it as in every other session of the pool.
    pub(crate) reads_as_at_login: bool,
}

impl SessionState {
    /// Whether it may see the catalogue as it was before `epoch`, though what it runs is as it is now: in a transaction with
    /// one snapshot for all of it.
    pub(crate) fn is_behind(&self, epoch: u64) -> bool {
        self.began.is_some_and(|began| began != epoch)
    }
}

/// What a pool knows of its statements, shared by all of its sessions.
#[derive(Debug)]
pub(crate) struct Catalogue {
    /// Locked for one lookup or one insertion, never during a query to the server.
    statements: Mutex<LruCache<Box<str>, Known>>,
    /// The types that are not PostgreSQL's own, by their ids. Locked likewise.
    types: Mutex<HashMap<Oid, Type>>,
    /// The number of the next description.
    next_id: AtomicU64,
    /// Counts the statements run by this pool that may have changed the catalogue.
    epoch: Arc<AtomicU64>,
    /// The server has no such catalogue, or this role may not read it.
    is_unreadable: AtomicBool,
}

/// What is known of one statement.
#[derive(Debug, Default)]
struct Known {
    answer: Option<Answer>,
    description: Option<Arc<Description>>,
}

/// How the server described a statement.
#[derive(Debug)]
pub(crate) struct Description {
    /// A number that no other description in the pool has.
    pub(crate) id: u64,
    /// The types of its parameters.
    pub(crate) params: Box<[Type]>,
}

/// What must be asked to know a statement's traits, and since when.
pub(crate) struct Question {
    syntax: Syntax,
    epoch: u64,
    at: Instant,
}

/// A statement's traits, or what must be asked to know them.
pub(crate) enum Lookup {
    Known(Traits),
    Ask(Box<Question>),
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    safety: Safety,
    epoch: u64,
    at: Instant,
}

/// Longer texts, in bytes, are not cached: usually their literals make each of them unique.
const LONGEST_CACHED: usize = 16 * 1024;

/// The number of cached answers.
const CACHE_SIZE: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// How long a cached answer is valid. Other programs may change the catalogue, which the epoch does not show.
const CACHE_TTL: Duration = Duration::from_secs(60);

/// Volatile functions of PostgreSQL that leave no state in the session, except what `lastval` and `currval` return. A
/// statement that calls one is clean, but does not count as read-only.
const HARMLESS: &[&str] = &[
    "clock_timestamp",
    "currval",
    "gen_random_uuid",
    "lastval",
    "nextval",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_blocking_pids",
    "pg_cancel_backend",
    "pg_control_checkpoint",
    "pg_control_system",
    "pg_current_wal_insert_lsn",
    "pg_current_wal_lsn",
    "pg_database_size",
    "pg_indexes_size",
    "pg_is_in_recovery",
    "pg_last_wal_replay_lsn",
    "pg_lock_status",
    "pg_logical_emit_message",
    "pg_notify",
    "pg_relation_size",
    "pg_sleep",
    "pg_table_size",
    "pg_terminate_backend",
    "pg_total_relation_size",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
    "pg_xact_status",
    "random",
    "setval",
    "timeofday",
    "txid_status",
];

/// Extensions whose volatile C functions only compute: random identifiers and bytes.
const HARMLESS_EXTENSIONS: &[&str] = &["pgcrypto", "uuid-ossp"];

/// The parameters: `$1` the names, `$2` the harmless functions, `$3` the harmless extensions, `$4` whether the
/// statement may write, `$5` whether `set_config` is harmless in it.
///
/// Ids from 16384 on are those of objects made after `initdb` (`FirstNormalObjectId`); PostgreSQL itself has no operator,
/// cast, type or aggregate with a volatile function. Foreign keys that pass changes on lead to other tables. `OFFSET 0` has
/// the planner look up relation by relation, of which there are few; it expects thousands of them unless they come out of
/// an array, and then compiles the question (`jit_above_cost`), which takes a hundred times as long as answering it.
/// Expressions are stored as trees in which `:funcid` and the like are followed by a function's id. The functions
/// `…_to_xml`, and those of the extensions tablefunc and xml2, are declared stable and run any query that they are given.
const LOOKUP: &str = r"
WITH RECURSIVE cascade (source, target) AS MATERIALIZED (
    SELECT confrelid, conrelid FROM pg_catalog.pg_constraint
    WHERE $4 AND contype = 'f' AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))
), reached (oid) AS (
    SELECT pg_catalog.unnest(ARRAY(SELECT oid FROM pg_catalog.pg_class WHERE relname = ANY ($1)))
  UNION
    SELECT behind.oid FROM reached, LATERAL (
        SELECT refobjid FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d
            ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        WHERE ev_class = reached.oid
        UNION ALL
        SELECT refobjid FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_depend d
            ON d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND d.objid = p.oid
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        WHERE polrelid = reached.oid
        UNION ALL
        SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = reached.oid
        UNION ALL
        SELECT target FROM cascade WHERE source = reached.oid
    ) AS behind (oid)
), relation (oid) AS (
    SELECT pg_catalog.unnest(ARRAY(SELECT oid FROM reached))
), tree (text) AS (
    SELECT behind.tree FROM relation, LATERAL (
        SELECT pg_catalog.concat(ev_action, ev_qual) FROM pg_catalog.pg_rewrite
        WHERE ev_class = relation.oid AND ($4 OR ev_type = '1')
        UNION ALL
        SELECT pg_catalog.concat(polqual, polwithcheck) FROM pg_catalog.pg_policy WHERE polrelid = relation.oid
        UNION ALL
        SELECT adbin::text FROM pg_catalog.pg_attrdef WHERE $4 AND adrelid = relation.oid
        UNION ALL
        SELECT tgqual::text FROM pg_catalog.pg_trigger
        WHERE $4 AND tgrelid = relation.oid AND tgqual IS NOT NULL
        UNION ALL
        SELECT conbin::text FROM pg_catalog.pg_constraint
        WHERE $4 AND conrelid = relation.oid AND conbin IS NOT NULL
        OFFSET 0
    ) AS behind (tree)
    UNION ALL
    SELECT conbin::text FROM pg_catalog.pg_constraint
    WHERE contypid <> 0 AND oid >= 16384 AND conbin IS NOT NULL
    UNION ALL
    SELECT typdefaultbin::text FROM pg_catalog.pg_type
    WHERE typtype = 'd' AND oid >= 16384 AND typdefaultbin IS NOT NULL
    UNION ALL
    SELECT proargdefaults::text FROM pg_catalog.pg_proc WHERE oid >= 16384 AND proargdefaults IS NOT NULL
), called (oid, is_named) AS (
    SELECT oid, true FROM pg_catalog.pg_proc WHERE proname = ANY ($1)
    UNION ALL
    SELECT found[1]::oid, false FROM tree, LATERAL
        pg_catalog.regexp_matches(text, ':(?:funcid|winfnoid|tsmhandler) (\d+)', 'g') AS found
), suspect (is_harmless) AS (
    SELECT CASE WHEN oid < 16384 THEN proname = ANY ($2) OR $5 AND is_named AND proname = 'set_config'
                ELSE EXISTS (
                    SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
                    WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
                        AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND deptype = 'e'
                        AND extname = ANY ($3) AND prolang = 13) END
    FROM called JOIN pg_catalog.pg_proc p USING (oid)
    WHERE provolatile = 'v'
            AND prorettype <> ALL ('{pg_catalog.trigger,pg_catalog.event_trigger}'::pg_catalog.regtype[])
        OR oid < 16384 AND proname LIKE '%\_to\_xml%'
        OR proname LIKE 'crosstab%' OR proname IN ('connectby', 'xpath_table')
    UNION ALL
    SELECT false FROM relation JOIN pg_catalog.pg_class USING (oid) WHERE relkind = 'f'
    UNION ALL
    SELECT false FROM relation JOIN pg_catalog.pg_trigger ON tgrelid = relation.oid
        JOIN pg_catalog.pg_proc p ON p.oid = tgfoid
    WHERE $4 AND NOT tgisinternal AND p.oid >= 16384 AND provolatile = 'v'
    UNION ALL
    SELECT false FROM (
        SELECT oprcode FROM pg_catalog.pg_operator WHERE oid >= 16384
        UNION ALL
        SELECT castfunc FROM pg_catalog.pg_cast WHERE oid >= 16384
        UNION ALL
        SELECT amproc FROM pg_catalog.pg_amproc WHERE oid >= 16384
        UNION ALL
        SELECT unnest(ARRAY[typinput, typoutput, typreceive, typsend, typmodin, typmodout])
        FROM pg_catalog.pg_type WHERE oid >= 16384 AND typinput >= 16384
        UNION ALL
        SELECT unnest(ARRAY[rngcanonical, rngsubdiff]) FROM pg_catalog.pg_range WHERE rngtypid >= 16384
        UNION ALL
        SELECT unnest(ARRAY[aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn, aggmtransfn,
                            aggminvtransfn, aggmfinalfn])
        FROM pg_catalog.pg_aggregate WHERE aggfnoid >= 16384
    ) AS implied (oid) JOIN pg_catalog.pg_proc p USING (oid)
    WHERE provolatile = 'v'
)
SELECT NOT EXISTS (SELECT FROM suspect) AS only_reads,
       NOT EXISTS (SELECT FROM suspect WHERE is_harmless IS NOT TRUE) AS is_clean";

impl Catalogue {
    pub(crate) fn new() -> Catalogue {
        Catalogue {
            statements: Mutex::new(LruCache::new(CACHE_SIZE)),
            types: Mutex::default(),
            next_id: AtomicU64::new(1),
            epoch: Arc::default(),
            is_unreadable: AtomicBool::new(false),
        }
    }

    /// The current epoch. Answers of earlier epochs may be outdated.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// For the connections, which see what statements do.
    pub(crate) fn share_epoch(&self) -> Arc<AtomicU64> {
        self.epoch.clone()
    }

    /// A statement of this pool may have changed the catalogue.
    pub(crate) fn note_change(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Forgets all answers, and whether the catalogue could be read.
    pub(crate) fn reset(&self) {
        self.is_unreadable.store(false, Ordering::Relaxed);
        self.note_change();
    }

    fn statements(&self) -> MutexGuard<'_, LruCache<Box<str>, Known>> {
        self.statements.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn types(&self) -> MutexGuard<'_, HashMap<Oid, Type>> {
        self.types.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the server has described the statement to a session of this pool.
    pub(crate) fn description(&self, sql: &str) -> Option<Arc<Description>> {
        self.statements().get(sql)?.description.clone()
    }

    /// A number for a description.
    pub(crate) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes the description with this number; keeps it for other sessions where `is_shared`.
    pub(crate) fn describe(
        &self,
        id: u64,
        sql: &str,
        params: Vec<Type>,
        is_shared: bool,
    ) -> Arc<Description> {
        let description = Arc::new(Description { id, params: params.into() });
        if is_shared && sql.len() <= LONGEST_CACHED {
            let mut statements = self.statements();
            statements.get_or_insert_mut(sql.into(), Known::default).description = Some(description.clone());
        }
        description
    }

    /// Forgets the statement's description, and all types: the objects behind them may have changed.
    pub(crate) fn forget(&self, sql: &str) {
        if let Some(known) = self.statements().get_mut(sql) {
            known.description = None;
        }
        self.types().clear();
    }

    /// The type with this id; `None` if it is to be looked up.
    pub(crate) fn type_(&self, oid: Oid) -> Option<Type> {
        Type::from_oid(oid).or_else(|| self.types().get(&oid).cloned())
    }

    pub(crate) fn put_type(&self, type_: Type) {
        self.types().insert(type_.oid(), type_);
    }

    /// Returns what the statement may do, or what must be asked to know it.
    pub(crate) fn traits(&self, sql: &str, session: SessionState) -> Lookup {
        let syntax = Syntax::of(sql);
        let safety = match syntax.form {
            _ if !session.is_readable => Safety::UNPROVEN,
            Form::Query | Form::Write => {
                // Read before the query: a change during the query makes the answer outdated.
                let (epoch, at) = (self.epoch(), Instant::now());
                match self.answer(sql, epoch, at) {
                    _ if self.is_unreadable.load(Ordering::Relaxed) => Safety::UNPROVEN,
                    Some(safety) => safety,
                    None if session.is_behind(epoch) => Safety::UNPROVEN,
                    None => return Lookup::Ask(Box::new(Question { syntax, epoch, at })),
                }
            }
            Form::Show => Safety { only_reads: true, is_clean: true },
            Form::Local => Safety { only_reads: false, is_clean: true },
            Form::Definition | Form::Other => Safety::UNPROVEN,
        };
        Lookup::Known(traits(&syntax, safety))
    }

    fn answer(&self, sql: &str, epoch: u64, now: Instant) -> Option<Safety> {
        let answer = self.statements().get(sql)?.answer?;
        let is_valid = answer.epoch == epoch && now.saturating_duration_since(answer.at) < CACHE_TTL;
        is_valid.then_some(answer.safety)
    }

    /// Returns the traits by the server's answer. Where the server refused to answer, nothing is proven; the refusal is
    /// returned where it has aborted the caller's transaction.
    pub(crate) fn settle(
        &self,
        sql: &str,
        question: &Question,
        session: SessionState,
        answer: Result<Reply, Box<ServerError>>,
    ) -> Result<Traits, Box<ServerError>> {
        let safety = match answer {
            Ok(reply) => Safety::of(reply),
            // A server of another kind may not know these tables, or refuse to show them.
            Err(error) if matches!(error.sqlstate().get(..2), Some("42" | "0A")) => {
                // A borrower's role or search path says nothing about the others.
                self.is_unreadable.fetch_or(!session.is_dirty, Ordering::Relaxed);
                match session.in_transaction {
                    // The next transaction runs without the question.
                    true => return Err(error),
                    false => return Ok(traits(&question.syntax, Safety::UNPROVEN)),
                }
            }
            Err(error) => return Err(error),
        };
        if !session.is_dirty && sql.len() <= LONGEST_CACHED {
            let answer = Answer { safety, epoch: question.epoch, at: question.at };
            self.statements().get_or_insert_mut(sql.into(), Known::default).answer = Some(answer);
        }
        Ok(traits(&question.syntax, safety))
    }
}

fn traits(syntax: &Syntax, safety: Safety) -> Traits {
    Traits {
        only_reads: safety.only_reads && matches!(syntax.form, Form::Query | Form::Show),
        is_clean: safety.is_clean,
        is_atomic: syntax.form != Form::Other,
        controls_transaction: syntax.controls_transaction,
        sets: syntax.sets,
    }
}

impl Question {
    /// The query to the server's catalogue.
    pub(crate) const SQL: &str = LOOKUP;

    /// Its parameters with their types.
    pub(crate) fn params(&self) -> [(&(dyn ToSql + Sync), Type); 5] {
        const NO: bool = false;
        const YES: bool = true;
        let may_write: &bool = if self.syntax.form == Form::Write { &YES } else { &NO };
        [
            (&self.syntax.names, Type::TEXT_ARRAY),
            (&HARMLESS, Type::TEXT_ARRAY),
            (&HARMLESS_EXTENSIONS, Type::TEXT_ARRAY),
            (may_write, Type::BOOL),
            (&self.syntax.sets_locally, Type::BOOL),
        ]
    }
}

impl Safety {
    /// The answer: one row of two booleans.
    fn of(reply: Reply) -> Safety {
        let rows = reply.into_rows(Arc::default());
        let mut values = rows.bodies().next().and_then(Values::new);
        let mut is_true = || values.as_mut().and_then(Values::next_value) == Some(Some(&[1]));
        Safety { only_reads: is_true(), is_clean: is_true() }
    }
}
