//! Asks the server's catalogue about the names of a statement: whether an object behind them may write, or leave state in
//! the session.
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

use crate::pool::session::classify::{Form, Syntax};
use crate::pool::transport::protocol::reply::Reply;
use crate::rows::Values;
use postgres::types::{ToSql, Type};
use std::sync::Arc;
use std::time::Instant;

/// What must be asked to know a statement's traits, and since when.
pub(crate) struct Question {
    pub(super) syntax: Syntax,
    pub(super) epoch: u64,
    pub(super) at: Instant,
}

/// What is known about the objects behind the names of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Safety {
    pub(super) only_reads: bool,
    pub(super) is_clean: bool,
}

impl Safety {
    pub(super) const UNPROVEN: Safety = Safety { only_reads: false, is_clean: false };
}

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
    pub(super) fn of(reply: Reply) -> Safety {
        let rows = reply.into_rows(Arc::default());
        let mut values = rows.bodies().next().and_then(Values::new);
        let mut is_true = || values.as_mut().and_then(Values::next_value) == Some(Some(&[1]));
        Safety { only_reads: is_true(), is_clean: is_true() }
    }
}
